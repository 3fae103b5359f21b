"""Short runs whose every step is hashed, and the comparison of two of them."""

import re
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.writer import png_record, write_shards
from jepa_pipeline.files import DamagedFile, read_json_lines, sha256_of
from jepa_pipeline.synthetic.shapes import generate_shapes
from jepa_pipeline.training.checkpoint import list_checkpoints, load_checkpoint
from jepa_pipeline.training.hashes import flatten, hash_value
from jepa_pipeline.training.loggers import HASHES

IMAGES = 40
CHECKPOINT_STEPS = 3
TIMINGS = {"seconds", "samples_per_s", "data_wait_share"}
"""Metrics that depend on the machine."""
BY_PLACE = ("share/", "epoch/")
"""Beginnings of metrics named by the place of a data set, which may change. They follow from keys of samples, which are hashed."""


class Difference(NamedTuple):
    """The first difference of two runs, and the number of other differences in the same step."""

    step: int
    name: str
    others: int

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}" + (f", and {self.others} more" if self.others else "")


def build_small_config(folder: Path) -> RunConfig:
    """Write synthetic shards; return an I-JEPA of a few seconds with workers, accumulation and several epochs."""
    images = (image for image, _ in generate_shapes(IMAGES, 20, seed=0))
    records = (png_record(f"{number:04d}", image, None) for number, image in enumerate(images))
    write_shards(records, folder / "data", classes=None, made={"from": "selftest"})
    return RunConfig.model_validate(
        {
            "name": "selftest",
            "data": {"train": folder / "data", "workers": 2},
            "views": {"crops": [{"flip": 0.5}]},
            "method": {
                "name": "ijepa",
                "encoder": {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
                "predictor": {"embed_dim": 16, "depth": 1, "num_heads": 2},
                "masks": {"num_targets": 2, "target_scale": (0.2, 0.3)},
            },
            "optim": {"batch_size_global": 8, "accumulate_steps": 2, "total_samples": 8, "schedule_stretch": 2},
            "trainer": {"threads": 1},
        }
    )


def shorten(config: RunConfig, folder: Path, total_steps: int) -> RunConfig:
    """Return a configuration of the given number of steps, with deterministic kernels and hashes of every step."""
    batch = config.optim.batch_size_global
    values = config.model_dump(mode="json")
    values["output"] = str(folder)
    values["optim"] |= {
        "total_samples": total_steps * batch,
        "warmup_samples": min(config.optim.warmup_samples, total_steps // 3 * batch),
    }
    # checkpoints, log and health are due at different steps, so that a checkpoint must restore half-filled meters
    values["checkpoint"] |= {"every_steps": CHECKPOINT_STEPS, "every_minutes": None, "keep_last": 2}
    values["log"] |= {"every_steps": 5, "hashes_every_steps": 1, "wandb": False}
    values["health"] |= {"every_steps": 4}
    values["probing"] |= {"every_steps": None}
    values["trainer"] |= {"deterministic": True}
    return RunConfig.model_validate(values)


def find_difference(first: Path, second: Path) -> Difference | None:
    """Return the first difference of two runs in hashes.jsonl, else in metrics.jsonl, or None."""
    for file in (HASHES, "metrics.jsonl"):
        rows, others = read_json_lines(first / file), read_json_lines(second / file)
        for row, other in zip_longest(rows, others, fillvalue={}):
            compared = [name for name in {**row, **other} if name not in TIMINGS and not name.startswith(BY_PLACE)]
            names = [name for name in compared if row.get(name) != other.get(name)]
            if names:
                return Difference(row.get("step") or other["step"], f"{names[0]} ({file})", len(names) - 1)
    return None


def compare_results(first: Path, second: Path) -> list[str]:
    """Return a sentence for everything in which two finished runs differ: logs, last checkpoint, encoder and names of files."""
    found = []
    if difference := find_difference(first, second):
        found.append(f"differs first at {difference}")
    values, others = last_values(first), last_values(second)
    if names := sorted(name for name in values.keys() | others.keys() if values.get(name) != others.get(name)):
        found.append(f"{len(names)} values at the end differ, first {names[0]}: {values.get(names[0])}, {others.get(names[0])}")
    files, other_files = file_names(first), file_names(second)
    if left := sorted(other_files - files):
        found.append(f"{len(left)} files are left behind, such as {left[0]}")
    if lost := sorted(files - other_files):
        found.append(f"{len(lost)} files are missing, such as {lost[0]}")
    return found


def last_values(run: Path) -> dict[str, str]:
    """Return the hashes of what a finished run has left: of each value in its newest checkpoint, and of its encoder's file."""
    newest = list_checkpoints(run / "checkpoints")[-1:]
    try:
        values = {leaf: hash_value(value) for leaf, value in flatten(load_checkpoint(newest[0]).state)} if newest else {}
    except DamagedFile as error:
        values = {"checkpoint": str(error)}
    return {"checkpoints": f"{[path.name for path in newest]}", **values} | {
        path.name: sha256_of(path) for path in (run / "encoder").glob("*.safetensors")
    }


def file_names(run: Path) -> set[str]:
    """Return the relative paths of all files and folders of a run, without the steps of its checkpoints, which may be others."""
    return {re.sub(r"step-\d{8}", "step-N", str(path.relative_to(run))) for path in run.rglob("*")}
