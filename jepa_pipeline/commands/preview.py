"""`jepa masks preview` and `jepa views preview`: contact sheets of masks and views, to check before training for days."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from rich.console import Console

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.pixel_format import RGB8
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.video_masks import Grid
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.data.picture import to_picture
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.files import atomic_path
from jepa_pipeline.masks.build import build_mask_samplers

SHEET, BATCHES = (4, 8), 64
IMAGES = 8
"""Images or clips on the sheet of views."""
CLIPS = 3
"""Clips on the sheet of masks, each once per mask set."""
PALETTE = ListedColormap(["#d9d9d9", "#4c78a8", "#f58518", "#e45756", "#b279a2", "#54a24b", "#eeca3b", "#ff9da6", "#9d755d"])


def preview_masks(config: RunConfig, out: Path | None = None, console: Console | None = None) -> Path:
    """Draw the masks of many batches of the recipe's own size.

    Returns:
        The PNG: a contact sheet of images, or of clips with their time steps side by side, once per mask set (gray: unused,
        blue: context, one warm color per target block); then, per mask set, heat maps of how often each patch is context and
        target, for clips also by time step, and histograms of the mask lengths.

    Raises:
        UserError: the method has no masks.
    """
    method = config.method
    if not method.mask_sets:
        raise UserError(f"method {method.name} has no masks: `jepa views preview` draws its views instead")
    out = png_path(out, f"masks-{config.name}.png")
    sets, named = sample(config, build_mask_samplers(method)), list(names_and_grids(method))
    names, grids = [name for name, _ in named], [grid for _, grid in named]
    rows = SHEET if grids[0][0] == 1 and len(sets) == 1 else (CLIPS * len(sets), 1)
    figure = Figure(figsize=(14, 6 + 4 * len(sets)), layout="constrained")
    above, below = figure.add_gridspec(2, 1, height_ratios=[3, 2])
    sheet, statistics = figure.add_subfigure(above), figure.add_subfigure(below)
    sizes = " and ".join(dict.fromkeys("x".join(map(str, grid)) for grid in grids))
    sheet.suptitle(f"{config.name}: {'; '.join(names)}; {sizes} tokens")
    draw_sheet(sheet, sets, named, rows)
    pairs = list(zip(sets, grids, strict=True))
    uses = [[coverage([masks[part] for masks in batches], grid) for part in range(2)] for batches, grid in pairs]
    panels = statistics.subplots(len(sets), 3 + (grids[0][0] > 1), squeeze=False)
    for row, name, batches, use in zip(panels, names, sets, uses, strict=True):
        draw_statistics(row, batches, use)
        row[0].set_ylabel(name)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=110)
    text = [f"{name}: {describe(batches, use)}" for name, batches, use in zip(names, sets, uses, strict=True)]
    print_plain(console, f"{out}: {'; '.join(text)}")
    return out


def png_path(out: Path | None, name: str) -> Path:
    """Return the path of the picture, after creating its folder.

    Raises:
        UserError: it does not end with .png, or cannot be written.
    """
    out = out or Path(name)
    if out.suffix != ".png":
        raise UserError(f"--out is {out}: name a file that ends with .png")
    check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def names_and_grids(method: MethodConfig) -> Iterator[tuple[str, Grid]]:
    """Yield the name and the grid of each mask set, level by level."""
    for number, (mask_sets, grid) in enumerate(zip(method.level_masks, method.grids, strict=True), start=1):
        level = f"level {number}: " if method.name == "hjepa" else ""
        yield from ((f"{level}{masks.describe()}", grid) for masks in mask_sets)


def sample(config: RunConfig, samplers: Sequence[MaskSampler]) -> list[list[Masks]]:
    """Return the masks of the run's first samples for each mask set, in micro-batches of one device."""
    size = config.optim.batch_size_global // (config.optim.accumulate_steps * config.trainer.processes)
    size = min(size, 256)
    keyed = [[keyed_generator(config.seed, Stream.MASK, 0, batch * size + n) for n in range(size)] for batch in range(BATCHES)]
    batches = [[masks(generators, number) for masks in samplers] for number, generators in enumerate(keyed)]
    return [list(masks) for masks in zip(*batches, strict=True)]


