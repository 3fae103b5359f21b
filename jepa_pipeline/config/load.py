"""YAML files and dotted overrides to a typed tree; every mistake with its file and line."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from jepa_pipeline.config.errors import ConfigError, Mistake, UserError
from jepa_pipeline.config.layers import Key, Source
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.section import Section, type_name, section_types

Config = TypeVar("Config", bound=Section)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe.

    Args:
        path: a YAML 1.2 file; its `extends: [other.yaml]` are laid below it, relative to it. Or a run folder, which stands for
            its own config.yaml, wherever it has been moved to.
        overrides: dotted assignments such as "optim.lr=3e-4", laid above it.

    Raises:
        ConfigError: with every mistake in it.
    """
    source = read_run(Path(path)) if Path(path).is_dir() else read_yaml(Path(path))
    source.update(read_overrides(overrides))
    return build(RunConfig, source)


def read_run(folder: Path) -> Source:
    """The resolved configuration of a run folder, with its present place and name."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is a folder without a config.yaml: give a recipe or a run folder, such as runs/NAME")
    source = read_yaml(folder / "config.yaml")
    whole = folder.resolve()
    source.update(Source({"output": str(whole.parent), "name": whole.name}, {}, str(folder)))
    return source


def load_overrides(model: type[Config], overrides: Sequence[str]) -> Config:
    """Build a section from its defaults and dotted assignments alone."""
    return build(model, read_overrides(overrides))


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> Source:
    """One file with everything it extends."""
    if path.resolve() in seen:
        raise ConfigError([Mistake(str(path), "extends itself through " + " -> ".join(file.name for file in seen))])
    document = parse_file(path)
    bases = plain(document.pop("extends", []))
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError([Mistake(str(path), f"extends is {bases!r}: it is a list of files, such as [base.yaml]")])
    source = Source({}, {}, str(path))
    for base in bases:
        if not (path.parent / base).is_file():
            raise ConfigError([Mistake(str(path), f"extends {base}, but there is no file {path.parent / base}")])
        source.update(read_yaml(path.parent / base, (*seen, path.resolve())))
    source.update(Source(plain(document), dict(places(document, str(path))), str(path)))
    return source


def parse_file(path: Path) -> CommentedMap:
    try:
        document = YAML().load(path.read_text())
    except FileNotFoundError:
        near = get_close_matches(path.name, [file.name for file in path.parent.glob("*.yaml")], 1)
        hint = f" - did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"no file {path}{hint}") from None
    except (OSError, UnicodeDecodeError, ReaderError) as error:
        raise UserError(f"{path} cannot be read as a YAML file: {str(error).splitlines()[0]}") from None
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([Mistake(f"{path}:{line}", str(error.problem).split(" with value")[0])]) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([Mistake(f"{path}:{line}", f"not YAML: {error.problem}")]) from None
    if not isinstance(document, CommentedMap):
        raise ConfigError([Mistake(f"{path}:1", "a configuration is a mapping of sections, such as 'optim:' with keys below it")])
    return document


def plain(node: Any) -> Any:
    """The parser's decorated values as Python's own."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def places(node: CommentedMap, file: str, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """The file and line of every key below the node."""
    for name, value in node.items():
        yield (*key, name), f"{file}:{node.lc.key(name)[0] + 1}"
        if isinstance(value, CommentedMap):
            yield from places(value, file, (*key, name))
        if isinstance(value, CommentedSeq):
            for number, entry in enumerate(value):
                if isinstance(entry, CommentedMap):
                    yield from places(entry, file, (*key, name, number))


def read_overrides(overrides: Sequence[str]) -> Source:
    """Dotted assignments as a source of their own."""
    source = Source({}, {}, "command line")
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            raise UserError(f"'{override}' is not KEY=VALUE with a dotted key, such as optim.lr=3e-4")
        try:
            value = plain(YAML().load(text))
        except MarkedYAMLError as error:
            raise UserError(f"the value of '{override}' is not YAML: {error.problem}") from None
        for key in reversed(keys):
            value = {key: value}
        place = tuple(int(key) if key.isdecimal() else key for key in keys)
        source.update(Source(value, {place: f"command line '{override}'"}, "command line"))
    return source


def build(model: type[Config], source: Source) -> Config:
    """The typed tree.

    Raises:
        ConfigError: with every mistake and its place.
    """
    try:
        return model.model_validate(source.values)
    except ValidationError as error:
        raise ConfigError([explain(model, source, details) for details in error.errors() if not is_echo(details)]) from None


def is_echo(details: ErrorDetails) -> bool:
    """Whether a list is called too short only because an entry of it is wrong, which is said already."""
    return details["type"] == "too_short" and len(details["input"]) >= details.get("ctx", {})["min_length"]


def explain(model: type[BaseModel], source: Source, details: ErrorDetails) -> Mistake:
    """One of pydantic's complaints as a sentence with a place."""
    section, around = follow(model, details["loc"][:-1])
    _, key = follow(model, details["loc"])
    dotted, where = ".".join(map(str, key)), source.place(key)
    names = names_in(model, details["loc"]) if details["type"].startswith("union_tag") else []
    match details["type"]:
        case "extra_forbidden":
            near = nearest(model, section, around, str(key[-1]))
            return Mistake(where, f"unknown key '{dotted}'" + (f" - did you mean '{near}'?" if near else ""))
        case "missing" if isinstance(key[-1], int):
            return Mistake(where, f"'{'.'.join(map(str, key[:-1]))}' is too short: value {key[-1] + 1} of the list is missing")
        case "missing":
            field = section.model_fields.get(str(key[-1])) if section else None
            return Mistake(where, f"key '{dotted}' is missing: {((field and field.description) or '').rstrip('.')}")
        case "union_tag_not_found":
            return Mistake(where, f"key '{dotted}.name' is missing: it is one of {', '.join(names_in(model, details['loc']))}")
        case "union_tag_invalid":
            return Mistake(
                source.place((*key, "name")),
                unknown_name(dotted, str(details.get("ctx", {})["tag"]), names),
            )
        case "string_pattern_mismatch":
            return Mistake(
                where,
                f"'{dotted}' is {details['input']!r}: letters and digits, and after the first also '.', '_' and '-'",
            )
        case "path_type":
            return Mistake(where, f"'{dotted}' is {details['input']!r}: it is a file or folder")
        case "too_short":
            return Mistake(
                where, f"'{dotted}' is {details['input']!r}: it needs at least {details.get('ctx', {})['min_length']} entry"
            )
        case "dict_type":
            return Mistake(where, f"'{dotted}' is {details['input']!r}: it is a mapping, such as {{key: value}}")
        case "tuple_type" if isinstance(details["input"], dict):
            return Mistake(
                where, f"'{dotted}' has no entries yet to change: give the whole list, such as {dotted}={as_list(details['input'])}"
            )
        case "tuple_type":
            return Mistake(where, f"'{dotted}' is {details['input']!r}: it is a list, such as [1, 2]")
        case "model_type" | "model_attributes_type":
            return Mistake(where, f"'{dotted}' is {details['input']!r}: it is a section with keys below it")
        case "value_error":
            return Mistake(where, (f"{dotted}: " if dotted else "") + details["msg"].removeprefix("Value error, "))
        case _:
            rule = details["msg"].removeprefix("Input ")
            return Mistake(where, f"'{dotted}' is {details['input']!r}: it {rule}")


