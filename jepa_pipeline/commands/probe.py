"""`jepa probe`: what simple classifiers can read from a run's frozen features, beside an untrained encoder and raw pixels."""

from pathlib import Path

from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.probes.evaluate import answer, ask, read_subject
from jepa_pipeline.probes.report import Row
from jepa_pipeline.probes.runs import run_of
from jepa_pipeline.probes.sets import sets_around
from jepa_pipeline.probes.table import show


def probe(
    run: str | Path,
    data: str | Path | None = None,
    test: str | Path | None = None,
    config: ProbeConfig | None = None,
    out: Path | None = None,
    level: Level | None = None,
) -> list[Row]:
    """Linear, k-NN and attentive accuracies of a run's encoder and of its baselines.

    Args:
        run: a run folder, one of its snapshots, or the folder of an encoder.
        data: a folder or URL with labeled shards in train/ and test/, or the training shards where `test` is given; that around
            the run's own training shards unless given.
        test: the test shards.
        config: the probe's settings; the defaults unless given.
        out: folder of the JSON; RUN/probes unless given.
        level: of a stack the only level that is probed, or all for their features beside one another; each by itself and all unless
            given. A flat encoder is its level 1.

    Raises:
        UserError: there is no encoder, no such level, no data, no labels, or two of these do not belong together.
    """
    subject = read_subject(Path(run), level)
    if data is None:
        if test is not None:
            raise UserError(f"--test names {test}, but nothing names the training shards: give them with --data")
        data = sets_around(run_of(subject.folder))
        said = f"probing on {without_secrets(data)}, around the shards it was trained on (--data names others)"
        Console().print(said, soft_wrap=True, markup=False, highlight=False)
    config = config or ProbeConfig.model_validate({})
    question = ask(subject, str(data), None if test is None else str(test), config, out)
    report = answer(question)
    show(report, question.train_set.manifest.kind, question.path)
    return report.rows
