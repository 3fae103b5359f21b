"""Layers of configuration values: a recipe over the recipes it extends, the command line over all."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import section_types, type_name

Key = tuple[str | int, ...]


class Layer:
    """Plain values with the location of each.

    Attributes:
        values: nested mappings and lists.
        locations: "FILE:LINE", or the override, by key.
        name: location of everything else.
    """

    def __init__(self, values: dict[str, Any], locations: dict[Key, str], name: str) -> None:
        self.values = values
        self.locations = locations
        self.name = name

    def locate(self, key: Key) -> str:
        """Return where a key was set: on the command line if that changed any part of it, else in its nearest section."""
        below = [location for other, location in self.locations.items() if other[: len(key)] == key]
        if key and below and (key not in self.locations or below[-1].startswith("command line")):
            return below[-1]
        while key and key not in self.locations:
            key = key[:-1]
        return self.locations.get(key, self.name)

    def update(self, above: "Layer", model: type[BaseModel]) -> None:
        """Merge a layer over this one, both of the keys of `model`: sections are merged, all other values replaced.

        A section that changes its `name`, and so its type, keeps the keys that both types share. An empty mapping
        empties a section.
        """
        merge(self.values, above.values, [model])
        # Keys set again move to the end, because `locate` takes the last location.
        below = {key: location for key, location in self.locations.items() if key not in above.locations}
        self.locations = below | above.locations


def merge(below: dict[str, Any], above: Mapping[str, Any], types: list[type[BaseModel]], prefix: str = "") -> None:
    """Merge values into those of a section whose type is one of `types`."""
    for key, value in above.items():
        fields = [section.model_fields[key] for section in types if key in section.model_fields]
        inner = [section for field in fields for section in section_types(field.annotation)]
        old = below.get(key)
        if isinstance(value, dict) and isinstance(old, list):
            below[key] = merge_entries(f"{prefix}{key}", old, value, inner)
        elif isinstance(value, dict) and isinstance(old, dict) and value:
            below[key] = shared_keys(old, inner, value)
            merge(below[key], value, inner, f"{prefix}{key}.")
        elif isinstance(value, dict) and old is not None and not isinstance(old, dict):
            raise UserError(
                f"'{prefix}{key}' is set to {old!r} but also has keys below it ({', '.join(value)}): use one of the two"
            )
        else:
            below[key] = value


def shared_keys(old: dict[str, Any], types: list[type[BaseModel]], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section that remain valid if its type, or its timm network, changes."""
    if new.get("timm", old.get("timm")) != old.get("timm"):
        return {key: value for key, value in old.items() if key not in ("args", "small_stem")}
    if "name" not in old or new.get("name", old["name"]) == old["name"]:
        return old
    fields = {type_name(section): section.model_fields for section in types if "name" in section.model_fields}
    before, after = fields.get(old["name"], {}), fields.get(str(new["name"]), {})
    return {k: old[k] for k in old if k in before and k in after and before[k].annotation == after[k].annotation}


def merge_entries(key: str, entries: list[Any], changes: Mapping[str, Any], types: list[type[BaseModel]]) -> list[Any]:
    """Return a list with some entries changed by their number, as `views.crops.0.flip=0.5` does."""
    merged = {str(number): entry for number, entry in enumerate(entries)}
    if beyond := [number for number in changes if number not in merged]:
        raise UserError(f"'{key}.{beyond[0]}' does not exist: the entries of '{key}' are 0 to {len(entries) - 1}")
    for number, change in changes.items():
        if isinstance(change, dict) and isinstance(merged[number], dict):
            merge(merged[number], change, types, f"{key}.{number}.")
        else:
            merged[number] = change
    return list(merged.values())
