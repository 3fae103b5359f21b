"""The numbers of a probe on disk: one row a number, baselines among the rows, so that tables of many runs are a concatenation."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.probe import ProbeConfig, Protocol
from jepa_pipeline.config.section import Section
from jepa_pipeline.files import atomic_write
from jepa_pipeline.probes.attentive import AttentiveTrial
from jepa_pipeline.probes.linear import Trial

OfLevel = Annotated[str, Field(pattern=r"^(random_init_)?level([1-9][0-9]*|s)$")]
EncoderName = Literal["target", "online", "random_init", "frames_shuffled", "frames_apart", "pixels"] | OfLevel
"""Whose features they are.

target, online: two of a run's networks, one of which it keeps. Where that is a stack, in their place: level1, level2, ..., each
level by itself, and levels, the features of all beside one another.
random_init: the same network untrained; of a stack random_init_level1, random_init_level2, ..., random_init_levels.
frames_*: the network that is kept, shown clips so that it does not know the order of their frames; of a stack all levels beside one
another, or the one that was asked. pixels: the image or clip itself.
"""
Settings = dict[str, float | int | str]


class Row(Section):
    """One accuracy on a test set."""

    encoder: EncoderName = Field(description="Whose features.")
    protocol: Protocol = Field(description="What was put on the features.")
    settings: Settings = Field(description="Of the protocol: those chosen on training samples, or those given.")
    top1: float = Field(ge=0, le=1, description="Share of right answers.")
    ci95: tuple[float, float] = Field(description="95 % Wilson interval of it.")
    n_test: int = Field(ge=1, description="Test samples.")
    seed: int = Field(description="Of the probe.")
    seconds: float = Field(
        description="Time the protocol took on these features, without extracting them; attentive heads of all encoders, "
        "which are trained side by side, have all their time, with their tokens'."
    )


class ProbeReport(Section):
    """All that one probe of one encoder found, and on what."""

    data: str = Field(description="Name of the data set.")
    data_hash: dict[Literal["train", "test"], str] = Field(description="Of the manifests.")
    config_hash: str = Field(description="Of the run's configuration.")
    weights_hash: str = Field(description="SHA-256 of the encoder's weights.")
    step: int = Field(description="Optimizer steps the encoder was trained for.")
    version: str = Field(description="Of jepa_pipeline.")
    probe: ProbeConfig = Field(description="The probe's settings.")
    level: Level | None = Field(
        default=None, description="Of a stack the one level that was asked; null: each by itself and all, or there is only one."
    )
    rows: list[Row] = Field(description="The numbers.")
    rankme: dict[str, float] = Field(
        default_factory=dict,
        description="By encoder, the effective rank of its pooled features (or the pixels) on training samples; "
        "reports of before it was measured have none.",
    )
    selection: dict[str, list[Trial]] = Field(description="By encoder, the linear heads the reported one was chosen from.")
    attentive_selection: dict[str, list[AttentiveTrial]] = Field(
        default_factory=dict, description="By encoder, the attentive heads the reported one was chosen from."
    )

    @property
    def encoders(self) -> list[EncoderName]:
        """Whose numbers there are, in order."""
        names: dict[EncoderName, None] = dict.fromkeys(row.encoder for row in self.rows)
        return list(names)


def save_report(path: Path, report: ProbeReport) -> None:
    """Write the report whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, report.model_dump_json(indent=1) + "\n")


def load_reports(folder: Path) -> list[ProbeReport]:
    """Every report in a folder, in order of the file names; none if there is no folder.

    Raises:
        UserError: a file is not a probe's report.
    """
    return [load_report(path) for path in sorted(folder.glob("*.json"))]


def load_report(path: Path) -> ProbeReport:
    try:
        return ProbeReport.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is not a probe's report ({where}: {first['msg']}): move it away or probe again") from None
