"""Published weights as they were found, and as an encoder of this package."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.published import ImportSettings


class Published(NamedTuple):
    """A network of a published file or folder, before it is understood.

    Attributes:
        path: where it was read, for messages.
        tensors: by name, without the prefixes that wrappers add; in fp32 where they were of a narrower or wider type.
        config: the folder's config.json; empty where there is none.
        given: what the user says of it that the file does not.
        network: its name in the file, such as target_encoder; model, where there is only one.
        predictor: the tensors of the predictor beside it, as they are in the file; empty where there is none.
        online: those of the encoder that was trained, beside its average.
        argument: what follows the colon in --as, such as the name of a network of timm.
        preprocessor: the folder's preprocessor_config.json, or that of videos; empty where there is none.
    """

    path: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    given: ImportSettings = ImportSettings()
    network: str = "model"
    predictor: Mapping[str, Tensor] = MappingProxyType({})
    online: Mapping[str, Tensor] = MappingProxyType({})
    argument: str | None = None
    preprocessor: Mapping[str, Any] = MappingProxyType({})


class Imported(NamedTuple):
    """An encoder's configuration, its weights, and the preprocessing with which it was trained.

    Attributes:
        config: its sizes, or its name and arguments in timm.
        weights: by the names on disk, which are those of `BaseEncoder.timm_module()`.
        mean: subtracted per channel from pixels scaled to 0..1.
        std: divisor per channel.
        clip: frames of a video that made a training clip; None: images.
        notes: what a user must know, such as which tokens are pooled; sentences for the card.
        kept: which network of its training it is, where the family says so and not the file: the EMA target, or the one that was
            trained; None: as the network's name in the file says.
        dropped: names of the source's tensors that are not part of the encoder.
    """

    config: EncoderConfig | BackboneConfig
    weights: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: ClipConfig | None = None
    notes: tuple[str, ...] = ()
    kept: Literal["target", "online"] | None = None
    dropped: tuple[str, ...] = ()


class Family(NamedTuple):
    """A layout of published weights, chosen with `jepa import --as NAME`.

    Attributes:
        name: the value of --as.
        description: whose weights it reads, in a few words for --help and errors.
        recognize: returns whether weights are of this family beyond doubt.
        convert: returns them as an encoder; raises UserError for a tensor that it does not know.
        argument: what follows the name and a colon in --as, such as NAME; None: nothing.
    """

    name: str
    description: str
    recognize: Callable[[Published], bool]
    convert: Callable[[Published], Imported]
    argument: str | None = None


def rename(published: Published, rules: Sequence[tuple[str, str]], drop: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the tensors under the names of this package: each is renamed by one rule, or dropped by one that is known.

    Args:
        published: the tensors.
        rules: regular expressions of whole names, and what replaces them, as in re.sub.
        drop: regular expressions of the names of tensors that are not part of the encoder.

    Raises:
        UserError: no rule or drop knows a tensor, or two get one name.
    """
    renamed = dict[str, Tensor]()
    for name, tensor in published.tensors.items():
        new = next((re.sub(pattern, target, name) for pattern, target in rules if re.fullmatch(pattern, name)), None)
        if new in renamed:
            raise UserError(f"{published.path} holds two tensors for {new} of this network, one of them {name}: remove one")
        if new is not None:
            renamed[new] = tensor
        elif not any(re.fullmatch(pattern, name) for pattern in drop):
            raise UserError(
                f"{published.path} holds {name} of shape {list(tensor.shape)}, which is not a tensor of this network: name its "
                "layout with --as"
            )
    return renamed
