"""`jepa pretrain`: from shards to an encoder."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import nn
from torch.utils.data import Dataset

from jepa_pipeline.checks.recipe import check_memory, check_packages, check_shared_memory, this_machine
from jepa_pipeline.checks.result import require
from jepa_pipeline.config.errors import Interrupted, UserError, disk_error, first_line, is_disk_error, is_out_of_memory
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import lasting_streams, note
from jepa_pipeline.data.dataset import TrainDataset
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.data.reading import name_slow
from jepa_pipeline.data.summary import print_lines
from jepa_pipeline.data.workers import chain_of, worker_died
from jepa_pipeline.distributed import barrier, rank, world_size
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.method import Method
from jepa_pipeline.redaction import redact
from jepa_pipeline.training.async_save import AsyncCheckpointWriter
from jepa_pipeline.training.callback_order import order_callbacks
from jepa_pipeline.training.callbacks import DataWaitTimer, HealthMonitor, MetricsLogger
from jepa_pipeline.training.checkpoint import State, is_finished_at, load_latest
from jepa_pipeline.training.checkpoint_callback import (
    CheckpointCallback,
    HeartbeatCallback,
    find_defect,
    restore,
    restore_callbacks,
    restore_encoder,
    sharded_targets,
)
from jepa_pipeline.training.collectives import raise_on_all_ranks, run_on_rank_zero, run_while_others_wait
from jepa_pipeline.training.end_of_run import print_summary
from jepa_pipeline.training.hashes import HashLogger
from jepa_pipeline.training.heartbeat import HASHING
from jepa_pipeline.training.init_from import initialize
from jepa_pipeline.training.launch import launch_processes
from jepa_pipeline.training.loggers import HASHES, MetricsWriter, WandbRun
from jepa_pipeline.training.memory import out_of_memory
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.online_eval import OnlineEval, check_online_eval
from jepa_pipeline.training.parallel import SHARDED, parallelize
from jepa_pipeline.training.parts import (
    Callback,
    Parts,
    Recipe,
    check_callbacks,
    configure,
    describe_limits,
    inherited_callbacks,
    objects_file,
)
from jepa_pipeline.training.processes import (
    RankInfo,
    Rendezvous,
    check_same_setup,
    process_group,
    read_rank_info,
    report_on_rank_zero,
    watch_processes,
)
from jepa_pipeline.training.progress import TrainingProgress
from jepa_pipeline.training.requeue import requeue_after_stop
from jepa_pipeline.training.restarts import report_restart
from jepa_pipeline.training.run_folder import check_same_run, lock_run_folder, write_run_files
from jepa_pipeline.training.setup import (
    build_card,
    build_checkpoint_info,
    check_view_sizes,
    choose_accelerator,
    compare_data,
    cure_for_waiting,
    describe_start,
    hash_data,
    limit_workers,
)
from jepa_pipeline.training.signals import InterruptedAlone, StopRequested, StopSignals
from jepa_pipeline.training.skipped_samples import SkippedSamples, describe_restart
from jepa_pipeline.training.trainer import build_trainer
from jepa_pipeline.training.watchdog import Watchdog


def pretrain(
    config: Recipe,
    console: Console | None = None,
    *,
    data: Dataset[Any] | Callable[..., Dataset[Any]] | None = None,
    encoder: Callable[..., nn.Module] | None = None,
    method: Callable[..., Method] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train a run to its end, from its last checkpoint if there is one.

    It runs in every process that torchrun or Slurm started. If nothing did but several are configured, it starts them here.

    Args:
        config: the configuration, or what `load_config` reads as one.
        console: where it prints; default: the terminal.
        data: a map-style data set of your own in place of data.train, or its class.
        encoder: the class of an encoder of your own (TokenNetwork, FeatureNetwork), or a partial of it; replaces method.encoder.
        method: the class of a method of your own, or a functools.partial of it, in place of method.
        callbacks: of Lightning, called between the steps of this run beside its own.

    Returns:
        The run folder: config.yaml, environment.json, metrics.jsonl, checkpoints and the encoder.

    Raises:
        UserError: shards, devices or the run folder do not fit the configuration, or a step was not finite.
        SystemExit: one of the processes started here failed, and has printed why.
    """
    with report_on_rank_zero():
        check_callbacks(callbacks)
        callbacks = [*callbacks, *inherited_callbacks()]
        config = configure(config, Parts(data, encoder, method))
        info = read_rank_info(config.trainer)
        try:
            config.check_processes(info.world_size)
        except ValueError as error:
            raise UserError(str(error)) from None
        memory = check_memory(config, this_machine(config, info.world_size, info.local_world_size))
        require([*check_packages(config), *memory, check_shared_memory(config, info.world_size, info.local_world_size)])
    accelerator = choose_accelerator(config.trainer.accelerator)
    if info.launcher is None and (info.world_size > 1 or config.trainer.restarts):
        hash_data(config.data, config.method)  # so that an error is printed once, before processes are started
        with objects_file(config, callbacks, info.world_size) as objects:
            code = launch_processes(config, info, objects)
        if code:
            raise SystemExit(code)
        return config.folder
    sharded = config.trainer.strategy in SHARDED  # which needs a process group even for a single process
    with lasting_streams():
        console = console or Console(quiet=info.rank > 0)
        with (
            process_group(info, accelerator, sharded, config.trainer.stuck_s) as processes,
            watch_processes(processes, config) as watchdog,
        ):
            train(config, processes, watchdog, accelerator, console, callbacks)
        if info.rank == 0:
            print_summary(config.folder, bool(config.method.mask_sets), console)
    return config.folder


