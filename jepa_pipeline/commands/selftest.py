"""`jepa selftest resume`: a test that a run that is killed and resumed equals one that was never killed."""

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
from typing import NamedTuple

from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.render import save_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.worker_pool import die_with_parent
from jepa_pipeline.data.writer import png_record, write_shards
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.synthetic.shapes import generate_shapes
from jepa_pipeline.training.checkpoint import list_checkpoints, step_of
from jepa_pipeline.training.hashes import HASHES

IMAGES = 40
CHECKPOINT_STEPS = 3
TRIES = 5
"""Times the second run is started over because it ended before it could be killed: small steps take milliseconds."""
TIMINGS = {"seconds", "samples_per_s", "data_wait_share"}
"""Metrics that depend on the machine."""


class Difference(NamedTuple):
    """The first difference of two runs, and the number of other differences in the same step."""

    step: int
    name: str
    others: int

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}" + (f", and {self.others} more" if self.others else "")


class Kill(NamedTuple):
    """Steps that a run had taken when it was killed, and the step of the checkpoint it resumes from (0: none)."""

    step: int
    checkpoint: int


def resume(
    config: RunConfig | None = None, *, total_steps: int = 12, kills: int = 1, seed: int = 0, out: Path | None = None
) -> bool:
    """Run a configuration twice, the second time with SIGKILL at random moments, and compare all state of every step.

    Args:
        config: what to run; default: a small I-JEPA with two workers and accumulation, on synthetic images.
        total_steps: length of the runs, in optimizer steps.
        kills: times the second run is killed and resumed.
        seed: seed of the random moments.
        out: folder of the two runs; default: a temporary folder, which is deleted if they are equal.

    Returns:
        Whether every hash and every logged number is equal.

    Raises:
        UserError: a run failed for another reason, or always ended before it could be killed.
    """
    console, folder = Console(), out or Path(mkdtemp(prefix="jepa-selftest-"))
    config = shorten(config or build_small_config(folder), folder, total_steps)
    straight, killed = (config.model_copy(update={"name": name}) for name in ("straight", "killed"))
    if straight.folder.exists() or killed.folder.exists():
        raise UserError(f"{folder} already holds runs of a selftest: give another folder with --out")
    with console.status("running without a kill"):
        run_to_end(straight)
    step_s = read_json_lines(straight.folder / "metrics.jsonl")[-1]["seconds"] / total_steps
    random, done = Random(seed), list[Kill]()
    with console.status("running with kills") as status:
        for _ in range(TRIES):
            for kill in kill_repeatedly(killed, random, kills, step_s):
                done.append(kill)
                status.update(f"running with kills: {len(done)} of {kills}")
            if any(0 < kill.checkpoint < total_steps for kill in done):
                break
            done = []
            shutil.rmtree(killed.folder)  # no kill came between the first checkpoint and the end, which would test nothing
        else:
            raise UserError(
                f"the run ended before it could be killed in {TRIES} tries, so nothing was tested: use more than "
                f"{total_steps} --steps"
            )
        run_to_end(killed)
    difference = find_difference(straight.folder, killed.folder)
    print_plain(console, describe(straight, done, difference, folder))
    if difference is None and out is None:
        shutil.rmtree(folder)
    return difference is None


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
    values["trainer"] |= {"deterministic": True}
    return RunConfig.model_validate(values)


@contextmanager
def start(config: RunConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Start `jepa pretrain`; at the end kill it with its workers, which a session of its own makes possible."""
    config.folder.mkdir(parents=True, exist_ok=True)
    recipe = config.output / f"{config.name}.yaml"
    save_config(recipe, config)
    with log_path(config).open("ab") as log:
        command = [sys.executable, "-m", "jepa_pipeline", "pretrain", str(recipe)]
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def log_path(config: RunConfig) -> Path:
    return config.output / f"{config.name}.log"


def run_to_end(config: RunConfig) -> None:
    with start(config) as process:
        check_exit(process, config)


def check_exit(process: subprocess.Popen[bytes], config: RunConfig) -> None:
    """Wait for a run to end, and raise UserError if it failed."""
    if process.wait():
        last = log_path(config).read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"the run {config.name} failed with exit code {process.returncode}: {''.join(last)} (full log: {log_path(config)})"
        )


def kill_repeatedly(config: RunConfig, random: Random, kills: int, step_s: float) -> Iterator[Kill]:
    """Start a run and kill it, several times, each time further on and the last time not before its first checkpoint.

    step_s: seconds per step, within which the moment of a kill is random.
    """
    for number in range(kills):
        with start(config) as process:
            done, is_last = count_steps(config), number == kills - 1
            left = config.optim.total_steps - 1 - done
            low = max(done, CHECKPOINT_STEPS + 1) if is_last else done
            # twice the mean distance that leaves room for the kills to come
            high = max(low, done + min(left, 2 * left // (kills - number)))
            wait_for_step(process, config, random.randint(low, high))
            time.sleep(random.uniform(0, step_s))
            if process.poll() is not None:
                check_exit(process, config)
                return
        checkpoints = list_checkpoints(config.folder / "checkpoints")
        yield Kill(count_steps(config), step_of(checkpoints[-1]) if checkpoints else 0)


def wait_for_step(process: subprocess.Popen[bytes], config: RunConfig, step: int) -> None:
    while count_steps(config) < step and process.poll() is None:
        time.sleep(0.005)


def count_steps(config: RunConfig) -> int:
    """Return the number of lines of hashes.jsonl, which has one per step."""
    path = config.folder / HASHES
    return path.read_bytes().count(b"\n") if path.exists() else 0


def find_difference(first: Path, second: Path) -> Difference | None:
    """Return the first difference of two runs in hashes.jsonl, else in metrics.jsonl, or None."""
    for file in (HASHES, "metrics.jsonl"):
        rows, others = read_json_lines(first / file), read_json_lines(second / file)
        for row, other in zip_longest(rows, others, fillvalue={}):
            names = [name for name in {**row, **other} if name not in TIMINGS and row.get(name) != other.get(name)]
            if names:
                return Difference(row.get("step") or other["step"], f"{names[0]} ({file})", len(names) - 1)
    return None


def describe(config: RunConfig, kills: list[Kill], difference: Difference | None, folder: Path) -> str:
    """Return the kills and the result as lines of text."""
    rows = read_json_lines(config.folder / HASHES)
    lines = [f"  killed after step {kill.step}, resumed from {kill.checkpoint}" for kill in kills]
    lines.append(f"{len(rows)} steps of {len(rows[-1]) - 1} hashes, and every logged number")
    if difference is None:
        lines.append("equal: the killed run is the run that was never killed")
    else:
        lines += [f"NOT equal, first at {difference}", f"both runs are kept in {folder}"]
    return "\n".join(lines)
