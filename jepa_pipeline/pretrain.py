"""`jepa pretrain`: from shards to an encoder."""

from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import cast

import torch
from rich.console import Console
from rich.table import Table

import jepa_pipeline
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.jepa import JepaConfig
from jepa_pipeline.config.methods import JointEmbeddingConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.collate import SampleStream
from jepa_pipeline.data.loader import check_kind, train_loader
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.distributed import world_size
from jepa_pipeline.masks.build import method_masks
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.attention import use_attention
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.batch_norm import sync_batch_norm
from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.training.beginning import begin_from, read_beginning
from jepa_pipeline.training.callbacks import Checkpoints, DataClock, HealthMeter, Meter
from jepa_pipeline.training.checkpoint import About, State, load_last
from jepa_pipeline.training.damage import DamageReport, continuation
from jepa_pipeline.training.folder import check_folder, claimed, describe_run
from jepa_pipeline.training.hashes import Hashes
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.signals import Stop, StopSignals
from jepa_pipeline.training.tracker import RunLog, read_rows
from jepa_pipeline.training.trainer import build_trainer


def pretrain(config: RunConfig, console: Console | None = None) -> Path:
    """Run a configuration to its end, from the last checkpoint if its run folder holds one.

    Returns:
        The run folder: resolved config, environment, metrics.jsonl, checkpoints and the encoder to keep.

    Raises:
        UserError: the shards, the device or the run folder do not allow it, or a step was not finite.
    """
    console = console or Console()
    data = name_data(config)
    accelerator = choose_accelerator(config)
    with claimed(config), StopSignals(config.checkpoint.leave_within_s) as stop:
        check_folder(config, data, accelerator, tell=partial(say, console))
        torch.manual_seed(config.seed)
        module = Pretraining(config, prepare(build_method(config.method), config, accelerator))
        optimizer_state = restore(module, console)
        if optimizer_state is None and config.init_from is not None:
            optimizer_state = begin_from(module, config.init_from, tell=partial(say, console))
        describe_run(config, data)
        if module.step < config.optim.total_steps:
            steps = f"from step {module.step} (sample {module.samples:,}) to {config.optim.total_steps}"
            say(console, f"{config.folder}: {steps} on {accelerator}, {config.trainer.precision}, {config.optim.describe_rate()}")
            if config.optim.accumulate_steps > 1 and isinstance(config.method, JointEmbeddingConfig):
                seen = config.optim.batch_size_global // config.optim.accumulate_steps
                say(
                    console,
                    f"{config.method.name} and batch norm see {seen} images at a time, a part of a batch: this is another loss",
                )
            checkpoints = Checkpoints(make_card(module, data), make_about(config, data, accelerator), optimizer_state, stop)
            fit(module, checkpoints, accelerator, console)
        else:
            say(console, f"{config.folder}: finished before, at step {module.step}; nothing to do")
    summarise(config, console)
    return config.folder


def choose_accelerator(config: RunConfig) -> str:
    """The device asked for, if it is there."""
    wanted, available = config.trainer.accelerator, torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("trainer.accelerator is cuda, but torch finds no CUDA device: set it to auto or cpu")
    if config.trainer.devices > 1:
        raise UserError(f"trainer.devices is {config.trainer.devices}: this version trains on one device")
    return "cuda" if available and wanted != "cpu" else "cpu"


def prepare(method: Method, config: RunConfig, accelerator: str) -> Method:
    """What is done to the networks before they train: batch norm over all processes, how attention is computed, compilation.

    Raises:
        UserError: the encoder does not take a view of a size that views.crops makes.
    """
    if isinstance(method.kept_encoder, Backbone):
        for side in set(config.views.sizes(config.method.encoder.image_size)):
            try:
                method.kept_encoder.try_size(side)
            except UserError as error:
                raise UserError(f"views.crops makes views of {side} pixels, but {error}") from None
    if world_size() > 1:
        sync_batch_norm(method)
    use_attention(method, fused=accelerator != "cpu")
    if config.trainer.compile:
        for network in method.children():
            if next(network.parameters(), None) is not None:
                network.compile()
    return method


