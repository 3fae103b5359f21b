"""The encoders of I-JEPA, V-JEPA, V-JEPA 2 and V-JEPA 2.1 in the layouts in which their authors published them."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.image_video import ImageVideoConfig
from jepa_pipeline.config.networks import SIZES, EncoderConfig, Positions, Size
from jepa_pipeline.config.views import IMAGENET_MEAN, IMAGENET_STD
from jepa_pipeline.interop.published import Family, Imported, Published, rename
from jepa_pipeline.models.positions import sincos

BLOCK = r"blocks\.\d+\.(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(?:weight|bias)"
SAME = (rf"(patch_embed\.proj\.(?:weight|bias)|{BLOCK}|norm\.(?:weight|bias))", r"\1")
"""Names that the official files and this package share."""
POSITIONS = (r"(pos_embed)", r"\1")
ROUNDING = 2e-2
"""Largest difference of a table of sines and cosines in bf16 from itself."""
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Attention heads of the published networks by width: no tensor's shape shows them."""
HEADS_2 = {**HEADS, 1408: 22, 1664: 26}
"""The same for V-JEPA 2 and 2.1."""
PUBLISHED_SIDE = {14: 18}
"""Rows and columns of V-JEPA 2.1's grid of positions by patch size; else as many as 256 pixels have."""
OFFICIAL_NETWORKS = ("target_encoder", "ema_encoder", "encoder")


class Sizes(NamedTuple):
    """The sizes that the shapes of the tensors show, and the heads."""

    tubelet: int
    patch: int
    size: Size
    notes: tuple[str, ...]


def convert_ijepa(published: Published) -> Imported:
    """Return I-JEPA's encoder."""
    sizes = read_sizes(published, HEADS, video=False)
    weights = rename(published, (SAME, POSITIONS))
    config = encoder_config(published, sizes, image_size=sizes.patch * square_side(published, 1), positions="sincos")
    check_positions(published, config, "I-JEPA has: name its layout with --as")
    return build(config, weights, sizes.notes)


