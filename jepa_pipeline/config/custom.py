"""A user's own classes in a configuration: the path by which Python imports each, and the arguments that create it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue


def check_class_path(path: str) -> str:
    """Raise ValueError for what names no class in a module."""
    module, _, name = path.rpartition(".")
    if not module or not name.isidentifier():
        raise ValueError(f"class_path is '{path}': give a module and a class in it, such as my_parts.Photos")
    return path


ClassPath = Annotated[
    str,
    AfterValidator(check_class_path),
    Field(description="A class of yours, such as my_parts.Photos: its name in a module that Python can import."),
]
InitArgs = Annotated[dict[str, JsonValue], Field(description="Keyword arguments that create it.")]


def describe_custom(class_path: str, init_args: Mapping[str, Any]) -> str:
    """Return a class and its arguments as Python writes a call."""
    return f"{class_path}({', '.join(f'{name}={value!r}' for name, value in init_args.items())})"
