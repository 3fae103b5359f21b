"""Sizes of the networks, in timm's terms."""

from math import prod
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.grid import MAX_FRAMES, MAX_SIDE, MAX_TOKENS
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.modality import CLIP, IMAGE, Modality
from jepa_pipeline.config.pixel_format import RGB_CHANNELS, InChannels, name_channels
from jepa_pipeline.config.section import InitDepthScaling, InitStd, NormEps, Section

Architecture = Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge", "vit_giant"]
Width = Annotated[int, Field(ge=1)]
Positions = Literal["sincos", "sincos_uniform", "rope", "rope_tiled"]
TimmArgument = bool | int | float | str | tuple[int, ...]


class Size(NamedTuple):
    """Width, number of blocks, heads per block and MLP ratio of a transformer."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float


SIZES: dict[Architecture, Size] = {
    "vit_tiny": Size(192, 12, 3, 4.0),
    "vit_small": Size(384, 12, 6, 4.0),
    "vit_base": Size(768, 12, 12, 4.0),
    "vit_large": Size(1024, 24, 16, 4.0),
    "vit_huge": Size(1280, 32, 16, 4.0),
    "vit_giant": Size(1408, 40, 16, 48 / 11),
}


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise ValueError if a width does not fit its heads or the sine-cosine positions (four channels per frequency)."""
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
    if embed_dim % 4:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of 4, which sine-cosine positions need")


