"""Images or clips: the one place that says which an encoder takes, and what follows from it."""

from dataclasses import dataclass
from typing import Literal

DataKind = Literal["images", "videos"]


@dataclass(frozen=True)
class Modality:
    """What an encoder takes as input.

    Every configuration of an encoder has a `modality`; whoever needs to know asks it, and nobody else asks how many frames there are.
    To add one, such as depth maps: an entry here, its views in data/views.py, its patch embedding in models/encoder.py.

    name: as it appears in messages. unit: its plural. data_kinds: what a training set may hold. has_time: whether tokens lie on a grid
    of time, rows and columns. cropped_on_device: whether the training device may crop the views in place of the workers.
    """

    name: Literal["image", "clip"]
    unit: Literal["images", "clips"]
    data_kinds: tuple[DataKind, ...]
    has_time: bool
    cropped_on_device: bool


IMAGE = Modality("image", "images", data_kinds=("images",), has_time=False, cropped_on_device=True)
CLIP = Modality("clip", "clips", data_kinds=("images", "videos"), has_time=True, cropped_on_device=False)
