"""`jepa doctor`: check what could stop a run before it begins; each result has a measurement and a cure."""

import json
import os
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from jepa_pipeline.checks.checkpoint_size import estimate_checkpoint_bytes
from jepa_pipeline.checks.data import check_data
from jepa_pipeline.checks.duration import check_duration
from jepa_pipeline.checks.machine import check_machine
from jepa_pipeline.checks.ranks import check_ranks
from jepa_pipeline.checks.recipe import check_memory, check_recipe, this_machine
from jepa_pipeline.checks.result import CheckResult, from_error, merge_ranks, pluralize
from jepa_pipeline.checks.slurm import check_slurm
from jepa_pipeline.checks.storage import check_storage
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.distributed import all_gather_object, rank, world_size
from jepa_pipeline.training.processes import RankInfo, code_hash, process_group, read_rank_info

STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def doctor(
    config: RunConfig | None,
    site: SiteConfig | None,
    *,
    folder: Path | None = None,
    quick: bool = False,
    timed: bool = False,
    as_json: bool = False,
) -> list[CheckResult]:
    """Check machine, storage, data and Slurm; under srun or torchrun also compare the ranks. Rank 0 prints the results.

    Args:
        config: the run; None: check only the machine and Slurm.
        site: the resources that jobs request.
        folder: check the storage there, if there is no run.
        quick: use fewer samples and bytes.
        timed: also estimate from timed steps how long the run takes; not in several processes.
        as_json: print one JSON object instead of a table.

    Returns:
        The results, the same on all ranks.

    Raises:
        UserError: the ranks could not form a process group.
    """
    accelerator = config.trainer.accelerator if config else "auto"
    device = "cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu"
    info = read_rank_info(TrainerConfig(accelerator=accelerator))
    with process_group(info, device) as processes:
        local_ranks = (config and config.trainer.devices) or 1
        if info.world_size > 1:
            # ranks with equal hosts and cores share them
            affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else available_cores()
            cores = (processes.hosts[rank()], affinity)
            local_ranks = all_gather_object(cores).count(cores)
        ranks = count_ranks(config, site, info)
        # with a site and outside a job, this is not the machine that the run needs to fit
        runs_here = site is None or "SLURM_JOB_ID" in os.environ
        machine = check_machine(config if runs_here else None, ranks, local_ranks)
        results = merge_ranks(all_gather_object(machine), processes.hosts)
        results += check_memory(config, this_machine(config, ranks, local_ranks)) if config and runs_here else []
        results += all_gather_object(check_once(config, site, folder, ranks, quick) if rank() == 0 else None)[0]
        if timed and config is not None and world_size() == 1 and not failed(results):
            results += check_duration(config)
        if world_size() > 1:
            results += check_ranks(config, config.folder if config else folder, code_hash(), device)
    if info.rank == 0:
        print(to_json(results)) if as_json else print_results(results)
    return results


def count_ranks(config: RunConfig | None, site: SiteConfig | None, info: RankInfo) -> int:
    """Return the number of ranks of the run: those of this process group, else those of the site or the recipe."""
    if info.world_size > 1:
        return info.world_size
    if site is not None:
        return site.ranks
    return config.trainer.processes if config else 1


def check_once(
    config: RunConfig | None, site: SiteConfig | None, folder: Path | None, ranks: int, quick: bool
) -> list[CheckResult]:
    """Check what is the same for all ranks: storage, data and Slurm."""
    results, checkpoint_bytes, save_s = [], None, None
    if config is not None:
        try:
            checkpoint_bytes = estimate_checkpoint_bytes(config, ranks)
        except UserError as error:
            results.append(from_error("method", error))
    run_folder = config.folder if config else folder
    if run_folder is not None:
        storage = check_storage(run_folder, config.checkpoint if config else None, checkpoint_bytes, quick)
        results, save_s = [*results, *storage.results], storage.save_s
    if config is not None:
        results += [check_batch(config, ranks), *check_recipe(config), *check_data(config, quick)]
    return [*results, *check_slurm(config, site, save_s)]


def check_batch(config: RunConfig, ranks: int) -> CheckResult:
    """Check that the recipe's processes are the ones that run, and that they can share a global batch."""
    try:
        if world_size() > 1:
            read_rank_info(config.trainer)
        config.check_processes(ranks)
    except UserError as error:
        return from_error("processes", error)
    except ValueError as error:
        return CheckResult("batch", "fail", str(error), "change optim.batch_size_global, or the number of devices")
    batch, parts = config.optim.batch_size_global, config.optim.accumulate_steps
    share = f"{batch // (ranks * parts):,} for each of {pluralize(ranks, 'rank')}"
    return CheckResult("batch", "ok", f"a global batch of {batch:,} is {share}{f', {parts} times a step' if parts > 1 else ''}")


def failed(results: list[CheckResult]) -> bool:
    """Return whether a check failed, so that the run would not begin or not end well."""
    return any(result.level == "fail" for result in results)


def to_json(results: list[CheckResult]) -> str:
    findings = [result._asdict() for result in results]
    return json.dumps({"ok": not failed(results), **count_levels(results), "findings": findings}, indent=1)


def count_levels(results: list[CheckResult]) -> dict[str, int]:
    levels = [result.level for result in results]
    return {"fine": levels.count("ok"), "warnings": levels.count("warn"), "failures": levels.count("fail")}


def print_results(results: list[CheckResult]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table("", "check", "result", "what to do", box=None, pad_edge=False)
    for name, level, text, cure in results:
        table.add_row(level, name, text, cure, style=STYLES[level])
    console.print(table)
    fine, warnings, failures = count_levels(results).values()
    console.print(f"{fine} ok, {pluralize(warnings, 'warning')}, {pluralize(failures, 'failure')}")
