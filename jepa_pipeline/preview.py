"""`jepa masks preview` and `jepa views preview`: the question a method is asked, to look at before it is asked for days."""

from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from rich.console import Console

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.methods import IJepaConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.collate import MaskSampler
from jepa_pipeline.data.loader import train_loader
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.data.resample import cut
from jepa_pipeline.masks.build import build_masks

SHEET, BATCHES = (4, 8), 64
IMAGES = 8
"""Rows of the sheet of views."""
COLOURS = ListedColormap(["#d9d9d9", "#4c78a8", "#f58518", "#e45756", "#b279a2", "#54a24b", "#eeca3b", "#ff9da6", "#9d755d"])


def preview_masks(config: RunConfig, out: Path | None = None, console: Console | None = None) -> Path:
    """Draw the masks of many batches of the recipe's own size.

    Returns:
        The PNG: a contact sheet of images (grey unseen, blue context, one warm colour a target block), heat maps of how often
        each patch is context and target, and the distributions of lengths.
    """
    if not isinstance(config.method, IJepaConfig):
        raise UserError(f"method {config.method.name} has no masks: `jepa views preview` draws the views it is given")
    out = png_path(out, f"masks-{config.name}.png")
    grid = config.method.encoder.grid
    batches = sample(config, build_masks(config.method.masks, grid))
    figure = Figure(figsize=(14, 10), layout="constrained")
    above, below = figure.add_gridspec(2, 1, height_ratios=[3, 2])
    sheet, statistics = figure.add_subfigure(above), figure.add_subfigure(below)
    kind = f"{config.method.masks.name}{', legacy' if config.method.masks.legacy else ''}"
    sheet.suptitle(f"{config.name}: {kind}, {grid[0]}x{grid[1]} patches")
    for image, axes in enumerate(sheet.subplots(*SHEET).flat):
        draw_image(axes, batches[image * BATCHES // (SHEET[0] * SHEET[1])], grid, image)
    context_map, target_map, lengths = statistics.subplots(1, 3)
    uses = [coverage([masks.context for masks in batches], grid), coverage([masks.targets for masks in batches], grid)]
    draw_coverage(context_map, uses[0], "share of images in which a patch is context")
    draw_coverage(target_map, uses[1], "targets a patch is part of, per image")
    draw_lengths(lengths, batches)
    figure.savefig(out, dpi=110)
    (console or Console()).print(describe(batches, uses, out), soft_wrap=True, markup=False, highlight=False)
    return out


def png_path(out: Path | None, name: str) -> Path:
    """Where to draw; the folder is made if need be.

    Raises:
        UserError: it is no PNG.
    """
    out = out or Path(name)
    if out.suffix != ".png":
        raise UserError(f"--out is {out}: name a file that ends with .png")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def sample(config: RunConfig, masks: MaskSampler) -> list[Masks]:
    """Masks of the run's own first samples, in batches as large as one device computes."""
    size = config.optim.batch_size_global // (config.optim.accumulate_steps * config.trainer.devices)
    size = min(size, 256)
    keyed = [[keyed_generator(config.seed, Stream.MASK, 0, batch * size + n) for n in range(size)] for batch in range(BATCHES)]
    return [masks(generators, number) for number, generators in enumerate(keyed)]


def coverage(tokens: list, grid: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """How often each patch is used, per image."""
    images = sum(len(batch) for batch in tokens)
    counts = sum(np.bincount(batch.numpy().ravel(), minlength=grid[0] * grid[1]) for batch in tokens)
    return np.reshape(counts / images, grid)


def draw_image(axes: Axes, masks: Masks, grid: tuple[int, int], image: int) -> None:
    row = image % len(masks.context)
    colours = np.zeros(grid[0] * grid[1], dtype=int)
    colours[masks.context[row]] = 1
    for block, tokens in enumerate(masks.targets[row]):
        colours[tokens] = 2 + block % 7
    axes.imshow(colours.reshape(grid), cmap=COLOURS, vmin=0, vmax=8)
    axes.set_axis_off()


def draw_coverage(axes: Axes, use: Float[np.ndarray, "H W"], title: str) -> None:
    picture = axes.imshow(use, vmin=0)
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(picture, ax=axes)


def draw_lengths(axes: Axes, batches: list[Masks]) -> None:
    lengths = {
        "context": [masks.context.shape[1] for masks in batches],
        "one target block": [masks.targets.shape[2] for masks in batches],
    }
    bins = np.arange(0, max(map(max, lengths.values())) + 2) - 0.5
    for name, values in lengths.items():
        axes.hist(values, bins=list(bins), label=f"{name}: {np.mean(values):.1f}")
    axes.set_title("tokens, over batches", fontsize=9)
    axes.legend()


def describe(batches: list[Masks], uses: list[Float[np.ndarray, "H W"]], out: Path) -> str:
    context, blocks, target = batches[0].context.shape[1], batches[0].targets.shape[1], batches[0].targets.shape[2]
    never = [int((use == 0).sum()) for use in uses]
    return (
        f"{out}: the first batch has {context} context tokens and {blocks} target blocks of {target} of {uses[0].size} tokens; "
        f"in {BATCHES} batches {never[0]} patches were never context and {never[1]} never target"
    )


def preview_views(config: RunConfig, out: Path | None = None, console: Console | None = None) -> Path:
    """Draw the views of the run's own first images.

    Returns:
        The PNG: a contact sheet, a row an image: the whole of it, then every view that a method is given of it.

    Raises:
        UserError: there are no shards at data.train.
    """
    out = png_path(out, f"views-{config.name}.png")
    optim = config.optim.model_copy(update={"batch_size_global": IMAGES, "accumulate_steps": 1, "total_samples": IMAGES})
    data = config.data.model_copy(update={"workers": 0})
    few = config.model_copy(update={"optim": optim, "data": data})
    uncut = next(iter(train_loader(few, masks=None, uncut=True))).uncut
    assert uncut is not None
    wholes = [image[:, : int(height), : int(width)] for image, (height, width) in zip(uncut.images, uncut.extents, strict=True)]
    views = [view.round().byte() for view in cut(uncut)]
    figure = Figure(figsize=(1.5 * (1 + len(views)), 1.6 * IMAGES), layout="constrained")
    for row, axes in enumerate(figure.subplots(IMAGES, 1 + len(views))):
        for axis, picture in zip(axes, [wholes[row], *(view[row] for view in views)], strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.set_axis_off()
    titles = ["image", *(f"view {number}: {view.shape[-1]}" for number, view in enumerate(views))]
    for axis, title in zip(figure.axes, titles, strict=False):
        axis.set_title(title, fontsize=9)
    figure.savefig(out, dpi=110)
    sizes = ", ".join(f"{count} of {size}x{size}" for size, count in Counter(uncut.sizes).items())
    said = f"{out}: {IMAGES} images of {config.data.train[0].path}, each in {len(views)} view(s), {sizes} pixels"
    (console or Console()).print(said, soft_wrap=True, markup=False, highlight=False)
    return out
