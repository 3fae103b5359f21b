"""`jepa pretrain`: from shards to an encoder."""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import cast

import torch
from rich.console import Console
from rich.table import Table

from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.config.jepa import JepaConfig
from jepa_pipeline.config.methods import JointEmbeddingConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import SampleStream
from jepa_pipeline.data.loader import train_loader
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.data.media import check_kind, check_moves
from jepa_pipeline.distributed import barrier, rank, world_size
from jepa_pipeline.masks.build import method_masks
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.training.async_save import Saver
from jepa_pipeline.training.callbacks import DataClock, HealthMeter, Meter
from jepa_pipeline.training.checkpoint import About, State, ends_at, load_last
from jepa_pipeline.training.checkpoint_callback import Checkpoints, Stages, places, restore
from jepa_pipeline.training.hashes import Hashes
from jepa_pipeline.training.init_from import begin_from, read_beginning
from jepa_pipeline.training.launch import start_here
from jepa_pipeline.training.loggers import RunLog, read_rows
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.online_eval import ProbeJobs, check_probing
from jepa_pipeline.training.parallel import SHARDED, parallelize
from jepa_pipeline.training.processes import Crew, check_agreement, find_world, joined, one_speaks, together, watched
from jepa_pipeline.training.requeue import requeue_after_stop
from jepa_pipeline.training.run_folder import check_folder, claimed, describe_run
from jepa_pipeline.training.signals import Stop, StopSignals
from jepa_pipeline.training.skipped_samples import DamageReport, continuation
from jepa_pipeline.training.trainer import build_trainer
from jepa_pipeline.training.watchdog import Watch
from jepa_pipeline.version import __version__


def pretrain(config: RunConfig, console: Console | None = None) -> Path:
    """Run a configuration to its end, from the last checkpoint if its run folder holds one.

    One of the processes that torchrun or Slurm started does its share. Where nobody did and there are to be several, they are
    started here.

    Returns:
        The run folder: resolved config, environment, metrics.jsonl, checkpoints and the encoder to keep.

    Raises:
        UserError: the shards, the devices or the run folder do not allow it, or a step was not finite.
        SystemExit: one of the processes started here failed, and has said why.
    """
    with one_speaks():
        world = find_world(config.trainer)
        try:
            config.check_processes(world.size)
        except ValueError as error:
            raise UserError(str(error)) from None
    accelerator = choose_accelerator(config)
    if world.started_by == "hand" and world.size > 1:
        name_data(config)  # what is wrong with it is said once, before anything is started
        if code := start_here(config, world):
            raise SystemExit(code)
        return config.folder
    console = console or Console(quiet=world.rank > 0)
    alone = config.trainer.strategy in SHARDED
    with joined(world, accelerator, alone, config.trainer.stuck_s) as crew, watched(crew, config) as watch:
        train(config, crew, watch, accelerator, console)
    if world.rank == 0:
        summarize(config, console)
    return config.folder


def train(config: RunConfig, crew: Crew, watch: Watch, accelerator: str, console: Console) -> None:
    """This process's share of a run."""
    first, tell = crew.world.rank == 0, partial(say, console)
    with together():
        data = name_data(config)
    check_agreement(crew, config, data)
    with ExitStack() as stack:
        with together(named=False):
            if first:
                stack.enter_context(claimed(config))
                check_folder(config, data, accelerator, tell)
                check_probing(config.probing)
        if ends_at(config.folder / "checkpoints", config.optim.total_steps):
            with together(named=False):
                if first:
                    describe_run(config, data)
            tell(f"{config.folder}: finished before, at step {config.optim.total_steps}; nothing to do")
            return
        stop = stack.enter_context(StopSignals(config.checkpoint.leave_within_s))
        with together():
            torch.manual_seed(config.seed)
            method = prepare(build_method(config.method), config, accelerator, crew.world.local_size)
        module = Pretraining(config, method)
        moments = begin(module, tell)
        with together(named=False):
            if first:
                describe_run(config, data)
        introduce(module, crew, accelerator, tell)
        saver = Saver(config.folder / "checkpoints", config.checkpoint, tell)
        card, about = make_card(module, data), make_about(config, data, accelerator)
        checkpoints = Checkpoints(saver, card, about, moments, stop, watch)
        try:
            fit(module, checkpoints, crew, accelerator, console)
        except Interrupted:
            if first and stop.asked is not None:
                requeue_after_stop(config.folder, stop.asked.name, module.step, tell)
            watch.at("end", module.step)
            barrier()  # they end only when the job is on its way back, or Slurm would take it for ended
            raise


