"""Sizes of the networks, in timm's words."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.modality import CLIP, IMAGE, Modality
from jepa_pipeline.config.section import Section

Architecture = Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge", "vit_giant"]


Width = Annotated[int, Field(ge=1)]
Positions = Literal["sincos", "sincos_uniform", "rope", "rope_tiled"]
Argument = bool | int | float | str | tuple[int, ...]
"""Of a network of timm."""


class Size(NamedTuple):
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
    """Refuse a width that its heads or the sine-cosine positions (four channels a frequency) cannot share."""
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
    if embed_dim % 4:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of 4, which sine-cosine positions need")


class EncoderConfig(Section):
    """A vision transformer without class token for images or clips: an `arch` by name, or the four sizes spelled out."""

    image_size: int = Field(default=224, ge=1, description="Height and width of the input, in pixels.")
    patch_size: int = Field(default=16, ge=1, description="Height and width of a patch, in pixels.")
    frames: int = Field(default=1, ge=1, description="Frames of the clips it is trained on; 1: images.")
    tubelet_size: int = Field(default=1, ge=1, description="Frames that a token spans; the papers' video encoders have 2.")
    positions: Positions = Field(
        default="sincos",
        description="sincos: fixed, added to the tokens, of a clip half of the channels for time and a quarter each for row and "
        "column; sincos_uniform: a third for each (V-JEPA); rope: rotary, in every attention (V-JEPA 2); rope_tiled: as V-JEPA 2 "
        "was released, in which attention does not depend on relative positions alone; for its weights only.",
    )
    arch: Architecture | None = Field(default=None, description="The papers' sizes by name; leave it out to give the sizes below.")
    embed_dim: int | None = Field(default=None, ge=4, description="Width of a token.")
    depth: int | None = Field(default=None, ge=1, description="Number of transformer blocks.")
    num_heads: int | None = Field(default=None, ge=1, description="Attention heads per block.")
    mlp_ratio: float | None = Field(default=None, gt=0, description="Hidden width of the MLP over embed_dim; 4 unless said.")
    init_std: float | None = Field(
        default=None, gt=0, description="Deviation of the first weights (published: 0.02); null takes Xavier's rule."
    )
    attention: Literal["full", "causal"] = Field(
        default="full",
        description="full: every token sees all others; causal: only those of its own and of earlier time steps, so that one pass "
        "represents every past of a clip.",
    )
    window: int | None = Field(
        default=None,
        ge=1,
        description="Of attention: causal, how many time steps a token sees in each block, its own included; null: all there are.",
    )

    @model_validator(mode="after")
    def sizes_are_said_once(self) -> Self:
        spelled = [name for name in Size._fields if getattr(self, name) is not None]
        if self.arch is not None and spelled:
            raise ValueError(f"arch {self.arch!r} already fixes {', '.join(spelled)}: give arch or the sizes, not both")
        missing = [name for name in Size._fields[:3] if getattr(self, name) is None]
        if self.arch is None and missing:
            raise ValueError(f"{', '.join(missing)} missing: give arch (one of {', '.join(SIZES)}) or all three sizes")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.frames % self.tubelet_size:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet_size {self.tubelet_size}")
        check_heads(self.size.embed_dim, self.size.num_heads)
        self.check_rotary(self.size.embed_dim // self.size.num_heads)
        self.check_clip_channels(self.size.embed_dim)
        return self

    @model_validator(mode="after")
    def causality_needs_time(self) -> Self:
        if self.attention == "causal" and not self.clips:
            raise ValueError("attention: causal is for clips, but frames and tubelet_size are 1: set attention to full")
        if self.window is not None and self.attention != "causal":
            raise ValueError(f"window {self.window} is one of attention: causal: set attention to causal, or leave window out")
        if self.window is not None and self.window > self.clip_grid[0]:
            raise ValueError(f"window {self.window} is more than the {self.clip_grid[0]} time steps of a clip: leave it out")
        return self

    def check_rotary(self, head_dim: int) -> None:
        """Refuse heads, of this encoder or of its predictor, whose channels cannot be rotated along three axes."""
        if self.rotary and head_dim < 6:
            raise ValueError(f"heads of {head_dim} channels are too narrow for rotary positions, which rotate 2 for each of 3 axes")

    def check_clip_channels(self, embed_dim: int) -> None:
        """Refuse a width, of this encoder or of its predictor, that time, row and column cannot share."""
        if self.clips and self.positions == "sincos" and embed_dim % 8:
            raise ValueError(
                f"embed_dim {embed_dim} is not a multiple of 8, which positions sincos of clips need: choose one that is, or "
                "positions sincos_uniform or rope"
            )

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys instead of being added to the tokens."""
        return self.positions in ("rope", "rope_tiled")

    @property
    def modality(self) -> Modality:
        """Images, or clips where there are several frames or a token spans several."""
        return CLIP if self.frames > 1 or self.tubelet_size > 1 else IMAGE

    @property
    def levels(self) -> "tuple[EncoderConfig, ...]":
        """The encoders of a stack, from the pixels up; of a single encoder, itself."""
        return (self,)

    @property
    def clips(self) -> bool:
        """Whether it is given clips rather than images."""
        return self.frames > 1 or self.tubelet_size > 1

    @property
    def clip_grid(self) -> tuple[int, int, int]:
        """Time steps, rows and columns of patches; an image is a clip with one time step."""
        return self.frames // self.tubelet_size, *self.grid

    @property
    def size(self) -> Size:
        """Width, depth, heads and MLP ratio, whichever way they were given."""
        if self.arch is not None:
            return SIZES[self.arch]
        assert self.embed_dim is not None and self.depth is not None and self.num_heads is not None
        return Size(self.embed_dim, self.depth, self.num_heads, self.mlp_ratio or 4.0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.image_size // self.patch_size
        return side, side


class PredictorConfig(Section):
    """The narrow transformer that predicts the target's representation of hidden patches."""

    embed_dim: int = Field(default=384, ge=4, description="Width of a token inside the predictor.")
    depth: int = Field(default=12, ge=1, description="Number of transformer blocks.")
    num_heads: int = Field(default=12, ge=1, description="Attention heads per block; I-JEPA gives it as many as the encoder has.")
    mlp_ratio: float = Field(default=4.0, gt=0, description="Hidden width of the MLP over embed_dim.")
    init_std: float | None = Field(
        default=None, gt=0, description="Deviation of the first weights (published: 0.02); null takes Xavier's rule."
    )

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> Self:
        check_heads(self.embed_dim, self.num_heads)
        return self

    def check_positions(self, encoder: EncoderConfig) -> None:
        """Refuse widths that cannot have positions of an encoder's kind.

        Raises:
            ValueError: they cannot.
        """
        try:
            encoder.check_rotary(self.embed_dim // self.num_heads)
            encoder.check_clip_channels(self.embed_dim)
        except ValueError as error:
            raise ValueError(f"predictor: {error}") from None


class BackboneConfig(Section):
    """Any network of timm that gives a feature map or tokens, by its name there."""

    timm: str = Field(min_length=1, description="timm's name, such as resnet50, resnet18, vit_small_patch16_224, convnext_tiny.")
    image_size: int = Field(default=224, ge=1, description="Height and width of the input, in pixels.")
    small_stem: bool = Field(
        default=False,
        description="For images of some 32 pixels: a ResNet's first convolution is 3x3 without stride, and no pooling follows it. "
        "timm has no name for such a network, so that it cannot be exported there.",
    )
    args: dict[str, Argument] = Field(
        default_factory=dict, description="Further arguments of timm.create_model, such as {drop_path_rate: 0.1}."
    )

    @property
    def modality(self) -> Modality:
        """Images: timm's networks take nothing else."""
        return IMAGE

    @property
    def frames(self) -> int:
        """Frames of the input: an image is a clip of one frame."""
        return 1

    @model_validator(mode="after")
    def args_are_not_ours(self) -> Self:
        if "img_size" in self.args:
            raise ValueError("args.img_size is said by image_size: leave it out")
        for name in ("pretrained", "num_classes", "in_chans", "checkpoint_path", "features_only"):
            if name in self.args:
                raise ValueError(f"args.{name} is not yours to set: encoders start untrained, without a classifier, on RGB images")
        return self


class HeadConfig(Section):
    """A multilayer perceptron on an encoder's features: linear, batch norm, ReLU for each hidden layer, then a linear layer."""

    hidden: tuple[Width, ...] = Field(description="Widths of the hidden layers.")
    out: Width = Field(description="Width of the output, the embedding.")
    last_bias: bool = Field(
        default=True,
        description="A bias in the last layer: VICReg, Barlow Twins and SimCLR have none, BYOL and SwAV one. None under last_norm.",
    )
    last_norm: bool = Field(
        default=False, description="A batch norm without scale and shift on the output, as SimSiam's projector has."
    )
