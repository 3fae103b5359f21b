"""Checks and descriptions of a run that are made before its first step."""

import os
from collections.abc import Callable, Sequence

import torch

from jepa_pipeline.config.data import DataConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.custom import source_manifest
from jepa_pipeline.data.local_files import describe_unhashed, require_files
from jepa_pipeline.data.manifest import read_manifest
from jepa_pipeline.data.media import check_kind, check_motion, check_stored
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.worker_pool import available_cores, count_workers
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.redaction import redact
from jepa_pipeline.training.begun_from import read_initial_checkpoint
from jepa_pipeline.training.checkpoint import CheckpointInfo
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.processes import RankInfo, Rendezvous
from jepa_pipeline.version import __version__


def choose_accelerator(wanted: str) -> str:
    """Return `cpu` or `cuda` for trainer.accelerator.

    Raises:
        UserError: CUDA is set, or given by Slurm, but torch finds no device.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("trainer.accelerator is cuda, but torch finds no CUDA device: set it to auto or cpu")
    if wanted == "auto" and not available and (given := os.environ.get("SLURM_GPUS_ON_NODE") or os.environ.get("SLURM_JOB_GPUS")):
        raise UserError(
            f"Slurm gave this job GPUs ({given}), but torch {torch.__version__} finds no CUDA device: load the missing modules in "
            "the site's setup, or set trainer.accelerator=cpu to train on CPUs anyway"
        )
    return "cuda" if available and wanted != "cpu" else "cpu"


def hash_data(data: DataConfig, method: MethodConfig) -> str:
    """Check the manifests of the training data and return their hash; for a mixture, the hashes with their weights.

    Raises:
        UserError: a data set is incomplete or has a shard of another size, or the method cannot be trained on it.
    """
    manifests = [source_manifest(source, data) for source in data.train]
    for source, manifest in zip(data.train, manifests, strict=True):
        check_kind(source.path, manifest.kind, method)
        check_stored(source.path, manifest, data.pixel_format)
        if source.class_path is None:
            require_files(source.path, manifest)
    check_motion([manifest.kind for manifest in manifests], method)
    hashes = [manifest.hash() for manifest in manifests]
    if len(hashes) == 1:
        return hashes[0]
    return " + ".join(f"{source.weight} x {name}" for source, name in zip(data.train, hashes, strict=True))


def compare_data(data: DataConfig, log: Callable[[str], object], progress: Callable[[], object]) -> None:
    """Compare all local shards with their manifests by SHA-256 if data.check_hashes is on; say what no manifest can tell.

    Args:
        data: of the run.
        log: prints a sentence.
        progress: called after each shard.

    Raises:
        UserError: a shard or index is another one.
    """
    for source in data.train:
        if source.class_path is not None:
            continue  # it was compared by its hash
        manifest = read_manifest(source.path)
        for sentence in describe_unhashed(source.path, manifest):
            log(sentence)
        if data.check_hashes:
            log(f"comparing all shards of {redact(source.path)} with the SHA-256 of their manifest")
            require_files(source.path, manifest, hashes=True, progress=progress)


def limit_workers(config: RunConfig, info: RankInfo, log: Callable[[str], object]) -> DataConfig:
    """Return the data of a run with no more workers than there are cores for this process; log: is told if they are fewer."""
    return config.data.model_copy(update={"workers": count_workers(config.data.workers, processes_on_cores(info), log)})


def processes_on_cores(info: RankInfo) -> int:
    """Return how many processes share the cores that this one may use: one where srun gives each its own."""
    on_node = os.environ.get("SLURM_CPUS_ON_NODE", "")
    own = "SLURM_CPUS_PER_TASK" in os.environ or (on_node.isdecimal() and available_cores() < int(on_node))
    return 1 if info.launcher == "Slurm" and own else info.local_world_size


def cure_for_waiting(config: RunConfig, workers: int, info: RankInfo) -> str:
    """Return what helps a run that waits for its data, with this number of workers."""
    if any(is_remote(source.path) for source in config.data.train):
        return "copy the shards to a disk of this machine, or raise data.cache.limit_gb so that they stay in the cache"
    unit = config.method.encoder.modality.unit
    smaller = f"store smaller {unit} (`jepa shards build --size`)"
    most = available_cores() // processes_on_cores(info)
    if workers < most:
        return f"raise data.workers ({workers} now, {most} cores), or {smaller}"
    return f"{smaller}, or give the run more cores: each of the {most} has a data worker already"


def check_view_sizes(method: Method, sizes: Sequence[int]) -> None:
    """Check that the encoder accepts views of all sizes, in pixels.

    Raises:
        UserError: it does not.
    """
    for side in set(sizes):
        try:
            method.encoder_to_export.check_image_size(side)
        except UserError as error:
            raise UserError(f"views.crops makes views of {side} pixels, but {error}") from None


def build_checkpoint_info(config: RunConfig, data_hash: str, accelerator: str) -> CheckpointInfo:
    """Return the description of the run that its checkpoints contain, at step 0."""
    return CheckpointInfo(
        step=0,
        samples=0,
        version=__version__,
        torch=torch.__version__,
        device=accelerator,
        data=data_hash,
        config_hash=config.hash(),
        results=config.results(),
    )


def build_card(config: RunConfig, method: Method, data_hash: str) -> EncoderCard:
    """Return the card of the encoder that the run exports, at step 0."""
    initial = read_initial_checkpoint(config.folder)
    return EncoderCard(
        encoder=method.encoder_to_export.config,
        clip=config.views.clip if config.method.encoder.modality.has_time else None,
        mean=config.views.mean,
        std=config.views.std,
        bits=config.data.pixel_format.bits,
        begun_from=initial and initial.describe(),
        name=config.name,
        method=config.method.name,
        kept=method.export_kind,
        step=0,
        samples=0,
        config_hash=config.hash(),
        data_hash=data_hash,
        version=__version__,
    )


def describe_start(config: RunConfig, module: Pretraining, processes: Rendezvous, accelerator: str) -> str:
    """Return a sentence on where the run starts, on which devices, in which precision and at which rate."""
    optim, size = config.optim, processes.info.world_size
    devices = accelerator
    if size > 1:
        strategy = "ddp" if config.trainer.strategy == "auto" else config.trainer.strategy
        machines = len(set(processes.hosts))
        devices = f"{accelerator} x {size} ({strategy}{f', {machines} machines' if machines > 1 else ''})"
    steps = f"from step {module.step} (sample {module.samples:,}) to {optim.total_steps}"
    text = f"{config.folder}: {steps} on {devices}, {config.trainer.precision}, {optim.describe_lr()}"
    if optim.accumulate_steps > 1 and config.method.compares_samples:
        micro_batch = optim.batch_size_global // optim.accumulate_steps
        text += (
            f"\nwarning: with optim.accumulate_steps {optim.accumulate_steps}, {config.method.name} and batch norm compare "
            f"{micro_batch} images instead of {optim.batch_size_global}, which is another loss"
        )
    if config.trainer.restarts and processes.info.launcher == "Slurm":
        text += "\nwarning: trainer.restarts has no effect under srun, which restarts no process: a job that loses one is requeued"
    return text