def begin(module: Pretraining, tell: Callable[[str], None]) -> list[State]:
    """Put into the module what it begins with; the optimizer's state in a list, out of which it is to be taken, or an empty one."""
    like, config = places(module), module.config
    loaded = load_last(config.folder / "checkpoints", tell, like)
    if loaded is not None:
        return [restore(module, loaded)]
    return [] if config.init_from is None else [begin_from(module, config.init_from, tell, like)]


def introduce(module: Pretraining, crew: Crew, accelerator: str, tell: Callable[[str], None]) -> None:
    """Say what begins."""
    config, optim, size = module.config, module.config.optim, crew.world.size
    steps = f"from step {module.step} (sample {module.samples:,}) to {optim.total_steps}"
    strategy = "ddp" if config.trainer.strategy == "auto" else config.trainer.strategy
    machines = len(set(crew.hosts))
    where = f"{accelerator} x {size} ({strategy}{f', {machines} machines' * (machines > 1)})" if size > 1 else accelerator
    tell(f"{config.folder}: {steps} on {where}, {config.trainer.precision}, {optim.describe_rate()}")
    if optim.accumulate_steps > 1 and isinstance(config.method, JointEmbeddingConfig):
        seen = optim.batch_size_global // optim.accumulate_steps
        tell(f"{config.method.name} and batch norm see {seen} images at a time, a part of a batch: this is another loss")


def choose_accelerator(config: RunConfig) -> str:
    """The device asked for, if it is there."""
    wanted, available = config.trainer.accelerator, torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("trainer.accelerator is cuda, but torch finds no CUDA device: set it to auto or cpu")
    if wanted == "auto" and not available and (given := os.environ.get("SLURM_GPUS_ON_NODE") or os.environ.get("SLURM_JOB_GPUS")):
        raise UserError(
            f"Slurm gave this job GPUs ({given}), but torch {torch.__version__} finds no CUDA device: have the site's setup load "
            "what is missing, or set trainer.accelerator=cpu to train on CPUs all the same"
        )
    return "cuda" if available and wanted != "cpu" else "cpu"


def prepare(method: Method, config: RunConfig, accelerator: str, local_size: int) -> Method:
    """The method with its networks spread over the devices.

    Raises:
        UserError: the encoder does not take a view of a size that views.crops makes.
    """
    if isinstance(method.kept_encoder, Backbone):
        for side in set(config.views.sizes(config.method.encoder.image_size)):
            try:
                method.kept_encoder.try_size(side)
            except UserError as error:
                raise UserError(f"views.crops makes views of {side} pixels, but {error}") from None
    return parallelize(method, config.trainer, accelerator, local_size)


def name_data(config: RunConfig) -> str:
    """The hash of the data set; of a mixture, the hashes with their weights.

    Raises:
        UserError: one of them is no whole data set, or holds what the run cannot learn from.
    """
    manifests = [load_manifest(source.path) for source in config.data.train]
    for source, manifest in zip(config.data.train, manifests, strict=True):
        check_kind(source.path, manifest.kind, config)
    check_moves([manifest.kind for manifest in manifests], config)
    hashes = [manifest.hash() for manifest in manifests]
    if len(hashes) == 1:
        return hashes[0]
    return " + ".join(f"{source.weight} x {name}" for source, name in zip(config.data.train, hashes, strict=True))


