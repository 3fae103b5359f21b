"""`jepa config copy`: a recipe, part, suite or site of this package as a file of one's own."""

import json
import re
from difflib import get_close_matches
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.keys import Tree
from jepa_pipeline.config.recipes import PREFIXES, SUFFIX, join_or, kind_of, shipped_files
from jepa_pipeline.config.schema import file_schema
from jepa_pipeline.files import atomic_write
from jepa_pipeline.version import __version__

EXTENDS, ABOUT = re.compile(r"^extends: \[(.*)\]$", re.MULTILINE), re.compile(r"^about: .*\n", re.MULTILINE)


def copy_recipe(name: str, path: Path | None = None) -> Path:
    """Write a copy with the same values, and beside it the JSON schema that its first line names for editors.

    Args:
        name: of a recipe, part, suite or site.
        path: file, or folder, of the copy; default: NAME.yaml in the current folder.

    Returns:
        The path of the copy.

    Raises:
        UserError: there is no such name, or the file exists.
    """
    full = full_name(name)
    source, tree = shipped_files()[full], tree_of(full)
    copy = (path or Path()).expanduser()
    copy = copy / source.name if copy.is_dir() else copy
    if copy.suffix not in (SUFFIX, ".yml"):
        raise UserError(f"{copy} is no name of a YAML file: give one that ends in {SUFFIX}, or a folder that exists")
    if copy.exists() or copy.is_symlink():
        raise UserError(f"{copy} exists and is not overwritten: give another path, or delete it")
    copy.parent.mkdir(parents=True, exist_ok=True)
    schema = copy.parent / f"jepa-{tree}.schema.json"
    write_schema(schema, tree)
    head = f"# yaml-language-server: $schema={schema.name}\n# A copy of {full} of jepa_pipeline {__version__}.\n#\n"
    atomic_write(copy, head + standalone(source, full, copy), exact=True)
    print(f"written to {copy}, and for editors {schema}")
    return copy


def full_name(name: str) -> str:
    """Return the full name of a file by a name that may lack the prefix of its kind."""
    files = shipped_files()
    found = [full for full in (f"{prefix}{name}" for prefix in PREFIXES.values()) if full in files]
    if not found:
        near = get_close_matches(name.removesuffix(SUFFIX), [*files, *(full.rpartition("/")[2] for full in files)], 3)
        hint = f" - did you mean {join_or([*dict.fromkeys(near)])}?" if near else ": `jepa config list` shows all"
        raise UserError(f"nothing of this package is named {name}{hint}")
    return found[0]


def tree_of(full: str) -> Tree:
    """Return the tree of keys of a file; the part of a recipe has those of a recipe."""
    kind = kind_of(full)
    return "recipe" if kind == "part" else kind


def standalone(source: Path, full: str, copy: Path) -> str:
    """Return the text of a file without what it says about itself, with names of this package in `extends`."""
    text = ABOUT.sub("", source.read_text())
    names = {path.resolve(): name for name, path in shipped_files().items()}

    def name_bases(found: re.Match[str]) -> str:
        return f"extends: [{', '.join(names[(source.parent / base.strip()).resolve()] for base in found[1].split(','))}]"

    return EXTENDS.sub(name_bases, text).replace(f"configs/{full}{SUFFIX}", str(copy))


def write_schema(path: Path, tree: Tree) -> None:
    """Write the JSON schema of a kind of file, over one of an earlier version.

    Raises:
        UserError: another program wrote the file.
    """
    schema = file_schema(tree)
    if path.exists() and f'"title": "{schema["title"]}"' not in path.read_text(errors="replace"):
        raise UserError(f"{path} exists and is not a schema of this package: give another path, or delete it")
    atomic_write(path, json.dumps(schema, indent=1) + "\n", exact=True)
