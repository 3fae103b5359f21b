"""`jepa benchmark`: every run on every data set in one table; each pair is probed once, and a failing pair affects no other."""

import csv
import json
from datetime import datetime
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jepa_pipeline.cli import app
from jepa_pipeline.cluster.records import JobRecord, save_record
from jepa_pipeline.cluster.sbatch import Dependency
from jepa_pipeline.commands.benchmark import benchmark, submit_benchmark, unfinished_probes
from jepa_pipeline.config.errors import ConfigError, UserError
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import load_suite, to_overrides
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, save_encoder
from jepa_pipeline.probes import evaluate
from jepa_pipeline.results.probe_report import load_reports

SUITE = """
name: shapes
data:
  - {{name: many, path: {shards}}}
  - {{name: few, path: {shards}/test, test: {shards}/train, settings: {{k: [1, 3], selection_share: 0.2}}}}
settings: {{workers: 0, k: [1, 5], weight_decay: [0.01], iterations: 5, features: [last]}}
"""


@pytest.fixture
def make(tiny):
    """A function that makes a run folder with an untrained encoder."""

    def run(name, *overrides, step=3, folder=None):
        config = tiny(f"name={name}", *overrides)
        torch.manual_seed(config.seed)
        card = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "name": name, "method": "ijepa", "step": step, "samples": 8 * step}
        hashes = {"version": "0", "config_hash": config.hash(), "data_hash": "d" * 12}
        encoder = config.method.encoder
        place = folder or config.folder / "encoder"
        save_encoder(place, build_encoder(encoder), EncoderCard(encoder=encoder, **card, **hashes))
        (config.folder / "config.yaml").write_text(to_yaml(config))
        environment = {"git": {"commit": "abc1234", "changed": name == "b"}}
        (config.folder / "environment.json").write_text(json.dumps(environment))
        return folder or config.folder

    return run


@pytest.fixture
def suite(shards, tmp_path) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.format(shards=shards))
    return path


def refuse(*_, **__):
    raise RuntimeError("this must not be reached")


def test_two_runs_on_two_sets_are_one_table_and_are_not_probed_again(suite, make, tmp_path, monkeypatch, capsys):
    runs, out = [make("a"), make("b", "seed=1")], tmp_path / "out"
    assert not benchmark(load_suite(suite), runs, out)["missing"]
    lines = list(csv.DictReader((out / "shapes.csv").read_text().splitlines()))
    assert [(line["run"], line["encoder"]) for line in lines] == [
        ("a", "target"),
        ("b", "target"),
        ("untrained ViT 24 x 2, patches of 4, 16x16", "random_init"),
        ("16x16", "pixels"),
    ]
    columns = [
        f"{name} {kind}" for name, kinds in (("many", ("linear", "k-NN 5")), ("few", ("linear", "k-NN 3"))) for kind in kinds
    ]
    assert all(float(line[f"{name} low"]) <= float(line[name]) <= float(line[f"{name} high"]) for line in lines for name in columns)
    assert (lines[0]["commit"], lines[1]["commit"], lines[0]["step"], lines[2]["step"]) == ("abc1234", "abc1234+", "3", "")

    written = json.loads((out / "shapes.json").read_text())
    assert written["missing"] == [] and [row["run"] for row in written["rows"]] == [line["run"] for line in lines]
    assert written["data"]["few"]["settings"]["k"] == [1, 3] and written["data"]["many"]["settings"]["k"] == [1, 5]
    first = written["rows"][0]
    assert (first["step"], first["samples"], len(first["config_hash"])) == (3, 24, 12)
    assert first["results"]["many"]["linear"]["n_test"] == 60 and first["results"]["few"]["linear"]["n_test"] == 200
    (report,) = [one for one in load_reports(runs[0] / "probes") if one.data == "test"]
    assert first["results"]["few"]["k-NN 3"]["top1"] == next(row.top1 for row in report.rows if row.settings.get("k") == 3)

    header, _, *rows = (out / "shapes.md").read_text().split("\n\n")[0].splitlines()
    assert header == f"| run | encoder | step | {' | '.join(columns)} |" and len(rows) == 4
    best = max(float(line["many linear"]) for line in lines)
    assert [f"| **{100 * best:.2f} (" in row for row in rows] == [float(line["many linear"]) == best for line in lines]

    capsys.readouterr()
    files = {path: path.stat().st_mtime_ns for run in runs for path in (run / "probes").iterdir()}
    monkeypatch.setattr(evaluate, "build_extractors", refuse)
    assert not benchmark(load_suite(suite), runs, tmp_path / "again")["missing"]
    assert (tmp_path / "again/shapes.csv").read_text() == (out / "shapes.csv").read_text()
    assert {path: path.stat().st_mtime_ns for run in runs for path in (run / "probes").iterdir()} == files
    assert capsys.readouterr().out.count("was probed before") == 4


