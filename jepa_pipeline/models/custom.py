"""A user's own network as an encoder."""

from collections.abc import Sequence
from inspect import signature
from math import prod
from typing import Protocol, overload, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa_pipeline.config.custom_encoder import CustomEncoderConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.custom import Recorded, class_path, create, is_importable
from jepa_pipeline.models.interface import TokenEncoder
from jepa_pipeline.models.tokens import apply_masks

KEY = "method.encoder"


@runtime_checkable
class TokenNetwork(Protocol):
    """The interface of an `nn.Module` that is the encoder of any method.

    Attributes:
        width: of a token.
        image_size: height and width of the images, in pixels.
        grid: rows and columns of its tokens, as many of each; for clips time steps, rows and columns.
    """

    width: int
    image_size: int
    grid: tuple[int, ...]

    def __call__(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the tokens "B N D" of normalized images "B C H W" or clips "B C T H W", in row-major order of the grid.

        keep: indices "B K" of the places to encode, without a look at the others; their tokens "B K D" are returned.
        """
        ...


@runtime_checkable
class FeatureNetwork(Protocol):
    """The interface of an `nn.Module` that is the encoder of a method which compares views, such as VICReg.

    Attributes:
        width: of the features.
        image_size: height and width of the images, in pixels; those of small views may be others.
    """

    width: int
    image_size: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the pooled features "B D" of normalized images "B C H W"."""
        ...


class CustomEncoder(TokenEncoder):
    """A TokenNetwork or FeatureNetwork as an encoder of this package.

    Attributes:
        network: the user's own; its names are those of the weights on disk.

    Raises:
        UserError: its outputs have other shapes than its attributes say.
    """

    config: CustomEncoderConfig

    def __init__(self, config: CustomEncoderConfig) -> None:
        super().__init__()
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.grid, self.width, self.depth = config.clip_grid, config.embed_dim, 1
        self.pooling = "the mean over its tokens" if config.tokens else "its own"
        self.network = create(KEY, Recorded(config.class_path, config.init_args), nn.Module)
        if odd := [name for name, value in self.network.state_dict().items() if not isinstance(value, Tensor)]:
            raise UserError(f"{self.name} has {odd[0]} in its state_dict, which is no tensor and cannot be saved: make it a buffer")
        self.check_image_size(config.image_size)

    @property
    def name(self) -> str:
        """Return the path of its class."""
        return class_path(type(self.network))

    @overload
    def forward(self, pixels: Float[Tensor, "B C *T H W"], masks: None = None) -> Float[Tensor, "B *N D"]: ...

    @overload
    def forward(self, pixels: Float[Tensor, "B C *T H W"], masks: Sequence[Int[Tensor, "B _"]]) -> list[Float[Tensor, "B _ D"]]: ...

    def forward(
        self, pixels: Float[Tensor, "B C *T H W"], masks: Sequence[Int[Tensor, "B _"]] | None = None
    ) -> Float[Tensor, "B *N D"] | list[Float[Tensor, "B _ D"]]:
        """Return what the network returns; with masks its tokens at the indices of each, encoded without the others."""
        return self.network(pixels) if masks is None else [self.network(pixels, mask) for mask in masks]

    def pooled(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
        """Return the mean of the tokens, or the network's own features."""
        return self.pooled_and_intermediates(pixels, 1)[0]

    def intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Return the tokens, or the features as the only token: the network counts as one block; see BaseEncoder."""
        return self.pooled_and_intermediates(pixels, last)[1]

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C *T H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B _ _"]]]:
        """Return what `pooled` and `intermediates` return, from one forward pass."""
        if last != 1:
            raise ValueError(f"the last {last} blocks of {self.name}, which counts as one")
        outputs = self.network(pixels)
        return (outputs.mean(1), [outputs]) if self.config.tokens else (outputs, [outputs[:, None]])

    def check_image_size(self, side: int) -> None:
        """Raise UserError unless images of `side` x `side` pixels give what the attributes of the network say."""
        pixels = self.blank(side)
        places = "" if not self.config.tokens else "N " if side != self.config.image_size else f"{prod(self.grid)} "
        self.check(self.probe(pixels), f"2 {places}{self.width}", f"images of {side}x{side} pixels")

    def check_keeps(self) -> None:
        """Raise UserError unless the network encodes some places without the others."""
        parameters = signature(self.network.forward).parameters.values()
        if sum(parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters) < 2:
            raise UserError(
                f"{KEY}: {self.name}.forward takes pixels alone, but a JEPA encodes some places without the others: add the "
                "argument keep, indices of places, or choose a method that compares views, such as vicreg"
            )
        places = prod(self.grid)
        keep = torch.arange(places, device=self.device)[None].expand(2, -1)[:, : max(1, places // 2)]
        pixels = self.blank(self.config.image_size)
        self.check(self.probe(pixels, keep), f"2 {keep.shape[1]} {self.width}", f"{keep.shape[1]} places to keep")

    def check(self, output: object, expected: str, what: str) -> None:
        shape = [*output.shape] if isinstance(output, Tensor) else None
        wanted = [None if size == "N" else int(size) for size in expected.split()]
        if shape is None or len(shape) != len(wanted) or any(w not in (None, s) for s, w in zip(shape, wanted, strict=True)):
            grid = f"grid {'x'.join(map(str, self.grid[-2:]))} and " if self.config.tokens else ""
            raise UserError(
                f"{KEY}: {self.name} returns {shape or type(output).__name__} for 2 {self.config.modality.unit} with {what}, but "
                f"its {grid}width {self.width} mean [{expected.replace(' ', ', ')}]: correct its forward, or these attributes"
            )

    @torch.no_grad()
    def probe(self, *inputs: Tensor) -> object:
        """Return the output of the network in eval mode, in which batch statistics stay as they are."""
        training = self.network.training
        try:
            return self.network.eval()(*inputs)
        finally:
            self.network.train(training)

    @property
    def device(self) -> torch.device:
        """Return the device of its parameters."""
        return next((parameter.device for parameter in self.network.parameters()), torch.get_default_device())

    def blank(self, side: int) -> Tensor:
        """Return two black images or clips."""
        frames = [self.config.frames] if self.config.modality.has_time else []
        return torch.zeros(2, self.config.in_channels, *frames, side, side, device=self.device)

    def timm_module(self) -> nn.Module:
        """Return the user's own network."""
        return self.network

    def why_not_timm(self) -> str | None:
        """Return the reason; see BaseEncoder."""
        return f"is a network of your own, {self.config.class_path}"

    def registered_by(self) -> str | None:
        """Return the module of a class that only this process has; see BaseEncoder."""
        return None if is_importable(self.config.class_path) else self.config.class_path.rpartition(".")[0]

    def describe(self) -> str:
        """Return its class and sizes; see BaseEncoder."""
        return f"A network of its own kind: {self.config.describe()}, width {self.width}"


class CustomFeatures(CustomEncoder):
    """A user's own network as the encoder of a method that compares views, which are given its pooled features."""

    def forward(self, pixels: Float[Tensor, "B C *T H W"], masks: None = None) -> Float[Tensor, "B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the pooled features."""
        return self.pooled(pixels)


def keep_tokens(tokens: Float[Tensor, "B N D"], keep: Int[Tensor, "B K"] | None) -> Float[Tensor, "B _ D"]:
    """Return the tokens at the places of `keep`, all if it is None, as a TokenNetwork does after its embedding."""
    return tokens if keep is None else apply_masks(tokens, keep)
