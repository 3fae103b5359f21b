"""`jepa quickstart`: all steps on synthetic images. It is the one command that calls the others."""

import time
from pathlib import Path

from rich.console import Console

from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.commands.preview import preview_views
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.recipes import shipped_files
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import print_plain, track
from jepa_pipeline.data.manifest import MANIFEST, load_manifest
from jepa_pipeline.files import name_errors
from jepa_pipeline.results.probe_report import ProbeRow
from jepa_pipeline.synthetic.shapes import CLASSES
from jepa_pipeline.synthetic.varied_shapes import generate_varied_shapes

IMAGES, SIDE, TEST_SHARE = 5_000, 40, 0.2
PROBE = ProbeConfig.model_validate({"features": ["last"], "weight_decay": [1e-1, 1e-2, 1e-3, 1e-4], "k": [20], "workers": 0})
"""The same for the trained encoder, the untrained one and the pixels, and fewer settings than the default: 15 heads in all."""


def quickstart(out: Path, seed: int = 0, total_samples: int | None = None, images: int = IMAGES) -> list[ProbeRow]:
    """Generate images, build shards, pretrain, probe and export; steps that an earlier call finished are skipped.

    Args:
        out: folder of everything.
        seed: of the images and of the run.
        total_samples: of the run; default: those of the recipe.
        images: number of images, of which a fifth are the test set.

    Returns:
        The rows of the probe report.

    Raises:
        UserError: `out` holds the quickstart of another seed.
    """
    check_place(out / "images")
    console, start = Console(), time.perf_counter()
    prepare_shards(out, images, seed, console)
    config = build_config(out, seed, total_samples)
    views = out / "views.png"
    if not views.exists():
        preview_views(config, views, console)
    run = pretrain(config, console)
    rows = probe(run, out / "shards", config=PROBE)
    exported = run / "export" / "timm"
    if not exported.exists():
        export(run, to="timm")
    minutes = (time.perf_counter() - start) / 60
    print_plain(console, format_end(out, run, minutes, describe_rows(rows)))
    return rows


def prepare_shards(out: Path, images: int, seed: int, console: Console) -> None:
    """Build shards of synthetic images unless an earlier call did.

    Raises:
        UserError: that call had another seed.
    """
    if (out / "shards/train" / MANIFEST).exists():
        previous_seed = load_manifest(out / "shards/train").made["seed"]
        if previous_seed != seed:
            raise UserError(f"{out} holds the quickstart of seed {previous_seed}, not {seed}: give another folder with --out")
        return
    write_images(out / "images", images, seed, console)
    build(out / "images", out / "shards", split=TEST_SHARE, seed=seed)


def write_images(folder: Path, count: int, seed: int, console: Console) -> None:
    """Write synthetic images as PNG files in a folder for each class."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    images = track(generate_varied_shapes(count, SIDE, seed), "generating images", count)
    for index, (image, label) in enumerate(images):
        path = folder / CLASSES[label] / f"{index:05d}.png"
        with name_errors(path):
            image.save(path)


def build_config(out: Path, seed: int, total_samples: int | None) -> RunConfig:
    """Return the recipe for the shards in `out`, with fewer samples if they are given."""
    config = load_config(shipped_files()["quickstart"])  # not by name, which a folder `quickstart` would be
    values = config.model_dump(mode="json")
    values |= {"output": out / "runs", "seed": seed}
    values["data"]["train"] = out / "shards/train"
    if total_samples is not None:
        values["optim"] |= {"total_samples": total_samples, "warmup_samples": total_samples // 10}
    return RunConfig.model_validate(values)


def describe_rows(rows: list[ProbeRow]) -> str:
    """Return the meaning of the rows in a sentence: whether the encoder is above its untrained twin and raw pixels."""
    (trained,) = {row.encoder for row in rows} - {"random_init", "pixels"}
    top1 = {(row.encoder, row.protocol): row.top1 for row in rows}
    linear, knn = ([top1[name, protocol] for name in (trained, "random_init", "pixels")] for protocol in ("linear", "knn"))
    own, untrained, pixels = (f"{first:.1%} ({second:.1%})" for first, second in zip(linear, knn, strict=True))
    above = all(first > max(others) for first, *others in (linear, knn))
    conclusion = "taught it what neither the network nor the pixels give" if above else "was too short to teach it more than both"
    return (
        f"The table: of {rows[0].n_test} test images that training never saw, a linear head (nearest neighbors in parentheses) "
        f"names {own} on the trained encoder, {untrained} on the same network untrained and {pixels} on raw pixels, where guessing "
        f"gives {1 / len(CLASSES):.0%}: training without labels {conclusion}."
    )


def format_end(out: Path, run: Path, minutes: float, meaning: str) -> str:
    return f"""
{meaning}
Pictures: {out / "images"} has the images, {out / "views.png"} the views of them that training compares.
All steps took {minutes:.1f} minutes; the run is {run}, its encoder for timm {run / "export/timm"}.

Next, for your own images (a folder of them; one folder per class if they have labels):
  jepa shards build YOUR_IMAGES data/mine --size {SIDE} --split 0.1
  jepa pretrain {run}/config.yaml name=mine output=runs data.train=data/mine/train
  jepa probe runs/mine --data data/mine"""
