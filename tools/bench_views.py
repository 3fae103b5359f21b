"""Measure how fast views are made: by a worker, and by a worker that decodes and a device that crops.

    python tools/bench_views.py configs/ijepa_vits16.yaml data/imagenet/train

Numbers are images/s: of one process for the workers' part, and of the fastest available device for the rest. The last line is the
difference between the two in the first batch, in gray levels of 255.
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
from torch import Tensor

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
    """Images/s of a worker, of a worker that only decodes and of a device that crops; differences in gray levels."""

    worker: float
    decoding: float
    device: float
    max_difference: float
    mean_difference: float


def measure(config: RunConfig, images: int, device: torch.device) -> Report:
    """Make the views of the run's first images by workers, and by decoding workers and a device.

    Raises:
        UserError: the data set is incomplete.
    """
    size = min(BATCH, images)
    batches = [list(range(start, start + size)) for start in range(0, images - size + 1, size)]
    cropping, decoding = (build_dataset(config, crop_on_device) for crop_on_device in (False, True))
    views, deferred = cropping.__getitems__(batches[0]).views, decoding.__getitems__(batches[0]).deferred_crops
    assert deferred is not None
    deferred = move_data_to_device(deferred, device)

    def crop() -> list[Tensor]:
        return crop_views(deferred, config.views.resampling)

    differences = torch.cat([(a - b.cpu()).abs().flatten() for a, b in zip(views, crop(), strict=True)])

    def crop_and_normalize() -> None:
        for view in crop():
            normalize(view, config.views.mean, config.views.std)
        if device.type == "cuda":
            torch.cuda.synchronize()

    worker_speed, decoding_speed = (
        median(images_per_s(partial(dataset.__getitems__, batch), size) for batch in batches) for dataset in (cropping, decoding)
    )
    device_speed = median(images_per_s(crop_and_normalize, size) for _ in range(ROUNDS))
    return Report(worker_speed, decoding_speed, device_speed, float(differences.max()), float(differences.mean()))


def build_dataset(config: RunConfig, crop_on_device: bool) -> TrainDataset:
    """Return the run's training set without masks."""
    sampler = build_batch_sampler(config.optim)
    dataset = train_loader(
        config.data, config.views, config.method, [], sampler, seed=config.seed, crop_on_device=crop_on_device
    ).dataset
    assert isinstance(dataset, TrainDataset)
    return dataset


def images_per_s(work: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as those in configs/.")],
    data: Annotated[str, typer.Argument(help="A folder or URL of shards.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted assignments that override the recipe.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 512,
) -> None:
    """Print how fast the views of a recipe are made on CPU and device, and by how much they differ."""
    config = load_config(recipe, [f"data.train={data}", *(overrides or [])])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = measure(config, images, device)
    print(f"{len(config.views.kinds)} views of {config.views.sizes(config.method.encoder.image_size)} pixels, images/s:")
    print(f"a worker, from bytes to views     {report.worker:10,.1f}")
    print(f"a worker that only decodes        {report.decoding:10,.1f}")
    print(f"{device.type}, cropping and colors        {report.device:10,.1f}")
    print(f"the views differ by {report.mean_difference:.2f} of 255 levels in the mean, {report.max_difference:.2f} at most")


def main() -> None:
    torch.set_num_threads(1)
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
