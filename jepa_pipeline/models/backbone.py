"""A network of timm as an encoder."""

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
from jepa_pipeline.config.pixel_format import name_channels
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.transformer import set_norm_eps, why_not_eps
from timm.models.resnet import ResNet

# timm has no exception of its own: its networks raise all of these for unsuitable arguments and image sizes.
TIMM_ERRORS = (TypeError, ValueError, AssertionError, RuntimeError, AttributeError, LookupError, ArithmeticError)

POOLINGS = {
    "token": "the class token",
    "avg": "the mean over all patches or positions",
    "max": "the maximum over all patches or positions",
    "avgmax": "half the sum of the mean and the maximum over all patches or positions",
    "map": "attention over all tokens by a learned query",
}
"""timm's names of poolings, in words. Some networks normalize what was pooled."""


class Backbone(BaseEncoder):
    """An untrained timm network without its classifier; its forward pass returns the features of timm's own pooling.

    Attributes:
        network: timm's.
        model_args: the arguments with which `timm.create_model(config.timm, **model_args)` creates it, without a small stem.

    Raises:
        UserError: timm has no such network, or it does not accept the arguments or images of image_size.
    """

    config: BackboneConfig

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.network, self.model_args = create_network(config)
        if config.small_stem:
            replace_stem(self.network, config)
        if config.norm_eps is not None and not set_norm_eps(self.network, config.norm_eps):
            raise UserError(f"norm_eps is for layer norms, but {config.timm} has none: remove it")
        self.width = self.measure_width(config.image_size)
        if not hasattr(self.network, "forward_intermediates"):
            raise UserError(f"timm's {config.timm} returns no feature maps or tokens, which probes need: choose another")
        self.pooling = describe_pooling(self.network)
        self.depth = len(self.network.feature_info)  # pyright: ignore[reportArgumentType]

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Return the pooled features.

        Raises:
            UserError: the image is not a whole number of patches.
        """
        self.check_patches(*pixels.shape[-2:])
        return self.network(pixels)

    def pooled(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Return the pooled features, as `forward` does."""
        return self(pixels)

    def intermediates(self, pixels: Float[Tensor, "B C H W"], last: int) -> list[Float[Tensor, "B _ _"]]:
        """Return the patch tokens, or the positions of the feature map, of the last blocks or stages; see BaseEncoder."""
        return self.pooled_and_intermediates(pixels, last)[1]

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B _ _"]]]:
        """Return what `forward` and `intermediates` return, from one forward pass."""
        if not 1 <= last <= self.depth:
            raise ValueError(f"the last {last} blocks or stages of {self.config.timm}, which has {self.depth}")
        self.check_patches(*pixels.shape[-2:])
        final, maps = self.network.forward_intermediates(pixels, indices=last, norm=True, output_fmt="NCHW")  # pyright: ignore[reportCallIssue]
        pooled = self.network.forward_head(final, pre_logits=True)  # pyright: ignore[reportCallIssue]
        tokens = [feature_map.flatten(2).transpose(1, 2) for feature_map in maps]
        # A ViT that pools patches has its final norm after the pooling, so forward_intermediates did not apply it.
        if isinstance(getattr(self.network, "norm", None), nn.Identity):
            tokens = [self.network.fc_norm(block) for block in tokens]  # pyright: ignore[reportCallIssue]
        return pooled, tokens

    def forward_features(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B *_"]:
        """Return timm's tokens or feature map before pooling."""
        return self.network.forward_features(pixels)  # pyright: ignore[reportCallIssue]

    def check_image_size(self, side: int) -> None:
        """Raise UserError if the network does not accept images of `side` x `side` pixels."""
        self.measure_width(side)

    @torch.no_grad()
    def measure_width(self, side: int) -> int:
        """Return the width of the pooled features of an image of `side` x `side` pixels.

        Raises:
            UserError: the network does not accept the image, or returns something else than one vector.
        """
        self.check_patches(side, side)
        training, device = self.network.training, next(self.network.parameters()).device
        try:
            # In eval mode: one image has no batch statistics, and running statistics must stay as they are.
            features = self.network.eval()(torch.zeros(1, self.config.in_channels, side, side, device=device))
        except TIMM_ERRORS as error:
            raise UserError(
                f"timm's {self.config.timm} does not accept images of {side}x{side} pixels "
                f"({summarize_error(error)}): choose another size, or fix args"
            ) from None
        finally:
            self.network.train(training)
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"timm's {self.config.timm} returns {shape} for an image and not one vector: choose another network, or args that "
                "do not disable its pooling"
            )
        return features.shape[1]

    def check_patches(self, height: int, width: int) -> None:
        """Raise UserError for sizes that are no multiple of the patch size; timm would silently drop the border."""
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
            raise UserError(
                f"an image of {height}x{width} pixels is not a whole number of the {patch[0]}x{patch[1]} patches of timm's "
                f"{self.config.timm}: choose a multiple, or another patch_size in args"
            )

    def timm_module(self) -> nn.Module:
        """Return timm's network."""
        return self.network

    def why_not_timm(self) -> str | None:
        """Return the reason for small stems and for layer norms with another epsilon; see BaseEncoder."""
        if self.config.small_stem:
            return f"has a small_stem, which no argument of timm's {self.config.timm} creates"
        return None if self.config.norm_eps is None else why_not_eps(self.config.norm_eps)

    def registered_by(self) -> str | None:
        """Return the module of a network that is not timm's own; see BaseEncoder."""
        module = timm.models.model_entrypoint(self.config.timm).__module__
        return None if module.startswith("timm.") else module

    def timm_config(self) -> dict[str, Any]:
        """Return timm's configuration of this network; see BaseEncoder."""
        published = self.network.pretrained_cfg
        return {
            "architecture": self.config.timm,
            "model_args": self.model_args,
            "pretrained_cfg": {key: published[key] for key in ("first_conv", "classifier")},  # pyright: ignore[reportArgumentType, reportIndexIssue]
        }

    def describe(self) -> str:
        """Return timm's name and arguments in words; see BaseEncoder."""
        args = ", ".join(f"{name} {value}" for name, value in self.model_args.items())
        side = f"{self.config.image_size} pixels{name_channels(self.config.in_channels)}"
        name = f"timm's {self.config.timm}{f' with {args}' if args else ''}"
        return f"{name}: features of width {self.width}, images of {side}"