def convert_vjepa(published: Published) -> Imported:
    """Return V-JEPA's encoder."""
    sizes = read_sizes(published, HEADS, video=True)
    weights = rename(published, (SAME, POSITIONS))
    frames = published.given.frames or 16
    side = sizes.patch * square_side(published, max(1, frames // sizes.tubelet))
    new = partial(encoder_config, published, sizes, image_size=side, frames=frames)
    kinds: tuple[Positions, ...] = ("sincos_uniform", "sincos")
    config = next((config for kind in kinds if has_positions(published, config := new(positions=kind))), new(positions=kinds[0]))
    check_positions(published, config, f"V-JEPA has for clips of {frames} frames: give --as vjepa2, or frames=N")
    clip = ClipConfig(stride=4, spacing="window", short="hold")
    return build(config, weights, sizes.notes, clip)


def convert_vjepa2(published: Published) -> Imported:
    """Return V-JEPA 2's encoder. Its positions are `rope_tiled`; the same weights would load with `rope` without an error."""
    sizes = read_sizes(published, HEADS_2, video=True)
    # Released files still hold a table that the network does not use.
    weights = rename(published, (SAME,), drop=(r"pos_embed",))
    config = encoder_config(published, sizes, image_size=16 * sizes.patch, frames=64, positions="rope_tiled")
    notes = (*sizes.notes, *defaults_note(published, config))
    clip = ClipConfig(stride=None, fps=4, spacing="window", short="hold")
    return build(config, weights, notes, clip)._replace(dropped=tuple(name for name in published.tensors if name == "pos_embed"))


def convert_vjepa21(published: Published) -> Imported:
    """Return V-JEPA 2.1's encoder. The last of its norms is the one of its output."""
    sizes = read_sizes(published, HEADS_2, video=True)
    norms = sum(1 for name in published.tensors if name.startswith("norms_block.") and name.endswith(".weight"))
    modal = r"(patch_embed_img\.proj\.(?:weight|bias)|(?:img|video)_mod_embed)"
    earlier = "|".join(str(number) for number in range(norms - 1)) or "(?!)"
    rules = (
        SAME,
        (modal, r"\1"),
        (rf"(norms_block\.(?:{earlier})\.(?:weight|bias))", r"\1"),
        (rf"norms_block\.{norms - 1}\.(weight|bias)", r"norm.\1"),
    )
    if "norm.weight" in published.tensors:
        raise UserError(f"{published.path} holds norm.weight, which V-JEPA 2.1 does not have: name its layout with --as")
    side = PUBLISHED_SIDE.get(sizes.patch, 256 // sizes.patch)
    clips = {"image_size": 24 * sizes.patch, "frames": 64}
    config = encoder_config(
        published, sizes, **clips, positions="rope", kind=ImageVideoConfig, rope_grid_size=side, num_norms=norms
    )
    notes = (*sizes.notes, *defaults_note(published, config), "a single image has a patch embedding of its own, of one frame")
    return build(config, rename(published, rules), notes, ClipConfig(stride=None, fps=4, spacing="window", short="hold"))


def build(config: EncoderConfig, weights: dict[str, Tensor], notes: tuple[str, ...], clip: ClipConfig | None = None) -> Imported:
    """Return an encoder that was trained with the statistics of ImageNet, as all of these were."""
    return Imported(config, weights, IMAGENET_MEAN, IMAGENET_STD, clip, notes)


def read_sizes(published: Published, heads: Mapping[int, int], video: bool) -> Sizes:
    """Return the sizes of a network.

    Raises:
        UserError: a tensor is missing, or shows that the network is of another kind; or its heads are unknown.
    """
    kernel = find(published, "patch_embed.proj.weight")
    if kernel.ndim != (5 if video else 4) or kernel.shape[-1] != kernel.shape[-2]:
        wanted = "clips, whose kernel has five axes" if video else "images, whose kernel has four axes"
        raise UserError(
            f"patch_embed.proj.weight in {published.path} has the shape {list(kernel.shape)}, which is not a square patch "
            f"embedding of {wanted}: name its layout with --as"
        )
    dim, hidden = len(kernel), len(find(published, "blocks.0.mlp.fc1.weight"))
    # of a file that skips a number, the last blocks are refused by name
    depth = len({match[1] for match in map(re.compile(r"blocks\.(\d+)\.").match, published.tensors) if match})
    num_heads, notes = published.given.num_heads, ()
    if num_heads is None:
        num_heads = heads.get(dim)
        if num_heads is None:
            raise UserError(
                f"the network in {published.path} has a width of {dim}, which is none of the published ones, and no tensor shows "
                "its number of attention heads: give it with num_heads=N"
            )
        notes = (f"num_heads={num_heads} is assumed from the published network of width {dim}; the file does not hold it",)
    tubelet = kernel.shape[2] if video else 1
    return Sizes(tubelet, kernel.shape[-1], Size(dim, depth, num_heads, mlp_ratio(dim, hidden)), notes)


def find(published: Published, name: str) -> Tensor:
    """Return a tensor by its name.

    Raises:
        UserError: there is none.
    """
    if name in published.tensors and published.tensors[name].ndim:
        return published.tensors[name]
    if name in published.tensors:
        raise UserError(f"{name} in {published.path} is a single number and no table of weights: copy it again")
    some = ", ".join([*published.tensors][:3])
    raise UserError(
        f"{published.path} holds no {name}, but {len(published.tensors)} other tensors ({some}, ...): name its layout with --as"
    )


def mlp_ratio(dim: int, hidden: int) -> float:
    """Return the ratio of which int(dim * ratio) is the hidden width, which rounding down may miss."""
    published = (size.mlp_ratio for size in SIZES.values() if int(dim * size.mlp_ratio) == hidden)
    return next(published, hidden / dim if int(dim * (hidden / dim)) == hidden else (hidden + 0.5) / dim)


def square_side(published: Published, steps: int) -> int:
    """Return the rows, and columns, of the grid of a table of positions with some time steps.

    Raises:
        UserError: there is no table, or no such grid.
    """
    shape = list(find(published, "pos_embed").shape)
    side = round((shape[1] / steps) ** 0.5) if len(shape) == 3 else 0
    if len(shape) != 3 or side * side * steps != shape[1] or not side:
        clips = f" of {steps} time steps: give the frames of a clip with frames=N" if steps > 1 else " of an image"
        raise UserError(f"pos_embed in {published.path} has the shape {shape}, which is not a square grid{clips}")
    return side


def encoder_config(
    published: Published, sizes: Sizes, image_size: int, kind: type[EncoderConfig] = EncoderConfig, frames: int = 1, **values: Any
) -> EncoderConfig:
    """Return the configuration of an encoder, by the name of its size if that has one; what the user gave comes first.

    Raises:
        UserError: the sizes do not fit each other.
    """
    arch = next((name for name, size in SIZES.items() if size == sizes.size), None)
    given = published.given
    try:
        return kind(
            image_size=given.image_size or image_size,
            in_channels=find(published, "patch_embed.proj.weight").shape[1],
            patch_size=sizes.patch,
            frames=(given.frames or frames) if sizes.tubelet > 1 or frames > 1 else 1,
            tubelet_size=sizes.tubelet,
            **({"arch": arch} if arch else sizes.size._asdict()),
            **values,
        )
    except ValidationError as error:
        raise UserError(f"the network in {published.path} cannot be built: {first_mistake(error)}") from None


def first_mistake(error: ValidationError) -> str:
    """Return the first mistake that pydantic found, after its key if it has one."""
    first = error.errors()[0]
    return ": ".join([*(".".join(map(str, first["loc"])),) * bool(first["loc"]), first["msg"].removeprefix("Value error, ")])


def check_positions(published: Published, config: EncoderConfig, whose: str) -> None:
    """Refuse a table of positions of the right shape that is not the fixed one; of another shape, the network names both.

    Raises:
        UserError: it is another.
    """
    shape = (1, *sincos(config, config.size.embed_dim).shape)
    if find(published, "pos_embed").shape == shape and not has_positions(published, config):
        raise UserError(f"pos_embed of {published.path} is not the table of sines and cosines that {whose}")


def has_positions(published: Published, config: EncoderConfig) -> bool:
    """Return whether the table of positions is that of a configuration."""
    table, expected = find(published, "pos_embed"), sincos(config, config.size.embed_dim)[None]
    return table.shape == expected.shape and bool(torch.allclose(table, expected, rtol=0, atol=ROUNDING))


def defaults_note(published: Published, config: EncoderConfig) -> tuple[str, ...]:
    """Return that the file does not say the length and size of clips, if the user did not either."""
    said = {"frames": config.frames, "image_size": config.image_size}
    unsaid = [f"{name}={value}" for name, value in said.items() if getattr(published.given, name) is None]
    if not unsaid:
        return ()
    return (f"{' and '.join(unsaid)}: published values, not in the file; rotary positions also fit other sizes",)


def is_ijepa(published: Published) -> bool:
    """Return whether an image network without a class token has I-JEPA's own table of positions."""
    names = published.tensors.keys()
    if published.config:  # the configuration of a folder says whose it is
        return False
    if "pos_embed" not in names or "cls_token" in names or not is_vit(published, 4):
        return False
    table, dim = published.tensors["pos_embed"], len(published.tensors["patch_embed.proj.weight"])
    side = round(table.shape[1] ** 0.5) if table.ndim == 3 else 0
    if side * side != (table.shape[1] if table.ndim == 3 else -1) or table.shape[2] != dim or dim % 4:
        return False
    config = EncoderConfig(image_size=side, patch_size=1, embed_dim=dim, depth=1, num_heads=1)
    return has_positions(published, config)


def is_vjepa2(published: Published) -> bool:
    """Return whether a network of clips in an official checkpoint has no positions; one with a table may also be V-JEPA's."""
    return published.network in OFFICIAL_NETWORKS and "pos_embed" not in published.tensors and is_vit(published, 5)


def is_vjepa21(published: Published) -> bool:
    """Return whether a network has the patch embedding of images and the norms that only V-JEPA 2.1 has."""
    return {"patch_embed_img.proj.weight", "norms_block.0.weight", "video_mod_embed"} <= published.tensors.keys()


def is_vit(published: Published, axes: int) -> bool:
    """Return whether all tensors are those of a transformer without a class token, whose patch embedding has so many axes."""
    kernel = published.tensors.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != axes:
        return False
    try:
        return bool(rename(published, (SAME, POSITIONS)))
    except UserError:
        return False


OFFICIAL = (
    Family("ijepa", "official I-JEPA checkpoints", is_ijepa, convert_ijepa),
    Family("vjepa", "official V-JEPA checkpoints", lambda published: False, convert_vjepa),
    Family("vjepa2", "official V-JEPA 2 checkpoints", is_vjepa2, convert_vjepa2),
    Family("vjepa2.1", "official V-JEPA 2.1 checkpoints", is_vjepa21, convert_vjepa21),
)
