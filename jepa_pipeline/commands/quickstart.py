"""`jepa quickstart`: all steps on synthetic images. It is the one command that calls the others."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.manifest import MANIFEST, load_manifest
from jepa_pipeline.files import name_errors
from jepa_pipeline.results.probe_report import ProbeRow
from jepa_pipeline.synthetic.shapes import CLASSES, generate_shapes

IMAGES, SIDE, TEST_SHARE = 10_000, 40, 0.2
TOTAL_SAMPLES = 76_800


def quickstart(out: Path, seed: int = 0, total_samples: int = TOTAL_SAMPLES, images: int = IMAGES) -> list[ProbeRow]:
    """Generate images, build shards, pretrain, probe and export; steps that an earlier call finished are skipped.

    Returns:
        The rows of the probe report.
    """
    check_place(out / "images")
    console, start = Console(), time.perf_counter()
    prepare_shards(out, images, seed, console)
    run = pretrain(build_config(out, seed, total_samples), console)
    rows = probe(run, out / "shards")
    exported = run / "export" / "timm"
    if not exported.exists():
        export(run, to="timm")
    print_plain(console, format_summary(out, run, exported, time.perf_counter() - start))
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
    images = track(generate_shapes(count, SIDE, seed), "generating images", count, console=console)
    for index, (image, label) in enumerate(images):
        path = folder / CLASSES[label] / f"{index:05d}.png"
        with name_errors(path):
            image.save(path)


def build_config(out: Path, seed: int, total_samples: int) -> RunConfig:
    """Return a small I-JEPA on 8x8 patches that trains within minutes on a CPU."""
    return RunConfig.model_validate(
        {
            "name": "quickstart",
            "output": out / "runs",
            "seed": seed,
            "data": {"train": out / "shards/train", "workers": 1},
            "views": {"crops": [{"scale": (0.5, 1.0)}], "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
            "method": {
                "name": "ijepa",
                "encoder": {"image_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3},
                "predictor": {"embed_dim": 48, "depth": 2, "num_heads": 3},
                "masks": {"target_scale": (0.14, 0.15), "context_keep": 0.3125},
                "ema": (0.99, 1.0),
            },
            "optim": {
                "batch_size_global": 64,
                "total_samples": total_samples,
                "warmup_samples": total_samples // 10,
                "lr": 1e-3,
                "start_lr": 1e-4,
                "final_weight_decay": 0.1,
            },
            "checkpoint": {"every_steps": 500},
        }
    )


def format_summary(out: Path, run: Path, exported: Path, seconds: float) -> str:
    return f"""
All steps took {seconds / 60:.1f} minutes. Everything is in {out}:
  {run}           the run: resolved config.yaml, metrics.jsonl, checkpoints, encoder, probes
  {exported}   the encoder for timm: timm.create_model("local-dir:{exported}", pretrained=True)

For your own images, a folder with one folder per class (or any folder, without labels):
  jepa shards build YOUR_IMAGES data/mine --size 40 --split 0.1
  jepa pretrain {run}/config.yaml name=mine output=runs data.train=data/mine/train
  jepa probe runs/mine --data data/mine
  jepa export runs/mine --to timm"""
