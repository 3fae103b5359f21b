"""tools/probe_table.py: seeds of one recipe are one row, baselines come once, and numbers of other weights never."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, save_encoder
from jepa_pipeline.results.probe_report import ProbeReport, ProbeRow, save_report


@pytest.fixture(scope="module")
def tool():
    """tools/probe_table.py as a module."""
    spec = spec_from_file_location("probe_table", Path(__file__).parents[1] / "tools/probe_table.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accuracy(encoder, protocol, top1, **settings):
    rest = {"ci95": (0.0, 1.0), "n_test": 60, "seed": 0, "seconds": 1.0}
    return ProbeRow(encoder=encoder, protocol=protocol, settings=settings, top1=top1, **rest)


def report_of(weights_hash, top1, kept="target", ks=(5, 20), video=False):
    kinds = {kept: ("last", "last4"), "random_init": ("last", "last4"), "pixels": ("pixels",)}
    rows = [accuracy(name, "linear", top1 if name == kept else 0.4, features=kinds[name][-1]) for name in kinds]
    rows += [
        accuracy(name, "knn", (top1 if name == kept else 0.3) + k / 1000 - 0.2 * (kind == "last4"), features=kind, k=k)
        for name in kinds
        for kind in kinds[name]
        for k in ks
    ]
    if video:
        rows += [accuracy(name, "linear", top1 - 0.2, features="last") for name in ("frames_shuffled", "frames_apart")]
        rows += [accuracy(name, "attentive", top1 + 0.1, lr=1e-3) for name in (kept, "random_init", "frames_apart")]
    return ProbeReport(
        data="shapes",
        data_hash={},
        config_hash="c" * 12,
        weights_hash=weights_hash,
        step=3,
        version="0",
        probe=ProbeConfig.model_validate({"k": ks}),
        rows=rows,
        rankme={kept: 11.5, "random_init": 2.25, "pixels": 7.0},
        selection={},
    )


@pytest.fixture
def make(tiny):
    """A function that makes the folder of a run with a probe."""

    def run(name, top1, *overrides, kept="target", **options):
        config = tiny(f"name={name}", *overrides)
        torch.manual_seed(config.seed)
        folder, encoder = config.folder, config.method.encoder
        card = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "name": name, "method": "ijepa", "step": 3, "samples": 24, "version": "0"}
        hashes = {"config_hash": config.hash(), "data_hash": "d" * 12}
        save_encoder(folder / "encoder", build_encoder(encoder), EncoderCard(encoder=encoder, kept=kept, **card, **hashes))
        (folder / "config.yaml").write_text(to_yaml(config))
        log = [{"step": 2, "seconds": 10.4}, {"step": 3, "seconds": 20.0 + config.seed}, {"step": 3, "health/x": 1.0}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        save_report(folder / "probes/a.json", report_of(hash_weights(load_encoder(folder)), top1, kept, **options))
        save_report(folder / "probes/b.json", report_of("0" * 64, 0.9, kept))  # of weights the run no longer has
        return folder

    return run


VIDEO = [
    "method.name=vjepa",
    "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.3], context_keep: 0.3, target_keep: 0.3}]",
]
VIT = "ViT 24 x 2, patches of 4, 16x16"


def test_seeds_are_one_row_and_baselines_come_once(tool, make):
    runs = [make("a", 0.5, "seed=0"), make("b", 0.6, "seed=1"), make("c", 0.7, "optim.lr=1e-5")]
    assert tool.probe_table(runs).splitlines()[2:] == [
        f"| shapes | ijepa | {VIT} | a, b | 55.00 ± 7.07 (2) | 57.00 ± 7.07 (2) | 11.5 ± 0.0 (2) | 20 ± 1 (2) |",
        f"| shapes | ijepa | {VIT} | c | 70.00 | 72.00 | 11.5 | 20 |",
        f"| shapes | untrained | {VIT} |  | 40.00 | 32.00 | 2.2 |  |",
        "| shapes | pixels | 16x16 |  | 40.00 | 32.00 | 7.0 |  |",
    ]


def test_what_is_due_to_time_and_attention_has_columns_where_it_was_measured(tool, make):
    clips = "method.encoder={image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2}"
    runs = [make("a", 0.5), make("b", 0.6, *VIDEO, clips, video=True)]
    header, _, *rows = tool.probe_table(runs).splitlines()
    assert header == (
        "| data | method | encoder | runs | linear % | k-NN %, k 20 | attentive % | frames shuffled % | frames apart % "
        "| RankMe | training s |"
    )
    ours = "ViT 24 x 2, patches of 2x4x4, 4x16x16"
    assert rows[0] == f"| shapes | ijepa | {VIT} | a | 50.00 | 52.00 |  |  |  | 11.5 | 20 |"
    assert rows[1] == f"| shapes | ijepa | {ours} | b | 60.00 | 62.00 | 70.00 | 40.00 | 40.00 | 11.5 | 20 |"
    assert f"| shapes | untrained | {ours} |  | 40.00 | 32.00 | 70.00 |  |  | 2.2 |  |" in rows
    assert "| shapes | pixels | 4x16x16 |  | 40.00 | 32.00 |  |  |  | 7.0 |  |" in rows


def test_what_was_not_measured_stays_empty(tool, make):
    (folder,) = [make("a", 0.5, kept="online", ks=(5,))]
    (folder / "metrics.jsonl").unlink()
    assert tool.probe_table([folder]).splitlines()[2] == f"| shapes | ijepa | {VIT} | a | 50.00 |  | 11.5 |  |"


def test_a_run_without_a_probe_of_its_weights_is_refused(tool, make, monkeypatch, capsys):
    folder = make("a", 0.5)
    (folder / "probes/a.json").unlink()
    with pytest.raises(UserError, match="no probe of its current weights: run `jepa probe"):
        tool.probe_table([folder])
    monkeypatch.setattr(sys, "argv", ["probe_table.py", str(folder)])
    assert tool.main() == 2 and capsys.readouterr().err.count("\n") == 1
