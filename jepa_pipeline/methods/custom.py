"""A user's own method."""

from inspect import signature

from jepa_pipeline.config.custom_method import CustomMethodConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig
from jepa_pipeline.custom import Recorded, check_subclass, class_path, create, find
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.build import build_encoder, build_jepa_encoder
from jepa_pipeline.models.interface import BaseEncoder

KEY = "method"


def check_method(cls: object) -> None:
    """Raise UserError for a class without the interface of a method."""
    check_subclass(KEY, cls, Method)
    assert isinstance(cls, type)
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UserError(f"{KEY}: {class_path(cls)} has no {missing[0]}(batch, step, seed): write it, as jepa_pipeline.Method says")
    try:
        signature(cls.forward).bind("self", "batch", "step", "seed")  # pyright: ignore[reportFunctionMemberAccess]
    except TypeError as error:
        raise UserError(
            f"{KEY}: {class_path(cls)}.forward is called as forward(batch, step, seed), but {error}: give it these three arguments"
        ) from None


def build_custom_method(config: CustomMethodConfig) -> Method:
    """Return a user's own method, created with its encoder.

    Raises:
        UserError: its class cannot be found, or lacks a part of the interface.
    """
    check_method(find(KEY, config.class_path, Method))
    masked = config.masks and not isinstance(config.encoder, BackboneConfig)
    encoder = build_jepa_encoder(config.encoder) if masked else build_encoder(config.encoder)  # pyright: ignore[reportArgumentType]
    method = create(KEY, Recorded(config.class_path, config.init_args), Method, encoder)
    for name, kind in (("encoder", BaseEncoder), ("encoder_to_export", BaseEncoder), ("embedding_width", int)):
        if not isinstance(getattr(method, name, None), kind):
            what = "the width of its targets and predictions" if kind is int else "the encoder that it was created with, or a copy"
            raise UserError(f"{KEY}: {config.class_path} has no attribute {name}: set it in __init__, to {what}")
    return method
