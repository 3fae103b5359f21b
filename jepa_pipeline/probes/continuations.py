"""What might come next, or be hidden: the truth, and alternatives that an energy should tell from it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig

Continuation = Literal["true", "other", "shuffled", "reversed", "frozen"]
"""Of a clip's past, its own future; another clip's; its own with the frames in another order; backwards; or its last frame, still.
Of an image's visible part, what it hides; another image's pixels there; or its own patches there, in other places."""
Clips = Num[Tensor, "B C T H W"]
Images = Num[Tensor, "B C H W"]


class Cut(NamedTuple):
    """Where the future begins. frames: how many are past; steps: of each level, how many time steps are."""

    frames: int
    steps: tuple[int, ...]
    share: float
    """Of a clip, what is past."""


def cut_at(past: float, encoders: Sequence[EncoderConfig]) -> Cut:
    """The cut nearest to a share of the clip that lies between two time steps of every level, given from the pixels up.

    Raises:
        UserError: clips have no future at the top level.
    """
    frames, top = encoders[0].frames, encoders[-1].clip_grid[0]
    if top < 2:
        raise UserError(f"level {len(encoders)} has one time step for a whole clip, so that nothing is past: give it two or more")
    steps = min(max(1, round(past * top)), top - 1)
    return Cut(frames * steps // top, tuple(encoder.clip_grid[0] * steps // top for encoder in encoders), steps / top)


def continuations(future: int) -> tuple[Continuation, ...]:
    """The truth, and what there is beside it of so many frames: one alone has no order."""
    return get_args(Continuation) if future > 1 else ("true", "other", "frozen")


def continued(name: Continuation, clips: Clips, past: int, orders: Int[Tensor, "B F"]) -> Clips:
    """Clips whose first `past` frames are as they were, and what follows them is another thing.

    orders: of every clip, the order of the shuffled future's frames, counted from its first.

    Raises:
        UserError: there is one clip alone, and another one's future is asked for.
    """
    before, future = clips[:, :, :past], clips[:, :, past:]
    match name:
        case "true":
            return clips
        case "other":
            future = deranged(future)
        case "shuffled":
            future = future[torch.arange(len(clips))[:, None], :, orders].transpose(1, 2)
        case "reversed":
            future = future.flip(2)
        case "frozen":
            future = before[:, :, -1:].expand_as(future)
    return torch.cat([before, future], 2)


def deranged(samples: Num[Tensor, "B ..."]) -> Num[Tensor, "B ..."]:
    """Every sample's place is taken by the one before it, none by itself.

    Raises:
        UserError: there is one alone.
    """
    if len(samples) < 2:
        raise UserError("1 sample has no other one beside it to be told from: give 2 or more")
    return samples.roll(1, 0)


def untrue_order(count: int, generator: np.random.Generator) -> Int[np.ndarray, " F"]:
    """A random order of so many things that is not the one they have; of fewer than two there is none but that."""
    order = np.arange(count)
    while count > 1 and (order == np.arange(count)).all():
        order = generator.permutation(count)
    return order


def composed(name: Continuation, images: Images, hidden: Bool[Tensor, "B _ _"], orders: Int[Tensor, "B _"]) -> Images:
    """Images whose visible patches are as they were, and the hidden ones are another thing.

    hidden: on a grid of patches; orders: of every image, which patch is put into each place.

    Raises:
        UserError: there is one image alone, and another one's pixels are asked for.
    """
    if name == "true":
        return images
    if name == "shuffled":
        cells = as_cells(images, hidden.shape[1:])
        moved = cells.gather(1, orders[..., None].expand_as(cells))
        return as_images(moved, hidden.shape[1:], images.shape)
    rows, columns = (side // cells for side, cells in zip(images.shape[2:], hidden.shape[1:], strict=True))
    places = hidden.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    return torch.where(places[:, None], deranged(images), images)


def orders_within(hidden: Bool[Tensor, "B _ _"], generators: Sequence[np.random.Generator]) -> Int[Tensor, "B _"]:
    """Of every image, which patch is put into each place: the hidden ones into one another's, all others into their own."""
    orders = np.tile(np.arange(hidden[0].numel()), (len(hidden), 1))
    for order, places, generator in zip(orders, hidden.flatten(1).numpy(), generators, strict=True):
        (own,) = np.nonzero(places)
        order[own] = own[untrue_order(len(own), generator)]
    return torch.from_numpy(orders)


def as_cells(images: Images, grid: Sequence[int]) -> Num[Tensor, "B _ _"]:
    """The pixels of every patch of a grid, row by row."""
    rows, columns = grid
    return images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def as_images(cells: Num[Tensor, "B _ _"], grid: Sequence[int], shape: Sequence[int]) -> Images:
    """The images of a shape that these patches make up."""
    channels, height, width = shape[1:]
    rows, columns = grid
    parts = cells.unflatten(2, (channels, height // rows, width // columns)).unflatten(1, (rows, columns))
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(shape[0], channels, height, width)
