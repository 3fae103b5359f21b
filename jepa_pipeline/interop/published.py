"""Published weights as they were found, and as an encoder of this package."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig


class Published(NamedTuple):
    """A network of a published file or folder, before it is understood.

    Attributes:
        path: where it was read, for messages.
        tensors: by name, without the prefixes that wrappers add.
        config: the folder's config.json; empty where there is none.
    """

    path: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]


class Imported(NamedTuple):
    """An encoder's configuration, its weights, and the preprocessing with which it was trained.

    Attributes:
        config: its sizes, or its name and arguments in timm.
        weights: by the names on disk, which are those of `BaseEncoder.timm_module()`.
        mean: subtracted per channel from pixels scaled to 0..1.
        std: divisor per channel.
        clip: frames of a video that made a training clip; None: images.
        notes: what a user must know, such as which tokens are pooled; sentences for the card.
    """

    config: EncoderConfig | BackboneConfig
    weights: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: ClipConfig | None = None
    notes: tuple[str, ...] = ()


class Family(NamedTuple):
    """A layout of published weights, chosen with `jepa import --as NAME`.

    Attributes:
        name: the value of --as.
        description: whose weights it reads, in a few words for --help and errors.
        recognize: returns whether weights are of this family beyond doubt.
        convert: returns them as an encoder; raises UserError for a tensor that it does not know.
    """

    name: str
    description: str
    recognize: Callable[[Published], bool]
    convert: Callable[[Published], Imported]


def rename(published: Published, rules: Sequence[tuple[str, str]], drop: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the tensors under the names of this package: each is renamed by one rule, or dropped by one that is known.

    Args:
        published: the tensors.
        rules: regular expressions of whole names, and what replaces them, as in re.sub.
        drop: regular expressions of the names of tensors that are not part of the encoder.

    Raises:
        UserError: no rule or drop knows a tensor.
    """
    renamed = dict[str, Tensor]()
    for name, tensor in published.tensors.items():
        new = next((re.sub(pattern, target, name) for pattern, target in rules if re.fullmatch(pattern, name)), None)
        if new is not None:
            renamed[new] = tensor
        elif not any(re.fullmatch(pattern, name) for pattern in drop):
            raise UserError(
                f"{published.path} holds {name} of shape {list(tensor.shape)}, which is no tensor of this network: name with --as "
                "what it is"
            )
    return renamed
