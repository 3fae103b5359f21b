"""Weights of an encoder in one of the same architecture for another image size, clip length, patch size or number of channels."""

import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.models.backbone import TIMM_ERRORS, Backbone, summarize_error
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.positions import resize_positions, sincos
from timm.layers import resample_patch_embed
from timm.models import adapt_input_conv

SINCOS_TOLERANCE = 2e-3
"""Largest difference of saved positions from sine-cosine ones, as after float16; trained ones are interpolated instead."""

Shapes = dict[str, torch.Size]


class Fitted(NamedTuple):
    """Weights by their names on disk, and a sentence on each that was changed."""

    weights: dict[str, Tensor]
    notes: list[str]


def fit_weights(weights: Mapping[str, Tensor], saved: EncoderConfig | BackboneConfig, encoder: BaseEncoder) -> Fitted:
    """Return weights as an encoder can take them, with the changes that timm makes: to channels, patches and positions.

    What no change fits keeps its shape, for the caller to refuse.

    Args:
        weights: of an encoder, by their names on disk.
        saved: the configuration of that encoder.
        encoder: the one that takes them, of which only shapes count.

    Raises:
        UserError: timm refuses.
    """
    fitted, shapes = Fitted(dict(weights), []), shapes_of(encoder)
    fit_channels(fitted, shapes, first_layers(encoder))
    if isinstance(encoder, Backbone):
        fit_backbone(fitted, shapes, encoder)
    elif isinstance(encoder, Encoder) and isinstance(saved, EncoderConfig):
        fit_patches(fitted, shapes)
        fit_positions(fitted, saved, encoder)
    return fitted


def shapes_of(encoder: BaseEncoder) -> Shapes:
    """Return the shapes of an encoder's weights, by their names on disk."""
    return {name: tensor.shape for name, tensor in encoder.timm_module().state_dict().items()}


def first_layers(encoder: BaseEncoder) -> list[str]:
    """Return the names of the weights that are multiplied with the pixels."""
    if not isinstance(encoder, Backbone):
        return ["patch_embed.proj.weight"]
    names = encoder.network.pretrained_cfg.get("first_conv") or ()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    return [f"{name}.weight" for name in ((names,) if isinstance(names, str) else names)]  # pyright: ignore[reportGeneralTypeIssues]


def fit_channels(fitted: Fitted, shapes: Shapes, names: list[str]) -> None:
    """Give the first layer another number of input channels by timm's rule.

    For one channel its kernels are summed, as for an image whose channels are equal. For n they are repeated in turn, or the
    first n kept, and scaled by (channels there) / n, so that the response to a channel more or less stays of the same size.
    """
    for name in names:
        kernel, shape = fitted.weights.get(name), shapes.get(name)
        if kernel is None or shape is None or kernel.ndim < 4 or kernel.ndim != len(shape) or kernel.shape[1] == shape[1]:
            continue
        there, here = kernel.shape[1], shape[1]
        adapted = adapt_input_conv(here, kernel.flatten(2, -2), base_chans=there)  # time steps are rows to timm
        fitted.weights[name] = adapted.unflatten(2, kernel.shape[2:-1]).to(kernel.dtype)
        kept = "its kernels are repeated in turn" if here > there else f"its first {here} kernels are kept"
        rule = "its kernels are summed" if here == 1 else f"{kept} and scaled by {there}/{here}"
        fitted.notes.append(f"the first layer takes {here} channel{'s' * (here > 1)} in place of {there}: {rule}")


def fit_patches(fitted: Fitted, shapes: Shapes) -> None:
    """Resample the kernels of the patch embedding to another patch size, so that larger patches of a larger image give the same."""
    name = "patch_embed.proj.weight"
    kernel, shape = fitted.weights.get(name), shapes.get(name)
    if kernel is None or shape is None or kernel.ndim < 4 or kernel.ndim != len(shape) or kernel.shape[-2:] == shape[-2:]:
        return
    resampled = resample_patch_embed(kernel.flatten(1, -3), [*shape[-2:]])
    fitted.weights[name] = resampled.unflatten(1, kernel.shape[1:-2])
    fitted.notes.append(f"patches of {side(shape)} pixels in place of {side(kernel.shape)}: the kernels are resampled by timm")


def side(shape: torch.Size) -> str:
    return f"{shape[-2]}x{shape[-1]}"


def fit_positions(fitted: Fitted, saved: EncoderConfig, encoder: Encoder) -> None:
    """Give the positions of another grid: sine-cosine ones are computed anew, others interpolated; rotary ones are no weights."""
    positions, grids = fitted.weights.get("pos_embed"), (saved.clip_grid, encoder.grid)
    if grids[0] == grids[1]:
        return
    change = f"a grid of {name_grid(grids[1])} tokens in place of {name_grid(grids[0])}"
    if positions is None or encoder.pos_embed is None:
        fitted.notes.append(f"{change}: rotary positions fit any")
        return
    fixed = sincos(saved, positions.shape[-1])[None]
    if fixed.shape == positions.shape and torch.allclose(positions.float(), fixed, rtol=0, atol=SINCOS_TOLERANCE):
        fitted.weights["pos_embed"] = sincos(encoder.config, positions.shape[-1])[None].to(positions.dtype)
        fitted.notes.append(f"{change}: sine-cosine positions are computed anew")
    else:
        fitted.weights["pos_embed"] = resize_positions(positions, *grids, has_time=encoder.config.modality.has_time)
        fitted.notes.append(f"{change}: positions are interpolated as timm does")


def name_grid(grid: tuple[int, int, int]) -> str:
    return "x".join(map(str, grid if grid[0] > 1 else grid[1:]))


def fit_backbone(fitted: Fitted, shapes: Shapes, encoder: Backbone) -> None:
    """Resample the tensors of a timm network by timm's own function for published weights of its family, if it has one.

    Raises:
        UserError: that function fails.
    """
    weights = fitted.weights
    differing = {name for name in weights.keys() & shapes.keys() if weights[name].shape != shapes[name]}
    name = encoder.config.timm
    resample = getattr(sys.modules[timm.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if not differing or resample is None:
        return
    try:
        resampled = resample(dict(weights), encoder.network)
    except TIMM_ERRORS as error:
        raise UserError(
            f"timm cannot fit {min(differing)} of {name} from the shape {list(weights[min(differing)].shape)} to "
            f"{list(shapes[min(differing)])} ({summarize_error(error)}): make image_size and args the same"
        ) from None
    for name in sorted(differing & resampled.keys()):
        if resampled[name].shape == shapes[name]:
            there, here = list(weights[name].shape), list(shapes[name])
            weights[name] = resampled[name]
            fitted.notes.append(f"{name} is interpolated by timm from {there} to {here}")
