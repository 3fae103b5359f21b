"""`jepa tune`: which settings train a recipe fastest on this machine, and what the run then costs."""

import shlex
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from jepa_pipeline.checks.checkpoint_size import estimate_checkpoint_bytes
from jepa_pipeline.checks.duration import format_duration
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import note, show_progress
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.results.tables import EMPTY, Cell, Table, print_table
from jepa_pipeline.training.device_peak import known_peak
from jepa_pipeline.training.processes import read_rank_info
from jepa_pipeline.training.setup import choose_accelerator
from jepa_pipeline.tuning.comparison import Comparison, Measured, Trial
from jepa_pipeline.tuning.process import TrialProcesses
from jepa_pipeline.tuning.search import Search, SearchResult
from jepa_pipeline.tuning.trials import Machine

GIB, HOUR_S = 2**30, 3600.0
CALM = 1.1
"""Ratio of the times of equal trials up to which nothing is said of it."""


def tune(
    recipe: Path,
    overrides: Sequence[str] = (),
    *,
    steps: int = 50,
    seconds: float = 15.0,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the first steps of a recipe with other settings, one after the other, and print how fast they are and which to use.

    Args:
        recipe: a recipe.
        overrides: of the recipe.
        steps: most steps of a trial, whose losses are compared.
        seconds: after which a trial ends, its first steps not counted.
        only: keys; trials of others are left out.

    Returns:
        What is printed: the trials, the overrides to use, and what the run costs with and without them.

    Raises:
        UserError: the recipe as it is cannot be trained here.
    """
    config = load_config(recipe, overrides)
    info = read_rank_info(config.trainer)
    if info.launcher and info.world_size > 1:
        raise UserError("jepa tune starts its own processes, but was started in several: start it once, without torchrun or srun")
    machine = Machine(choose_accelerator(config.trainer.accelerator), torch.cuda.device_count(), available_cores())
    with sigterm_as_ctrl_c(), tempfile.TemporaryDirectory(prefix="jepa-tune-") as folder:
        processes = TrialProcesses(Path(folder), steps, seconds)
        found = Search(recipe, overrides, processes, machine, say).run(only, show_progress)
    gpu = torch.cuda.get_device_name() if machine.accelerator == "cuda" else None
    rows = [describe(one, load_config(recipe, [*overrides, *one.trial.overrides]), found, gpu) for one in found.compared]
    print_table(make_table(rows), f"{config.name}: the first steps on {machine.accelerator}")
    costs = {
        name: estimate_costs(load_config(recipe, [*overrides, *one.trial.overrides]), one.trial.measured)
        for name, one in (("plain", found.plain), ("chosen", found.chosen))
    }
    print_choice(recipe, overrides, found, costs)
    return {"recipe": str(recipe), "noise": found.noise, "trials": rows, "use": list(found.chosen.trial.overrides), "costs": costs}


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that the folder of the trials is deleted."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(trial: Trial) -> None:
    """Print a trial as soon as it is done."""
    measured = trial.measured
    note(f"{trial.name}: {trial.problem if measured is None else f'{format_duration(measured.step_s)} per step'}")


def describe(one: Comparison, config: RunConfig, found: SearchResult, gpu: str | None) -> dict[str, Any]:
    """Return the row of a trial, of which this is the configuration; gpu: the name of the GPU, if there is one."""
    measured, plain = one.trial.measured, found.plain.trial.measured
    row: dict[str, Any] = {"trial": one.trial.name, "verdict": judge(one, found)}
    if measured is None:
        return row
    row |= {"samples_per_s": config.optim.batch_size_global / measured.step_s, "speed": one.speed}
    row |= {"waiting": measured.waiting, "memory_bytes": measured.memory_bytes, "first_step_s": measured.start_s}
    row |= {"loss_difference": one.difference, "steps": len(measured.losses)}
    peak = known_peak(gpu, config.trainer.precision) if gpu else None
    if peak and plain and plain.step_flops:
        row["mfu"] = plain.step_flops / measured.step_s / (peak * config.trainer.processes)
    return row


def judge(one: Comparison, found: SearchResult) -> str:
    """Return what is said of a trial in the table."""
    if one.trial.measured is None:
        return one.trial.problem
    if one.refused:
        return "refused: other losses"
    return "use" if one == found.chosen else ""


def make_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of all trials."""
    columns = {
        "samples/s": ("samples_per_s", "{:,.4g}"),
        "speed": ("speed", "{:.2f}"),
        "waiting": ("waiting", "{:.0%}"),
        "MFU": ("mfu", "{:.1%}"),
        "first step": ("first_step_s", "{:.1f} s"),
        "loss differs": ("loss_difference", "{:.1e}"),
    }
    cells = []
    for row in rows:
        values = [Cell(form.format(row[key]) if key in row else EMPTY) for key, form in columns.values()]
        memory = Cell(f"{row['memory_bytes'] / GIB:.2f} GiB" if "memory_bytes" in row else EMPTY)
        cells.append([Cell(row["trial"]), *values, memory, Cell(row["verdict"])])
    return Table(["trial", *columns, "memory", ""], cells, frozenset() if any("mfu" in row for row in rows) else frozenset({"MFU"}))


def estimate_costs(config: RunConfig, measured: Measured | None) -> dict[str, float]:
    """Return what the whole run costs: hours, those of all devices, and the bytes of all checkpoints that are kept."""
    assert measured is not None
    hours = measured.run_s(config.optim.total_steps) / HOUR_S
    checkpoint = estimate_checkpoint_bytes(config, config.trainer.processes)
    return {
        "hours": hours,
        "device_hours": hours * config.trainer.processes,
        "checkpoint_bytes": checkpoint,
        "kept_bytes": checkpoint * (config.checkpoint.keep_last + 1),  # one more while it is written
    }


def print_choice(recipe: Path, overrides: Sequence[str], found: SearchResult, costs: dict[str, dict[str, float]]) -> None:
    """Print what the differences mean, what to use, and what the run costs."""
    measured = found.plain.trial.measured
    assert measured is not None
    if found.noise is not None:
        note(
            f"losses: of the first {len(measured.losses)} steps, as a share of the mean loss; another seed differs by "
            f"{found.noise:.1e}, and what differs by more is refused"
        )
    if found.spread > CALM:
        note(
            f"warning: the same steps took up to {found.spread:.2f} times as long in another trial, because other programs use "
            "this machine: only settings that are faster by more are used"
        )
    plain, chosen = costs["plain"], costs["chosen"]
    hours = f"{format_duration(HOUR_S * plain['hours'])} as it is"
    if found.chosen != found.plain:
        hours += f", {format_duration(HOUR_S * chosen['hours'])} with these settings"
    several = (
        f" ({format_duration(HOUR_S * chosen['device_hours'])} of all devices together)"
        if chosen["device_hours"] != chosen["hours"]
        else ""
    )
    note(f"the whole run takes about {hours}{several}")
    note(f"a checkpoint takes {chosen['checkpoint_bytes'] / GIB:.3g} GiB, all that are kept {chosen['kept_bytes'] / GIB:.3g} GiB")
    if not found.chosen.trial.overrides:
        print("use: the recipe as it is; nothing was faster by more than chance")
        return
    print(f"use: jepa pretrain {shlex.join([str(recipe), *overrides, *found.chosen.trial.overrides])}")
