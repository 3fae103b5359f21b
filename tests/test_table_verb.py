"""`jepa table`: runs side by side with the keys that differ, however far they got."""

import csv
import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jepa_pipeline.cli import app
from jepa_pipeline.cluster.records import JobRecord, save_record
from jepa_pipeline.cluster.states import JobState
from jepa_pipeline.commands.table import table
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, save_encoder
from jepa_pipeline.results import run_summary
from jepa_pipeline.results.probe_report import ProbeReport, ProbeRow, save_report


def report(config, step, top1, data="shapes", sha="t" * 12, kept="target"):
    rest = {"ci95": (0.0, 1.0), "n_test": 60, "seed": 0, "seconds": 1.0}
    rows = [
        ProbeRow(encoder=name, protocol="linear", settings={"features": "last4"}, top1=share, **rest)
        for name, share in ((kept, top1), ("random_init", 0.1))
    ]
    rows += [
        ProbeRow(
            encoder=kept,
            protocol="knn",
            settings={"features": kind, "k": k},
            top1=top1 + k / 1000 + 0.2 * (kind == "last4"),
            **rest,
        )
        for kind in ("last", "last4")
        for k in (5, 10, 40)
    ]
    return ProbeReport(
        data=data,
        data_hash={"train": "r" * 12, "test": sha},
        config_hash=config.hash(),
        weights_hash="w" * 64,
        step=step,
        version="0",
        probe=ProbeConfig.model_validate({}),
        rows=rows,
        selection={},
    )


@pytest.fixture
def make(tiny):
    """A function that makes the folder of a run that got as far as a step."""

    def run(name, step, *overrides, top1=None, loss=0.5, **options):
        config = tiny(f"name={name}", *overrides)
        encoder = config.method.encoder
        card = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "name": name, "method": "ijepa", "step": step, "samples": 8 * step}
        hashes = {"version": "0", "config_hash": config.hash(), "data_hash": "d" * 12}
        save_encoder(config.folder / "encoder", build_encoder(encoder), EncoderCard(encoder=encoder, **card, **hashes))
        (config.folder / "config.yaml").write_text(to_yaml(config))
        log = [{"step": n, "loss": loss, "samples_per_s": 100.0 * n} for n in range(1, step + 1)]
        log.insert(-1, {"step": step - 1, "health/predictor_r2": 0.25, "health/target_rankme": 7.0, "health/feature_rankme": 5.0})
        (config.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log) + '{"step": 99, "lo')
        if top1 is not None:
            save_report(config.folder / "probes/a.json", report(config, step, top1, **options))
        return config

    return run


def read(prefix):
    document = json.loads(Path(f"{prefix}.json").read_text())
    lines = list(csv.DictReader(Path(f"{prefix}.csv").read_text().splitlines()))
    return document, lines, Path(f"{prefix}.md").read_text().splitlines()


def test_the_columns_of_a_sweep_are_the_swept_keys(make, tmp_path, capsys):
    runs = [
        make(f"lr{n}-{seed}", 6, f"optim.lr={lr}", f"seed={seed}", top1=0.5 + n / 10)
        for n, lr in enumerate((1e-4, 3e-4))
        for seed in (0, 1)
    ]
    table([run.folder for run in runs], tmp_path / "sweep.v1")
    document, lines, markdown = read(tmp_path / "sweep.v1")
    titles = [
        "state",
        "step",
        "loss",
        "predictor_r2",
        "target rank",
        "feature rank",
        "samples/s",
        "shapes linear",
        "shapes k-NN 10",
    ]
    assert markdown[0] == f"| run | seed | optim.lr | {' | '.join(titles)} |"
    assert markdown[2] == "| lr0-0 | 0 | 0.0001 | finished | 6/6 | 0.5000 | 0.250 | 7.0 | 5.0 | 350 | 50.00 | 51.00 |"
    assert markdown[5] == "| lr1-1 | 1 | 0.0003 | finished | 6/6 | 0.5000 | 0.250 | 7.0 | 5.0 | 350 | **60.00** | **61.00** |"
    assert [line["optim.lr"] for line in lines] == ["0.0001", "0.0001", "0.0003", "0.0003"]
    assert [float(line["shapes linear"]) for line in lines] == [0.5, 0.5, 0.6, 0.6] and lines[0]["total_steps"] == "6"
    assert [run["differing"] for run in document] == [{"seed": seed, "optim.lr": lr} for lr in (1e-4, 3e-4) for seed in (0, 1)]
    assert [(probe["data"], probe["protocol"], probe["step"], probe["top1"]) for probe in document[3]["probes"]] == [
        ("shapes", "linear", 6, 0.6),
        ("shapes", "knn", 6, 0.61),
    ]
    out = capsys.readouterr().out
    assert "optim.lr" in out and "lr1-1" in out and out.count("written to") == 3 and "more key" not in out
    assert max(map(len, out.splitlines())) > 80, "into a file each run is one line"


