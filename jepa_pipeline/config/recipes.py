"""The recipes, parts of recipes, suites and sites that come with this package, by name."""

import os
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.version import PACKAGE

Kind = Literal["recipe", "part", "suite", "site"]
PREFIXES: dict[Kind, str] = {"recipe": "", "part": "parts/", "suite": "suites/", "site": "sites/"}
"""Beginnings of the full names of each kind, which may be left out where only that kind can be meant."""
SUFFIX = ".yaml"


def shipped_folder(name: str) -> Path:
    """Return a folder of files that come with this package: inside the package in a wheel, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def shipped_files() -> dict[str, Path]:
    """Return all recipes, parts, suites and sites by their full names, such as ijepa_vits16, debug/vjepa and sites/a100."""
    configs, sites = shipped_folder("configs"), shipped_folder("slurm")
    recipes = {path.relative_to(configs).with_suffix("").as_posix(): path for path in sorted(configs.rglob(f"*{SUFFIX}"))}
    return recipes | {f"{PREFIXES['site']}{path.stem}": path for path in sorted(sites.glob(f"*{SUFFIX}"))}


def kind_of(name: str) -> Kind:
    """Return the kind of a file by its full name."""
    found: list[Kind] = [kind for kind, prefix in PREFIXES.items() if prefix and name.startswith(prefix)]
    return found[0] if found else "recipe"


def names_of(kind: Kind) -> list[str]:
    """Return the full names of all files of a kind, the debug recipes last."""
    return sorted((name for name in shipped_files() if kind_of(name) == kind), key=lambda name: ("/" in name, name))


def shipped_file(name: Path | str, kind: Kind) -> Path | None:
    """Return the file of this kind that comes with the package under a name; None if there is none."""
    files, prefix = shipped_files(), PREFIXES[kind]
    full = str(name) if str(name).startswith(prefix) else f"{prefix}{name}"
    return files.get(full) if kind_of(full) == kind else None


def find_file(given: Path | str, kind: Kind, folder: Path | None = None) -> Path:
    """Return the file or folder that is meant by a path, or by the name of what comes with this package.

    A file or folder of that name, or a YAML file with that name before its suffix, comes first, so that a copy of a recipe
    replaces it; if both exist, that is said on stderr.

    Args:
        given: a path, or a name such as ijepa_vits16 or debug/vjepa.
        kind: of the named file.
        folder: what paths are relative to; default: the current folder.

    Raises:
        UserError: there is neither; with the nearest names.
    """
    path = (folder or Path()) / Path(given).expanduser()
    shipped = shipped_file(given, kind)
    copy = path.with_name(path.name + SUFFIX)
    folders = kind == "recipe" or not shipped  # a run folder is a recipe too
    meant = folders if path.is_dir() else path.exists()
    local = path if meant else copy if shipped and copy.is_file() else None
    if local and shipped and not local.samefile(shipped):
        note_local(local, shipped, kind)
    if found := local or shipped:
        return found
    if "=" in str(given):
        example = "ijepa_vits16" if kind == "recipe" else names_of(kind)[0]
        raise UserError(f"{given} stands where the {kind} should: name a {kind} first, such as {example}")
    near = nearest_files(path, kind)
    hint = f" - did you mean {join_or(near)}?" if near else f", and no {kind} has that name: `jepa config list` shows all"
    raise UserError(f"no file {given}{hint}")


def nearest_files(path: Path, kind: Kind) -> list[str]:
    """Return the YAML file in the same folder that a path resembles most, else the names of this kind."""
    neighbors = {file.name: str(file) for file in path.parent.glob(f"*{SUFFIX}")}
    if here := get_close_matches(path.name, neighbors, 1):
        return [neighbors[here[0]]]
    names = [name.removeprefix(PREFIXES[kind]) for name in names_of(kind)]
    stem = path.name.removesuffix(SUFFIX)
    nested = f"{path.parent.name}/{stem}"  # such as debug/vjepa of configs/debug/vjepa.yaml
    return [name for name in (nested, stem) if name in names][:1] or get_close_matches(stem, names, 3)


def join_or(words: list[str]) -> str:
    """Return words as in "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


@cache
def note_local(local: Path, shipped: Path, kind: Kind) -> None:
    """Say once, by the first of several processes, that a local file or folder is used in place of what comes with this package."""
    if all(os.environ.get(rank, "0") == "0" for rank in ("RANK", "SLURM_PROCID")):
        print(f"{local} is used, and not the {kind} of that name in this package, {shipped}", file=sys.stderr)


def shipped_bases() -> Iterator[str]:
    """Yield the names that `extends` may give besides files: recipes and their parts."""
    yield from (name for name in shipped_files() if kind_of(name) in ("recipe", "part"))


def find_base(recipe: Path, base: str) -> Path | None:
    """Return the file that a recipe extends: one relative to it, else a recipe or part of this package by its name."""
    file = recipe.parent / base
    return file if file.is_file() else shipped_file(base, "part" if kind_of(base) == "part" else "recipe")
