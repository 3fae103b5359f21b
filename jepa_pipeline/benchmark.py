"""`jepa benchmark`: the encoders of many runs on many data sets, in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jepa_pipeline import __version__
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import SetConfig, SuiteConfig, assignments
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.probes.examine import Subject, answer, answered, ask, read_subject
from jepa_pipeline.probes.ledger import Entry, Line, detail, ledger, ledger_sheet, places, record
from jepa_pipeline.probes.report import ProbeReport
from jepa_pipeline.probes.runs import run_labels, run_of
from jepa_pipeline.probes.sheet import print_sheet, write_sheet


class Miss(NamedTuple):
    """A pair without numbers, and why."""

    run: str
    data: str
    why: str


def benchmark(suite: SuiteConfig, runs: Sequence[Path], out: Path, collect: bool = False) -> bool:
    """Probe each run's encoder on each data set, but for what was probed before, and write the table OUT/NAME.md, .csv and .json.

    Args:
        suite: the data sets and the settings.
        runs: run folders, snapshots of runs or folders of encoders.
        out: folder of the table.
        collect: probe nothing, only gather what is there.

    Returns:
        Whether every pair has its numbers; those without are named.

    Raises:
        UserError: a run is no folder.
    """
    console, entries, misses = Console(soft_wrap=True, highlight=False, markup=False), list[Entry](), list[Miss]()
    labels = run_labels([existing(run) for run in runs])
    total = len(labels) * len(suite.data)
    for number, (folder, label) in enumerate(labels.items()):
        reports, subject = dict[str, ProbeReport](), attempt_subject(folder)
        for place, part in enumerate(suite.data, number * len(suite.data) + 1):
            console.print(f"{place}/{total}  {label} on {part.name}")
            report = subject if isinstance(subject, str) else attempt(subject, suite, part, collect)
            if isinstance(report, str):
                misses.append(Miss(label, part.name, report))
            else:
                reports[part.name] = report
        if not isinstance(subject, str):
            entries.append(Entry(label, folder, subject.card, reports))
    for path in write(suite, entries, misses, out):
        console.print(f"written to {path}")
    for sentence in sentences(misses):
        console.print(sentence)
    return not misses


def existing(run: Path) -> Path:
    if not run.is_dir():
        raise UserError(f"no folder {run}: give run folders, such as runs/NAME")
    return run


def attempt_subject(folder: Path) -> Subject | str:
    try:
        return read_subject(folder)
    except UserError as error:
        return str(error)


def attempt(subject: Subject, suite: SuiteConfig, part: SetConfig, collect: bool) -> ProbeReport | str:
    """A pair's report, or why there is none; whatever goes wrong, the other pairs are worth having."""
    console = Console()
    try:
        question = ask(subject, part.path, part.test, suite.probe_of(part))
        report = answered(question)
        if report is None and collect:
            return "it was not probed"
        if report is not None:
            console.print("  was probed before", highlight=False)
        return report or answer(question)
    except UserError as error:
        return str(error)
    except Exception as error:
        console.print_exception()
        return f"{type(error).__name__}: {error}".splitlines()[0]


def write(suite: SuiteConfig, entries: Sequence[Entry], misses: Sequence[Miss], out: Path) -> list[Path]:
    """Print the table and write it; the paths, none if there is nothing to write."""
    lines, names = ledger(entries), [part.name for part in suite.data]
    if not lines:
        return []
    print_sheet(ledger_sheet(lines, names, intervals=False), f"{suite.name}: top-1 %")
    sheet, columns = ledger_sheet(lines, names, intervals=True), places(lines, names)
    notes = [f"Top-1 % (95 % interval); settings, hashes and commits in {suite.name}.json.", *sentences(misses)]
    records = [record(line, columns) for line in lines]
    return write_sheet(out / suite.name, sheet, records, document(suite, entries, lines, misses), notes)


def document(suite: SuiteConfig, entries: Sequence[Entry], lines: Sequence[Line], misses: Sequence[Miss]) -> dict[str, Any]:
    data = {}
    for part in suite.data:
        hashes = next((entry.reports[part.name].data_hash for entry in entries if part.name in entry.reports), None)
        test = part.test and without_secrets(part.test)
        settings = suite.probe_of(part).model_dump(mode="json")
        data[part.name] = {"path": without_secrets(part.path), "test": test, "data_hash": hashes, "settings": settings}
    return {
        "suite": suite.name,
        "version": __version__,
        "data": data,
        "rows": [detail(line) for line in lines],
        "missing": [miss._asdict() for miss in misses],
    }


def sentences(misses: Sequence[Miss]) -> list[str]:
    """What is missing; pairs that miss for one reason share a sentence."""
    pairs: dict[str, list[str]] = {}
    for miss in misses:
        pairs.setdefault(miss.why, []).append(f"{miss.run} on {miss.data}")
    return [f"missing: {', '.join(same)}: {why}" for why, same in pairs.items()]


def submit_benchmark(suite: SuiteConfig, recipe: Path, runs: Sequence[Path], out: Path, site: SiteConfig) -> list[str]:
    """Queue an array of jobs, one a pair that was not probed before, and one that gathers the table after them; all ids.

    Raises:
        UserError: a pair cannot be probed, or Slurm refuses.
    """
    from jepa_pipeline.cluster.queue import Work, submit

    probes = []
    for folder, label in run_labels([existing(run) for run in runs]).items():
        subject = read_subject(folder)
        for part in suite.data:
            config = suite.probe_of(part)
            if answered(ask(subject, part.path, part.test, config)) is None:
                test = [] if part.test is None else ["--test", part.test]
                command = ["probe", str(folder), "--data", part.path, *test, *assignments(config)]
                probes.append(Work(f"probe-{label}-{part.name}".replace("/", "-"), command, run_of(folder) / "jobs", "one"))
    ids = submit(probes, site, logs=out / "jobs") if probes else []
    gather = ["benchmark", str(recipe), *map(str, runs), "--out", str(out), "--collect"]
    waits = list(dict.fromkeys(id.partition("_")[0] for id in ids))
    table = submit([Work(f"benchmark-{suite.name}", gather, out / "jobs", "one")], site, after=waits, whatever_comes=True)
    said = f"{len(probes)} to probe{f' as {waits[0]}' if waits else ''}; then job {table[0]} writes {out / suite.name}.md"
    Console().print(said, soft_wrap=True, markup=False, highlight=False)
    return [*ids, *table]
