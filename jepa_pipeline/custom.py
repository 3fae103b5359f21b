"""A user's own classes: recorded by the path with which Python imports them, and found again in every process that can."""

import json
import os
import pickletools
import sys
from functools import partial
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any, NamedTuple, TypeVar

from jepa_pipeline.config.errors import UserError, first_line

Part = TypeVar("Part")

HERE: dict[str, Any] = {}
"""Classes, and objects of which only the class is known, that were handed to this process, by class path."""


class Recorded(NamedTuple):
    """A part as a configuration records it. init_args: None if it is an object, whose arguments are unknown."""

    class_path: str
    init_args: dict[str, Any] | None


def record(key: str, part: object, kind: type) -> Recorded:
    """Return how a configuration records a class, or a `functools.partial` of it with its arguments; from now on it is found here.

    Args:
        key: of the configuration, for messages.
        part: the class or the partial.
        kind: the class that it must be a subclass of.

    Raises:
        UserError: it is neither, or an argument cannot be written down.
    """
    args = part.keywords if isinstance(part, partial) else {}
    cls = part.func if isinstance(part, partial) else part
    if not isinstance(cls, type):
        name = type(part).__name__
        raise UserError(
            f"{key} is {'an object of' if isinstance(part, kind) else 'of type'} {name}, but a run creates it itself, with the "
            f"weights of its seed and in every process that needs it: give the class, or functools.partial(CLASS, argument=...)"
        )
    check_subclass(key, cls, kind)
    if isinstance(part, partial) and part.args:
        raise UserError(
            f"{key} is a partial with arguments that have no name: write functools.partial({cls.__name__}, argument=...)"
        )
    for name, value in args.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(
                f"{key}: the argument {name} of {cls.__name__} is {value!r}, which a recipe cannot hold: give numbers, texts, "
                "lists and dictionaries of them, and create the rest from these in the class"
            ) from None
    HERE[class_path(cls)] = cls
    return Recorded(class_path(cls), json.loads(json.dumps(args)))


def record_object(part: object) -> Recorded:
    """Return how a configuration records an object of an own class, which is found in this process alone."""
    HERE[class_path(type(part))] = part
    return Recorded(class_path(type(part)), None)


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def check_subclass(key: str, cls: object, kind: type) -> None:
    """Raise UserError for what is no subclass of a class; before anything of it is called, since a recipe may name anything."""
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        name = class_path(cls) if isinstance(cls, type) else repr(cls)
        raise UserError(f"{key} is {name}, which is no subclass of {class_path(kind)}: give one")


def find(key: str, path: str, kind: type[Part]) -> type[Part]:
    """Return a class that was handed to this process, or import it.

    Raises:
        UserError: it cannot be imported, or is no subclass of `kind`.
    """
    found = HERE.get(path) or import_class(key, path)
    check_subclass(key, found, kind)
    return found


def import_class(key: str, path: str) -> Any:
    module, _, name = path.rpartition(".")
    if module == "__main__" or "<locals>" in path:
        where = "a notebook or script" if module == "__main__" else "a function"
        found = getattr(sys.modules["__main__"], name, None) if module == "__main__" else None
        if found is not None:
            return found
        raise UserError(
            f"{key} is {path}, a class of {where}, which only the process that defined it can create: call this from there, or "
            "move the class into a module, a .py file, and train with the class from there"
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{key} is {path}, which cannot be imported ({first_line(error)}): install its package, or add the folder of its file "
            "to PYTHONPATH"
        ) from None


def create(key: str, recorded: Recorded, kind: type[Part], *given: object) -> Part:
    """Return a new object of a class, created with the recorded arguments after others.

    Raises:
        UserError: it cannot be found, or does not take these arguments.
    """
    cls = find(key, recorded.class_path, kind)
    try:
        return cls(*given, **(recorded.init_args or {}))
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # raised within it
            raise
        raise UserError(f"{key} cannot be created ({first_line(error)}): correct its init_args") from None


def is_importable(path: str) -> bool:
    """Return whether a new process with the same paths to modules can import a class."""
    module = path.rpartition(".")[0]
    return module != "__main__" and "<locals>" not in path and PathFinder.find_spec(module.partition(".")[0]) is not None


def check_importable(key: str, path: str, processes: int) -> None:
    """Raise UserError for a class that new processes cannot import."""
    if not is_importable(path):
        raise UserError(
            f"{key} is {path}, which the {processes} processes of this run cannot import: move it into a module, a .py file beside "
            "this one, and import it from there, or set trainer.devices=1"
        )


def names_main(pickled: bytes) -> bool:
    """Return whether a pickle holds something that only the script or notebook has which pickled it."""
    return any(isinstance(value, str) and value.split(" ")[0] == "__main__" for _, value, _ in pickletools.genops(pickled))


def module_paths() -> dict[str, str]:
    """Return the environment in which a new process finds the modules that this one finds."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
