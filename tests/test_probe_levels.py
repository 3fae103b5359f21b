"""`jepa probe`, `jepa benchmark` and `jepa table` of a stack: a row per level, from one report."""

import csv
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jepa_pipeline.cli import app, main
from jepa_pipeline.commands.benchmark import benchmark
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.commands.table import table
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.config.suite import load_suite
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, save_encoder
from jepa_pipeline.results.probe_report import load_reports

FLAT = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
ABOVE = [{"stride": {"time": 2, "space": 2}, "embed_dim": 16, "depth": 1, "num_heads": 2}]
CLIPS = StackConfig.model_validate({**FLAT, "frames": 4, "tubelet_size": 2, "above": ABOVE})
IMAGES = StackConfig.model_validate({**FLAT, "above": [{**ABOVE[0], "stride": {"space": 2}}]})
CONFIG = ProbeConfig.model_validate(
    {
        "protocols": ["linear", "knn", "attentive"],
        "workers": 0,
        "weight_decay": [0.01],
        "k": [3],
        "iterations": 5,
        "selection_share": 0.2,
        "attentive": {"lr": [1e-3], "weight_decay": [0.01], "epochs": 1, "segments": 1, "views": 1},
    }
)
QUICK = CONFIG.model_copy(update={"protocols": ("linear",)})
EVERY = ["level1", "level2", "levels", "random_init_level1", "random_init_level2", "random_init_levels"]
BLINDED = ["frames_shuffled", "frames_apart"]


def make_run(folder, config, name="tiny", config_hash="c" * 12, **fields) -> Path:
    torch.manual_seed(7)
    card = EncoderCard(
        encoder=config,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        clip=ClipConfig.model_validate({"stride": 2}) if config.modality.has_time else None,
        **{"name": name, "method": "hjepa", "step": 3, "samples": 48, "version": "0", **fields},
        config_hash=config_hash,
        data_hash="d" * 12,
    )
    save_encoder(folder / "encoder", build_encoder(config), card)
    return folder


def names(rows, protocol="linear"):
    return list(dict.fromkeys(row.encoder for row in rows if row.protocol == protocol))


def test_every_level_has_every_row_with_its_baselines(tmp_path, videos, capsys):
    run = make_run(tmp_path / "stack", CLIPS)
    rows = probe(run, videos, config=CONFIG)
    for protocol in CONFIG.protocols:
        assert names(rows, protocol) == [*EVERY, *BLINDED, *([] if protocol == "attentive" else ["pixels"])]
    (report,) = load_reports(run / "probes")
    assert report.rows == rows and list(report.rankme) == [*EVERY, *BLINDED, "pixels"] and report.level is None
    assert report.weights_hash == hash_weights(load_encoder(run))
    out = capsys.readouterr().out
    assert "levels' linear" in out and "levels' attentive" in out and "level1's" not in out
    printed = [line.split()[0] for line in out.splitlines() if " linear " in line and "%" not in line and "' " not in line]
    assert printed == [*EVERY, *BLINDED, "pixels"]


@pytest.mark.parametrize(("level", "name"), [(1, "level1"), (2, "level2"), ("all", "levels")])
def test_the_accuracies_of_a_level_do_not_depend_on_the_other_levels(tmp_path, videos, level, name):
    run = make_run(tmp_path / "stack", CLIPS)
    every, alone = probe(run, videos, config=QUICK), probe(run, videos, config=QUICK, level=level)
    assert names(alone) == [name, f"random_init_{name}", *BLINDED, "pixels"]
    found = {row.encoder: row.top1 for row in every}
    same = {*names(alone)} - (set() if level == "all" else {*BLINDED})
    assert all(row.top1 == found[row.encoder] for row in alone if row.encoder in same)
    paths = sorted(path.name for path in (run / "probes").glob("*.json"))
    assert len(paths) == 2 and sum(path.startswith(f"{videos.name}-{name}-") for path in paths) == 1
    assert {report.level for report in load_reports(run / "probes")} == {None, level}
    probe(run, videos, config=QUICK, level=level)
    assert sorted(path.name for path in (run / "probes").glob("*.json")) == paths


def test_images_have_no_frames_baselines(tmp_path, shards, capsys):
    rows = probe(make_run(tmp_path / "stack", IMAGES), shards, config=QUICK)
    assert names(rows) == [*EVERY, "pixels"] and "order of frames" not in capsys.readouterr().out


def test_a_flat_encoder_is_its_level_1(tmp_path, shards):
    run = make_run(tmp_path / "flat", EncoderConfig.model_validate(FLAT))
    both = [probe(run, shards, config=QUICK, level=level) for level in (None, 1)]
    assert names(both[0]) == names(both[1]) == ["target", "random_init", "pixels"]
    assert [row.top1 for row in both[0]] == [row.top1 for row in both[1]] and len(load_reports(run / "probes")) == 1


@pytest.mark.parametrize(
    ("config", "level", "sentence"),
    [
        (EncoderConfig.model_validate(FLAT), "2", "--level 2: the encoder of {} has 1 level: give 1, or omit it"),
        (IMAGES, "3", "--level 3: the encoder of {} has 2 levels: give a number from 1 to 2, or all"),
        (IMAGES, "top", "--level top: levels are counted from 1: give a number such as 1, or all"),
    ],
)
@pytest.mark.parametrize("verb", ["probe", "export"])
def test_a_missing_level_is_refused_before_weights_are_read(tmp_path, shards, monkeypatch, capsys, config, level, sentence, verb):
    run = make_run(tmp_path / "run", config)
    (run / "encoder/model.safetensors").write_bytes(b"spoilt")
    given = ["--data", str(shards)] if verb == "probe" else ["--to", "jepa"]
    monkeypatch.setattr(sys, "argv", ["jepa", verb, str(run), *given, "--level", level])
    monkeypatch.setattr("jepa_pipeline.cli.was_distributed", lambda: False)  # as other tests in this process may have been
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and capsys.readouterr().err == sentence.format(run) + "\n"
    assert not (run / "probes").exists() and not (run / "export").exists()


