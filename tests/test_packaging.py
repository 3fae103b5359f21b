"""What is built, pinned and written for other machines agrees with pyproject.toml, and the wheel has what the checkout has."""

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from jepa_pipeline.config.recipes import shipped_files
from jepa_pipeline.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "jepa_pipeline", "configs", "slurm"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built from a copy, because a build leaves files beside its sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(copy / "dist"), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_has_the_package_its_recipes_and_sites(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in shipped_files().values():
        assert f"jepa_pipeline/{path.relative_to(ROOT)}" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "jepa_pipeline").rglob("*.py")}
    assert modules | {"jepa_pipeline/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {"jepa_pipeline", f"jepa_pipeline-{__version__}.dist-info"}


def test_the_metadata_names_the_developers_and_no_place(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert (metadata["Author"], metadata["License-Expression"]) == ("jepa_pipeline developers", "Apache-2.0")
    assert metadata["Version"] == __version__ and metadata["Project-URL"] is None and metadata["Home-page"] is None
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_the_wheel_finds_its_recipes_and_sites_from_any_folder(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)

    def jepa(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", "jepa_pipeline", *arguments]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout

    assert "vjepa2_vitl16_cooldown" in jepa("config", "list")
    copied = jepa("config", "copy", "debug/simclr")  # which extends a part
    assert "debug_simclr" not in copied and "temperature: 0.2" in jepa("config", "show", "simclr.yaml")
    script = jepa("submit", "masks", "preview", "debug/ijepa", "--site", "a100", "--dry-run")
    assert (
        "--partition=a100" in script
        and "export JEPA_SITE=a100\n" in script
        and "# command: jepa masks preview debug/ijepa\n" in script
    )


@pytest.mark.slow
def test_the_package_is_built_installed_in_a_new_environment_and_used():
    subprocess.run([sys.executable, ROOT / "tools/check_package.py"], check=True)


def pins(path):
    """The version and the hashes of each package of a file of requirements; several versions where Pythons need different ones."""
    found = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line.split(" --hash")[0])
            found.setdefault(canonicalize_name(requirement.name), []).append(
                (requirement, re.findall(r"sha256:[0-9a-f]{64}\b", line))
            )
    return found


@pytest.mark.parametrize(("name", "extras"), [("run", ["video"]), ("dev", ["dev", "video", "wandb", "onnx", "parquet", "tiff"])])
def test_what_pip_may_install_is_pinned_with_hashes(name, extras):
    """The versions are those of constraints.txt and fit pyproject.toml; tools/lock.sh writes these files."""
    locked, constraints = pins(ROOT / f"requirements/{name}.txt"), pins(ROOT / "constraints.txt")
    for package, entries in locked.items():
        assert all(hashes for _, hashes in entries), package
        tested = {str(requirement.specifier) for requirement, _ in constraints[package]}
        assert {str(requirement.specifier) for requirement, _ in entries} <= tested, package
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, wanted):
        if requirement.name == "jepa_pipeline":
            continue
        for entry, _ in locked[canonicalize_name(requirement.name)]:
            (version,) = entry.specifier
            assert requirement.specifier.contains(version.version), requirement
    assert "setuptools" in locked, "which builds this package without build isolation"


def test_malicious_releases_are_excluded():
    (lightning,) = (line for line in map(Requirement, PROJECT["dependencies"]) if line.name == "lightning")
    assert not lightning.specifier.contains("2.6.2") and not lightning.specifier.contains("2.6.3")


def test_the_citation_is_of_this_version():
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def copied_by(recipe):
    """What a Dockerfile or an Apptainer definition copies into the image."""
    text = (ROOT / recipe).read_text()
    if recipe == "Dockerfile":
        return {source for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for source in line.split()[:-1]}
    files = re.search(r"^%files\n((?:    .+\n)+)", text, re.MULTILINE)[1]
    return {line.split()[0] for line in files.splitlines()}


@pytest.mark.parametrize("recipe", ["Dockerfile", "apptainer.def"])
def test_an_image_has_a_tested_python_the_hashed_requirements_and_all_that_a_build_needs(recipe):
    text = (ROOT / recipe).read_text()
    version = re.search(r"^F(?:ROM|rom:) python:(\d+\.\d+)-slim", text, re.MULTILINE)[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert copied_by(recipe) == {*SOURCES, "requirements/run.txt"} - {"MANIFEST.in"}
    installs = re.findall(r"pip install (.+?)(?: &&|$)", text, re.MULTILINE)
    assert len(installs) == 2 and "--require-hashes -r" in installs[0] and "--no-deps --no-build-isolation" in installs[1]


def test_the_dockerfile_is_clean():
    subprocess.run(["hadolint", ROOT / "Dockerfile"], check=True)