class EncoderConfig(Section):
    """A vision transformer without class token, for images or clips: an `arch` by name, or the four sizes."""

    is_stack: ClassVar[bool] = False

    timm: ClassVar[None] = None

    image_size: int = Field(default=224, ge=1, le=MAX_SIDE, description="Height and width of the input, in pixels.")
    in_channels: InChannels = RGB_CHANNELS
    patch_size: int = Field(default=16, ge=1, description="Height and width of a patch, in pixels.")
    frames: int = Field(default=1, ge=1, le=MAX_FRAMES, description="Frames per training clip; 1: images.")
    tubelet_size: int = Field(default=1, ge=1, description="Frames per token; the papers' video encoders use 2.")
    positions: Positions = Field(
        default="sincos",
        description="Position encoding. sincos: fixed and added to the tokens; for clips, half of the channels encode time "
        "and a quarter each row and column. sincos_uniform: a third of the channels each (V-JEPA). rope: rotary, in every "
        "attention layer (V-JEPA 2). rope_tiled: as in V-JEPA 2's released code, where attention does not depend on "
        "relative positions alone; use it to load its weights, or for VJEPA2Model of transformers (`jepa export --to hf`).",
    )
    arch: Architecture | None = Field(default=None, description="A published size by name; null: the sizes below.")
    embed_dim: int | None = Field(default=None, ge=4, description="Width of a token.")
    depth: int | None = Field(default=None, ge=1, description="Number of transformer blocks.")
    num_heads: int | None = Field(default=None, ge=1, description="Attention heads per block.")
    mlp_ratio: float | None = Field(default=None, gt=0, description="Hidden width of the MLP over embed_dim; null: 4.")
    init_std: InitStd = None
    init_depth_scaling: InitDepthScaling = False
    norm_eps: NormEps = None
    attention: Literal["full", "causal"] = Field(
        default="full",
        description="full: every token attends to all others; causal: only to those of its own and of earlier time steps, so "
        "that one pass represents every prefix of a clip.",
    )
    window: int | None = Field(
        default=None,
        ge=1,
        description="Time steps that a token attends to under causal attention, its own included; null: all.",
    )

    @model_validator(mode="after")
    def check_sizes(self) -> Self:
        given = [name for name in Size._fields if getattr(self, name) is not None]
        if self.arch is not None and given:
            raise ValueError(
                f"arch {self.arch!r} already fixes {', '.join(given)}: give arch or the sizes, not both (null unsets a recipe's)"
            )
        missing = [name for name in Size._fields[:3] if getattr(self, name) is None]
        if self.arch is None and missing:
            raise ValueError(f"{', '.join(missing)} missing: give arch (one of {', '.join(SIZES)}) or all three sizes")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.frames % self.tubelet_size:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet_size {self.tubelet_size}")
        if prod(self.clip_grid) > MAX_TOKENS:
            steps, rows, columns = self.clip_grid
            raise ValueError(
                f"{steps}x{rows}x{columns} tokens are more than {MAX_TOKENS}, at which no mask is made: lower image_size or "
                "frames, or raise patch_size or tubelet_size"
            )
        check_heads(self.size.embed_dim, self.size.num_heads)
        self.check_positions(self.size.embed_dim, self.size.num_heads)
        return self

    @model_validator(mode="after")
    def check_attention(self) -> Self:
        if self.attention == "causal" and not self.modality.has_time:
            raise ValueError("attention: causal is for clips, but frames and tubelet_size are 1: set attention to full")
        if self.window is not None and self.attention != "causal":
            raise ValueError(f"window {self.window} requires causal attention: set attention to causal, or remove window")
        if self.window is not None and self.window > self.clip_grid[0]:
            raise ValueError(f"window {self.window} is more than the {self.clip_grid[0]} time steps of a clip: remove it")
        return self

    def check_positions(self, embed_dim: int, num_heads: int) -> None:
        """Raise ValueError if this encoder's positions do not fit a width and its heads, its own or its predictor's."""
        head_dim = embed_dim // num_heads
        if self.rotary and head_dim < 6:
            raise ValueError(
                f"heads of {head_dim} channels are too narrow for rotary positions, which rotate 2 channels for each of 3 axes"
            )
        if self.modality.has_time and self.positions == "sincos" and embed_dim % 8:
            raise ValueError(
                f"embed_dim {embed_dim} is not a multiple of 8, which positions sincos of clips need: choose one that is, or "
                "positions sincos_uniform or rope"
            )

    @property
    def rotary(self) -> bool:
        """Return whether positions rotate queries and keys instead of being added to the tokens."""
        return self.positions in ("rope", "rope_tiled")

    @property
    def modality(self) -> Modality:
        """Return CLIP if there are several frames, or tokens that span several; else IMAGE."""
        return CLIP if self.frames > 1 or self.tubelet_size > 1 else IMAGE

    @property
    def still_frames(self) -> int:
        """Return the frames of a clip by which an image is encoded."""
        return self.frames

    @property
    def levels(self) -> "tuple[EncoderConfig, ...]":
        """Return the encoders of a stack, from the pixels up; for a single encoder, itself."""
        return (self,)

    @property
    def clip_grid(self) -> tuple[int, int, int]:
        """Return time steps, rows and columns of patches; an image has one time step."""
        return self.frames // self.tubelet_size, *self.grid

    @property
    def input_shape(self) -> str:
        """Return the frames of a clip, and height and width, such as 16x224x224, or 224x224 for images; and channels but RGB."""
        frames = f"{self.frames}x" if self.modality.has_time else ""
        return f"{frames}{self.image_size}x{self.image_size}{name_channels(self.in_channels)}"

    def up_to_level(self, level: Level | None) -> "EncoderConfig":
        """Return the encoder without the levels above `level`; a single encoder has one level, itself."""
        return self

    def describe_layers(self) -> str:
        """Return the architecture's name, or width and depth."""
        return self.arch or f"ViT {self.size.embed_dim} x {self.size.depth}"

    def describe(self) -> str:
        """Return the network in a few words, for tables."""
        patch = f"{self.tubelet_size}x{self.patch_size}x{self.patch_size}" if self.modality.has_time else self.patch_size
        return f"{self.describe_layers()}, patches of {patch}, {self.input_shape}"

    @property
    def size(self) -> Size:
        """Return width, depth, heads and MLP ratio, from `arch` or from the keys."""
        if self.arch is not None:
            return SIZES[self.arch]
        assert self.embed_dim is not None and self.depth is not None and self.num_heads is not None
        return Size(self.embed_dim, self.depth, self.num_heads, self.mlp_ratio or 4.0)

    @property
    def grid(self) -> tuple[int, int]:
        """Return rows and columns of patches."""
        side = self.image_size // self.patch_size
        return side, side


