"""Record in a run folder of the networks that the run was initialized with: begun_from.json."""

from pathlib import Path

from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.files import atomic_write
from jepa_pipeline.training.collectives import run_on_rank_zero

INITIAL_CHECKPOINT = "begun_from.json"


class InitialWeights(Section):
    """The checkpoint or encoder folder whose networks a run was initialized with."""

    path: str = Field(description="The checkpoint, or the encoder folder.")
    step: int = Field(description="Optimizer steps behind it.")
    samples: int = Field(description="Samples its networks had seen.")
    sha256: str = Field(description="SHA-256 of its files; of an encoder, of its weights.")
    origin: str | None = Field(
        default=None, description="What it began from in turn, or was imported from, with the license; null: untrained weights."
    )

    def describe(self) -> str:
        """Return it in words, for cards of encoders."""
        samples = f"{self.samples:,} samples, " if self.samples else ""
        return f"{self.path} ({samples}SHA-256 {self.sha256[:12]}){f', which {self.origin}' if self.origin else ''}"


def read_initial_checkpoint(run: Path) -> InitialWeights | None:
    """Return what a run was initialized with; None if with random weights.

    Raises:
        UserError: the file is damaged.
    """
    path = run / INITIAL_CHECKPOINT
    if not path.is_file():
        return None
    try:
        return InitialWeights.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path} is damaged: copy it back, or delete this run's folder to start over") from None


def write_initial_checkpoint(run: Path, initial: InitialWeights) -> None:
    """Write what a run is initialized with. All processes must call it."""
    run_on_rank_zero(lambda: atomic_write(run / INITIAL_CHECKPOINT, initial.model_dump_json(indent=1) + "\n"))