def test_a_failing_pair_is_named_and_the_others_are_probed(suite, make, tmp_path):
    runs = [make("a"), make("b", "seed=1"), tmp_path / "runs/begun"]
    runs[2].mkdir()
    suite.write_text(suite.read_text().replace("settings: {k: [1, 3]", "settings: {k: [1, 3000]"))
    result = CliRunner().invoke(app, ["benchmark", str(suite), *map(str, runs), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    said = [line for line in result.output.splitlines() if line.startswith("missing: ")]
    assert said[0].startswith("missing: a on few, b on few: k is 3000") and said[1].startswith(
        "missing: begun on many, begun on few"
    )
    written = json.loads((tmp_path / "out/shapes.json").read_text())
    assert [set(row["results"]) for row in written["rows"]] == [{"many"}] * 4
    assert {(miss["run"], miss["data"]) for miss in written["missing"]} == {
        *[("a", "few"), ("b", "few")],
        *[("begun", "many"), ("begun", "few")],
    }
    assert said[0] in (tmp_path / "out/shapes.md").read_text()


def test_any_error_costs_one_pair(suite, make, tmp_path, monkeypatch, capsys):
    probe_pooled = evaluate.probe_pooled

    def fail(report, *rest):
        if report.data == "test":
            raise RuntimeError("out of memory")
        return probe_pooled(report, *rest)

    monkeypatch.setattr(evaluate, "probe_pooled", fail)
    assert benchmark(load_suite(suite), [make("a")], tmp_path / "out")["missing"]
    out, err = capsys.readouterr()
    assert "missing: a on few: RuntimeError: out of memory" in out and "Traceback" in err


def test_a_report_without_all_protocols_is_probed_again(suite, make, tmp_path, monkeypatch):
    suite.write_text(suite.read_text() + "\n")
    text = suite.read_text().replace("features: [last]", "features: [last], protocols: [linear, attentive]")
    suite.write_text(text.replace("iterations: 5", "iterations: 5, attentive: {lr: [0.001], weight_decay: [0.01], epochs: 1}"))
    run, jobs = make("a"), []
    with monkeypatch.context() as failing:
        failing.setattr(evaluate, "attentive_probe", refuse)
        assert benchmark(load_suite(suite), [run], tmp_path / "out")["missing"]
    run_probe = evaluate.run_probe
    monkeypatch.setattr("jepa_pipeline.commands.benchmark.run_probe", lambda job: jobs.append(job) or run_probe(job))
    assert not benchmark(load_suite(suite), [run], tmp_path / "out")["missing"] and len(jobs) == 2
    assert "few attentive" in (tmp_path / "out/shapes.csv").read_text()
    assert not benchmark(load_suite(suite), [run], tmp_path / "out")["missing"] and len(jobs) == 2


def test_a_snapshot_has_its_own_row_and_its_report_is_in_the_run(suite, make, tmp_path):
    run = make("a", step=6)
    early = make("a", "seed=1", step=3, folder=run / "snapshots/step-00000003")
    assert not benchmark(load_suite(suite), [run, early], tmp_path / "out")["missing"]
    lines = list(csv.DictReader((tmp_path / "out/shapes.csv").read_text().splitlines()))
    assert [(line["run"], line["step"]) for line in lines[:2]] == [("a", "6"), ("a/step-00000003", "3")]
    names = sorted(path.name.rpartition("-")[0] for path in (run / "probes").iterdir())
    assert [name.partition("step")[2] for name in names].count("-00000003") == 2 and len(names) == 4


def test_collecting_probes_nothing(suite, make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "build_extractors", refuse)
    assert benchmark(load_suite(suite), [make("a")], tmp_path / "out", collect=True)["missing"]
    assert "missing: a on many, a on few: it was not probed" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("iterations:", "iteration:"), "unknown key 'settings.iteration' - did you mean 'settings.iterations'?"),
        (("name: few, path", "name: few, pth"), "did you mean 'data.1.path'?"),
        (("name: few", "name: many"), "two data sets are named many"),
        (("iterations: 5", "iterations: five"), "'settings.iterations' is 'five'"),
        (("name: shapes", "name: a/b"), "'name' is 'a/b'"),
        (("selection_share: 0.2", "attentive: {warmup_epochs: 30}"), "warmup_epochs 30 leaves nothing of epochs 20"),
        (("workers: 0", "attentive: {epochs: 2}"), None),
    ],
)
def test_a_mistake_in_a_suite_is_one_sentence_with_its_place(suite, change, says):
    suite.write_text(suite.read_text().replace(*change))
    if says is None:
        assert load_suite(suite).probe_settings(load_suite(suite).data[1]).attentive.epochs == 2
        return
    with pytest.raises(ConfigError) as raised:
        load_suite(suite)
    assert any(says in str(mistake) for mistake in raised.value.mistakes), raised.value
    assert str(raised.value).startswith(str(suite))


