"""A user's own parts of a run: how the configuration records them, and how they reach the processes of the run."""

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.custom_encoder import CustomEncoderConfig
from jepa_pipeline.config.custom_method import CustomMethodConfig
from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.layers import Layer
from jepa_pipeline.config.load import load_config, read_recipe
from jepa_pipeline.config.parse import build
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.custom import HERE, check_importable, create, is_importable, module_paths, names_main, record, record_object
from jepa_pipeline.methods.custom import check_method
from jepa_pipeline.methods.method import Method
from lightning import Callback

OBJECTS = "JEPA_PIPELINE_OBJECTS"
"""Variable that names the file, in memory, of the objects that the process which started this one was given."""


Recipe = RunConfig | Mapping[str, Any] | str | Path
"""A configuration, or what `load_config` reads as one."""


class Parts(NamedTuple):
    """The parts that `pretrain` was given. data: an object or a class; encoder, method: a class, or a partial of one."""

    data: Any = None
    encoder: Any = None
    method: Any = None


def configure(config: Recipe, parts: Parts) -> RunConfig:
    """Return the configuration of a run with the user's own parts in the place of its own.

    Raises:
        UserError: a part lacks its interface, or does not fit the others.
    """
    if parts == Parts():
        return config if isinstance(config, RunConfig) else load_config(config)
    layer = Layer(config.model_dump(mode="json"), {}, "configuration") if isinstance(config, RunConfig) else read_recipe(config)
    values = layer.values
    values = {**values, "data": {**values.get("data", {})}, "method": {**values.get("method", {})}}
    if parts.data is not None:
        values["data"]["train"] = [describe_data(parts.data)]
    if parts.encoder is not None:
        values["method"]["encoder"] = describe_encoder(parts.encoder, values)
    if parts.method is not None:
        values["method"] = describe_method(parts.method, values["method"])
    layer.values = values
    return build(RunConfig, layer)


def describe_data(data: Any) -> dict[str, Any]:
    """Return the section of an own data set: of its class, or of an object that this process and those it starts have."""
    is_class = isinstance(data, type | partial)
    recorded = record("data", data, Dataset) if is_class else record_object(data)
    return {"path": recorded.class_path, **recorded._asdict()}