def create_network(config: BackboneConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Return the timm network and the arguments that it accepted.

    Raises:
        UserError: timm does not list the name, or the network does not accept an argument.
    """
    check_name(config.timm)
    # Networks with position embeddings need the image size; others refuse these arguments by name, and are then created without.
    size_args = {"img_size": config.image_size, "dynamic_img_size": True}
    while True:
        model_args: dict[str, Any] = {**size_args, **config.args}
        try:
            network = timm.create_model(config.timm, pretrained=False, num_classes=0, in_chans=config.in_channels, **model_args)
        except TIMM_ERRORS as error:
            # Python's message: "...got an unexpected keyword argument 'NAME'"; timm's lists several names.
            refused = re.findall(r"'(\w+)'", str(error).partition("unexpected keyword argument")[2])
            if wrong := [name for name in refused if name in config.args]:
                raise UserError(
                    f"timm's {config.timm} has no argument '{wrong[0]}': remove args.{wrong[0]} or correct its name"
                ) from None
            if not size_args.keys() & refused:
                args = ", ".join(f"{name}: {value}" for name, value in config.args.items())
                raise UserError(
                    f"timm's {config.timm} cannot be created with image_size {config.image_size} and args {{{args}}} "
                    f"({summarize_error(error)}): fix the values"
                ) from None
            size_args = {name: value for name, value in size_args.items() if name not in refused}
        else:
            return network, model_args


def check_name(name: str) -> None:
    """Raise UserError for names that timm does not list, such as `resnet50.a1_in1k` (weights) and `hf-hub:...`."""
    known = timm.list_models()
    if name not in known:
        near = get_close_matches(name.rpartition("/")[2].partition(".")[0], known, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`timm.list_models()` lists them all"
        raise UserError(f"timm has no network '{name}': {hint}")


def hub_repository(name: str) -> str:
    """Return the repository in which timm publishes weights, given their name, such as vit_tiny_patch16_224.augreg_in21k.

    Raises:
        UserError: timm has no such weights.
    """
    published = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    if published is None or not published.hf_hub_id:
        near = get_close_matches(name, timm.list_pretrained(), 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`timm.list_pretrained()` lists them all"
        raise UserError(f"timm has no published weights '{name}': {hint}")
    return published.hf_hub_id


def describe_pooling(network: nn.Module) -> str:
    """Return how a network of timm pools, by timm's name and in words."""
    pool = getattr(network, "global_pool", None) or getattr(getattr(network, "head", None), "global_pool", None)
    name = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
    return f"timm's own pooling, {name}: {POOLINGS[name]}" if name in POOLINGS else "timm's own pooling"


def summarize_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def replace_stem(network: nn.Module, config: BackboneConfig) -> None:
    """Replace a ResNet's stem by a 3x3 convolution of stride 1 without pooling, as SimCLR on CIFAR-10 (Chen et al. 2020, B.9).

    Raises:
        UserError: the network is not a ResNet, or its stem has several convolutions.
    """
    if not isinstance(network, ResNet):
        raise UserError(f"small_stem is for ResNets, but {config.timm} is none: set small_stem to false, or choose a ResNet")
    if not isinstance(network.conv1, nn.Conv2d):
        raise UserError(
            f"small_stem replaces a single convolution, but the stem of {config.timm} has several: choose one such as resnet50"
        )
    network.conv1 = nn.Conv2d(config.in_channels, network.conv1.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm initializes its ResNets
    network.maxpool = nn.Identity()