def test_settings_that_conflict_are_named(suite):
    text = suite.read_text().replace("workers: 0", "attentive: {warmup_epochs: 10}")
    suite.write_text(text.replace("selection_share: 0.2", "attentive: {epochs: 5, warmup_epochs: 0}"))
    assert load_suite(suite).probe_settings(load_suite(suite).data[1]).attentive.epochs == 5
    suite.write_text(text.replace("k: [1, 3]", "attentive: {epochs: 5}"))
    with pytest.raises(ConfigError, match="the settings of few merged over those of the suite: attentive: warmup_epochs 10"):
        load_suite(suite)


def test_a_run_that_is_no_folder_is_refused(suite, tmp_path):
    with pytest.raises(UserError, match="no folder nowhere"):
        benchmark(load_suite(suite), [Path("nowhere")], tmp_path)


def test_settings_are_the_same_on_a_command_line(suite):
    suite.write_text(suite.read_text().replace("workers: 0", "attentive: {lr: [1e-5], heads: null}, precision: bf16"))
    chosen = load_suite(suite)
    for part in chosen.data:
        assert load_overrides(ProbeConfig, to_overrides(chosen.probe_settings(part))) == chosen.probe_settings(part)


def as_record(spec, id):
    values = {"id": id, "name": spec.name, "command": spec.command, "folder": spec.folder, "log": ""}
    return JobRecord(cwd=Path.cwd(), submitted=datetime.now().astimezone(), **values)


def test_queued_probes_are_not_submitted_again(suite, make, tmp_path, monkeypatch, capsys):
    run, out, squeue = make("a"), tmp_path / "out", tmp_path / "bin/squeue"
    chosen, site = load_suite(suite), SiteConfig.model_validate({"time": "10"})
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '17_1|RUNNING|1:00|None'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent))
    specs = unfinished_probes(chosen, [run])
    for number, spec in enumerate(specs):
        save_record(as_record(spec, f"17_{number}"))
    assert submit_benchmark(chosen, suite, [run], out, site, dry_run=True) == []
    said = capsys.readouterr().out
    assert "queued already: 1 of 2 probes, as 17_1" in said and said.count("#!/bin/bash") == 2 and not out.exists()
    assert f"# command: jepa probe {run} --data {chosen.data[0].path}" in said and "--dependency=afterany:JOB1:17_1" in said
    squeue.write_text("#!/bin/sh\nprintf '17_0|PENDING|0:00|None\\n17_1|RUNNING|1:00|None\\n27|PENDING|0:00|None\\n'\n")
    gather = ["benchmark", str(suite), str(run), "--out", str(out), "--collect"]
    save_record(as_record(specs[0]._replace(command=gather, folder=out / "jobs"), "27"))
    with pytest.raises(UserError, match="job 27 writes this table already"):
        submit_benchmark(chosen, suite, [run], out, site)


def test_only_unfinished_probes_are_submitted_with_a_job_that_collects(suite, make, tmp_path, monkeypatch, capsys):
    """The commands of the jobs, run here in order, write the table."""
    runs, out, queued = [make("a"), make("b", "seed=1")], tmp_path / "out", []

    def submit(specs, site, dependency=None, *, logs=None):
        for number, spec in enumerate(specs):
            save_record(as_record(spec, f"{len(queued) + 1}7_{number}" if len(specs) > 1 else f"{len(queued) + 1}7"))
        queued.append((specs, dependency))
        return [f"{len(queued)}7_{number}" if len(specs) > 1 else f"{len(queued)}7" for number, _ in enumerate(specs)]

    monkeypatch.setattr("jepa_pipeline.cluster.sbatch.submit", submit)
    chosen = load_suite(suite)
    few = chosen.model_copy(update={"data": chosen.data[1:]})
    assert not benchmark(few, runs[:1], tmp_path / "few")["missing"]
    site = SiteConfig.model_validate({"time": "10"})
    assert submit_benchmark(chosen, suite, runs, out, site) == ["17_0", "17_1", "17_2", "27"]
    said = capsys.readouterr().out
    assert f"cancel:   jepa cancel 17 --folder {tmp_path / 'runs'}" in said and f"cancel:   jepa cancel 27 --folder {out}" in said
    assert f"see them: jepa jobs {tmp_path / 'runs'}" in said and "job 17_1: jepa probe " in said
    (probes, _), ((gather,), dependency) = queued
    assert [spec.name for spec in probes] == ["probe-a-many", "probe-b-many", "probe-b-few"]
    assert {spec.folder for spec in probes} == {run / "jobs" for run in runs} and dependency == Dependency(("17",), "afterany")
    for spec in [*probes, gather]:
        result = CliRunner().invoke(app, spec.command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert len((out / "shapes.csv").read_text().splitlines()) == 5


def test_the_suites_of_the_project_load():
    configs = Path(__file__).parents[1] / "configs"
    suites = sorted((configs / "suites").glob("*.yaml"))
    assert [load_suite(path).name for path in suites] == [path.stem for path in suites] != []
    for path in suites:
        assert f"jepa benchmark configs/suites/{path.name}" in path.read_text()
