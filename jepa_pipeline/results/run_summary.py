"""Summaries of runs from their folders, however far they got, with one row per level for stacks."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from jepa_pipeline.cluster.records import JobRecord, read_records
from jepa_pipeline.cluster.states import UNKNOWN, query_states
from jepa_pipeline.config.encoder_card import CARD, EncoderCard, read_card
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.recipes import find_file
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.section import flatten
from jepa_pipeline.files import STEP, read_json_lines
from jepa_pipeline.redaction import redact_values
from jepa_pipeline.results.levels import is_baseline, level_name, level_of
from jepa_pipeline.results.probe_report import EncoderName, ProbeReport, ProbeRow, load_report, report_paths
from jepa_pipeline.results.run_folders import run_labels

SPEED = "samples_per_s"
SPEED_LINES = 20
"""Lines of the log whose median is the speed."""
LEVEL_PREFIX = re.compile(r"level(\d+)/")
"""Prefix of a level's metrics in the log."""


class AccuracyKey(NamedTuple):
    """A data set, by its name and the first digits of its hashes, and ProbeRow.column."""

    data: str
    hashes: str
    column: str


class ProbeResult(NamedTuple):
    """An accuracy, and the step of the encoder that was probed."""

    step: int
    row: ProbeRow


class SummaryRow(NamedTuple):
    """A run, or a level of a run with a stack; level is None for all others."""

    level: EncoderName | None
    metrics: dict[str, float | int]
    accuracies: dict[AccuracyKey, ProbeResult]


class RunSummary(NamedTuple):
    """Everything that is known of a run.

    Attributes:
        name: label in tables.
        folder: of the run.
        state: one of Slurm's or ours, such as "running" or "finished".
        config: None if it cannot be read.
        values: of the configuration by dotted key, without secrets.
        step: newest step of the log or of the encoder.
        metrics: newest value of each key of the log.
        accuracies: by level of a stack; under None for a single encoder.
        problems: reasons why something is missing.
    """

    name: str
    folder: Path
    state: str
    config: RunConfig | None
    values: dict[str, Any]
    step: int
    metrics: dict[str, float | int]
    accuracies: dict[EncoderName | None, dict[AccuracyKey, ProbeResult]]
    problems: list[str]

    @property
    def total_steps(self) -> int | None:
        return self.config and self.config.optim.total_steps

    @property
    def levels(self) -> list[EncoderName]:
        """Names of a stack's levels from the first up, last all of them if they were probed; empty for a single encoder."""
        logged = [int(match[1]) for match in map(LEVEL_PREFIX.match, self.metrics) if match]
        probed = [name for name in self.accuracies if name is not None]
        highest = max([1, *logged, *(level for level in map(level_of, probed) if isinstance(level, int))])
        if highest == 1 and not probed:
            return []
        return [*map(level_name, range(1, highest + 1)), *(["levels"] if "levels" in probed else [])]

    @property
    def rows(self) -> list[SummaryRow]:
        """Rows of tables: the run, or each level of its stack; metrics of the whole run are in the first."""
        rows = []
        for number, level in enumerate(self.levels or [None]):
            prefix = f"{level}/"
            own = {key.removeprefix(prefix): value for key, value in self.metrics.items() if key.startswith(prefix)}
            rows.append(SummaryRow(level, (self.metrics if number == 0 else {}) | own, self.accuracies.get(level, {})))
        return rows


def summarize_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """Return a summary of each folder that has a configuration or was submitted, or is an encoder's, in order and once."""
    jobs = {folder: newest_job(folder) for folder in folders}
    labels = run_labels([folder for folder, job in jobs.items() if job is not None or is_run(folder) or is_encoder(folder)])
    states = job_states([job for job in jobs.values() if job is not None])  # one request to Slurm for all
    return [summarize_run(run, name, job := jobs[run], states.get(job.id, "") if job else "") for run, name in labels.items()]


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def is_encoder(folder: Path) -> bool:
    """Return whether a folder is that of an encoder, as an import or an export writes it, and not of a run."""
    if is_run(folder) or not (folder / CARD).is_file():
        return False
    try:
        read_card(folder)
    except UserError:  # of another library's weights
        return False
    return True