def describe_encoder(encoder: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the section of an own encoder, with the sizes that its attributes name."""
    if "levels" in values["method"]:
        raise UserError("encoder: your own network cannot be a level of an H-JEPA: choose a method of one encoder, such as ijepa")
    recorded = record("encoder", encoder, nn.Module)
    with torch.random.fork_rng():  # built only to read its attributes
        network = create("encoder", recorded, nn.Module)
    before = values["method"].get("encoder", {})
    width, side = getattr(network, "width", None), getattr(network, "image_size", before.get("image_size"))
    grid, frames = getattr(network, "grid", None), getattr(network, "frames", before.get("frames", 1))
    for name, value in (("width", width), ("image_size", side)):
        if not isinstance(value, int):
            raise UserError(f"encoder: {recorded.class_path} has no attribute {name}, a whole number: set it (see TokenNetwork)")
    assert isinstance(side, int)
    section = {**recorded._asdict(), "image_size": side, "embed_dim": width, "in_channels": values["data"].get("channels", 3)}
    if grid is None:
        return {**section, "tokens": False}
    steps, rows, columns = grid if len(grid) == 3 else (1, *grid)
    if rows != columns or side % rows or frames % steps:
        raise UserError(
            f"encoder: the grid of {recorded.class_path} is {tuple(grid)} for images of {side}x{side} pixels and {frames} frames, "
            "but tokens lie on a square grid of equal patches: make rows and columns the same divisor of image_size"
        )
    return {**section, "patch_size": side // rows, "frames": frames, "tubelet_size": frames // steps}


def describe_method(method: Any, before: dict[str, Any]) -> dict[str, Any]:
    """Return the section of an own method, with the encoder and the masks of the one that it replaces."""
    if isinstance(method, Method):
        raise UserError(
            f"method is an object of {type(method).__name__}, but a run creates it, with the encoder of the configuration: give "
            "the class, or functools.partial(CLASS, argument=...)"
        )
    recorded = record("method", method, Method)
    check_method(method.func if isinstance(method, partial) else method)
    masks = before.get("masks") or ()
    masks = [{"name": "multiblock", **masks}] if isinstance(masks, dict) else masks
    return {"name": "custom", **recorded._asdict(), "encoder": before.get("encoder", {}), "masks": masks}


def class_paths(config: RunConfig) -> list[tuple[str, str]]:
    """Return the classes of the user's own that a run needs, each with its key."""
    found = [("data.train", source.class_path) for source in config.data.train if source.class_path]
    if isinstance(config.method.encoder, CustomEncoderConfig):
        found.append(("method.encoder", config.method.encoder.class_path))
    if isinstance(config.method, CustomMethodConfig):
        found.append(("method", config.method.class_path))
    return found


def describe_limits(config: RunConfig) -> list[str]:
    """Return a sentence for each own part that other processes cannot have."""
    sentences = [
        f"{key} is {path}, which only this process has: for probes and exports by other processes, or several devices, move it "
        "into a module, a .py file"
        for key, path in class_paths(config)
        if not is_importable(path)
    ]
    objects = [source.class_path for source in config.data.train if source.class_path and source.init_args is None]
    return sentences + [
        f"data.train is an object of {path}, which the run's config.yaml cannot hold: to resume, call pretrain with it again"
        for path in objects
    ]


def check_callbacks(callbacks: Sequence[object]) -> None:
    """Raise UserError for what is no callback of Lightning."""
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise UserError(f"callbacks has one of type {type(callback).__name__}: give objects of lightning.Callback")


@contextmanager
def objects_file(config: RunConfig, callbacks: Sequence[Callback], processes: int) -> Iterator[tuple[int, dict[str, str]] | None]:
    """Yield the descriptor of a file in memory with the objects that new processes need, and their environment; None if they need
    nothing.

    Raises:
        UserError: they could not have them.
    """
    paths = class_paths(config)
    if not paths and not callbacks:
        yield None
        return
    for key, path in paths:
        check_importable(key, path, processes)
    given = {source.path: HERE[source.path] for source in config.data.train if is_object(source)}
    descriptor = os.memfd_create("objects")  # on no disk, as the recipe beside it
    try:
        with open(descriptor, "wb", closefd=False) as file:  # os.write may write only a part
            file.write(pickle_objects(given, callbacks, processes))
        yield descriptor, {**module_paths(), OBJECTS: f"/proc/self/fd/{descriptor}"}
    finally:
        os.close(descriptor)


def is_object(source: Any) -> bool:
    """Return whether a source is an object of this process."""
    return source.class_path is not None and source.init_args is None and source.class_path in HERE


def pickle_objects(given: dict[str, Any], callbacks: Sequence[Callback], processes: int) -> bytes:
    """Return objects as bytes, one after the other, so that an error names the one that it is about."""
    parts = []
    for name, part in (*given.items(), *((type(callback).__name__, callback) for callback in callbacks)):
        try:
            parts.append(pickle.dumps(part))
        except Exception as error:  # pickle raises what the objects raise
            raise UserError(
                f"{name} cannot be sent to the {processes} processes of this run ({type(error).__name__}: {first_line(error)}): "
                "make it of what pickle can send (no lambdas, no open files), or set trainer.devices=1"
            ) from None
        if names_main(parts[-1]):
            raise UserError(
                f"{name} needs a class or function of this script or notebook, which the {processes} processes of this run cannot "
                "import: move it into a module, a .py file, or set trainer.devices=1"
            )
    return pickle.dumps((dict(zip(given, parts, strict=False)), parts[len(given) :]))


def inherited_callbacks() -> list[Callback]:
    """Take the objects over from the process that started this one, and return its callbacks."""
    path = os.environ.pop(OBJECTS, None)
    if path is None:
        return []
    given, callbacks = pickle.loads(Path(path).read_bytes())  # our own parent's, in memory
    HERE.update({name: pickle.loads(part) for name, part in given.items()})
    return [pickle.loads(part) for part in callbacks]