def coverage(tokens: list, grid: Grid) -> Float[np.ndarray, "T H W"]:
    """Return how often each token is used per image or clip."""
    images = sum(len(batch) for batch in tokens)
    counts = sum(np.bincount(batch.numpy().ravel(), minlength=int(np.prod(grid))) for batch in tokens)
    return np.reshape(counts / images, grid)


def draw_sheet(sheet: SubFigure, sets: list[list[Masks]], named: list[tuple[str, Grid]], shape: tuple[int, int]) -> None:
    """Draw the masks of images or clips from all sampled batches; the mask sets of a clip are below each other."""
    images = shape[0] * shape[1] // len(sets)
    for place, axes in enumerate(sheet.subplots(*shape, squeeze=False).flat):
        image, number = divmod(place, len(sets))
        masks, (name, grid) = sets[number][image * BATCHES // images], named[number]
        axes.imshow(strip(color(masks, image % len(masks.context), grid)), cmap=PALETTE, vmin=0, vmax=8)
        axes.set_axis_off()
        if grid[0] > 1 or len(sets) > 1:
            axes.set_title(name, fontsize=8, loc="left", pad=2)


def color(masks: Masks, row: int, grid: Grid) -> Float[np.ndarray, "T H W"]:
    colors = np.zeros(int(np.prod(grid)))
    colors[masks.context[row]] = 1
    for block, tokens in enumerate(masks.targets[row]):
        colors[tokens] = 2 + block % 7
    return colors.reshape(grid)


def strip(frames: Float[np.ndarray, "T H W"]) -> Float[np.ndarray, "H _"]:
    """Return frames side by side with gaps between them."""
    gap = np.full((frames.shape[1], 1), np.nan)
    return np.concatenate([part for frame in frames for part in (frame, gap)][:-1], axis=1)


def draw_statistics(panels: np.ndarray, batches: list[Masks], uses: list[Float[np.ndarray, "T H W"]]) -> None:
    draw_coverage(panels[0], uses[0].mean(0), "how often a patch is context")
    draw_coverage(panels[1], uses[1].mean(0), "in how many targets a patch is")
    draw_lengths(panels[-1], batches)
    if len(panels) == 4:
        draw_time(panels[2], uses)


def draw_coverage(axes: Axes, use: Float[np.ndarray, "H W"], title: str) -> None:
    picture = axes.imshow(use, vmin=0)
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(picture, ax=axes)


def draw_time(axes: Axes, uses: list[Float[np.ndarray, "T H W"]]) -> None:
    for part, (use, name) in enumerate(zip(uses, ("context", "target"), strict=True)):
        axes.bar(np.arange(len(use)) + 0.4 * part - 0.2, use.mean((1, 2)), width=0.4, color=PALETTE(1 + part), label=name)
    axes.set_title("how often a token is used, by time step", fontsize=9)
    axes.legend()


def draw_lengths(axes: Axes, batches: list[Masks]) -> None:
    target = "target" if batches[0].targets.shape[1] == 1 else "one target block"
    lengths = {
        "context": [masks.context.shape[1] for masks in batches],
        target: [masks.targets.shape[2] for masks in batches],
    }
    longest = max(map(max, lengths.values()))
    bins = np.arange(0, longest + 2, ceil(longest / 60)) - 0.5
    for part, (name, values) in enumerate(lengths.items()):
        axes.hist(values, bins=list(bins), color=PALETTE(1 + part), alpha=0.7, label=f"{name}: {np.mean(values):.1f}")
    axes.set_title("tokens, over batches", fontsize=9)
    axes.legend()


def describe(batches: list[Masks], uses: list[Float[np.ndarray, "T H W"]]) -> str:
    context, blocks, target = batches[0].context.shape[1], batches[0].targets.shape[1], batches[0].targets.shape[2]
    target_text = f"{blocks} target blocks of {target}" if blocks > 1 else f"{target} target tokens"
    text = f"the first batch has {context} context tokens and {target_text} of {uses[0].size} tokens"
    if len(uses[0]) == 1:
        never = [int((use == 0).sum()) for use in uses]
        return f"{text}; in {BATCHES} batches {never[0]} patches were never context and {never[1]} never target"
    times = [use.mean((1, 2)) for use in uses]
    extremes = [f"{time.min():.3f} (step {time.argmin()}) to {time.max():.3f} (step {time.argmax()})" for time in times]
    return f"{text}; in {BATCHES} batches a token is context with a share of {extremes[0]} and target with {extremes[1]}"


def preview_views(config: RunConfig, out: Path | None = None, console: Console | None = None) -> Path:
    """Draw the views of the run's own first images or clips.

    Returns:
        The PNG: a contact sheet with a row per image (the image, then all its views), or a row per view of a clip, its frames
        side by side. Images of other channels than RGB, or 16-bit ones, are in false colors, see to_picture.

    Raises:
        UserError: there are no shards at data.train.
    """
    out = png_path(out, f"views-{config.name}.png")
    optim = config.optim.model_copy(update={"batch_size_global": IMAGES, "accumulate_steps": 1, "total_samples": IMAGES})
    data = config.data.model_copy(update={"workers": 0})
    few = config.model_copy(update={"optim": optim, "data": data})
    clips = config.method.encoder.modality.has_time
    figure, text = draw_clips(few) if clips else draw_views(few)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=110)
    print_plain(console, f"{out}: {IMAGES} {text}")
    return out