def summarize_run(folder: Path, name: str, job: JobRecord | None, job_state: str) -> RunSummary:
    """Return the summary of a run. job: that trains it; job_state: Slurm's, empty if unknown."""
    problems = list[str]()
    config = load_config_or_command(folder, job, problems)
    rows, card = list[dict[str, Any]](), None
    with note_problem(problems):
        rows = read_json_lines(folder / "metrics.jsonl", STEP, problems.append)
    if (folder / "encoder").exists() or is_encoder(folder):  # else there is no checkpoint yet
        with note_problem(problems):
            card = read_card(folder)
    step = max([row["step"] for row in rows] + [card.step if card else 0])
    values = dict(flatten(redact_values(config.model_dump(mode="json")))) if config else {}
    state = run_state(folder, config, step, job_state)
    if card is not None and is_encoder(folder):
        state = "imported" if card.source else "encoder"
    accuracies = latest_accuracies(load_readable_reports(folder / "probes", problems), card)
    return RunSummary(name, folder, state, config, values, step, newest_metrics(rows), accuracies, problems)


@contextmanager
def note_problem(problems: list[str]) -> Iterator[None]:
    """Add a problem in place of an error in this context: what one run lacks must not keep others out of a table."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}")


def load_config_or_command(folder: Path, job: JobRecord | None, problems: list[str]) -> RunConfig | None:
    """Return the configuration of a run, or that of its job's command line if it has not started; None with a problem."""
    with note_problem(problems):
        if (folder / "config.yaml").is_file():
            return load_config(folder)
        if job is not None and len(job.command) > 1:
            recipe = find_file(job.command[1], "recipe", job.cwd)
            return load_config(recipe, [word for word in job.command[2:] if not word.startswith("-")])
    return None


def newest_job(folder: Path) -> JobRecord | None:
    """Return the newest job that trains a run, None if it was never submitted."""
    return next((job for job in reversed(read_records(folder)) if job.command[:1] == ("pretrain",) and job.run == folder), None)


def job_states(jobs: Sequence[JobRecord]) -> dict[str, str]:
    """Return Slurm's state of each job by id; without Slurm, or for jobs it has forgotten, none."""
    try:
        return {id: state.name.lower() for id, state in query_states([job.id for job in jobs]).items() if state != UNKNOWN}
    except UserError:
        return {}


def run_state(folder: Path, config: RunConfig | None, step: int, job_state: str) -> str:
    if config is None and (folder / "config.yaml").is_file():
        return "config unreadable"
    if config is not None and step >= config.optim.total_steps:
        return "finished"
    return job_state or ("unfinished" if step else "not begun")


def newest_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    """Return the newest value of each key of the log; the speed is the median of the newest lines."""
    newest = {key: value for row in rows for key, value in row.items() if isinstance(value, int | float)}
    speeds = [row[SPEED] for row in rows if isinstance(row.get(SPEED), int | float)][-SPEED_LINES:]
    return newest | ({SPEED: median(speeds)} if speeds else {})


def latest_accuracies(
    reports: Sequence[ProbeReport], card: EncoderCard | None
) -> dict[EncoderName | None, dict[AccuracyKey, ProbeResult]]:
    """Return the accuracies of the exported encoder, by level of a stack: of the latest step, and of that, of the newest report."""
    accuracies: dict[EncoderName | None, dict[AccuracyKey, ProbeResult]] = {}
    for report in sorted(reports, key=lambda report: report.step):  # stable: within a step, the newest stays last
        if card is not None and report.config_hash != card.config_hash:
            continue  # of another run that was in this folder before
        hashes = "/".join(sha[:6] for sha in report.data_hash.values())
        for name in report.encoders:
            for row in [] if is_baseline(name) else report.headlines(name):
                key = AccuracyKey(report.data, hashes, row.column)
                accuracies.setdefault(name if level_of(name) else None, {})[key] = ProbeResult(report.step, row)
    return accuracies


def load_readable_reports(folder: Path, problems: list[str]) -> list[ProbeReport]:
    """Return the reports in a folder, the newest last; for one that cannot be read, a problem."""
    reports = []
    for path in sorted(report_paths(folder), key=lambda path: path.stat().st_mtime):
        with note_problem(problems):
            reports.append(load_report(path))
    return reports
