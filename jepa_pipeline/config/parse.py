"""Typed configurations from YAML files and dotted overrides, with every mistake and its location."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from jepa_pipeline.config.bounded_yaml import MAX_DEPTH, BadYaml, parse_bounded, read_bounded
from jepa_pipeline.config.control_characters import RULE, with_controls
from jepa_pipeline.config.errors import ConfigError, Mistake, UserError, first_line
from jepa_pipeline.config.layers import Key, Layer
from jepa_pipeline.config.recipes import find_base, shipped_bases
from jepa_pipeline.config.removed import removed_key, removed_value
from jepa_pipeline.config.section import Section, section_types, type_name
from jepa_pipeline.config.suggest import assignment_in, nearest_key, nearest_value, other_unit, other_way
from jepa_pipeline.redaction import remember_secrets

Config = TypeVar("Config", bound=Section)

MAX_SHOWN = 300
"""Characters of a value that a message shows."""
MAX_FILES = 64
RULES = {
    "string_pattern_mismatch": "letters and digits, and after the first also '.', '_' and '-'",
    "path_type": "it must be a file or folder",
    "dict_type": "it must be a mapping, such as {key: value}",
    "tuple_type": "it must be a list, such as [1, 2]",
}
"""Rules of values by the type of pydantic's error, where pydantic's own message speaks of Python."""


def load_overrides(model: type[Config], overrides: Sequence[str]) -> Config:
    """Return a section built from its defaults and dotted assignments."""
    return build(model, read_overrides(overrides, model))


def read_yaml(path: Path, model: type[BaseModel], parents: tuple[Path, ...] = (), read: list[Path] | None = None) -> Layer:
    """Read a file, and everything it extends, as values of a section; `read`: the files that were read before."""
    if path.resolve() in parents:
        raise ConfigError([Mistake(str(path), "extends itself through " + " -> ".join(file.name for file in parents))])
    read = [] if read is None else read
    read.append(path)
    if len(read) > MAX_FILES:  # files that extend one twice, which extends another twice, and so on
        raise ConfigError([Mistake(str(read[0]), f"extends more than {MAX_FILES} files, repeated ones too: merge some of them")])
    document = parse_file(path)
    bases = to_plain(document.pop("extends", []))
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError([Mistake(str(path), f"extends is {bases!r}: it must be a list of files, such as [base.yaml]")])
    layer = Layer({}, {}, str(path))
    for base in bases:
        file = find_base(path, base)
        if file is None:
            near = get_close_matches(base.removesuffix(".yaml"), shipped_bases(), 1)
            hint = f" - did you mean {near[0]}?" if near else ""
            raise ConfigError([Mistake(str(path), f"extends {base}, but there is no file {path.parent / base}{hint}")])
        below = read_yaml(file, model, (*parents, path.resolve()), read)
        below.values.pop("about", None)  # it describes that recipe, not this one
        layer.update(below, model)
    layer.update(Layer(to_plain(document), dict(locate_keys(document, str(path))), str(path)), model)
    return layer


def parse_file(path: Path) -> CommentedMap:
    try:
        document = parse_bounded(read_bounded(path))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a YAML file: {first_line(error)}") from None
    except BadYaml as error:
        raise ConfigError([Mistake(f"{path}:{error.line}", str(error))]) from None
    if not isinstance(document, CommentedMap):
        raise ConfigError([Mistake(f"{path}:1", "a configuration is a mapping of sections, such as 'optim:' with keys below it")])
    return document


def to_plain(node: Any) -> Any:
    """Return ruamel's values, which are subclasses that remember their formatting, as Python's own."""
    if isinstance(node, Mapping):
        return {str(key): to_plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [to_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def locate_keys(node: CommentedMap, file: str, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Yield the file and line of every key below a node."""
    for name, value in node.items():
        yield (*key, name), f"{file}:{node.lc.key(name)[0] + 1}"
        if isinstance(value, CommentedMap):
            yield from locate_keys(value, file, (*key, name))
        if isinstance(value, CommentedSeq):
            for number, entry in enumerate(value):
                if isinstance(entry, CommentedMap):
                    yield from locate_keys(entry, file, (*key, name, number))


def read_overrides(overrides: Sequence[str], model: type[BaseModel]) -> Layer:
    """Read dotted assignments to the keys of a section."""
    layer = Layer({}, {}, "command line")
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            raise UserError(f"'{shorten(override)}' is not KEY=VALUE with a dotted key, such as optim.lr=3e-4")
        if len(keys) > MAX_DEPTH:
            raise UserError(f"'{shorten(dotted)}' has {len(keys)} parts, but no key has more than {MAX_DEPTH}: give a shorter one")
        try:
            value = to_plain(parse_bounded(text))
        except BadYaml as error:
            raise UserError(f"the value of '{shorten(override)}' cannot be read: {error}") from None
        for key in reversed(keys):
            value = {key: value}
        location = {tuple(int(key) if key.isdecimal() else key for key in keys): f"command line '{shorten(override)}'"}
        layer.update(Layer(value, location, "command line"), model)
    return layer


def build(model: type[Config], layer: Layer) -> Config:
    """Return the typed configuration, and have its secrets recognized from now on.

    Raises:
        ConfigError: with every mistake and its location.
    """
    remember_secrets(layer.values)
    mistakes = [
        Mistake(layer.locate(key), f"'{'.'.join(map(str, key)) or 'a key'}' is {show(text)}: {RULE}")
        for key, text in with_controls(layer.values)
        if not model.MULTILINE.intersection(key[:1])
    ]
    try:
        config = model.model_validate(layer.values)
    except ValidationError as error:
        mistakes += [explain(model, layer, details) for details in error.errors() if not is_consequence(details)]
        raise ConfigError(mistakes) from None
    if mistakes:
        raise ConfigError(mistakes)
    return config