class PredictorConfig(Section):
    """The narrow transformer that predicts the target representation of masked patches."""

    embed_dim: int = Field(default=384, ge=4, description="Width of a token inside the predictor.")
    depth: int = Field(default=12, ge=1, description="Number of transformer blocks.")
    num_heads: int = Field(default=12, ge=1, description="Attention heads per block; I-JEPA uses the encoder's number.")
    mlp_ratio: float = Field(default=4.0, gt=0, description="Hidden width of the MLP over embed_dim.")
    init_std: InitStd = None
    init_depth_scaling: InitDepthScaling = False
    mask_token_std: float = Field(
        default=0.02,
        ge=0,
        description="Standard deviation of initial mask tokens: 0.02 in I-JEPA; 0, which makes them zero, in V-JEPA and V-JEPA 2.",
    )
    shared_mask_token: bool = Field(
        default=False,
        description="One mask token for all mask sets, as in V-JEPA 2, whose code trains only the first; false: one for each, as "
        "in V-JEPA.",
    )

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> Self:
        check_heads(self.embed_dim, self.num_heads)
        return self

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raise ValueError if the encoder's positions do not fit this predictor's width."""
        try:
            encoder.check_positions(self.embed_dim, self.num_heads)
        except ValueError as error:
            raise ValueError(f"predictor: {error}") from None


def is_size(argument: TimmArgument) -> bool:
    """Return whether an argument of timm is a size: a whole number, or some."""
    numbers = argument if isinstance(argument, tuple) else (argument,)
    return all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)


class BackboneConfig(Section):
    """A timm network by name, if it returns a feature map or tokens."""

    timm: str = Field(min_length=1, description="timm's name, such as resnet50, vit_small_patch16_224 or convnext_tiny.")
    image_size: int = Field(default=224, ge=1, le=MAX_SIDE, description="Height and width of the input, in pixels.")
    in_channels: InChannels = RGB_CHANNELS
    small_stem: bool = Field(
        default=False,
        description="For images of about 32 pixels: a ResNet's first convolution becomes 3x3 with stride 1, without max "
        "pooling. timm has no name for such a network, so it cannot be exported to timm.",
    )
    norm_eps: NormEps = None
    args: dict[str, TimmArgument] = Field(
        default_factory=dict, description="Further arguments of timm.create_model, such as {drop_path_rate: 0.1}."
    )

    modality: ClassVar[Modality] = IMAGE
    frames: ClassVar[int] = 1
    is_stack: ClassVar[bool] = False

    @property
    def levels(self) -> "tuple[BackboneConfig, ...]":
        """Return itself, as EncoderConfig.levels does for a single encoder."""
        return (self,)

    @property
    def input_shape(self) -> str:
        """Return height and width, such as 224x224, and channels but RGB."""
        return f"{self.image_size}x{self.image_size}{name_channels(self.in_channels)}"

    def up_to_level(self, level: Level | None) -> "BackboneConfig":
        """Return itself, as EncoderConfig.up_to_level does for a single encoder."""
        return self

    def describe(self) -> str:
        """Return the network in a few words, for tables: timm's name, with the sizes in which it differs from that name."""
        sizes = {name: value for name, value in self.args.items() if is_size(value)}
        if {"patch_size", "embed_dim", "depth"} <= sizes.keys():  # nothing that the name says is left
            network = f"ViT {sizes['embed_dim']} x {sizes['depth']}, patches of {sizes['patch_size']}"
        else:
            network = f"{self.timm}{' with' * bool(sizes)} {', '.join(f'{name} {value}' for name, value in sizes.items())}".strip()
        return f"{network}{' (small stem)' if self.small_stem else ''}, {self.input_shape}"

    @model_validator(mode="after")
    def check_args(self) -> Self:
        if "img_size" in self.args:
            raise ValueError("args.img_size duplicates image_size: remove it")
        if "in_chans" in self.args:
            raise ValueError("args.in_chans duplicates in_channels, which a run sets to data.channels: remove it")
        for name in ("pretrained", "num_classes", "checkpoint_path", "features_only"):
            if name in self.args:
                raise ValueError(f"args.{name} cannot be set: encoders start untrained and without a classifier")
        return self


class HeadConfig(Section):
    """A multilayer perceptron on an encoder's features: linear, batch norm and ReLU per hidden layer, then linear."""

    hidden: tuple[Width, ...] = Field(description="Widths of the hidden layers.")
    out: Width = Field(description="Width of the output, the embedding.")
    last_bias: bool = Field(
        default=True,
        description="A bias in the last layer: not in VICReg, Barlow Twins, SimCLR and BYOL; in SwAV, in SimSiam's predictor and "
        "in LeJEPA. Never with last_norm.",
    )
    last_norm: bool = Field(
        default=False, description="A batch norm without scale and shift on the output, as in SimSiam's projector."
    )
