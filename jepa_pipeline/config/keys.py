"""Every key of recipes, probes, suites and sites: its type, unit, default and description."""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.section import Section, section_types, type_name
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import SuiteConfig

Tree = Literal["recipe", "probe", "suite", "site"]
TREES: dict[Tree, type[Section]] = {"recipe": RunConfig, "probe": ProbeConfig, "suite": SuiteConfig, "site": SiteConfig}
"""Models of recipes, of the settings of `jepa probe`, of benchmark suites and of site files."""
UNITS = {
    "site:memory_gb": "GiB",
    **{f"_{name}": name for name in ("samples", "megapixels", "minutes", "epochs")},
    **{"_s": "seconds", "_gb": "GB", "_steps": "optimizer steps", "epochs": "epochs", "hours": "hours", "parameters": "millions"},
    **dict.fromkeys(("batch_size", "batch_size_global", "lr_batch_size", "queue_length"), "samples"),
    **dict.fromkeys(("image_size", "patch_size", "sigma"), "pixels"),
    **dict.fromkeys(("frames", "tubelet_size", "stride"), "frames"),
    **dict.fromkeys(("window", "horizon"), "time steps"),
    **{"bits": "bits", "fps": "frames per second", "hue": "color circles", "segments": "clips", "views": "crops", "count": "views"},
    **{"prefetch_batches": "batches", "num_blocks": "blocks", "num_targets": "blocks", "accumulate_steps": "micro-batches"},
}
"""Units by the whole key, the last part of it, or the end of that; other numbers are counts, shares and weights without a unit."""

HUGE = 2**53
"""A limit above which no one will come."""


class KeyRow(NamedTuple):
    """A key.

    Args:
        tree: what it is a key of.
        key: dotted; N stands for the number of an entry of a list.
        only: kinds of the section around it that have it, if there are several kinds.
        type: its values.
        unit: of a number, "" if it has none.
        required: whether it has no default.
        default: as JSON.
        description: its meaning.
    """

    tree: Tree
    key: str
    only: tuple[str, ...]
    type: str
    unit: str
    required: bool
    default: Any
    description: str

    @property
    def is_section(self) -> bool:
        """Return whether there are keys below it."""
        return self.type.startswith(("section", "list of sections"))

    def __str__(self) -> str:
        only = f" ({', '.join(self.only)})" if self.only else ""
        unit = f", {self.unit}" if self.unit else ""
        default = "required" if self.required else "" if self.is_section else f"default {to_text(self.default)}"
        return f"{self.key}{only}: {self.type}{unit}{', ' if default else ''}{default}. {self.description}"


def all_keys(section: str | None = None) -> list[KeyRow]:
    """Return the keys of recipes, probes, suites and sites, or those of one of these, or of a section or key of a recipe.

    Raises:
        UserError: there is no such section; with the nearest.
    """
    if section is None:
        return [row for tree in TREES for row in tree_keys(tree)]
    if section in TREES:
        return tree_keys(section)
    wanted, recipe = re.sub(r"\.\d+(?=\.|$)", ".N", section), tree_keys("recipe")
    rows = [row for row in recipe if f"{row.key}.".startswith((f"{wanted}.", f"{wanted}.N."))]
    if not rows:
        near = get_close_matches(section, [*TREES, *dict.fromkeys(row.key for row in recipe)], 1)
        sections = ", ".join([*TREES, *(row.key for row in recipe if row.is_section and "." not in row.key)])
        hint = f" - did you mean {near[0]}?" if near else f": the sections are {sections}"
        raise UserError(f"no section or key {section}{hint}")
    return rows


def tree_keys(tree: Tree) -> list[KeyRow]:
    """Return the keys of one tree; those that several kinds of a section share once."""
    schema = TREES[tree].model_json_schema()
    merged = dict[KeyRow, tuple[dict[str, None], tuple[str, ...]]]()
    for row, kinds in walk(tree, TREES[tree], schema.get("$defs", {}) | {TREES[tree].__name__: schema}):
        alone = row._replace(only=(), default=to_text(row.default))  # hashable
        merged.setdefault(alone, ({}, kinds))[0].update(dict.fromkeys(row.only))
    return [
        row._replace(only=() if only.keys() == {*kinds} else tuple(only), default=json.loads(row.default))
        for row, (only, kinds) in merged.items()
    ]


def walk(
    tree: Tree,
    model: type[BaseModel],
    schemas: dict[str, Any],
    prefix: str = "",
    only: tuple[str, ...] = (),
    kinds: tuple[str, ...] = (),
) -> Iterator[tuple[KeyRow, tuple[str, ...]]]:
    """Yield the keys of a section and of those below it, once for each kind of a section that has several, and all these kinds."""
    for name, field in model.model_fields.items():
        key, types = prefix + name, section_types(field.annotation)
        names = tuple(map(type_name, types)) if len(types) > 1 else ()
        text = section_text(names, is_list(field)) if types else type_text(schemas[model.__name__]["properties"][name])
        default = None if types or field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
        row = KeyRow(tree, key, only, text, unit_of(tree, name, text), field.is_required(), default, field.description or "")
        yield row, kinds
        for section in types:
            below = ((type_name(section),), names) if names else (only, kinds)
            yield from walk(tree, section, schemas, f"{key}.{'N.' if is_list(field) else ''}", *below)


def section_text(kinds: tuple[str, ...], several: bool) -> str:
    """Return in words that a value is a section, or a list of them, and its kinds, if there are several."""
    return ("list of sections" if several else "section") + (f" ({' | '.join(kinds)})" if kinds else "")


def is_list(field: FieldInfo) -> bool:
    """Return whether a field is a list of sections and not one."""
    return any(get_origin(part) is tuple for part in (field.annotation, *get_args(field.annotation)))


def type_text(schema: dict[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(type_text, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    match schema.get("type"):
        case "array":
            items = schema.get("prefixItems")
            return f"[{', '.join(map(type_text, items))}]" if items else f"list of {type_text(schema.get('items', {}))}"
        case "integer" | "number" as name:
            bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
            limits = [f"{sign} {schema[bound]:g}" for bound, sign in bounds.items() if schema.get(bound, HUGE) < HUGE]
            return " ".join([name, " and ".join(limits)]).rstrip()
        case "string":
            return "path" if schema.get("format") == "path" else "text"
        case "boolean":
            return "true | false"
        case "null":
            return "null"
        case "object":
            return "mapping"
    return "section"


def unit_of(tree: Tree, name: str, type: str) -> str:
    """Return the unit of a key that is a number, "" if it has none."""
    if "integer" not in type and "number" not in type:
        return ""
    ending = f"_{name.rpartition('_')[2]}"
    return UNITS.get(f"{tree}:{name}") or UNITS.get(name) or (UNITS.get(ending, "") if ending != f"_{name}" else "")


def to_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
