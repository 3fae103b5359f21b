"""`jepa benchmark`: the encoders of many runs on many data sets, in one table."""

import shlex
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import SetConfig, SuiteConfig, to_overrides
from jepa_pipeline.console import print_plain
from jepa_pipeline.probes.evaluate import FrozenEncoder, load_finished, load_frozen, plan_probe, run_probe
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.benchmark_table import EncoderRow, ProbedRun, benchmark_table, encoder_rows
from jepa_pipeline.results.probe_report import ProbeReport
from jepa_pipeline.results.run_folders import run_labels, run_of
from jepa_pipeline.results.tables import print_table, write_table
from jepa_pipeline.version import __version__

if TYPE_CHECKING:
    from jepa_pipeline.cluster.sbatch import JobSpec


class Missing(NamedTuple):
    """A run and data set without accuracies, and the reason."""

    run: str
    data: str
    why: str


def benchmark(suite: SuiteConfig, runs: Sequence[Path], out: Path, collect: bool = False) -> bool:
    """Probe each run's encoder on each data set unless it was probed before; write the table OUT/NAME.md, .csv and .json.

    Args:
        suite: the data sets and the settings.
        runs: run folders, snapshots of runs or encoder folders.
        out: folder of the table.
        collect: only collect the reports that exist.

    Returns:
        Whether there are accuracies for every run and data set; those that are missing are printed.

    Raises:
        UserError: a run is not a folder, or the table cannot be written.
    """
    check_place(out / suite.name)
    probed, missing = list[ProbedRun](), list[Missing]()
    labels = run_labels([existing_folder(run) for run in runs])
    total = len(labels) * len(suite.data)
    for number, (folder, label) in enumerate(labels.items()):
        try:
            frozen = load_frozen(folder)
        except UserError as error:
            missing += [Missing(label, data.name, str(error)) for data in suite.data]
            continue
        reports = dict[str, ProbeReport]()
        for index, data in enumerate(suite.data, number * len(suite.data) + 1):
            print_plain(None, f"{index}/{total}  {label} on {data.name}")
            report = probe_or_explain(frozen, suite, data, collect)
            if isinstance(report, str):
                missing.append(Missing(label, data.name, report))
            else:
                reports[data.name] = report
        probed.append(ProbedRun(label, folder, frozen.card, reports))
    for line in [*(f"written to {path}" for path in write(suite, probed, missing, out)), *missing_sentences(missing)]:
        print_plain(None, line)
    return not missing


def existing_folder(run: Path) -> Path:
    if not run.is_dir():
        raise UserError(f"no folder {run}: give run folders, such as runs/NAME")
    return run


def probe_or_explain(frozen: FrozenEncoder, suite: SuiteConfig, data: SetConfig, collect: bool) -> ProbeReport | str:
    """Return the report of an encoder on a data set, or why there is none; no error ends the probes of the others."""
    try:
        job = plan_probe(frozen, data.path, data.test, suite.probe_settings(data))
        report = load_finished(job)
        if report is None and collect:
            return "it was not probed"
        if report is not None:
            print_plain(None, "  was probed before")
        return report or run_probe(job)
    except UserError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()  # not by rich, which would break a URL into lines before its secret is recognized
        return redact(f"{type(error).__name__}: {error}").splitlines()[0]


def write(suite: SuiteConfig, probed: Sequence[ProbedRun], missing: Sequence[Missing], out: Path) -> list[Path]:
    """Print and write the table; return the paths, none if there are no accuracies."""
    rows, names = encoder_rows(probed), [data.name for data in suite.data]
    if not rows:
        return []
    print_table(benchmark_table(rows, names, intervals=False), f"{suite.name}: top-1 %")
    notes = [f"Top-1 % (95 % interval); settings, hashes and commits in {suite.name}.json.", *missing_sentences(missing)]
    table = benchmark_table(rows, names, intervals=True)
    return write_table(out / suite.name, table, json_document(suite, probed, rows, missing), notes)


def json_document(
    suite: SuiteConfig, probed: Sequence[ProbedRun], rows: Sequence[EncoderRow], missing: Sequence[Missing]
) -> dict[str, Any]:
    sets = {}
    for data in suite.data:
        hashes = next((run.reports[data.name].data_hash for run in probed if data.name in run.reports), None)
        test = data.test and redact(data.test)
        settings = suite.probe_settings(data).model_dump(mode="json")
        sets[data.name] = {"path": redact(data.path), "test": test, "data_hash": hashes, "settings": settings}
    return {
        "suite": suite.name,
        "version": __version__,
        "data": sets,
        "rows": [row.details() for row in rows],
        "missing": [item._asdict() for item in missing],
    }


def missing_sentences(missing: Sequence[Missing]) -> list[str]:
    """Return a sentence per reason, with all runs and data sets that are missing for it."""
    pairs: dict[str, list[str]] = {}
    for item in missing:
        pairs.setdefault(item.why, []).append(f"{item.run} on {item.data}")
    return [f"missing: {', '.join(names)}: {why}" for why, names in pairs.items()]


