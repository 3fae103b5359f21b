"""The programs in tools/: run as a user runs them, and held against arithmetic."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jaxtyping
import pytest
import torch

from jepa_pipeline.commands.demo_shards import demo
from jepa_pipeline.losses.sigreg import random_slices, sigreg

ROOT = Path(__file__).parents[1]
RECIPE = str(ROOT / "configs/ijepa_fashion_mnist.yaml")
PARTS = [
    "data",
    "transfer, normalize",
    "loss",
    "target forward",
    "encoder forward",
    "predictor forward",
    "backward",
    "optimizer",
    "EMA",
    "rest of the loop",
]


@pytest.fixture(scope="module")
def bench_step():
    """tools/bench_step.py as a module, with products small enough for a test."""
    spec = spec_from_file_location("bench_step", ROOT / "tools/bench_step.py")
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")  # it stands on its neighbors
        spec.loader.exec_module(module)
    module.MATMUL = {"cpu": 256}
    return module


@pytest.fixture(scope="module")
def report(bench_step, shards):
    return bench_step.measure(tiny_config(bench_step, data=shards / "train"), steps=3, synthetic=False, attention=None)


def tiny_overrides(data="nowhere"):
    return [
        f"data={{train: {data}, workers: 0}}",
        "method.encoder={image_size: 16, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}",
        "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
        "method.masks={num_targets: 2, target_scale: [0.2, 0.3], context_keep: 0.3}",
        "optim={batch_size_global: 8, total_samples: 48, warmup_samples: 16}",
        "trainer={accelerator: cpu, precision: fp32, threads: 1}",
    ]


def tiny_config(bench_step, *overrides, data="nowhere"):
    return bench_step.load_config(RECIPE, [*tiny_overrides(data), *overrides])


def vit_flops(config, images):
    """Multiplications and additions of a ViT's products (Dosovitskiy et al. 2021, section 3.1), two for each weight used."""
    dim, depth, _, ratio = config.size
    tokens = config.grid[0] * config.grid[1]
    patches = 2 * tokens * 3 * config.patch_size**2 * dim
    layers = 2 * tokens * dim * dim * (3 + 1 + 2 * ratio)
    attention = 2 * 2 * tokens**2 * dim
    return images * (patches + depth * (layers + attention))


def test_every_part_of_a_step_is_measured(report):
    assert sorted(report.parts) == sorted(PARTS)
    assert list(report.parts)[-1] == "rest of the loop"
    assert all(part.ms > 0 for part in report.parts.values())
    assert min(report.whole_ms, report.masks_ms, report.loader_ms, report.peak) > 0


def test_the_flops_are_those_of_the_networks(bench_step, report):
    config = tiny_config(bench_step)
    flops = {name: part.flops for name, part in report.parts.items()}
    assert flops["target forward"] == pytest.approx(vit_flops(config.method.encoder, 8), rel=0.02)
    trained = flops["encoder forward"] + flops["predictor forward"]
    assert 1.5 * trained < flops["backward"] < 2 * trained, "twice the forward, less the gradients nobody asks for"
    assert not any(flops[name] for name in ("data", "loss", "optimizer", "EMA"))


@pytest.mark.parametrize("overrides", [[], ["optim.accumulate_steps=2"]], ids=["whole", "accumulated"])
def test_fused_attention_is_counted_like_plain(bench_step, report, overrides):
    fused = bench_step.measure(tiny_config(bench_step, *overrides), 1, synthetic=True, attention=bench_step.Attention.fused)
    assert fused.fused and not report.fused
    for name in ("target forward", "encoder forward", "predictor forward"):
        assert fused.parts[name].flops == report.parts[name].flops
    assert 0 < report.attention_flops < fused.attention_flops, "its backward multiplies query and key once more"


def test_shares_add_up(bench_step, report):
    table = bench_step.report_table(report, "title", images=8)
    shares = dict(zip(table.columns[0].cells, table.columns[2].cells, strict=True))
    assert sum(float(shares[part].rstrip("%")) for part in PARTS) == pytest.approx(100, abs=0.6)
    assert shares["sum of the parts"] == "100.0%"


def test_compiled_networks_are_measured_compiled(bench_step, monkeypatch):
    """Counting FLOPs comes first and makes torch give up compiling; the steps that are timed must not inherit that."""
    graphs = []
    compile = torch.nn.Module.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend=backend))
    jaxtyping.config.update("jaxtyping_disable", True)  # the checks of shapes cannot be compiled
    try:
        bench_step.measure(tiny_config(bench_step, "trainer.compile=true"), 1, synthetic=True, attention=None)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert graphs


