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
"""Of a clip's past, its own future; another clip's; its own with every frame in another place; backwards; or its last frame, still.
Of an image's visible part, what it hides; another image's pixels there; or its own patches there, each in another place."""
Clips = Num[Tensor, "B C T H W"]
Images = Num[Tensor, "B C H W"]


class Cut(NamedTuple):
    """Where the future begins. frames: how many are past; steps: of each level that is looked at, how many time steps are.

    share: of a clip, what is past; left_out: why the levels above these are not looked at, in one sentence.
    """

    frames: int
    steps: tuple[int, ...]
    share: float
    left_out: str | None = None


def cut_at(past: float, encoders: Sequence[EncoderConfig]) -> Cut:
    """The cut nearest to a share of the clip that lies between two time steps of every level that has two, from the pixels up.

    Raises:
        UserError: clips have no future at the first level.
    """
    times = [encoder.clip_grid[0] for encoder in encoders if encoder.clip_grid[0] > 1]
    if not times:
        raise UserError("level 1 has one time step for a whole clip, so that nothing is past: give it two or more")
    top, frames = times[-1], encoders[0].frames
    steps = min(max(1, round(past * top)), top - 1)
    without = f"level {len(times) + 1}" + (f" to level {len(encoders)}" if len(encoders) > len(times) + 1 else "")
    why = f"{without} left out: one time step for a whole clip, so that nothing is past" if len(encoders) > len(times) else None
    return Cut(frames * steps // top, tuple(time * steps // top for time in times), steps / top, why)


def continuations(future: int) -> tuple[Continuation, ...]:
    """The truth, and what there is beside it of so many frames: one alone has no order, and two only one other, backwards."""
    names: tuple[Continuation, ...] = get_args(Continuation)
    fewest = {"shuffled": 3, "reversed": 2}
    return tuple(name for name in names if future >= fewest.get(name, 1))


def stays_true(name: Continuation, first: int, last: int, future: int) -> bool:
    """Whether the frames from first to before last of a future of so many are the true ones: backwards, only the middle one is."""
    return name == "reversed" and (first, last) == (future // 2, future // 2 + 1) and future % 2 == 1


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
    """A random order of so many things in which none has its own place, and which is not backwards if there are three or more.

    One thing alone keeps its place.
    """
    true = np.arange(count)
    order = true
    while count > 1 and ((order == true).any() or (count > 2 and (order == true[::-1]).all())):
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