def name_data(config: RunConfig) -> str:
    """The hash of the data set; of a mixture, the hashes with their weights.

    Raises:
        UserError: one of them is no whole data set, or holds videos for an encoder of images.
    """
    manifests = [load_manifest(source.path) for source in config.data.train]
    for source, manifest in zip(config.data.train, manifests, strict=True):
        check_kind(source.path, manifest.kind, config)
    hashes = [manifest.hash() for manifest in manifests]
    if len(hashes) == 1:
        return hashes[0]
    return " + ".join(f"{source.weight} x {name}" for source, name in zip(config.data.train, hashes, strict=True))


def restore(module: Pretraining, console: Console) -> State | None:
    """Put the newest whole checkpoint into the module; the optimiser's state is returned for when there is one."""
    loaded = load_last(module.config.folder / "checkpoints", tell=partial(say, console))
    if loaded is None:
        return None
    module.load_state_dict(loaded.state["module"], strict=True)
    module.step = loaded.state["step"]
    return loaded.state["optimizer"]


def make_card(module: Pretraining, data: str) -> EncoderCard:
    config, begun = module.config, read_beginning(module.config.folder)
    return EncoderCard(
        encoder=config.method.encoder,
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
        version=jepa_pipeline.__version__,
    )


def make_about(config: RunConfig, data: str, accelerator: str) -> About:
    return About(
        step=0,
        samples=0,
        version=jepa_pipeline.__version__,
        torch=torch.__version__,
        device=accelerator,
        data=data,
        config_hash=config.hash(),
        results=config.results(),
    )


def fit(module: Pretraining, checkpoints: Checkpoints, accelerator: str, console: Console) -> None:
    """Lightning's loop over the stream, from the module's step to the last."""
    config = module.config
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    masks, encoder = method_masks(config.method), config.method.encoder
    clips = isinstance(encoder, EncoderConfig) and encoder.clips
    uncut = config.views.on_trainer(accelerator) and not clips
    loader = train_loader(config, masks, start_samples=module.samples, uncut=uncut, pin_memory=accelerator == "cuda")
    log, clock = RunLog(config, module.step), DataClock()
    callbacks = [
        DamageReport(console),
        HealthMeter(log),
        Meter(log, cast(SampleStream, loader.dataset).mixture, clock, console),
        *([Hashes(config.log.hashes_every_steps)] if config.log.hashes_every_steps else []),
        checkpoints,
        clock,
    ]
    trainer = build_trainer(config, accelerator, config.optim.total_steps - module.step, callbacks)
    try:
        trainer.fit(module, loader)
    except Stop:  # while it waited for data between two steps
        raise checkpoints.leave(module) from None
    except (RuntimeError, OSError, EOFError) as error:
        if not worker_died(error):
            raise
        raise UserError(
            f"a decoding process died after step {module.step} ({str(error).splitlines()[0]}), mostly for want of memory or of "
            f"/dev/shm: lower data.workers or data.prefetch_batches; {continuation(config)}"
        ) from error
    finally:
        log.close()


def worker_died(error: Exception) -> bool:
    """Whether torch's loader lost a process, which it says in several ways; errors raised inside one start with "Caught"."""
    text = str(error)
    if text.startswith("Caught "):
        return "in pin memory thread" in text
    return "DataLoader worker" in text or any(frame.name == "_try_get_data" for frame in extract_tb(error.__traceback__))


def summarise(config: RunConfig, console: Console) -> None:
    """What came of it, where it lies and what to do next."""
    last: dict[str, float | int] = {}
    for row in read_rows(config.folder / "metrics.jsonl"):
        last |= row
    table = Table(title=f"run {config.name}", show_header=False)
    shown = {
        "step": "optimiser steps",
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
