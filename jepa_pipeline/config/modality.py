"""The two kinds of input, images and clips, and what depends on which of them an encoder takes."""

from dataclasses import dataclass
from typing import Literal

DataKind = Literal["images", "videos"]


@dataclass(frozen=True)
class Modality:
    """The input of an encoder.

    Every encoder configuration has a `modality`. Code asks it instead of the configuration's class or number of
    frames. CONTRIBUTING.md lists the steps to add one, such as sounds.

    Attributes:
        name: singular, for messages.
        unit: plural, for messages.
        encoder: of it, with its article, for messages.
        data_kinds: kinds of data sets it can be trained on.
        has_time: tokens lie on a grid of time, rows and columns instead of rows and columns.
        cropped_on_device: the training device may crop the views instead of the data workers.
        mask_names: `name` of the mask sets that exist on its grid.
    """

    name: Literal["image", "clip"]
    unit: Literal["images", "clips"]
    encoder: Literal["an image encoder", "a video encoder"]
    data_kinds: tuple[DataKind, ...]
    has_time: bool
    cropped_on_device: bool
    mask_names: tuple[str, ...]


IMAGE = Modality(
    name="image",
    unit="images",
    encoder="an image encoder",
    data_kinds=("images",),
    has_time=False,
    cropped_on_device=True,
    mask_names=("multiblock",),
)
CLIP = Modality(
    name="clip",
    unit="clips",
    encoder="a video encoder",
    data_kinds=("images", "videos"),  # an image is repeated to make a clip
    has_time=True,
    cropped_on_device=False,  # data/gpu_crop.py crops images only
    mask_names=("blocks", "causal"),
)