def call(bench_step, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench_step.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        bench_step.main()
    return ended.value.code


def test_it_runs_without_shards(bench_step, monkeypatch, capsys):
    assert call(bench_step, monkeypatch, RECIPE, *tiny_overrides(), "--synthetic", "--steps", "1") == 0
    printed = capsys.readouterr().out
    assert all(row in printed for row in [*PARTS, "sum of the parts", "whole", "floor", "masks alone", "loader alone"])


def test_a_mistake_is_one_sentence(bench_step, monkeypatch, capsys):
    assert call(bench_step, monkeypatch, RECIPE, *tiny_overrides("/no/shards")) == 2
    assert capsys.readouterr().err.count("\n") == 1


STACK = [
    "optim={batch_size_global: 4, total_samples: 12, warmup_samples: 4}",
    "trainer={accelerator: cpu, precision: fp32, threads: 1}",
]


def test_every_network_of_a_stack_is_a_part(bench_step):
    config = bench_step.load_config(str(ROOT / "configs/debug/hjepa.yaml"), STACK)
    found = bench_step.measure(config, 1, synthetic=True, attention=None)
    networks = ("target", "encoder", "predictor")
    named = [f"level{level}/{network} forward" for level in (1, 2) for network in networks]
    assert set(named) < set(found.parts)
    assert all(found.parts[name].flops > 0 for name in named)
    assert sum(part.flops for name, part in found.parts.items() if name not in named and name != "backward") == 0


def test_a_stack_is_measured_level_by_level(bench_step, monkeypatch, capsys):
    recipe = str(ROOT / "configs/debug/hjepa.yaml")
    assert call(bench_step, monkeypatch, recipe, *STACK, "--synthetic", "--steps", "1") == 0
    printed = capsys.readouterr().out
    assert "cost of each level in a step of debug_hjepa" in printed and "share of the peak" in printed


def test_what_a_level_adds_is_what_the_stack_takes_beyond_the_one_below(bench_step):
    costs = sys.modules["level_costs"].LevelCosts(rounds=[[10.0, 20.0], [20.0, 25.0], [20.0, 40.0]], peaks=[3 * 2**20, 4 * 2**20])
    table = bench_step.levels_table(costs, "title")
    assert [list(column.cells) for column in table.columns] == [
        ["1", "2", "all"],
        ["20", "10", "25"],
        ["50.0% (50.0% to 80.0%)", "50.0% (20.0% to 50.0%)", ""],
        ["3", "1", "4"],
        ["75.0%", "25.0%", ""],
    ]


def test_the_memory_of_a_cpu_is_what_tensors_took(bench_step):
    config = bench_step.load_config(str(ROOT / "configs/debug/hjepa.yaml"), STACK)
    costs = bench_step.compare_levels(config, steps=1, fused=False)
    method = bench_step.build_method(config.method)
    weights = sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in method.parameters())
    assert weights < costs.peaks[1] < 20 * weights, "weights, gradients, two moments, and activations"
    assert costs.peaks[0] < costs.peaks[1]


def load_tool(name):
    spec = spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_views_are_measured_in_both_ways(shards, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_views.py", RECIPE, str(shards / "train"), "--images", "20"])
    with pytest.raises(SystemExit) as ended:
        load_tool("bench_views").main()
    assert ended.value.code == 0
    first, *speeds, last = capsys.readouterr().out.splitlines()
    assert first == "1 views of [32] pixels, images/s:"
    assert [float(line.split()[-1].replace(",", "")) > 0 for line in speeds] == [True] * 3
    assert last.endswith(" at most") and float(last.split()[-3]) < 1.2


SLOW = [pytest.param(name, 300, 64, marks=pytest.mark.slow) for name in ("vicreg", "lejepa", "simclr", "info_nce")]
SLOW += [pytest.param("barlow_twins", 700, 64, marks=pytest.mark.slow)]  # its dimensions grow alike slowly
SLOW += [
    pytest.param(name, 300, 64, marks=pytest.mark.slow)
    for name in ("square_square", "swav", "byol", "simsiam", "ijepa", "ijepa_vicreg")
]


@pytest.mark.parametrize(("method", "steps", "batch"), [("ijepa_sigreg", 60, 16), *SLOW])
def test_collapse_is_punished_and_seen(method, steps, batch, tmp_path):
    """With what keeps a method from collapsing its embeddings stay apart, without it a meter tells."""
    collapse = load_tool("collapse")
    collapse.BATCH, collapse.VECTORS, collapse.IMAGES = batch, 16 * batch, 16 * batch
    demo(tmp_path / "shapes", images=collapse.IMAGES)
    levels = collapse.compare(method, tmp_path / "shapes" / "train", steps)
    assert len(levels) == (2 if method == "hjepa" else 1)
    for whole, removed in levels:
        assert (
            collapse.detected_by(whole, removed)
            and not collapse.detected_by(whole, whole)
            and not collapse.detected_by(removed, whole)
        )


def test_every_method_is_in_the_table_of_collapse():
    names = set(load_tool("collapse").REMOVALS)
    assert names == {path.stem for path in (ROOT / "configs/debug").glob("*.yaml")}


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_two_hundred_kills_of_eight_recipes(tmp_path):
    """Images, videos, a queue, two ranks and shards over HTTP; nothing differs and nothing is left behind."""
    done = subprocess.run([sys.executable, ROOT / "tools/kill_campaign.py", tmp_path / "campaign"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 kills of 8 recipes" in done.stdout and "0 runs differ or left something behind" in done.stdout


def test_the_definition_that_sigreg_is_timed_beside_has_its_value(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    tool = load_tool("bench_sigreg")
    slices = random_slices(8, 4, 0, torch.device("cpu"))
    sample = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert tool.by_definition(sample, slices).item() == pytest.approx(sigreg(sample, slices).item(), rel=1e-5)
