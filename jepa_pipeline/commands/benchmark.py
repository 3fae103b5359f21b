"""`jepa benchmark`: the encoders of many runs on many data sets, in one table."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import SetConfig, SuiteConfig, assignments
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.probes.evaluate import Subject, answer, answered, ask, read_subject
from jepa_pipeline.probes.report import ProbeReport
from jepa_pipeline.probes.results_table import Entry, Line, detail, ledger, ledger_sheet, places, record
from jepa_pipeline.probes.runs import run_labels, run_of
from jepa_pipeline.probes.sheet import print_sheet, write_sheet
from jepa_pipeline.version import __version__

if TYPE_CHECKING:
    from jepa_pipeline.cluster.queue import Work


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


def submit_benchmark(
    suite: SuiteConfig, recipe: Path, runs: Sequence[Path], out: Path, site: SiteConfig, *, dry_run: bool = False
) -> list[str]:
    """Queue an array of jobs, one a pair that was neither probed nor queued before, and one that gathers the table after them.

    Args:
        suite: the data sets and the settings.
        recipe: the suite's file.
        runs: run folders, snapshots of runs or folders of encoders.
        out: folder of the table.
        site: what a job asks for.
        dry_run: print the batch scripts and queue nothing.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: a pair cannot be probed, all is queued already, or Slurm refuses.
    """
    from jepa_pipeline.cluster.queue import After, Work, script, submit

    wanted = unprobed(suite, runs)
    command = ["benchmark", str(recipe), *map(str, runs), "--out", str(out), "--collect"]
    gather = Work(f"benchmark-{suite.name}", command, out / "jobs", "one")
    *queued, gathers = live_jobs([*wanted, gather])
    probes = [work for work, id in zip(wanted, queued, strict=True) if id is None]
    before = [id for id in queued if id is not None]
    if gathers is not None and not probes:
        where = f"{gathers} --folder {shlex.quote(str(out))}"
        raise UserError(f"job {gathers} writes this table already: wait for it, or take it away with 'jepa cancel {where}'")
    if before:
        print(f"queued already: {len(before)} of {len(wanted)} probes, as {', '.join(before)}")
    if dry_run:
        if probes:
            print(script(probes, site, logs=out / "jobs"))
        print(script([gather], site, after=After((*(["JOB1"] if probes else []), *before), "afterany")))
        return []
    ids = submit(probes, site, logs=out / "jobs") if probes else []
    waits = [*dict.fromkeys(id.partition("_")[0] for id in ids), *before]
    table = submit([gather], site, after=waits, whatever_comes=True)
    jobs = dict(zip([*ids, *table], [*probes, gather], strict=True))
    for id, work in jobs.items():
        print(f"job {id}: jepa {shlex.join(work.command)}" + (f"   after {', '.join(waits)}" if work is gather and waits else ""))
    print(*advice(jobs), f"table:    {out / suite.name}.md", sep="\n")
    return [*ids, *table]


def unprobed(suite: SuiteConfig, runs: Sequence[Path]) -> list["Work"]:
    """A probe of every pair that has no report."""
    from jepa_pipeline.cluster.queue import Work

    works = []
    for folder, label in run_labels([existing(run) for run in runs]).items():
        subject = read_subject(folder)
        for part in suite.data:
            config = suite.probe_of(part)
            if answered(ask(subject, part.path, part.test, config)) is None:
                test = [] if part.test is None else ["--test", part.test]
                command = ["probe", str(folder), "--data", part.path, *test, *assignments(config)]
                works.append(Work(f"probe-{label}-{part.name}".replace("/", "-"), command, run_of(folder) / "jobs", "one"))
    return works


def live_jobs(works: Sequence["Work"]) -> list[str | None]:
    """Of each of these the newest job that does the same and runs or will run."""
    from jepa_pipeline.cluster.records import read_records
    from jepa_pipeline.cluster.states import states_of

    if shutil.which("squeue") is None:
        return [None] * len(works)  # a dry run elsewhere; queueing fails by itself
    wanted = [(work.folder, tuple(work.command)) for work in works]
    records = [record for home in dict.fromkeys(work.folder.parent for work in works) for record in read_records(home)]
    jobs = {record.id: (record.folder, record.command) for record in records if record.cwd == Path.cwd()}
    jobs = {id: job for id, job in jobs.items() if job in wanted}
    states = states_of(list(jobs))
    live = {job: id for id, job in jobs.items() if states[id].live}
    return [live.get(job) for job in wanted]


def advice(jobs: dict[str, "Work"]) -> list[str]:
    """How to see what becomes of jobs, and how to take them away, by the folders that hold what they work on."""
    lists = dict[Path, dict[str, None]]()
    for id, work in jobs.items():
        home = work.folder.parent if work.command[0] == "benchmark" else work.folder.parent.parent
        lists.setdefault(home, {})[id.partition("_")[0]] = None
    return [
        *(f"see them: jepa jobs {shlex.quote(str(home))}" for home in lists),
        *(f"cancel:   jepa cancel {' '.join(ids)} --folder {shlex.quote(str(home))}" for home, ids in lists.items()),
    ]
