"""`jepa quickstart`: the whole path on images made on the spot. It is the one verb that calls the others."""

import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from jepa_pipeline.commands import build_shards as shards
from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.manifest import MANIFEST, load_manifest
from jepa_pipeline.probes.report import Row
from jepa_pipeline.synthetic.shapes import SHAPES, draw_shape

IMAGES, SIDE, TEST_SHARE = 10_000, 40, 0.2
TOTAL_SAMPLES = 76_800


def quickstart(out: Path, seed: int = 0, total_samples: int = TOTAL_SAMPLES, images: int = IMAGES) -> list[Row]:
    """Draw images, pack them, pretrain, probe, export; what is already there from an earlier call is kept.

    Returns:
        The rows of the probe's table.
    """
    console, begun = Console(), time.perf_counter()
    prepare_shards(out, images, seed, console)
    run = pretrain(recipe(out, seed, total_samples), console)
    rows = probe(run, out / "shards")
    exported = run / "export" / "timm"
    if not exported.exists():
        shutil.rmtree(exported.with_name("timm.partial"), ignore_errors=True)  # of a quickstart that was killed
        export(run, to="timm")
    console.print(farewell(out, run, exported, time.perf_counter() - begun), soft_wrap=True, markup=False, highlight=False)
    return rows


def prepare_shards(out: Path, images: int, seed: int, console: Console) -> None:
    """The images as shards, unless an earlier call left them whole.

    Raises:
        UserError: they are those of another seed.
    """
    if (out / "shards/train" / MANIFEST).exists():
        before = load_manifest(out / "shards/train").made["seed"]
        if before != seed:
            raise UserError(f"{out} holds the quickstart of seed {before}, not {seed}: name another folder with --out")
        return
    shutil.rmtree(out / "shards.partial", ignore_errors=True)  # of a quickstart that was killed
    draw_images(out / "images", images, seed, console)
    shards.build(out / "images", out / "shards", split=TEST_SHARE, seed=seed)


def draw_images(folder: Path, count: int, seed: int, console: Console) -> None:
    """A folder per shape, of PNG files."""
    generator, names = np.random.default_rng(seed), list(SHAPES)
    for number in track(range(count), "drawing images", console=console):
        name = names[number % len(names)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_shape(name, SIDE, generator)).save(folder / name / f"{number:05d}.png")


def recipe(out: Path, seed: int, total_samples: int) -> RunConfig:
    """A small I-JEPA on 8x8 patches, for minutes on a CPU."""
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


def farewell(out: Path, run: Path, exported: Path, seconds: float) -> str:
    return f"""
The whole path took {seconds / 60:.1f} minutes. Everything lies in {out}:
  {run}           the run: resolved config.yaml, metrics.jsonl, checkpoints, encoder, probes
  {exported}   the encoder for timm: timm.create_model("local-dir:{exported}", pretrained=True)

For your own images, a folder with one folder per class (or any folder, without labels):
  jepa shards build YOUR_IMAGES data/mine --size 40 --split 0.1
  jepa pretrain {run}/config.yaml name=mine output=runs data.train=data/mine/train
  jepa probe runs/mine --data data/mine
  jepa export runs/mine --to timm"""
