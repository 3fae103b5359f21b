"""Probes during pretraining: snapshots of the encoder, each probed by a job or process of its own."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from shutil import rmtree, which
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import Any

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.cluster.records import read_records
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.site import load_site
from jepa_pipeline.config.trainer import ProbingConfig
from jepa_pipeline.console import COMMAND
from jepa_pipeline.distributed import rank
from jepa_pipeline.files import atomic_path
from jepa_pipeline.models.weights import EncoderCard, Weights, gather_weights, read_card, save_weights
from jepa_pipeline.redaction import PRIVATE_ARGUMENTS, find_secrets
from jepa_pipeline.results.run_folders import SNAPSHOTS, run_of
from jepa_pipeline.training.callbacks import StepCallback
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.restarts import REASON
from lightning import Trainer

STARTED = "asked"
"""File in a snapshot whose probe was started as a process; a submitted probe is known by its job's record instead."""
SUBMIT_TIMEOUT_S = 60.0
"""Seconds that the end of a run waits for submissions that have not returned."""
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_",
    "GROUP_",
    "ROLE_",
    "TORCHELASTIC_",
    COMMAND,
    REASON,
)
JOB_VARIABLES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SUBMITIT_", "PMI_", "PMIX_")
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


class OnlineEval(StepCallback):
    """Saves a snapshot of the encoder every few steps and starts its probe. No failure of either ends the run.

    A snapshot is complete or absent, and is probed once. If a run is killed between a snapshot and the start of its probe, the
    resumed run starts it. All ranks take part in a snapshot; rank 0 does everything else.

    Args:
        probing: when and how to probe.
        run: the run folder.
        card: identifies the run's encoder.
        log: prints a sentence.
    """

    def __init__(self, probing: ProbingConfig, run: Path, card: EncoderCard, log: Callable[[str], object]) -> None:
        self.probing = probing
        self.run = run
        self.card = card
        self.print = log  # not self.log: Lightning sets `log` of every callback to that of the module
        self.probes: dict[Path, Popen[bytes]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        if rank() == 0:
            for snapshot in sorted((self.run / SNAPSHOTS).glob("step-*/")):
                if self.is_of_this_run(snapshot):
                    self.start_probe(snapshot)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        self.report_failures()
        if self.probing.every_steps is None or module.step % self.probing.every_steps:
            return
        module.check_finite()
        weights = gather_weights(module.method.encoder_to_export)
        if rank() > 0:
            return
        snapshot = self.run / SNAPSHOTS / f"step-{module.step:08d}"
        try:
            if not self.is_of_this_run(snapshot):
                save_snapshot(snapshot, weights, self.card.model_copy(update={"step": module.step, "samples": module.samples}))
        except (UserError, OSError) as error:
            self.print(f"step {module.step} is not probed, but training continues: {error}")
        else:
            self.start_probe(snapshot)

    def is_of_this_run(self, snapshot: Path) -> bool:
        """Return whether a snapshot exists and is not left from another run in this folder."""
        try:
            card = read_card(snapshot)
        except UserError:
            return False
        return (card.config_hash, card.data_hash) == (self.card.config_hash, self.card.data_hash)

    def start_probe(self, snapshot: Path) -> None:
        """Start the probe of a snapshot, or its submission, unless that was done before."""
        if snapshot in self.probes or was_started(snapshot):
            return
        try:
            with log_path(snapshot).open("ab") as log:
                self.probes[snapshot] = Popen(
                    probe_command(snapshot, self.probing),
                    env=probe_environment(os.environ, self.probing),
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=STDOUT,
                    start_new_session=True,  # so that Ctrl-C stops only the training
                )
            if not self.probing.submit:
                (snapshot / STARTED).touch()
        except OSError as error:
            self.print(f"the probe of {snapshot} could not be started ({error}), but training continues")

    def report_failures(self) -> None:
        """Log which probes or submissions have failed since the last call."""
        for snapshot, process in self.probes.items():
            if process.returncode is None and process.poll():
                with suppress(OSError):
                    (snapshot / STARTED).unlink(missing_ok=True)
                self.print(f"the probe of {snapshot} failed, but training continues: see {log_path(snapshot)}")

    def on_train_end(self, trainer: Trainer, pl_module: Pretraining) -> None:
        if self.probing.submit:  # a job that ends kills the processes it started, so wait until they have submitted theirs
            with suppress(TimeoutExpired):
                for process in self.probes.values():
                    process.wait(SUBMIT_TIMEOUT_S)
        self.report_failures()
        running = [snapshot.name for snapshot, process in self.probes.items() if process.returncode is None]
        if running:
            self.print(f"probes of {', '.join(running)} are still running; their results will be in {self.run / 'probes'}")

    def on_exception(self, *_: Any) -> None:
        self.report_failures()


def check_online_eval(probing: ProbingConfig) -> None:
    """Check that probes can be submitted, before training starts.

    Raises:
        UserError: there is no sbatch, or no valid site file.
    """
    if probing.every_steps is None or not probing.submit:
        return
    if which("sbatch") is None:
        raise UserError(
            f"probing.every_steps is {probing.every_steps} and probing.submit is true, but there is no sbatch on PATH: set "
            "probing.submit=false to probe on this machine, or probing.every_steps=null not to probe"
        )
    load_site(probing.site)


def save_snapshot(snapshot: Path, weights: Weights, card: EncoderCard) -> None:
    """Save an encoder in one rename."""
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(snapshot, sync=True) as partial:
        save_weights(partial, weights, card)
        if snapshot.exists():
            rmtree(snapshot)


def was_started(snapshot: Path) -> bool:
    """Return whether a snapshot's probe was started or submitted, by this process or an earlier one."""
    commands = [record.command for record in read_records(run_of(snapshot)) if record.command[0] == "probe"]
    return (snapshot / STARTED).exists() or any(snapshot.name == Path(word).name for command in commands for word in command)


def log_path(snapshot: Path) -> Path:
    """Return the file with the output of a snapshot's probe, or of its submission."""
    return snapshot.with_name(f"{snapshot.name}.log")


def probe_command(snapshot: Path, probing: ProbingConfig) -> list[str]:
    submit = ["submit", *(["--site", str(probing.site)] if probing.site else [])] if probing.submit else []
    arguments = [] if any(find_secrets(probing.arguments)) else probing.arguments
    return [sys.executable, "-m", "jepa_pipeline", *submit, "probe", str(snapshot), *arguments]


def probe_environment(environment: Mapping[str, str], probing: ProbingConfig) -> dict[str, str]:
    """Return the environment without this training's ranks and job, in which the probe would take itself for one of its ranks.

    A probe that is submitted does not inherit its devices either. Arguments with a secret are passed here, unseen by others.
    """
    removed = (*RANK_VARIABLES, *JOB_VARIABLES, *(DEVICE_VARIABLES if probing.submit else ()))
    kept = {name: value for name, value in environment.items() if name == "SLURM_CONF" or not name.startswith(removed)}
    private = {PRIVATE_ARGUMENTS: json.dumps(probing.arguments)} if any(find_secrets(probing.arguments)) else {}
    return kept | private
