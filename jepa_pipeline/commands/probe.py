"""`jepa probe`: accuracies of simple classifiers on a run's frozen features, with those of an untrained encoder and raw pixels."""

from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.console import note
from jepa_pipeline.probes.evaluate import OwnSets, load_frozen, plan_probe, run_probe
from jepa_pipeline.probes.labeled_data import find_labeled_data
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.probe_report import ProbeRow
from jepa_pipeline.results.probe_table import print_report
from jepa_pipeline.results.run_folders import run_of


def probe(
    run: str | Path,
    data: str | Path | OwnSets | None = None,
    test: str | Path | None = None,
    config: ProbeConfig | None = None,
    out: Path | None = None,
    level: Level | None = None,
) -> list[ProbeRow]:
    """Probe a run's encoder, print the accuracies, write the report and return its rows.

    Args:
        run: a run folder, one of its snapshots, or an encoder folder.
        data: a folder or URL with labeled shards in train/ and test/, or the training shards if `test` is given; or two map-style
            data sets of your own with labels, (train, test); default: around the run's own training shards.
        test: the test shards.
        config: of the probe; default: the defaults of its keys.
        out: folder of the report; default: RUN/probes.
        level: the only level of a stack to probe, or all levels concatenated; default: each level, and all. A single encoder has
            level 1.

    Raises:
        UserError: there is no encoder, no such level, no data, no labels, or they do not belong together.
    """
    frozen = load_frozen(Path(run), level)
    if data is None:
        if test is not None:
            raise UserError(f"--test names {test}, but nothing names the training shards: give them with --data")
        data = find_labeled_data(run_of(frozen.folder))
        note(f"probing on {redact(data)}, around the shards it was trained on (change with --data)")
    config = config or ProbeConfig.model_validate({})
    given = data if isinstance(data, tuple) else str(data)
    job = plan_probe(frozen, given, None if test is None else str(test), config, out)
    report = run_probe(job)
    print_report(report, job.train_set.manifest.kind, job.path)
    return report.rows