def test_what_is_damaged_in_one_run_is_named_and_hides_nothing_else(make, tmp_path):
    """Broken lines, bytes that are no text, folders in place of files, and what killed processes and file browsers leave."""
    whole, damaged = make("whole", 4), make("damaged", 6, top1=0.5)
    log = damaged.folder / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], b"{broken\n", b"\xff\xfe\n", b"[1]\n", b'{"step": 3, "loss": "x"}\n', *lines[2:]]))
    (damaged.folder / "environment.json").write_bytes(b"\xff")
    (damaged.folder / "encoder/config.json").write_bytes(b"\xff")
    probes, jobs = damaged.folder / "probes", damaged.folder / "jobs"
    jobs.mkdir()
    for left in (probes / ".demo-26f8e414bae1.json", probes / "._a.json", jobs / ".7.json"):
        left.touch()
    (probes / "b.json").write_bytes(b"\xff")
    (whole.folder / "metrics.jsonl").unlink()
    (whole.folder / "metrics.jsonl").mkdir()
    folders = [str(whole.folder), str(damaged.folder)]
    result = CliRunner().invoke(app, ["table", *folders, "--out", str(tmp_path / "t")], catch_exceptions=False)
    output = result.output
    assert result.exit_code == 0 and f"{log}: 3 of 11 lines cannot be read and are passed over" in output
    assert f"{whole.folder / 'metrics.jsonl'} cannot be read: Is a directory" in output
    assert (
        f"{damaged.folder / 'encoder/config.json'} is not an encoder's card" in output and "b.json is not a probe report" in output
    )
    assert ".demo" not in output and "._a" not in output and ".7.json" not in output
    _, lines, _ = read(tmp_path / "t")
    assert [(line["step"], line["loss"]) for line in lines] == [("4", ""), ("6", "0.5")]