def submit_benchmark(
    suite: SuiteConfig, recipe: Path, runs: Sequence[Path], out: Path, site: SiteConfig, *, dry_run: bool = False
) -> list[str]:
    """Submit an array of probes, without those that are finished or queued, and a job that collects the table after them.

    Args:
        suite: the data sets and the settings.
        recipe: file of the suite.
        runs: run folders, snapshots of runs or encoder folders.
        out: folder of the table.
        site: resources of a job.
        dry_run: print the batch scripts and submit nothing.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: an encoder cannot be probed, everything is queued already, or Slurm refuses.
    """
    from jepa_pipeline.cluster.sbatch import Dependency, JobSpec, build_script, submit

    unfinished = unfinished_probes(suite, runs)
    command = ["benchmark", str(recipe), *map(str, runs), "--out", str(out), "--collect"]
    collector = JobSpec(f"benchmark-{suite.name}", command, out / "jobs")
    *queued, collecting = live_jobs([*unfinished, collector])
    probes = [spec for spec, id in zip(unfinished, queued, strict=True) if id is None]
    earlier = [id for id in queued if id is not None]
    if collecting is not None and not probes:
        where = f"{collecting} --folder {shlex.quote(str(out))}"
        raise UserError(f"job {collecting} writes this table already: wait for it, or cancel it with 'jepa cancel {where}'")
    if earlier:
        print(f"queued already: {len(earlier)} of {len(unfinished)} probes, as {', '.join(earlier)}")
    if dry_run:
        if probes:
            print(build_script(probes, site, logs=out / "jobs"))
        jobs = (*(["JOB1"] if probes else []), *earlier)
        print(build_script([collector], site, Dependency(jobs, "afterany")))
        return []
    ids = submit(probes, site, logs=out / "jobs") if probes else []
    waits = [*dict.fromkeys(id.partition("_")[0] for id in ids), *earlier]
    # afterany: probes that fail are named as missing in the table
    table = submit([collector], site, Dependency(tuple(waits), "afterany"))
    specs = dict(zip([*ids, *table], [*probes, collector], strict=True))
    for id, spec in specs.items():
        print(
            f"job {id}: jepa {shlex.join(spec.command)}" + (f"   after {', '.join(waits)}" if spec is collector and waits else "")
        )
    print(*next_commands(specs), f"table:    {out / suite.name}.md", sep="\n")
    return [*ids, *table]


def unfinished_probes(suite: SuiteConfig, runs: Sequence[Path]) -> list["JobSpec"]:
    """Return a job per run and data set without a report."""
    from jepa_pipeline.cluster.sbatch import JobSpec

    specs = []
    for folder, label in run_labels([existing_folder(run) for run in runs]).items():
        frozen = load_frozen(folder)
        for data in suite.data:
            config = suite.probe_settings(data)
            if load_finished(plan_probe(frozen, data.path, data.test, config)) is None:
                test = [] if data.test is None else ["--test", data.test]
                command = ["probe", str(folder), "--data", data.path, *test, *to_overrides(config)]
                specs.append(JobSpec(f"probe-{label}-{data.name}".replace("/", "-"), command, run_of(folder) / "jobs"))
    return specs


def live_jobs(specs: Sequence["JobSpec"]) -> list[str | None]:
    """Return for each spec the id of the newest pending or running job with the same command, or None."""
    from jepa_pipeline.cluster.records import read_records
    from jepa_pipeline.cluster.states import query_states

    if shutil.which("squeue") is None:
        return [None] * len(specs)  # a dry run without Slurm; submission fails by itself
    wanted = [(spec.folder, tuple(spec.command)) for spec in specs]
    records = [record for folder in dict.fromkeys(spec.folder.parent for spec in specs) for record in read_records(folder)]
    jobs = {record.id: (record.folder, record.command) for record in records if record.cwd == Path.cwd()}
    jobs = {id: job for id, job in jobs.items() if job in wanted}
    states = query_states(list(jobs))
    live = {job: id for id, job in jobs.items() if states[id].live}
    return [live.get(job) for job in wanted]


def next_commands(specs: dict[str, "JobSpec"]) -> list[str]:
    """Return the commands that list and cancel the jobs, by the folders of their runs. specs: by job id."""
    folders = dict[Path, dict[str, None]]()
    for id, spec in specs.items():
        folder = spec.folder.parent if spec.command[0] == "benchmark" else spec.folder.parent.parent
        folders.setdefault(folder, {})[id.partition("_")[0]] = None
    return [
        *(f"see them: jepa jobs {shlex.quote(str(folder))}" for folder in folders),
        *(f"cancel:   jepa cancel {' '.join(ids)} --folder {shlex.quote(str(folder))}" for folder, ids in folders.items()),
    ]
