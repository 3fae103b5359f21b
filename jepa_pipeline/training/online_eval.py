"""Probes during pretraining: the encoder as it is after every so many steps, and for each a job or a process that probes it."""

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
from jepa_pipeline.distributed import rank
from jepa_pipeline.files import fsync
from jepa_pipeline.models.weights import EncoderCard, Weights, gather_weights, read_card, save_weights
from jepa_pipeline.probes.runs import SNAPSHOTS, run_of
from jepa_pipeline.training.callbacks import StepCallback
from jepa_pipeline.training.module import Pretraining
from lightning import Trainer

ASKED = "asked"
"""A file in a snapshot: its probe was begun beside the training. Of one that was submitted there is a job's record."""
SUBMIT_S = 60.0
"""How long the end of a run waits for submissions that are under way."""
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_")
JOBS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SUBMITIT_", "PMI_", "PMIX_")
DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


class OnlineEval(StepCallback):
    """Keeps the encoder of every so many steps and has it probed. What goes wrong with that is said and never ends the run.

    A snapshot is there whole or not at all. One that is there is left alone and probed once: by the run that goes on, if the one
    that wrote it was ended before its probe was begun. All processes take part in a snapshot; the first does the rest.
    """

    def __init__(self, card: EncoderCard, tell: Callable[[str], object]) -> None:
        self.card = card
        self.tell = tell
        self.started: dict[Path, Popen[bytes]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        if rank() == 0:
            for folder in sorted((pl_module.config.folder / SNAPSHOTS).glob("step-*/")):
                if self.is_of_this_run(folder):
                    self.ask(folder, pl_module.config.probing)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        every = module.config.probing.every_steps
        self.look()
        if every is None or module.step % every:
            return
        module.check_finite()
        weights = gather_weights(module.method.kept_encoder)
        if rank() > 0:
            return
        folder = module.config.folder / SNAPSHOTS / f"step-{module.step:08d}"
        try:
            if not self.is_of_this_run(folder):
                write_snapshot(folder, weights, self.card.model_copy(update={"step": module.step, "samples": module.samples}))
        except (UserError, OSError) as error:
            self.tell(f"step {module.step} is not probed, and the run goes on: {error}")
        else:
            self.ask(folder, module.config.probing)

    def is_of_this_run(self, folder: Path) -> bool:
        """Whether a snapshot is there, and not of another run that was in this folder before."""
        try:
            card = read_card(folder)
        except UserError:
            return False
        return (card.config_hash, card.data_hash) == (self.card.config_hash, self.card.data_hash)

    def ask(self, folder: Path, config: ProbingConfig) -> None:
        """Begin a snapshot's probe, unless that was done."""
        if folder in self.started or is_asked(folder):
            return
        try:
            with log_of(folder).open("ab") as log:
                self.started[folder] = Popen(
                    command(folder, config),
                    env=environment(os.environ, config),
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=STDOUT,
                    start_new_session=True,  # so that Ctrl-C is for the training alone
                )
            if not config.submit:
                (folder / ASKED).touch()
        except OSError as error:
            self.tell(f"the probe of {folder} could not be begun ({error}); the run goes on")

    def look(self) -> None:
        """Say which probes, or submissions of them, have failed since the last look."""
        for folder, process in self.started.items():
            if process.returncode is None and process.poll():
                with suppress(OSError):
                    (folder / ASKED).unlink(missing_ok=True)
                self.tell(f"the probe of {folder} failed, and the run goes on: {log_of(folder)} says why")

    def on_train_end(self, trainer: Trainer, pl_module: Pretraining) -> None:
        """Submissions are waited for, as a job that ends here would take them along; probes beside the training go on alone."""
        if pl_module.config.probing.submit:
            with suppress(TimeoutExpired):
                for process in self.started.values():
                    process.wait(SUBMIT_S)
        self.look()
        running = [folder.name for folder, process in self.started.items() if process.returncode is None]
        if running:
            self.tell(f"probes of {', '.join(running)} go on; their numbers will be in {pl_module.config.folder / 'probes'}")

    def on_exception(self, *_: Any) -> None:
        self.look()


def check_online_eval(config: ProbingConfig) -> None:
    """Refuse what could not be submitted later.

    Raises:
        UserError: there is no sbatch, or no site file or a wrong one.
    """
    if config.every_steps is None or not config.submit:
        return
    if which("sbatch") is None:
        raise UserError(
            f"probing.every_steps is {config.every_steps} and probing.submit is true, but there is no sbatch on PATH: set "
            "probing.submit=false for probes beside the training, or probing.every_steps=null for none"
        )
    load_site(config.site)


def write_snapshot(folder: Path, weights: Weights, card: EncoderCard) -> None:
    """Write an encoder under another name and give it its own when all of it is on disk."""
    partial = folder.with_name(f".{folder.name}")
    rmtree(partial, ignore_errors=True)
    save_weights(partial, weights, card)
    for file in [*partial.iterdir(), partial]:
        fsync(file)
    if folder.exists():
        rmtree(folder)
    partial.rename(folder)


def is_asked(folder: Path) -> bool:
    """Whether a snapshot's probe was begun or submitted, by this process or an earlier one."""
    submitted = (words for words in (record.command for record in read_records(run_of(folder))) if words[0] == "probe")
    return (folder / ASKED).exists() or folder.name in {Path(word).name for words in submitted for word in words}


def log_of(folder: Path) -> Path:
    """What the probe of a snapshot, or its submission, says."""
    return folder.with_name(f"{folder.name}.log")


def command(folder: Path, config: ProbingConfig) -> list[str]:
    words = [sys.executable, "-m", "jepa_pipeline"]
    if config.submit:
        words += ["submit", *(["--site", str(config.site)] if config.site else [])]
    return [*words, "probe", str(folder), *config.arguments]


def environment(here: Mapping[str, str], config: ProbingConfig) -> dict[str, str]:
    """A process's environment without what it says of this training's ranks and job; for a job also without its devices."""
    gone = (*RANKS, *JOBS, *(DEVICES if config.submit else ()))
    return {name: value for name, value in here.items() if name == "SLURM_CONF" or not name.startswith(gone)}
