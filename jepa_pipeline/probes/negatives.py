"""Alternatives to the truth, whose energy should be higher: other futures of a clip, other masked patches of an image."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.results.energy_report import Candidate

Clips = Num[Tensor, "B C T H W"]
Images = Num[Tensor, "B C H W"]


class TimeSplit(NamedTuple):
    """The split of clips into past and future.

    Attributes:
        frames: number of past frames.
        steps: past time steps of each level, from the first up, without the levels that have a single time step.
        share: of the clip that is past.
        note: which levels are left out and why, in one sentence; None: none.
    """

    frames: int
    steps: tuple[int, ...]
    share: float
    note: str | None = None


def split_time(past: float, encoders: Sequence[EncoderConfig]) -> TimeSplit:
    """Return the split nearest to a share of the clip that lies between two time steps of every level with two or more.

    Raises:
        UserError: the first level has a single time step.
    """
    times = [encoder.clip_grid[0] for encoder in encoders if encoder.clip_grid[0] > 1]
    if not times:
        raise UserError("level 1 has one time step per clip, so nothing is past: give it two or more")
    top, frames = times[-1], encoders[0].frames  # the steps of the top level are multiples of those below
    steps = min(max(1, round(past * top)), top - 1)
    skipped = f"level {len(times) + 1}" + (f" to level {len(encoders)}" if len(encoders) > len(times) + 1 else "")
    note = f"{skipped} left out: one time step per clip, so nothing is past" if len(encoders) > len(times) else None
    return TimeSplit(frames * steps // top, tuple(time * steps // top for time in times), steps / top, note)


def candidates(future: int) -> tuple[Candidate, ...]:
    """Return the candidates for a future of `future` frames: one frame has no order, and two have only one other, reversed."""
    names: tuple[Candidate, ...] = get_args(Candidate)
    fewest = {"shuffled": 3, "reversed": 2}
    return tuple(name for name in names if future >= fewest.get(name, 1))


def is_unchanged(name: Candidate, first: int, last: int, future: int) -> bool:
    """Return whether frames `first` to `last` - 1 of a future are the true ones: reversed, the middle one of an odd number is."""
    return name == "reversed" and (first, last) == (future // 2, future // 2 + 1) and future % 2 == 1


def replace_future(name: Candidate, clips: Clips, past: int, orders: Int[Tensor, "B F"]) -> Clips:
    """Return clips with their `past` frames and the future of a candidate; orders: of the frames of each shuffled future.

    Raises:
        UserError: another clip's future is needed, but there is a single clip.
    """
    before, future = clips[:, :, :past], clips[:, :, past:]
    match name:
        case "true":
            return clips
        case "other":
            future = roll_samples(future)
        case "shuffled":
            future = future[torch.arange(len(clips))[:, None], :, orders].transpose(1, 2)
        case "reversed":
            future = future.flip(2)
        case "frozen":
            future = before[:, :, -1:].expand_as(future)
    return torch.cat([before, future], 2)


def roll_samples(samples: Num[Tensor, "B ..."]) -> Num[Tensor, "B ..."]:
    """Return the samples with each replaced by the previous one.

    Raises:
        UserError: there is a single sample.
    """
    if len(samples) < 2:
        raise UserError("1 sample has no other sample to be compared with: give 2 or more")
    return samples.roll(1, 0)


def derangement(count: int, generator: np.random.Generator) -> Int[np.ndarray, " F"]:
    """Return a random order in which no element keeps its position, and which is not the reverse of three or more.

    A single element keeps its position.
    """
    true = np.arange(count)
    order = true
    while count > 1 and ((order == true).any() or (count > 2 and (order == true[::-1]).all())):
        order = generator.permutation(count)
    return order


def replace_masked(name: Candidate, images: Images, masked: Bool[Tensor, "B _ _"], orders: Int[Tensor, "B _"]) -> Images:
    """Return images with their visible patches, and masked patches of a candidate; orders: see shuffle_masked.

    Raises:
        UserError: another image's pixels are needed, but there is a single image.
    """
    if name == "true":
        return images
    if name == "shuffled":
        whole = images.view(torch.int16) if images.dtype == torch.uint16 else images  # torch gathers no uint16
        patches = patchify(whole, masked.shape[1:])
        moved = patches.gather(1, orders[..., None].expand_as(patches))
        return unpatchify(moved, masked.shape[1:], images.shape).view(images.dtype)
    rows, columns = (side // cells for side, cells in zip(images.shape[2:], masked.shape[1:], strict=True))
    pixels = masked.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    return torch.where(pixels[:, None], roll_samples(images), images)


def shuffle_masked(masked: Bool[Tensor, "B _ _"], generators: Sequence[np.random.Generator]) -> Int[Tensor, "B _"]:
    """Return for each image a permutation of its patches that moves every masked one to the position of another masked one."""
    orders = np.tile(np.arange(masked[0].numel()), (len(masked), 1))
    for order, is_masked, generator in zip(orders, masked.flatten(1).numpy(), generators, strict=True):
        (positions,) = np.nonzero(is_masked)
        order[positions] = positions[derangement(len(positions), generator)]
    return torch.from_numpy(orders)


def patchify(images: Images, grid: Sequence[int]) -> Num[Tensor, "B _ _"]:
    """Return the pixels of every patch of a grid, row by row."""
    rows, columns = grid
    return images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Num[Tensor, "B _ _"], grid: Sequence[int], shape: Sequence[int]) -> Images:
    """Return the images of `shape` that have these patches; the inverse of patchify."""
    channels, height, width = shape[1:]
    rows, columns = grid
    parts = patches.unflatten(2, (channels, height // rows, width // columns)).unflatten(1, (rows, columns))
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(shape[0], channels, height, width)
