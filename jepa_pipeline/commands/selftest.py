"""`jepa selftest resume`: proof that a killed and continued run is the run that was never killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.writer import png_record, write_shards
from jepa_pipeline.synthetic.shapes import SHAPES, draw_shape
from jepa_pipeline.training.checkpoint import step_of, steps
from jepa_pipeline.training.hashes import HASHES
from jepa_pipeline.training.loggers import read_rows

IMAGES = 40
CHECKPOINT_STEPS = 3
TRIES = 5
"""How often the second run is begun anew because it was over before it could be killed: small steps take milliseconds."""
TIMINGS = {"seconds", "samples_per_s", "data_wait_share"}
"""What a line of metrics.jsonl says of the machine and not of the run."""

Row = dict[str, Any]


class Difference(NamedTuple):
    """The first thing in which two runs differ, and how many others do at the same step."""

    step: int
    name: str
    others: int

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}" + (f", and {self.others} more" if self.others else "")


def resume(
    config: RunConfig | None = None, *, total_steps: int = 12, kills: int = 1, seed: int = 0, out: Path | None = None
) -> bool:
    """Run a configuration for some steps, run it again with SIGKILL at random moments, and compare all state of every step.

    Args:
        config: what is run; a small I-JEPA with two workers and accumulation on images drawn here if None.
        total_steps: length of the runs, in optimizer steps.
        kills: how often the second run is killed and continued.
        seed: key of the random moments.
        out: folder for the two runs; a temporary one, removed when all is equal, if None.

    Returns:
        Whether every hash of every step, and every logged number, is equal.

    Raises:
        UserError: one of the runs failed for another reason.
    """
    console, folder = Console(), out or Path(mkdtemp(prefix="jepa-selftest-"))
    config = shortened(config or small(folder), folder, total_steps)
    straight, killed = (config.model_copy(update={"name": name}) for name in ("straight", "killed"))
    if straight.folder.exists() or killed.folder.exists():
        raise UserError(f"{folder} already holds runs of a selftest: name another folder with --out")
    with console.status("the run that is left alone"):
        run_through(straight)
    pace_s = read_rows(straight.folder / "metrics.jsonl")[-1]["seconds"] / total_steps
    random, met = Random(seed), list[Kill]()
    with console.status("the run that is killed") as status:
        for _ in range(TRIES):
            for kill in kill_often(killed, random, kills, pace_s):
                met.append(kill)
                status.update(f"the run that is killed: {len(met)} of {kills}")
            if any(0 < kill.kept < total_steps for kill in met):
                break
            met = []
            shutil.rmtree(killed.folder)  # it was over before the kill came
        else:
            raise UserError(
                f"no kill came between the first checkpoint and the end in {TRIES} tries, so nothing is shown: "
                f"use more than {total_steps} --steps"
            )
        run_through(killed)
    difference = compare(straight.folder, killed.folder)
    console.print(verdict(straight, met, difference, folder), soft_wrap=True, markup=False, highlight=False)
    if difference is None and out is None:
        shutil.rmtree(folder)
    return difference is None


def small(folder: Path) -> RunConfig:
    """An I-JEPA of seconds, with everything in it that could go wrong: workers, accumulation, several epochs."""
    generator, names = np.random.default_rng(0), list(SHAPES)
    images = (Image.fromarray(draw_shape(names[number % len(names)], 20, generator)) for number in range(IMAGES))
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
            "health": {"vectors": 64, "vectors_per_step": 16},
        }
    )


def shortened(config: RunConfig, folder: Path, total_steps: int) -> RunConfig:
    """The configuration for so many steps. Checkpoints, log and health fall on different steps, so that each is met half-way."""
    batch = config.optim.batch_size_global
    values = config.model_dump(mode="json")
    values["output"] = str(folder)
    values["optim"] |= {
        "total_samples": total_steps * batch,
        "warmup_samples": min(config.optim.warmup_samples, total_steps // 3 * batch),
    }
    values["checkpoint"] |= {"every_steps": CHECKPOINT_STEPS, "every_minutes": None, "keep_last": 2, "keep_every": None}
    values["log"] |= {"every_steps": 5, "hashes_every_steps": 1, "wandb": False}
    values["health"] |= {"every_steps": 4}
    values["trainer"] |= {"deterministic": True}
    return RunConfig.model_validate(values)


@contextmanager
def started(config: RunConfig) -> Iterator[subprocess.Popen[bytes]]:
    """`jepa pretrain` of the configuration in a session of its own, so that it is killed with all its workers at the end."""
    config.folder.mkdir(parents=True, exist_ok=True)
    recipe = config.output / f"{config.name}.yaml"
    recipe.write_text(to_yaml(config))
    with log_of(config).open("ab") as log:
        command = [sys.executable, "-m", "jepa_pipeline", "pretrain", str(recipe)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_through(config: RunConfig) -> None:
    with started(config) as process:
        finish(process, config)


def log_of(config: RunConfig) -> Path:
    return config.output / f"{config.name}.log"


def finish(process: subprocess.Popen[bytes], config: RunConfig) -> None:
    if process.wait():
        last = log_of(config).read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"the run {config.name} ended with exit code {process.returncode}: {''.join(last)} (all of it in {log_of(config)})"
        )


class Kill(NamedTuple):
    """After how many steps a run was killed, and from which it had to go on."""

    after: int
    kept: int


def kill_often(config: RunConfig, random: Random, kills: int, pace_s: float) -> Iterator[Kill]:
    """Start the run and kill it, so many times, each some steps and a part of one further on,
    the last time when it has a checkpoint. pace_s: seconds of a step.
    """
    for number in range(kills):
        with started(config) as process:
            done, last = steps_done(config), number == kills - 1
            left = config.optim.total_steps - 1 - done
            low = max(done, CHECKPOINT_STEPS + 1) if last else done
            wait_for(process, config, random.randint(low, max(low, done + min(left, 2 * left // (kills - number)))))
            time.sleep(random.uniform(0, pace_s))
            if process.poll() is not None:
                finish(process, config)
                return
        kept = steps(config.folder / "checkpoints")
        yield Kill(steps_done(config), step_of(kept[-1]) if kept else 0)


def wait_for(process: subprocess.Popen[bytes], config: RunConfig, step: int) -> None:
    while steps_done(config) < step and process.poll() is None:
        time.sleep(0.005)


def steps_done(config: RunConfig) -> int:
    """Lines of hashes.jsonl; reading it whole is cheap beside a step that hashes everything."""
    path = config.folder / HASHES
    return path.read_bytes().count(b"\n") if path.exists() else 0


def compare(first: Path, second: Path) -> Difference | None:
    """The first difference between two runs, in hashes.jsonl or else in metrics.jsonl; None if there is none."""
    for file in (HASHES, "metrics.jsonl"):
        for row, other in zip_longest(read_rows(first / file), read_rows(second / file), fillvalue={}):
            names = [name for name in {**row, **other} if name not in TIMINGS and row.get(name) != other.get(name)]
            if names:
                return Difference(row.get("step") or other["step"], f"{names[0]} ({file})", len(names) - 1)
    return None


def verdict(config: RunConfig, kills: list[Kill], difference: Difference | None, folder: Path) -> str:
    rows = read_rows(config.folder / HASHES)
    moments = [f"  killed after step {kill.after}, continued from {kill.kept}" for kill in kills]
    said = [*moments, f"{len(rows)} steps of {len(rows[-1]) - 1} hashes, and every logged number"]
    if difference is None:
        return "\n".join([*said, "equal: the killed run is the run that was never killed"])
    return "\n".join([*said, f"NOT equal, first at {difference}", f"both runs are kept in {folder}"])