def first_batch(config: RunConfig, crop_on_device: bool) -> Batch:
    sampler = build_batch_sampler(config.optim)
    loader = train_loader(config.data, config.views, config.method, [], sampler, seed=config.seed, crop_on_device=crop_on_device)
    return next(iter(loader))


def draw_views(config: RunConfig) -> tuple[Figure, str]:
    """Draw a row for each of the loader's first images; return the figure and its description."""
    deferred = first_batch(config, crop_on_device=True).deferred_crops
    assert deferred is not None
    wholes = [
        image[:, : int(height), : int(width)] for image, (height, width) in zip(deferred.images, deferred.extents, strict=True)
    ]
    is_rgb = config.data.pixel_format == RGB8
    crops = crop_views(deferred, config.views.resampling)
    views = [view.round().byte() if is_rgb else view for view in crops]
    figure = Figure(figsize=(1.5 * (1 + len(views)), 1.6 * IMAGES), layout="constrained")
    for row, axes in enumerate(figure.subplots(IMAGES, 1 + len(views))):
        for axis, picture in zip(axes, [wholes[row], *(view[row] for view in views)], strict=True):
            axis.imshow(to_picture(picture).permute(1, 2, 0).numpy())
            axis.set_axis_off()
    titles = ["image", *(f"view {number}: {view.shape[-1]}" for number, view in enumerate(views))]
    for axis, title in zip(figure.axes, titles, strict=False):
        axis.set_title(title, fontsize=9)
    sizes = ", ".join(f"{count} of {size}x{size}" for size, count in Counter(deferred.sizes).items())
    return figure, f"images of {config.data.train[0].path}, each in {len(views)} view(s), {sizes} pixels"


def draw_clips(config: RunConfig) -> tuple[Figure, str]:
    """Draw a row for each view of the loader's first clips; return the figure and its description."""
    views = first_batch(config, crop_on_device=False).views
    frames, size = views[0].shape[2], views[0].shape[-1]
    rows = [view[clip].permute(2, 1, 3, 0).flatten(1, 2).numpy() for clip in range(IMAGES) for view in views]
    figure = Figure(figsize=(1.2 * frames, 1.25 * len(rows)), layout="constrained")
    for axis, row in zip(figure.subplots(len(rows), 1), rows, strict=True):
        axis.imshow(row)
        axis.set_axis_off()
    path = config.data.train[0].path
    return figure, f"clips of {path}, each in {len(views)} view(s), {frames} frames of {size}x{size} pixels"
