"""The build step that pyproject.toml cannot express: configs/ and slurm/*.yaml have one source, and go into the wheel's package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {"configs": "**/*.yaml", "slurm": "*.yaml"}
"""Patterns of the files of each folder that `jepa_pipeline/config/recipes.py` finds by name."""


class BuildWithRecipes(build_py):
    """Copy recipes and sites into the package that is built. An editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder, pattern in SHIPPED.items():
            for source in sorted(Path(folder).glob(pattern)):
                target = Path(self.build_lib, "jepa_pipeline", source)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithRecipes})
