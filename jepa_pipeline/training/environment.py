"""What a run ran on, so that its numbers can be placed later."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import torch

from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.version import PACKAGE, __version__

PACKAGES = ("torch", "torchvision", "lightning", "timm", "webdataset", "numpy", "pillow")


def describe_environment() -> dict[str, object]:
    """Versions, hardware, command and git state, ready for JSON."""
    return {
        "jepa_pipeline": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": [without_secrets(word) for word in sys.argv],
        "git": git_state(),
    }


def git_state() -> dict[str, str | bool] | None:
    """Commit of the installed sources and whether they were changed since; None where they are no checkout."""
    source = PACKAGE

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it is installed inside somebody else's checkout
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return None
