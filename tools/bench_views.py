"""How fast the views of a recipe are made: by a worker, and in two parts where the device that trains cuts them.

    python tools/bench_views.py configs/ijepa_vits16.yaml data/imagenet/train

Each number is images/s: of one process for what workers do, and of the fastest device that is there for the rest. Below them is
by how much the two ways differ in the first batch, in gray levels of 255.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import TrainDataset
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.data.views import normalize
from lightning.fabric.utilities import move_data_to_device

BATCH = 64
ROUNDS = 3


class Report(NamedTuple):
    """Images/s of each part, and the difference of the two ways in gray levels."""

    workers: float
    decoding: float
    cutting: float
    largest: float
    mean: float


def measure(config: RunConfig, images: int, device: torch.device) -> Report:
    """Make the views of the first images of the run in both ways.

    Raises:
        UserError: the data is no whole data set.
    """
    size = min(BATCH, images)
    batches = [list(range(start, start + size)) for start in range(0, images - size + 1, size)]
    whole, host = (stream(config, uncut) for uncut in (False, True))
    ours, uncut = whole.__getitems__(batches[0]).views, host.__getitems__(batches[0]).deferred_crops
    assert uncut is not None
    there = move_data_to_device(uncut, device)
    differences = torch.cat([(a - b.cpu()).abs().flatten() for a, b in zip(ours, crop_views(there), strict=True)])

    def finish() -> None:
        for view in crop_views(there):
            normalize(view, config.views.mean, config.views.std)
        if device.type == "cuda":
            torch.cuda.synchronize()

    workers, decoding = (median(speed(partial(made.__getitems__, batch), size) for batch in batches) for made in (whole, host))
    cutting = median(speed(finish, size) for _ in range(ROUNDS))
    return Report(workers, decoding, cutting, float(differences.max()), float(differences.mean()))


def stream(config: RunConfig, uncut: bool) -> TrainDataset:
    """The images of the run without their masks."""
    sampler = build_batch_sampler(config.optim)
    dataset = train_loader(config.data, config.views, config.method, [], sampler, seed=config.seed, crop_on_device=uncut).dataset
    assert isinstance(dataset, TrainDataset)
    return dataset


def speed(work: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as those in configs/.")],
    data: Annotated[str, typer.Argument(help="A folder or URL of shards.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted assignments that override the recipe.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images that are made into views.")] = 512,
) -> None:
    """Print how fast the views of a recipe are made in both ways, and by how much they differ."""
    config = load_config(recipe, [f"data.train={data}", *(overrides or [])])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = measure(config, images, device)
    print(f"{len(config.views.kinds)} views of {config.views.sizes(config.method.encoder.image_size)} pixels, images/s:")
    print(f"a worker, from bytes to views     {report.workers:10,.1f}")
    print(f"a worker, that only decodes       {report.decoding:10,.1f}")
    print(f"{device.type}, that cuts and colors       {report.cutting:10,.1f}")
    print(f"the two ways differ by {report.mean:.2f} of 255 levels in the mean, {report.largest:.2f} at most")


def main() -> None:
    torch.set_num_threads(1)
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
