"""The base class of every section of a configuration, and the types that several sections share."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
NormEps = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(description="Epsilon of the layer norms; null: that of the papers, or of timm. Others cannot be exported to timm."),
]
InitStd = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(description="Standard deviation of initial weights (published: 0.02); null: Xavier initialization."),
]
InitDepthScaling = Annotated[
    bool,
    Field(
        description="Divide the initial output projections of attention and MLP in block i = 1, 2, ... by sqrt(2 i), as V-JEPA 2 "
        "does; the weights of I-JEPA and V-JEPA did not start so."
    ),
]
MAX_COUNT = 1024
"""Most processes of a machine, batches made ahead, clips and views of a sample: more than anyone has, so that a slip of some zeros
is a sentence and does not fill the machine."""


class Section(BaseModel):
    """A frozen group of values that refuses unknown keys.

    Attributes:
        MULTILINE: keys whose texts may have several lines, because they are code.
    """

    MULTILINE: ClassVar[frozenset[str]] = frozenset()

    # Infinities are written as strings because config.json must be valid JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="strings")


def section_types(annotation: Any) -> list[type[BaseModel]]:
    """Return the section classes a field can hold: one, several for a union, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in section_types(part)]


def type_name(section: type[BaseModel]) -> str:
    """Return the name that selects a section of a union: the only value of its key `name`, else its class name."""
    name = section.model_fields.get("name")
    return get_args(name.annotation)[0] if name else section.__name__


def check_range(name: str, low: float, high: float) -> None:
    """Raise ValueError unless 0 < low <= high."""
    if not 0 < low <= high:
        raise ValueError(f"{name} is [{low}, {high}]: a range is [low, high] with 0 < low <= high")


def flatten(tree: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of nested sections, and of lists of sections, with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
