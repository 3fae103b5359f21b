"""Values that lie over one another: a recipe over those it extends, the command line over all."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.section import type_name, section_types

Key = tuple[str | int, ...]


class Source:
    """Plain values, and where each of them was said ("FILE:LINE" by its dotted key)."""

    def __init__(self, values: dict[str, Any], places: dict[Key, str], name: str) -> None:
        self.values = values
        self.places = places
        self.name = name

    def place(self, key: Key) -> str:
        """Where the key was said, on the command line if that touched anything of it; else the nearest section around it."""
        below = [place for said, place in self.places.items() if said[: len(key)] == key]
        if key and below and (key not in self.places or below[-1].startswith("command line")):
            return below[-1]
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.name)

    def update(self, other: "Source") -> None:
        """Lay another source over this one: sections merge, everything else is replaced.

        Of a section that becomes another kind (`name: ...`) the keys stay that mean the same to the new kind. An empty mapping
        empties a section.
        """
        merge(self.values, other.values, [RunConfig])
        self.places = {
            key: place for key, place in self.places.items() if key not in other.places
        } | other.places  # the last is last


def merge(below: dict[str, Any], above: Mapping[str, Any], kinds: list[type[BaseModel]], prefix: str = "") -> None:
    """Lay values over others of a section that is one of some kinds."""
    for key, value in above.items():
        fields = [kind.model_fields[key] for kind in kinds if key in kind.model_fields]
        inner = [section for field in fields for section in section_types(field.annotation)]
        old = below.get(key)
        if isinstance(value, dict) and isinstance(old, list):
            below[key] = merge_entries(f"{prefix}{key}", old, value, inner)
        elif isinstance(value, dict) and isinstance(old, dict) and value:
            below[key] = what_stays(old, inner, value)
            merge(below[key], value, inner, f"{prefix}{key}.")
        elif isinstance(value, dict) and old is not None and not isinstance(old, dict):
            raise UserError(
                f"'{prefix}{key}' is given the value {old!r} and also keys below it ({', '.join(value)}): it can have one of both"
            )
        else:
            below[key] = value


def what_stays(old: dict[str, Any], kinds: list[type[BaseModel]], new: Mapping[str, Any]) -> dict[str, Any]:
    """Of a section's values those that mean the same under another name of a kind, or of a network of timm's."""
    if new.get("timm", old.get("timm")) != old.get("timm"):
        return {key: value for key, value in old.items() if key not in ("args", "small_stem")}
    if "name" not in old or new.get("name", old["name"]) == old["name"]:
        return old
    fields = {type_name(kind): kind.model_fields for kind in kinds if "name" in kind.model_fields}
    was, becomes = fields.get(old["name"], {}), fields.get(str(new["name"]), {})
    return {key: old[key] for key in old if key in was and key in becomes and was[key].annotation == becomes[key].annotation}


def merge_entries(key: str, entries: list[Any], changes: Mapping[str, Any], kinds: list[type[BaseModel]]) -> list[Any]:
    """A list of which some entries, named by their number, are changed, as `views.crops.0.flip=0.5` does."""
    found = {str(number): entry for number, entry in enumerate(entries)}
    if beyond := [number for number in changes if number not in found]:
        raise UserError(f"'{key}.{beyond[0]}' does not exist: the entries of '{key}' are 0 to {len(entries) - 1}")
    for number, change in changes.items():
        if isinstance(change, dict) and isinstance(found[number], dict):
            merge(found[number], change, kinds, f"{key}.{number}.")
        else:
            found[number] = change
    return list(found.values())
