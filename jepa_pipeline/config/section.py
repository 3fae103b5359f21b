"""The one base of every section of a configuration."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen set of named values in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="strings")


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The kinds of section a field can hold: one, several of a union, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def kind_name(section: type[BaseModel]) -> str:
    """What a section of a union is called: the one value of its key `name`; one without, by its class."""
    name = section.model_fields.get("name")
    return get_args(name.annotation)[0] if name else section.__name__