def make_card(module: Pretraining, data: str) -> EncoderCard:
    config, begun = module.config, read_beginning(module.config.folder)
    return EncoderCard(
        encoder=module.method.kept_encoder.config,
        clip=config.views.clip if isinstance(config.method.encoder, EncoderConfig) and config.method.encoder.clips else None,
        mean=config.views.mean,
        std=config.views.std,
        begun_from=None if begun is None else f"{begun.path} ({begun.samples:,} samples, SHA-256 {begun.sha256[:12]})",
        name=config.name,
        method=config.method.name,
        kept=module.method.kept,
        step=0,
        samples=0,
        config_hash=config.hash(),
        data_hash=data,
        version=__version__,
    )


def make_about(config: RunConfig, data: str, accelerator: str) -> About:
    return About(
        step=0,
        samples=0,
        version=__version__,
        torch=torch.__version__,
        device=accelerator,
        data=data,
        config_hash=config.hash(),
        results=config.results(),
    )


def fit(module: Pretraining, checkpoints: Checkpoints, crew: Crew, accelerator: str, console: Console) -> None:
    """Lightning's loop over this process's share of the stream, from the module's step to the last."""
    config = module.config
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    masks, encoder = method_masks(config.method), config.method.encoder
    clips = isinstance(encoder, EncoderConfig) and encoder.clips
    uncut = config.views.on_trainer(accelerator) and not clips
    deal = {"start_samples": module.samples, "rank": rank(), "world_size": world_size()}
    loader = train_loader(config, masks, **deal, uncut=uncut, pin_memory=accelerator == "cuda")
    log, clock, damage = RunLog(config, module.step), DataClock(), DamageReport(console, checkpoints.saver.settle)
    checkpoints.before_save.append(damage.tell)
    callbacks = [
        damage,
        HealthMeter(log),
        Meter(log, cast(SampleStream, loader.dataset).mixture, clock, console),
        *([Hashes(config.log.hashes_every_steps)] if config.log.hashes_every_steps else []),
        *([ProbeJobs(checkpoints.card, partial(say, console))] if config.probing.every_steps else []),
        checkpoints,
        Stages(checkpoints.watch),
        clock,
    ]
    trainer = build_trainer(config, accelerator, crew.world, config.optim.total_steps - module.step, callbacks)
    with closing(log), checkpoints:
        try:
            trainer.fit(module, loader)
        except Stop:  # while it waited for data between two steps
            raise checkpoints.leave(module) from None
        except (RuntimeError, OSError, EOFError) as error:
            if not worker_died(error):
                raise
            if world_size() == 1:
                checkpoints.saver.settle()  # so that it can be named
            raise UserError(
                f"a decoding process died after step {module.step} ({str(error).splitlines()[0]}), mostly for want of memory or of "
                f"/dev/shm: lower data.workers or data.prefetch_batches; {continuation(config)}"
            ) from error


def worker_died(error: Exception) -> bool:
    """Whether torch's loader lost a process, which it says in several ways; errors raised inside one start with "Caught"."""
    text = str(error)
    if text.startswith("Caught "):
        return "in pin memory thread" in text
    return "DataLoader worker" in text or any(frame.name == "_try_get_data" for frame in extract_tb(error.__traceback__))


def summarize(config: RunConfig, console: Console) -> None:
    """What came of it, where it lies and what to do next."""
    last: dict[str, float | int] = {}
    for row in read_rows(config.folder / "metrics.jsonl"):
        last |= row
    table = Table(title=f"run {config.name}", show_header=False)
    shown = {
        "step": "optimizer steps",
        "samples": "samples seen",
        "seconds": "seconds",
        "samples_per_s": "samples/s",
        "skipped_samples": "samples skipped as damaged",
        "data_wait_share": "share of time waiting for data",
        "loss": "loss",
        **({"health/predictor_r2": "1 - error / error of the best constant"} if isinstance(config.method, JepaConfig) else {}),
        "health/target_rankme": "effective rank of the targets",
        "health/feature_rankme": "effective rank of the features",
    }
    for key, label in shown.items():
        if key in last:
            table.add_row(label, f"{last[key]:,.4g}" if isinstance(last[key], float) else f"{last[key]:,}")
    console.print(table)
    say(console, f"encoder: {config.folder / 'encoder'}\nnext:    jepa probe {config.folder} --data SHARDS")


def say(console: Console, text: str) -> None:
    """Print paths as they are: neither wrapped nor read as markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