def test_runs_that_failed_or_have_not_begun_are_rows_too(make, tmp_path, capsys):
    done, broken, stopped = make("done", 6, top1=0.5), make("nan", 4, loss=float("nan")), make("old", 3)
    (stopped.folder / "config.yaml").write_text("name: [")
    queued, empty, file = (tmp_path / "runs" / name for name in ("queued", "empty", "notes.md"))
    save_record(record(queued))
    empty.mkdir()
    file.touch()
    folders = [done.folder, broken.folder, stopped.folder, queued, empty, file, tmp_path / "no"]
    result = CliRunner().invoke(app, ["table", *map(str, folders), "--out", str(tmp_path / "t")], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"skipped: 3 without config.yaml that were not submitted as runs ({empty}, {file}, {tmp_path / 'no'})" in result.output
    document, lines, markdown = read(tmp_path / "t")
    assert [(line["run"], line["state"], line["step"]) for line in lines] == [
        ("done", "finished", "6"),
        ("nan", "unfinished", "4"),
        ("old", "config unreadable", "3"),
        ("queued", "not begun", "0"),
    ]
    assert markdown[3].startswith("| nan | unfinished | 4/6 | nan | 0.250 |") and markdown[3].endswith("| – | – |")
    assert markdown[5] == "| queued | not begun | 0/– | – | – | – | – | – | – | – |"
    assert document[1]["loss"] == "nan" and lines[1]["loss"] == "nan"
    assert f"{stopped.folder / 'config.yaml'}:" in result.output and "not YAML" in result.output


def test_the_latest_step_counts_and_reports_of_another_run_do_not(make, tmp_path):
    config = make("a", 6, top1=0.5)
    early, later = report(config, 2, 0.65), report(config, 4, 0.7, data="other")
    save_report(config.folder / "probes/b.json", early)  # written last, and of an earlier step
    save_report(config.folder / "probes/c.json", later)
    save_report(config.folder / "probes/d.json", early.model_copy(update={"config_hash": "f" * 12, "step": 100}))
    (config.folder / "probes/e.json").write_text("{}")
    table([config.folder], tmp_path / "t")
    _, lines, markdown = read(tmp_path / "t")
    assert markdown[0].endswith("| other linear | other k-NN 10 | shapes linear | shapes k-NN 10 |")
    assert markdown[2].endswith("| **70.00 at 4** | **71.00 at 4** | **50.00** | **51.00** |")
    assert (lines[0]["shapes linear step"], lines[0]["other linear step"]) == ("6", "4")


def test_data_sets_of_one_name_have_their_hashes(make, tmp_path):
    runs = [make("a", 6, top1=0.5), make("b", 6, top1=0.4, sha="s" * 12, kept="online")]
    table([run.folder for run in runs], tmp_path / "t")
    _, _, markdown = read(tmp_path / "t")
    assert "| shapes (rrrrrr/ssssss) linear |" in markdown[0] and "| shapes (rrrrrr/tttttt) linear |" in markdown[0]


def test_runs_of_different_kinds_share_few_keys(make, tmp_path, capsys):
    masks = "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.3], context_keep: 0.3, target_keep: 0.3}]"
    clips = "method.encoder={image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2}"
    table([make("a", 6).folder, make("b", 6, "method.name=vjepa", masks, clips).folder], tmp_path / "t")
    document, lines, markdown = read(tmp_path / "t")
    assert "method.name" in markdown[0] and "method.masks" not in markdown[0]
    assert "method.masks.num_targets" in lines[0] and document[0]["differing"]["method.masks.num_targets"] == 2
    assert "more keys (" in capsys.readouterr().out


def record(run, command=("pretrain", "nowhere.yaml"), cwd=Path()):
    now = datetime.now().astimezone()
    return JobRecord(id="7_1", name=run.name, command=command, cwd=cwd, folder=run / "jobs", submitted=now, log="")


def test_a_queued_run_is_known_by_its_command(make, tiny, tmp_path, monkeypatch):
    run = make("a", 6)
    (tmp_path / "recipe.yaml").write_text(to_yaml(tiny("name=b")))
    command = ("pretrain", "recipe.yaml", "optim.lr=3e-4")
    save_record(record(tmp_path / "runs/b", command, cwd=tmp_path))
    monkeypatch.setattr(run_summary, "query_states", lambda ids: dict.fromkeys(ids, JobState("PENDING", reason="Priority")))
    table([run.folder, tmp_path / "runs/b"], tmp_path / "t")
    document, lines, _ = read(tmp_path / "t")
    assert (lines[1]["state"], document[1]["differing"]["optim.lr"], document[1]["total_steps"]) == ("pending", 3e-4, 6)


def test_keys_that_change_no_result_are_the_last_columns(make, tmp_path):
    runs = [make("a", 6, top1=0.5), make("b", 6, "data.workers=1", "optim.lr=3e-4", top1=0.6)]
    table([run.folder for run in runs], tmp_path / "t")
    _, _, markdown = read(tmp_path / "t")
    assert markdown[0].startswith("| run | optim.lr | state | step |") and markdown[0].endswith("| shapes k-NN 10 | data.workers |")
    assert markdown[3].endswith("| **60.00** | **61.00** | 1 |")


def test_the_folder_of_all_runs_is_no_run(make, tmp_path):
    save_record(record(tmp_path / "runs/b"))
    with pytest.raises(UserError, match=r"runs is not a run: it has no config.yaml"):
        table([tmp_path / "runs"])


def test_missing_folders_are_refused():
    with pytest.raises(UserError, match="no folder nowhere"):
        table([Path("nowhere")])


def test_credentials_in_urls_are_redacted(make, tmp_path):
    runs = [make("a", 6), make("b", 6, "data.train=https://me:secret@host/train?token=abc")]
    table([run.folder for run in runs], tmp_path / "t")
    for kind in ("md", "csv", "json"):
        text = Path(f"{tmp_path / 't'}.{kind}").read_text()
        assert "https://host/train" in text and "secret" not in text and "abc" not in text


def test_runs_that_differ_in_the_seed_alone_are_one_row(make, tmp_path, capsys):
    """Of several the interval is that of their mean, of one that of its test samples; a run without a probe is said."""
    runs = [make(f"small-{seed}", 2, f"seed={seed}", top1=0.5 + seed / 100).folder for seed in range(3)]
    runs += [make("large", 2, "optim.lr=0.5", top1=0.25).folder, make("small-3", 2, "seed=3").folder]
    table(runs, tmp_path / "table", over_seeds=True)
    document, lines, text = read(tmp_path / "table")
    assert [line["run"] for line in lines] == ["small", "large"] and [line["seeds"] for line in lines] == ["4", "1"]
    small, large = (row["probes"][0] for row in document)
    assert small["values"] == [0.5, 0.51, 0.52] and small["mean"] == pytest.approx(0.51)
    assert float(lines[0]["shapes linear low"]) == pytest.approx(0.51 - 4.30265 * 0.01 / 3**0.5, abs=1e-4)
    assert large["ci95"] == [0.0, 1.0], "as in its report"
    assert "51.00 (48.5–53.5; 3 of 4)" in "\n".join(text) and "optim.lr" in text[0] and "| seed |" not in text[0]
    assert "of the mean over seeds (Student's t)" in capsys.readouterr().out


def test_an_encoder_folder_is_a_row(make, tmp_path):
    """As an import writes it, with its probes; the folder of another library is none."""
    run = make("run", 2, top1=0.5)
    shutil.copytree(run.folder / "encoder", tmp_path / "published")
    shutil.copytree(run.folder / "probes", tmp_path / "published/probes")
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/config.json").write_text('{"architecture": "resnet18"}')
    table([run.folder, tmp_path / "published", tmp_path / "timm"], tmp_path / "table")
    _, lines, _ = read(tmp_path / "table")
    assert [(line["run"], line["state"], line["shapes linear"]) for line in lines] == [
        ("run", "unfinished", "0.5"),
        ("published", "encoder", "0.5"),
    ]