def train(
    config: RunConfig,
    processes: Rendezvous,
    watchdog: Watchdog,
    accelerator: str,
    console: Console,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Check the data and the run folder, build the method, resume it and fit it, in every process of the run."""
    log, is_first = partial(note, console=console), processes.info.rank == 0
    with raise_on_all_ranks():
        data_hash = hash_data(config.data, config.method)
    check_same_setup(processes, config, data_hash)
    with raise_on_all_ranks():
        compare = partial(compare_data, config.data, log, partial(watchdog.set_stage, HASHING, 0))
        run_while_others_wait(compare if processes.info.local_rank == 0 else None)  # once on each machine
    run_info = build_checkpoint_info(config, data_hash, accelerator)
    with ExitStack() as stack:
        with raise_on_all_ranks(name_ranks=False):
            if is_first:
                stack.enter_context(lock_run_folder(config.folder, log))
                check_same_run(config.folder, run_info, log)
                check_online_eval(config.probing)
        run, total = config.folder, config.optim.total_steps
        finished = f"{run} is already finished at step {total}; nothing to do"
        if is_finished_at(run / "checkpoints", total) and not run_on_rank_zero(lambda: find_defect(run, total)):
            run_on_rank_zero(lambda: write_run_files(config, data_hash))
            log(finished)
            return
        restart = partial(describe_restart, config.folder / "checkpoints")
        stop = stack.enter_context(StopSignals(restart, watchdog.stacks, watchdog.report_error))
        stack.enter_context(stop.end_before_first_step())
        with raise_on_all_ranks():
            torch.manual_seed(config.seed)
            method = build_method(config.method)
            check_view_sizes(method, config.views.sizes(config.method.encoder.image_size))
            parallelize(method, config.trainer, accelerator, processes.info.local_world_size)
        module = Pretraining(method, config.optim, config.views, config.seed)
        optimizer_state = resume(config, module, log)
        if is_first:
            report_restart(config.folder, module.step, log)
        run_on_rank_zero(lambda: write_run_files(config, data_hash))
        card = build_card(config, method, data_hash)
        restore_encoder(run, module, card, log)
        if module.step == total:
            log(f"{finished} beyond that")
            return
        for sentence in (*describe_limits(config), describe_start(config, module, processes, accelerator)):
            log(sentence)
        checkpoint_writer = AsyncCheckpointWriter(config.folder / "checkpoints", config.checkpoint, log)
        checkpoints = CheckpointCallback(checkpoint_writer, card, run_info, optimizer_state, stop, watchdog)
        try:
            fit(config, module, checkpoints, processes.info, accelerator, console, callbacks)
        except InterruptedAlone:
            raise
        except Interrupted:
            if is_first and stop.received is not None:
                requeue_after_stop(config.folder, stop.received.name, checkpoints.resume_step(module), log)
            watchdog.set_stage("end", module.step)
            barrier()  # Slurm takes a job whose processes have ended for finished, so they wait until it is requeued
            raise


def resume(config: RunConfig, module: Pretraining, log: Callable[[str], None]) -> list[State]:
    """Load the last checkpoint of the run into the module, else what init_from names, if anything.

    Returns:
        The optimizer's state, in a list from which it is removed when it is loaded, so that it does not stay in memory; or an
        empty list.
    """
    like = sharded_targets(module)
    loaded = load_latest(config.folder / "checkpoints", log, like)
    if loaded is not None:
        return [restore(module, loaded)]
    if config.init_from is None:
        return []
    return initialize(module, config.init_from, config, log, like)


def fit(
    config: RunConfig,
    module: Pretraining,
    checkpoints: CheckpointCallback,
    info: RankInfo,
    accelerator: str,
    console: Console,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train from the module's step to the last one, on this process's share of the stream."""
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    log, data = partial(note, console=console), limit_workers(config, info, partial(note, console=console))
    progress = TrainingProgress(console, checkpoints.watchdog.began_s, cure_for_waiting(config, data.workers, info))
    loader = train_loader(
        data,
        config.views,
        config.method,
        build_mask_samplers(config.method),
        build_batch_sampler(config.optim, rank(), world_size(), module.samples),
        seed=config.seed,
        pin_memory=accelerator == "cuda",
        crop_on_device=config.views.on_trainer(accelerator) and config.method.encoder.modality.cropped_on_device,
    )
    run, every_steps = config.folder, config.log.every_steps
    sources = [redact(source.path) for source in config.data.train]
    wandb = None
    if config.log.wandb and rank() == 0:
        wandb = WandbRun(run, config.name, config.log.wandb_project, config.model_dump(mode="json"))
    writer, timer = MetricsWriter(run / "metrics.jsonl", module.step, wandb), DataWaitTimer()
    skipped = SkippedSamples(run, sources, config.data.damage.limit, every_steps, console, checkpoints.writer.wait)
    checkpoints.before_save.append(skipped.report)
    hashes_every = config.log.hashes_every_steps
    ordered = order_callbacks(
        skipped,
        HealthMonitor(writer, config.health.every_steps),
        MetricsLogger(writer, cast(TrainDataset, loader.dataset).mixture, sources, timer, progress, every_steps),
        HashLogger(run / HASHES, hashes_every) if hashes_every else None,
        OnlineEval(config.probing, run, checkpoints.card, log) if config.probing.every_steps else None,
        checkpoints,
        HeartbeatCallback(checkpoints.watchdog),
        timer,
        others=restore_callbacks(callbacks, module),
    )
    steps = config.optim.total_steps - module.step
    trainer = build_trainer(config.trainer, accelerator, info, steps, config.optim.accumulate_steps, ordered, log)
    checkpoints.watchdog.describe_reading = loader.reading.describe
    slow_samples = name_slow(loader.reading, config.data.damage.slow_s, lambda sentence: print_lines([sentence]))
    with closing(writer), checkpoints, slow_samples:
        try:
            trainer.fit(module, loader)
            checkpoints.save_early_end(module)
        except StopRequested:  # raised by a signal while the loop waited for data between two steps
            raise checkpoints.save_and_interrupt(module) from None
        except (RuntimeError, OSError, EOFError, MemoryError) as last:
            error = next(filter(worker_died, chain_of(last)), last)
            if is_out_of_memory(error):
                raise out_of_memory(config, f"in step {module.step + 1}") from error
            if not worker_died(error) and not is_disk_error(error):
                raise
            if world_size() == 1:
                checkpoints.writer.wait()  # so that the error can name the checkpoint that is being written
            restart = describe_restart(run / "checkpoints")
            if isinstance(error, OSError) and is_disk_error(error):
                raise disk_error(error, kept=restart) from error
            raise UserError(
                f"a data worker died after step {module.step} ({first_line(error)}), probably for lack of memory or "
                f"/dev/shm: lower data.workers or data.prefetch_batches; {restart}"
            ) from error
