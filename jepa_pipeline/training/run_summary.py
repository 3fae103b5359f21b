"""What can be known of a run from its folder, however far it came."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from jepa_pipeline.cluster.records import Record, read_records
from jepa_pipeline.cluster.states import UNKNOWN, states_of
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig, flatten
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.models.weights import EncoderCard, read_card
from jepa_pipeline.probes.levels import is_trained_whole, level_name, level_of
from jepa_pipeline.probes.report import EncoderName, ProbeReport, Row, load_report
from jepa_pipeline.probes.runs import run_labels
from jepa_pipeline.probes.table import PROTOCOLS, column, headline
from jepa_pipeline.training.loggers import read_rows

SPEED = "samples_per_s"
RECENT = 20
"""Lines of the log whose median is the speed."""
OF_LEVEL = re.compile(r"level(\d+)/")
"""What a level's numbers in the log begin with."""


class Place(NamedTuple):
    """What an accuracy is of: a data set, by its name and the beginnings of its parts' hashes, and a protocol's column."""

    data: str
    hashes: str
    column: str


class Probed(NamedTuple):
    """A number, and the step of the encoder it is of."""

    step: int
    row: Row


class Glance(NamedTuple):
    """What is known of a run.

    state: in a word; values: of the configuration by dotted key, none where it cannot be read; measured: the newest numbers of the
    log; probed: of a stack by level, else under None; troubles: why something is left out.
    """

    name: str
    folder: Path
    state: str
    config: RunConfig | None
    values: dict[str, Any]
    step: int
    measured: dict[str, float | int]
    probed: dict[EncoderName | None, dict[Place, Probed]]
    troubles: list[str]

    @property
    def total(self) -> int | None:
        return self.config and self.config.optim.total_steps

    @property
    def levels(self) -> list[EncoderName]:
        """Of a stack, what its levels are called, from the pixels up, last all of them together if they were probed; else none."""
        logged = [int(found[1]) for found in map(OF_LEVEL.match, self.measured) if found]
        probed = [name for name in self.probed if name is not None]
        highest = max([1, *logged, *(level for level in map(level_of, probed) if isinstance(level, int))])
        if highest == 1 and not probed:
            return []
        return [*map(level_name, range(1, highest + 1)), *(["levels"] if "levels" in probed else [])]


def glances(folders: Sequence[Path]) -> list[Glance]:
    """Each run among the folders once, in order: what has a configuration, or was submitted. Slurm is asked once for all."""
    jobs = {folder: newest_job(folder) for folder in folders}
    labels = run_labels([folder for folder, job in jobs.items() if job is not None or (folder / "config.yaml").is_file()])
    words = job_words([job for job in jobs.values() if job is not None])
    return [glance(run, name, jobs[run], words) for run, name in labels.items()]


def glance(folder: Path, name: str, job: Record | None, words: dict[str, str]) -> Glance:
    """Everything about a run, of which much may be missing."""
    troubles = list[str]()
    config = attempt_config(folder, job, troubles)
    rows = read_rows(folder / "metrics.jsonl")
    card = attempt_card(folder)
    step = max([row["step"] for row in rows] + [card.step if card else 0])
    values = dict(flatten(json.loads(without_secrets(config.model_dump_json())))) if config else {}
    word = words.get(job.id, "") if job else ""
    state = state_of(folder, config, step, word)
    return Glance(name, folder, state, config, values, step, measured(rows), probed(folder, card, troubles), troubles)


def attempt_config(folder: Path, job: Record | None, troubles: list[str]) -> RunConfig | None:
    """A run's configuration, or the one it was submitted with if it has not begun."""
    try:
        if (folder / "config.yaml").is_file():
            return load_config(folder)
        if job is not None and len(job.command) > 1:
            return load_config(job.cwd / job.command[1], [word for word in job.command[2:] if not word.startswith("-")])
    except UserError as error:
        troubles.append(str(error))
    return None


def attempt_card(folder: Path) -> EncoderCard | None:
    try:
        return read_card(folder)
    except UserError:
        return None  # no checkpoint yet


def newest_job(folder: Path) -> Record | None:
    """The job that trains a run, if it was submitted."""
    return next((job for job in reversed(read_records(folder)) if job.command[:1] == ("pretrain",) and job.run == folder), None)


def job_words(jobs: Sequence[Record]) -> dict[str, str]:
    """What Slurm calls the state of each job, as far as it is here and knows."""
    try:
        return {id: state.name.lower() for id, state in states_of([job.id for job in jobs]).items() if state != UNKNOWN}
    except UserError:
        return {}


def state_of(folder: Path, config: RunConfig | None, step: int, job: str) -> str:
    if config is None and (folder / "config.yaml").is_file():
        return "config unreadable"
    if config is not None and step >= config.optim.total_steps:
        return "finished"
    return job or ("unfinished" if step else "not begun")


def measured(rows: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    """The newest value of everything in the log, of the speed the median of the newest."""
    newest = {key: value for row in rows for key, value in row.items()}
    speeds = [row[SPEED] for row in rows if SPEED in row][-RECENT:]
    return newest | ({SPEED: median(speeds)} if speeds else {})


def probed(folder: Path, card: EncoderCard | None, troubles: list[str]) -> dict[EncoderName | None, dict[Place, Probed]]:
    """The accuracies of the encoder that is kept, of a stack of each level: on each data set those of the latest step, of one step
    those measured last.
    """
    found: dict[EncoderName | None, dict[Place, Probed]] = {}
    for report in sorted(readable(folder / "probes", troubles), key=lambda report: report.step):
        if card is not None and report.config_hash != card.config_hash:
            continue  # of another run that was in this folder before
        hashes = "/".join(sha[:6] for sha in report.data_hash.values())
        for encoder in filter(is_trained_whole, report.encoders):
            for protocol in PROTOCOLS:
                if (row := headline(report.rows, encoder, protocol)) is not None:
                    place, level = Place(report.data, hashes, column(row)), encoder if level_of(encoder) else None
                    found.setdefault(level, {})[place] = Probed(report.step, row)
    return found


def readable(folder: Path, troubles: list[str]) -> list[ProbeReport]:
    """The reports in a folder, the newest last."""
    reports = []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            reports.append(load_report(path))
        except UserError as error:
            troubles.append(str(error))
    return reports
