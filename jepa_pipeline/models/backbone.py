"""Any network of timm as an encoder."""

import re
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig
from timm.models.resnet import ResNet

REFUSALS = (TypeError, ValueError, AssertionError, RuntimeError, AttributeError, LookupError, ArithmeticError)
"""With which timm's networks meet arguments and images that do not suit them; there is no kind of their own."""
UNWANTED = re.compile(r"'(\w+)'")
"""Names in the list that ends Python's complaint about arguments."""


class Backbone(nn.Module):
    """A network of timm, untrained and without its classifier: images to one vector each, by timm's own pooling.

    network: timm's. width: of its vectors. depth: of how many blocks or stages it can show the output.
    arguments: those it was made with, by which `timm.create_model(config.timm, **arguments)` gives it again (save a small stem).

    Raises:
        UserError: timm has no such network, does not take the arguments, or it does not suit images of image_size.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.network, self.arguments = create(config)
        if config.small_stem:
            shrink_stem(self.network, config.timm)
        self.width = self.try_size(config.image_size)
        if not hasattr(self.network, "forward_intermediates"):
            raise UserError(f"timm's {config.timm} does not show its feature maps or tokens, which probes need: choose another")
        self.depth = len(self.network.feature_info)  # pyright: ignore[reportArgumentType]

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """The pooled features.

        Raises:
            UserError: the image is not a whole number of patches.
        """
        self.check_patches(*pixels.shape[-2:])
        return self.network(pixels)

    def pooled(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """The same, under the name that all encoders have for it."""
        return self(pixels)

    def intermediates(self, pixels: Float[Tensor, "B C H W"], last: int) -> list[Float[Tensor, "B _ _"]]:
        """Patch tokens, or the places of the feature map, "B N D", after each of the last blocks or stages, in order of depth.

        Raises:
            ValueError: there are not that many blocks or stages.
        """
        return self.pooled_and_intermediates(pixels, last)[1]

    @torch.no_grad()
    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B _ _"]]]:
        """What forward and what intermediates give, in one pass."""
        if not 1 <= last <= self.depth:
            raise ValueError(f"the last {last} blocks or stages of {self.config.timm}, which has {self.depth}")
        self.check_patches(*pixels.shape[-2:])
        final, maps = self.network.forward_intermediates(pixels, indices=last, norm=True, output_fmt="NCHW")  # pyright: ignore[reportCallIssue]
        pooled = self.network.forward_head(final, pre_logits=True)  # pyright: ignore[reportCallIssue]
        tokens = [places.flatten(2).transpose(1, 2) for places in maps]
        if isinstance(getattr(self.network, "norm", None), nn.Identity):  # a ViT that is normed after its pooling
            tokens = [self.network.fc_norm(block) for block in tokens]  # pyright: ignore[reportCallIssue]
        return pooled, tokens

    @torch.no_grad()
    def try_size(self, side: int) -> int:
        """The width of the features of an image of so many pixels a side.

        Raises:
            UserError: the network does not take it, or does not give one vector for it.
        """
        self.check_patches(side, side)
        training, device = self.network.training, next(self.network.parameters()).device
        try:
            features = self.network.eval()(torch.zeros(1, 3, side, side, device=device))
        except REFUSALS as error:
            raise UserError(
                f"timm's {self.config.timm} does not take images of {side}x{side} pixels "
                f"({first_line(error)}): choose another size, or mend args"
            ) from None
        finally:
            self.network.train(training)
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"timm's {self.config.timm} gives {shape} for an image and not one vector: choose another network, or args that "
                "leave its pooling to timm"
            )
        return features.shape[1]

    def check_patches(self, height: int, width: int) -> None:
        """Refuse what timm would cut a border off."""
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
            raise UserError(
                f"an image of {height}x{width} pixels is not a whole number of the {patch[0]}x{patch[1]} patches of timm's "
                f"{self.config.timm}: choose a multiple, or another patch_size in args"
            )


def create(config: BackboneConfig) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and the arguments it took: of the image's size it is told if it wants to know.

    Raises:
        UserError: the name is not timm's, or an argument is not the network's.
    """
    check_name(config.timm)
    wishes = {"img_size": config.image_size, "dynamic_img_size": True}
    while True:
        arguments: dict[str, Any] = {**wishes, **config.args}
        try:
            network = timm.create_model(config.timm, pretrained=False, num_classes=0, in_chans=3, **arguments)
        except REFUSALS as error:
            unwanted = UNWANTED.findall(str(error).partition("unexpected keyword argument")[2])
            if mistaken := [name for name in unwanted if name in config.args]:
                raise UserError(
                    f"args.{mistaken[0]} is no argument of timm's {config.timm}: leave it out or mend its name"
                ) from None
            if not wishes.keys() & unwanted:
                raise refusal(config, error) from None
            wishes = {name: value for name, value in wishes.items() if name not in unwanted}
        else:
            return network, arguments


def check_name(name: str) -> None:
    """Refuse what timm does not list, such as names of weights (`resnet50.a1_in1k`) and of other places (`hf-hub:...`)."""
    known = timm.list_models()
    if name not in known:
        near = get_close_matches(name.rpartition("/")[2].partition(".")[0], known, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`timm.list_models()` names them all"
        raise UserError(f"timm has no network '{name}': {hint}")


def refusal(config: BackboneConfig, error: Exception) -> UserError:
    given = ", ".join(f"{name}: {value}" for name, value in config.args.items())
    return UserError(
        f"timm's {config.timm} cannot be made with image_size {config.image_size} and args {{{given}}} "
        f"({first_line(error)}): mend the values"
    )


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def shrink_stem(network: nn.Module, name: str) -> None:
    """A 3x3 first convolution of stride 1 and no pooling, as SimCLR trained ResNets on CIFAR-10 (Chen et al. 2020, B.9).

    Raises:
        UserError: it is no ResNet, or one whose stem is several convolutions.
    """
    if not isinstance(network, ResNet):
        raise UserError(f"small_stem is for ResNets and {name} is none: set small_stem to false, or choose a ResNet")
    if not isinstance(network.conv1, nn.Conv2d):
        raise UserError(f"small_stem replaces a single convolution and the stem of {name} has several: choose one such as resnet50")
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's ResNets begin
    network.maxpool = nn.Identity()