def as_list(entries: dict[str, Any]) -> str:
    """Entries by number as the list that was meant, for the command line."""
    shown = [
        f"{{{', '.join(f'{key}: {value}' for key, value in entry.items())}}}" if isinstance(entry, dict) else f"{entry}"
        for entry in entries.values()
    ]
    return f"'[{', '.join(shown)}]'"


def unknown_name(dotted: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1, cutoff=0.5)
    return f"'{dotted}.name' is '{name}'" + (f" - did you mean '{near[0]}'?" if near else f": it is one of {', '.join(known)}")


def nearest(model: type[BaseModel], section: type[BaseModel] | None, around: Key, name: str) -> str | None:
    """The right key a misspelt or misplaced one most resembles."""
    near = get_close_matches(name, section.model_fields, 1, cutoff=0.5) if section else []
    if near:
        return ".".join(map(str, (*around, near[0])))
    here = ".".join(map(str, around))
    known = [dotted for dotted in dotted_keys(model) if dotted.rpartition(".")[0] != here]  # else it is a key of another kind
    elsewhere = [dotted for dotted in known if dotted.split(".")[-1] == name]
    close = [key for key in get_close_matches(f"{here}.{name}", known, 3, cutoff=0.8) if not key.startswith(f"{here}.{name}.")]
    return (elsewhere or close or [None])[0]


def follow(model: type[BaseModel], location: Key) -> tuple[type[BaseModel] | None, Key]:
    """The section a location of pydantic's leads to, and its key: without the names of kinds that pydantic puts in."""
    section, kinds, key = model, list[type[BaseModel]](), ()
    for part in location:
        if named := [kind for kind in kinds if len(kinds) > 1 and part == type_name(kind)]:
            section, kinds = named[0], []
            continue
        key = (*key, part)
        if isinstance(part, int):
            continue  # a place in a list of sections
        field = section.model_fields.get(part) if section else None
        kinds = section_types(field.annotation) if field else []
        section = kinds[0] if len(kinds) == 1 else None
    return section, key


def names_in(model: type[BaseModel], location: Key) -> list[str]:
    """The names of the kinds that a section, or the entry of a list, at a location of pydantic's can be of."""
    while isinstance(location[-1], int):
        location = location[:-1]
    section, _ = follow(model, location[:-1])
    return [type_name(kind) for kind in section_types(section.model_fields[str(location[-1])].annotation)] if section else []


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the tree, sections and values, of all kinds."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in section_types(field.annotation):
            yield from dotted_keys(section, f"{prefix}{name}.")