def test_the_option_reaches_the_probe(tmp_path, shards):
    run = make_run(tmp_path / "run", IMAGES)
    settings = ["protocols=[linear]", "workers=0", "iterations=2", "weight_decay=[0.01]"]
    result = CliRunner().invoke(app, ["probe", str(run), "--data", str(shards), "--level", "2", *settings], catch_exceptions=False)
    assert result.exit_code == 0
    (report,) = load_reports(run / "probes")
    assert report.level == 2 and report.encoders == ["level2", "random_init_level2", "pixels"]


def test_a_benchmark_has_a_row_per_level(tmp_path, shards):
    runs = [make_run(tmp_path / "stack", IMAGES), make_run(tmp_path / "flat", EncoderConfig.model_validate(FLAT))]
    path = tmp_path / "suite.yaml"
    settings = "{workers: 0, protocols: [linear], weight_decay: [0.01], iterations: 5, features: [last]}"
    path.write_text(f"name: s\ndata: [{{name: shapes, path: {shards}}}]\nsettings: {settings}\n")
    assert benchmark(load_suite(path), runs, tmp_path / "out")
    lines = list(csv.DictReader((tmp_path / "out/s.csv").read_text().splitlines()))
    first, second = "ViT 24 x 2", "ViT 24 x 2 + 16 x 1 (stride 2x2)"
    assert [(line["run"], line["encoder"]) for line in lines] == [
        *[("stack", name) for name in EVERY[:3]],
        ("flat", "target"),
        *[
            (f"untrained {shape}, patches of 4, 16x16", name)
            for shape, name in zip((first, second, second), EVERY[3:], strict=True)
        ],
        ("16x16", "pixels"),
        (f"untrained {first}, patches of 4, 16x16", "random_init"),
    ]
    found = {line["encoder"]: line["shapes linear"] for line in lines}
    assert found["random_init_level1"] == found["random_init"] and all(found.values())


def test_a_table_has_a_row_per_level(tiny, tmp_path, shards):
    config = tiny("name=stack")
    run = make_run(config.folder, IMAGES, config_hash=config.hash())
    flat = tiny("name=flat", "optim.lr=1e-3")
    make_run(flat.folder, EncoderConfig.model_validate(FLAT), config_hash=flat.hash())
    for one in (config, flat):
        (one.folder / "config.yaml").write_text(to_yaml(one))
    log = {"step": 3, "loss": 0.5, "level1/prediction": 0.3, "level2/prediction": 0.2, "health/target_rankme": 7.0}
    (run / "metrics.jsonl").write_text(json.dumps({**log, "level2/health/target_rankme": 3.0}) + "\n")
    table([run], tmp_path / "before")
    assert [line["level"] for line in read(tmp_path / "before")] == ["level1", "level2"]
    for folder in (run, flat.folder):
        probe(folder, shards, config=QUICK)
    table([run, flat.folder], tmp_path / "t")
    lines, markdown = read(tmp_path / "t"), (tmp_path / "t.md").read_text().splitlines()
    assert [(line["run"], line["level"]) for line in lines] == [*[("stack", name) for name in EVERY[:3]], ("flat", "")]
    assert [(line["loss"], line["target rank"]) for line in lines] == [("0.5", "7.0"), ("", "3.0"), ("", ""), ("", "")]
    (report,) = load_reports(run / "probes")
    top1 = {row.encoder: row.top1 for row in report.rows}
    assert [float(line[f"{shards.name} linear"]) for line in lines[:3]] == [top1[name] for name in EVERY[:3]]
    assert markdown[0].startswith("| run | level | state |") and markdown[3].startswith("| stack | level2 |")
    document = json.loads((tmp_path / "t.json").read_text())
    assert [probe["encoder"] for probe in document[0]["probes"]] == EVERY[:3] and document[0]["target rank"] == 7.0
    assert document[0]["levels"] == {"level2": {"target rank": 3.0}, "levels": {}} and "levels" not in document[1]


def test_the_tool_for_many_seeds_has_a_row_per_level(tiny, shards):
    spec = spec_from_file_location("probe_table", Path(__file__).parents[1] / "tools/probe_table.py")
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    runs = []
    for seed in (0, 1):
        config = tiny(f"name=s{seed}", f"seed={seed}")
        runs.append(make_run(config.folder, IMAGES))
        (runs[-1] / "config.yaml").write_text(to_yaml(config))
        probe(runs[-1], shards, config=QUICK)
    rows = [line.split(" | ")[1:4] for line in tool.probe_table(runs).splitlines()[2:]]
    shape, place = "ViT 24 x 2 + 16 x 1 (stride 2x2)", "patches of 4, 16x16"
    first, second = f"ViT 24 x 2, {place}", f"{shape}, {place}"
    called = [f"{first}, level 1", f"{second}, level 2", f"{second}, all levels"]
    assert rows[:3] == [["hjepa", name, "s0, s1"] for name in called]
    assert [row[:2] for row in rows[3:6]] == [["untrained", name] for name in called] and rows[6][0] == "pixels"


def read(prefix):
    return list(csv.DictReader(Path(f"{prefix}.csv").read_text().splitlines()))