def is_consequence(details: ErrorDetails) -> bool:
    """Return whether pydantic calls a list too short only because an entry of it is wrong, which is an error of its own."""
    return details["type"] == "too_short" and len(details["input"]) >= details.get("ctx", {})["min_length"]


def explain(model: type[BaseModel], layer: Layer, details: ErrorDetails) -> Mistake:
    """Return one of pydantic's errors as a sentence with a location."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    section, around = resolve(model, details["loc"][:-1])
    _, key = resolve(model, details["loc"])
    dotted, where = ".".join(map(str, key)), layer.locate(key)
    match kind:
        case "extra_forbidden" if (cure := removed_key(dotted)) is not None:
            text = f"key '{dotted}' no longer exists: {cure}"
        case "extra_forbidden" if (cure := other_way(str(key[-1]))) is not None:
            text = f"unknown key '{dotted}': {cure}"
        case "extra_forbidden":
            near = nearest_key(dotted_keys(model, entries=False), section, around, str(key[-1]))
            text = f"unknown key '{dotted}'" + (f" - did you mean '{near}'{other_unit(str(key[-1]), near)}?" if near else "")
        case "missing" if isinstance(key[-1], int):
            text = f"'{'.'.join(map(str, key[:-1]))}' is too short: value {key[-1] + 1} of the list is missing"
        case "missing":
            field = section.model_fields.get(str(key[-1])) if section else None
            text = f"key '{dotted}' is missing: {((field and field.description) or '').rstrip('.')}"
        case "union_tag_not_found":
            text = f"key '{dotted}.name' is missing: it is one of {', '.join(union_names(model, details['loc']))}"
        case "union_tag_invalid":
            where, names, name = layer.locate((*key, "name")), union_names(model, details["loc"]), str(context["tag"])
            near = nearest_value(name, names)
            text = f"'{dotted}.name' is '{name}'" + (f" - did you mean '{near}'?" if near else f": it is one of {', '.join(names)}")
        case "too_short":
            text = f"'{dotted}' is {show(value)}: it needs at least {context['min_length']} entry"
        case "tuple_type" if isinstance(value, dict):
            text = f"'{dotted}' has no entries to change: give the whole list, such as {dotted}={format_list(value)}"
        case "value_error":
            text = (f"{dotted}: " if dotted else "") + details["msg"].removeprefix("Value error, ")
        case "model_type" | "model_attributes_type":
            above = (resolve(model, details["loc"][:end])[0] for end in reversed(range(len(details["loc"]))))
            parent = next((found for found in above if found and key[-1] in found.model_fields), None)
            text = f"'{dotted}' is {show(value)}, but it is a section with keys below it: {assignment_in(parent, dotted, value)}"
        case "literal_error" if removed_value(dotted, value) is None:
            near = nearest_value(value, re.findall(r"'([^']*)'", str(context["expected"])))
            text = f"'{dotted}' is {show(value)}: it {details['msg'].removeprefix('Input ')}"
            text += f" - did you mean '{near}'?" if near else ""
        case _ if (cure := removed_value(dotted, value)) is not None:
            text = f"'{dotted}' is {show(value)}: {cure}"
        case _:
            text = f"'{dotted}' is {show(value)}: {RULES.get(kind) or 'it ' + details['msg'].removeprefix('Input ')}"
    return Mistake(where, text)


def show(value: Any) -> str:
    """Return a value as Python writes it, with its start alone if it is long."""
    return shorten(repr(value))


def shorten(text: str) -> str:
    """Return a text of at most MAX_SHOWN characters, so that a message can be read."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def format_list(entries: dict[str, Any]) -> str:
    """Return entries given by number as the list that was probably meant, for the command line."""
    texts = [
        f"{{{', '.join(f'{key}: {value}' for key, value in entry.items())}}}" if isinstance(entry, dict) else f"{entry}"
        for entry in entries.values()
    ]
    return f"'[{', '.join(texts)}]'"


def resolve(model: type[BaseModel], location: Key) -> tuple[type[BaseModel] | None, Key]:
    """Return the section at pydantic's location of an error, and its key without the names of types that pydantic inserts."""
    section, types, key = model, list[type[BaseModel]](), ()
    for part in location:
        if selected := [option for option in types if len(types) > 1 and part == type_name(option)]:
            section, types = selected[0], []
            continue
        key = (*key, part)
        if isinstance(part, int):
            continue  # an index in a list of sections
        field = section.model_fields.get(part) if section else None
        types = section_types(field.annotation) if field else []
        section = types[0] if len(types) == 1 else None
    return section, key


def union_names(model: type[BaseModel], location: Key) -> list[str]:
    """Return the names of the types that the section, or list entry, at pydantic's location can have."""
    while isinstance(location[-1], int):
        location = location[:-1]
    section, _ = resolve(model, location[:-1])
    return [type_name(option) for option in section_types(section.model_fields[str(location[-1])].annotation)] if section else []


def dotted_keys(model: type[BaseModel], prefix: str = "", entries: bool = True) -> Iterator[str]:
    """Yield every key of the tree, of sections and values, of all types; `entries`: also those of the entries of lists."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if entries or get_origin(field.annotation) is not tuple:
            for section in section_types(field.annotation):
                yield from dotted_keys(section, f"{prefix}{name}.", entries)
