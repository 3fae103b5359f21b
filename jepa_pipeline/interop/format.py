"""The formats in which encoders are exported: what each must provide, and what it is asked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from jepa_pipeline.config.encoder_card import EncoderCard

if TYPE_CHECKING:  # they import timm, which reading most formats back does without
    from jepa_pipeline.models.interface import BaseEncoder
    from jepa_pipeline.models.predictor import Predictor

Network = Callable[[Tensor], Mapping[str, Tensor]]
"""From normalized pixels to outputs by name, as the library that a format is for computes them."""

PARITY = "parity/outputs.safetensors"
"""A batch of pixels with the encoder's own outputs for it. Not beside the weights: timm before 1.0.29 fails where a folder has two
files of weights."""
TOLERANCE, RELATIVE_TOLERANCE = 1e-5, 3e-6
"""Largest difference of an fp32 output from the encoder's own; where its values exceed 3.3, as a share of the largest, because
fp32 has seven digits."""
FP16_TOLERANCE = 1e-2
"""Largest difference of an fp16 output, as a share of the encoder's largest value."""


class ExportRequest(NamedTuple):
    """An encoder that is to be exported.

    Attributes:
        run: the folder of the run or encoder, for messages.
        encoder: the encoder, in eval mode.
        card: the encoder's.
        dtype: type of the exported weights: fp32, or another of the format's `dtypes`.
        predictor: exported beside the encoder; None: the encoder alone.
    """

    run: Path
    encoder: "BaseEncoder"
    card: EncoderCard
    dtype: str = "fp32"
    predictor: "Predictor | None" = None


class ExportFormat(NamedTuple):
    """A format of `jepa export --to NAME`.

    Attributes:
        description: what it is, in a few words for errors.
        library: what loads it, for messages and the front matter of the card.
        check: raises UserError, with the way out, if the encoder cannot be exported; before anything is written.
        write: writes the network and what its library needs into a folder; not the card, nor the parity batch.
        outputs: returns what is stored in PARITY: the encoder's outputs under the names that `load` gives them.
        load: returns the network of a folder, as users of the library load it. A function at the top of a module that imports
            little, because a process of its own imports the module and calls it.
        usage: returns the section "Load" of the card in Markdown, for a measured difference. Its Python blocks are run in the
            folder by tests, one after the other, where photo.jpg is an image.
        dtypes: types of weights that it is written with; the first is the default.
        runs_class: whether `load` creates the network by its class, which the process that loads it must be able to import.
        predicted: returns what is stored of the request's predictor beside `outputs`; None: the format holds no predictor.
    """

    description: str
    library: str
    check: Callable[[ExportRequest], None]
    write: Callable[[Path, ExportRequest], None]
    outputs: Callable[["BaseEncoder", Tensor], dict[str, Tensor]]
    load: Callable[[Path], Network]
    usage: Callable[[ExportRequest, float], str]
    dtypes: tuple[str, ...] = ("fp32",)
    predicted: Callable[[ExportRequest, Tensor], dict[str, Tensor]] | None = None
    runs_class: bool = True


def encoder_outputs(encoder: "BaseEncoder", pixels: Tensor) -> dict[str, Tensor]:
    """Return the tokens, or the positions of the last feature map, "B N D", and the pooled features "B D"."""
    return {"tokens": encoder.intermediates(pixels, 1)[-1], "pooled": encoder.pooled(pixels)}
