"""`jepa doctor`: what can be wrong before a run begins, each with what was measured and what to do."""

import json
import os
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from jepa_pipeline.checks.data import check_data
from jepa_pipeline.checks.finding import Finding, as_finding, gravest, plural
from jepa_pipeline.checks.machine import check_machine
from jepa_pipeline.checks.ranks import check_ranks
from jepa_pipeline.checks.size import checkpoint_bytes
from jepa_pipeline.checks.slurm import check_slurm
from jepa_pipeline.checks.storage import check_storage
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.distributed import collect, rank, world_size
from jepa_pipeline.training.processes import World, code_hash, find_world, joined

STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def doctor(
    config: RunConfig | None, site: SiteConfig | None, *, folder: Path | None = None, quick: bool = False, as_json: bool = False
) -> list[Finding]:
    """Look at machine, storage, data and Slurm; under srun or torchrun also at what the processes have in common.

    config: a run, or None for machine and Slurm alone; site: what its jobs ask for; folder: to look at storage without a run;
    quick: fewer samples and bytes.

    Returns:
        The findings, alike on all processes. The first one prints them.

    Raises:
        UserError: the processes could not meet.
    """
    wanted = config.trainer.accelerator if config else "auto"
    device = "cuda" if torch.cuda.is_available() and wanted != "cpu" else "cpu"
    world = find_world(TrainerConfig(accelerator=wanted))
    with joined(world, device) as crew:
        cores = (crew.hosts[rank()], sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else available_cores())
        sharing = collect(cores).count(cores) if world.size > 1 else (config and config.trainer.devices) or 1
        ranks = planned(config, site, world)
        here = config if site is None or in_a_job() else None  # else it is another machine that the run is to fit
        findings = gravest(collect(check_machine(here, ranks, sharing)), crew.hosts)
        findings += collect(look_once(config, site, folder, ranks, quick) if rank() == 0 else None)[0]
        if world_size() > 1:
            findings += check_ranks(config, config.folder if config else folder, code_hash(), device)
    if world.rank == 0:
        print(as_text(findings)) if as_json else show(findings)
    return findings


def planned(config: RunConfig | None, site: SiteConfig | None, world: World) -> int:
    """Processes of the run: those that are here, or that the site or the recipe asks for."""
    if world.size > 1:
        return world.size
    if site is not None:
        return site.ranks
    return (config.trainer.devices or 1) * (config.trainer.nodes or 1) if config else 1


def in_a_job() -> bool:
    return "SLURM_JOB_ID" in os.environ


def look_once(config: RunConfig | None, site: SiteConfig | None, folder: Path | None, ranks: int, quick: bool) -> list[Finding]:
    """What one process sees for all: storage, data and Slurm."""
    findings, checkpoint, save_s = [], None, None
    if config is not None:
        try:
            checkpoint = checkpoint_bytes(config, ranks)
        except UserError as error:
            findings.append(as_finding("method", error))
    place = config.folder if config else folder
    if place is not None:
        disk = check_storage(place, config, checkpoint, quick)
        findings, save_s = [*findings, *disk.findings], disk.save_s
    if config is not None:
        findings += [check_processes(config, ranks), *check_data(config, quick)]
    return [*findings, *check_slurm(config, site, save_s)]


def check_processes(config: RunConfig, ranks: int) -> Finding:
    """Whether so many processes are those that the recipe asks for, and can share a batch."""
    try:
        if world_size() > 1:
            find_world(config.trainer)
        config.check_processes(ranks)
    except UserError as error:
        return as_finding("processes", error)
    except ValueError as error:
        return Finding("batch", "fail", str(error), "change optim.batch_size_global, or the number of devices")
    batch, parts = config.optim.batch_size_global, config.optim.accumulate_steps
    each = f"{batch // (ranks * parts):,} for each of {plural(ranks, 'rank')}"
    return Finding("batch", "ok", f"a global batch of {batch:,} is {each}{f', {parts} times a step' if parts > 1 else ''}")


def failed(findings: list[Finding]) -> bool:
    """Whether a run would not begin, or not end well."""
    return any(finding.level == "fail" for finding in findings)


def as_text(findings: list[Finding]) -> str:
    """One JSON object."""
    return json.dumps({"ok": not failed(findings), **counts(findings), "findings": [one._asdict() for one in findings]}, indent=1)


def counts(findings: list[Finding]) -> dict[str, int]:
    levels = [finding.level for finding in findings]
    return {"fine": levels.count("ok"), "warnings": levels.count("warn"), "failures": levels.count("fail")}


def show(findings: list[Finding]) -> None:
    """A table, and how many there are of each."""
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table("", "check", "what was found", "what to do", box=None, pad_edge=False)
    for name, level, text, cure in findings:
        table.add_row(level, name, text, cure, style=STYLES[level])
    console.print(table)
    fine, warnings, failures = counts(findings).values()
    console.print(f"{fine} fine, {plural(warnings, 'warning')}, {plural(failures, 'failure')}")
