"""Description of the software and hardware of a run, for environment.json."""

import importlib.metadata
import os
import platform
import subprocess

import torch

from jepa_pipeline.console import typed_command
from jepa_pipeline.redaction import redact
from jepa_pipeline.version import PACKAGE, __version__

PACKAGES = ("torch", "torchvision", "lightning", "timm", "webdataset", "numpy", "pillow")


def describe_environment() -> dict[str, object]:
    """Return versions, hardware, command and git state as values for JSON."""
    return {
        "jepa_pipeline": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": list(map(redact, typed_command())),
        "git": git_state(),
    }


def git_state() -> dict[str, str | bool] | None:
    """Return the commit of the package's sources and whether they were changed since; None if they are not a git checkout."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", "__init__.py"
        )  # fails if the package is installed inside the checkout of another project
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return None
