"""The report of a probe: one row per accuracy, baselines included, so that tables of many runs are concatenations of rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.probe import ProbeConfig, Protocol
from jepa_pipeline.config.section import Section
from jepa_pipeline.files import atomic_write, sweep
from jepa_pipeline.results.label_counts import LabelCounts

LevelName = Annotated[str, Field(pattern=r"^(random_init_)?level([1-9][0-9]*|s)$")]
EncoderName = Literal["target", "online", "random_init", "frames_shuffled", "frames_apart", "pixels"] | LevelName
"""The features that an accuracy belongs to.

target, online: the network of the run that was exported. For a stack instead level1, level2, ..., each level alone, and levels, the
features of all levels concatenated.
random_init: the same architecture, untrained; for a stack random_init_level1, random_init_level2, ..., random_init_levels.
frames_shuffled, frames_apart: the exported network on clips with their frames shuffled, or one frame at a time; for a stack all
levels concatenated, or the level of --level. pixels: the image or clip itself.
"""
Settings = dict[str, float | int | str]
PROTOCOLS: tuple[Protocol, ...] = ("linear", "knn", "attentive")
NEIGHBORS = 20
"""k of the k-NN accuracy in tables of many runs, or the next smaller k of the report."""


class ProbeRow(Section):
    """One accuracy on a test set."""

    encoder: EncoderName = Field(description="Features that were probed.")
    protocol: Protocol = Field(description="Classifier on the features.")
    settings: Settings = Field(description="Settings of the classifier, chosen on training samples or given.")
    top1: float = Field(ge=0, le=1, description="Accuracy as a share.")
    ci95: tuple[float, float] = Field(description="95 % Wilson interval of top1.")
    n_test: int = Field(ge=1, description="Test samples.")
    seed: int = Field(description="Seed of the probe.")
    seconds: float = Field(
        description="Time of the classifier without feature extraction; attentive heads of all encoders are trained together, so "
        "each has the time of all of them, token extraction included."
    )

    @property
    def column(self) -> str:
        """Name of the protocol as a column of a table of many runs."""
        return f"k-NN {self.settings['k']}" if self.protocol == "knn" else self.protocol


class LinearTrial(Section):
    """A linear head of the grid, and its accuracy on the held-out share of the training set."""

    features: str
    weight_decay: float
    selection_top1: float


class AttentiveTrial(Section):
    """An attentive head of the grid, and its accuracy on the held-out share of the training set."""

    lr: float
    weight_decay: float
    selection_top1: float


class ProbeReport(Section):
    """All results of one probe of one encoder on one data set."""

    data: str = Field(description="Name of the data set.")
    data_hash: dict[Literal["train", "test"], str] = Field(description="Hashes of the manifests.")
    config_hash: str = Field(description="Hash of the run's configuration.")
    weights_hash: str = Field(description="SHA-256 of the encoder's weights.")
    step: int = Field(description="Optimizer steps the encoder was trained for.")
    version: str = Field(description="Version of jepa_pipeline.")
    probe: ProbeConfig = Field(description="Settings of the probe.")
    level: Level | None = Field(
        default=None, description="The level of a stack that was probed; null: every level, or a single encoder."
    )
    labels: LabelCounts | None = Field(
        default=None, description="Counts of the labels, and of test samples that cannot be right; null in old reports."
    )
    rows: list[ProbeRow] = Field(description="The accuracies.")
    rankme: dict[str, float] = Field(
        default_factory=dict,
        description="RankMe of the pooled features (or the pixels) of training samples, by encoder; empty in old reports.",
    )
    selection: dict[str, list[LinearTrial]] = Field(description="Linear heads that the reported one was chosen from, by encoder.")
    attentive_selection: dict[str, list[AttentiveTrial]] = Field(
        default_factory=dict, description="Attentive heads that the reported one was chosen from, by encoder."
    )

    @property
    def encoders(self) -> list[EncoderName]:
        """Names of the encoders with accuracies, in order."""
        names: dict[EncoderName, None] = dict.fromkeys(row.encoder for row in self.rows)
        return list(names)

    def headlines(self, encoder: EncoderName) -> list[ProbeRow]:
        """Return the row of each protocol that tables of many runs show."""
        rows = (headline(self.rows, encoder, protocol) for protocol in PROTOCOLS)
        return [row for row in rows if row is not None]


def headline(rows: Sequence[ProbeRow], encoder: EncoderName, protocol: Protocol) -> ProbeRow | None:
    """Return an encoder's row of a protocol for tables of many runs, None if there is none.

    It is not chosen by test accuracy: for k-NN it is that of pooled features, if there is one, with k = NEIGHBORS or the next
    smaller k, or else the smallest.
    """
    matching = [row for row in rows if (row.encoder, row.protocol) == (encoder, protocol)]
    if protocol != "knn":
        return matching[0] if matching else None
    pooled = [row for row in matching if row.settings["features"] != "last4"] or matching
    by_k = {int(row.settings["k"]): row for row in reversed(pooled)}
    small = [k for k in by_k if k <= NEIGHBORS]
    return by_k[max(small) if small else min(by_k)] if by_k else None


def save_report(path: Path, report: ProbeReport) -> None:
    """Write a report in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    atomic_write(path, report.model_dump_json(indent=1) + "\n")


def load_reports(folder: Path) -> list[ProbeReport]:
    """Return all reports in a folder, sorted by file name; none if there is no folder.

    Raises:
        UserError: a file is not a probe report.
    """
    return [load_report(path) for path in report_paths(folder)]


def report_paths(folder: Path, pattern: str = "*.json") -> list[Path]:
    """Return the reports in a folder by name, without hidden files, such as those of editors and file browsers."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def load_report(path: Path) -> ProbeReport:
    """Read a report; see load_reports."""
    try:
        return ProbeReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is not a probe report ({where}: {first['msg']}): move it away, or probe again") from None
