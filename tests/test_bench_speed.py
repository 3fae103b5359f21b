"""tools/bench_speed.py: its arithmetic is torch's count of what a step does, and its table holds every way to train."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import SIZES
from jepa_pipeline.data.views import normalize
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn

ROOT = Path(__file__).parents[1]
TINY = [
    "method.encoder={image_size: 16, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    "method.masks={num_targets: 2, target_scale: [0.2, 0.3], context_keep: 0.3}",
    "optim={batch_size_global: 8, total_samples: 48, warmup_samples: 16}",
    "trainer={accelerator: cpu, precision: fp32, threads: 1}",
]
IJEPA = ROOT / "configs/ijepa_fashion_mnist.yaml"
SIGREG = "method.regularizer={name: sigreg, slices: 1}"


@pytest.fixture(scope="module")
def tool():
    spec = spec_from_file_location("bench_speed", ROOT / "tools/bench_speed.py")
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")  # it stands on its neighbor
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(monkeypatch):
    """Where the processes of a run meet is said in it."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def ijepa(*overrides):
    return load_config(IJEPA, [*TINY, *overrides])


CASES = {
    "ijepa": (IJEPA, TINY),
    "ijepa in parts of a batch": (IJEPA, [*TINY, "optim.accumulate_steps=2"]),
    "ijepa, stopped gradient": (IJEPA, [*TINY, "method.target=stop_gradient"]),
    "ijepa, shared target": (IJEPA, [*TINY, "method.target=shared", SIGREG]),
    "vjepa": (ROOT / "configs/debug/vjepa.yaml", []),
    "vjepa, two clips of each video": (ROOT / "configs/debug/vjepa.yaml", ["views.crops=[{count: 2}]"]),
    "vjepa2": (ROOT / "configs/debug/vjepa2.yaml", []),
    "hjepa": (ROOT / "configs/debug/hjepa.yaml", []),
    "hjepa, nothing detached": (ROOT / "configs/debug/hjepa.yaml", ["method.levels.1.detach=false"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_arithmetic_is_what_torch_counts(case, tool):
    """But for a regularizer, here one product with a single direction."""
    config = load_config(*CASES[case])
    method = build_method(config.method)
    set_fused_attn(method, fused=False)  # the fused one multiplies queries and keys again on its way back
    batch = tool.RepeatedBatch(config).batch
    batch = batch._replace(views=[normalize(view, (0.5,) * 3, (0.25,) * 3) for view in batch.views])
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(method(batch, step=0, seed=0).losses.values())).sum().backward()
    expected = counter.get_total_flops() / len(batch.keys)
    assert tool.image_flops(config) == pytest.approx(expected, rel=0.02 if "shared" in case else 1e-3)


def test_a_stack_of_one_level_needs_what_the_flat_method_does(tool):
    flat = load_config(ROOT / "configs/debug/vjepa.yaml")
    task = {"name": "masked", "masks": [masks.model_dump() for masks in flat.method.masks]}
    level = flat.method.model_dump(include={"encoder", "predictor"}) | {"task": task}
    hjepa = load_config(ROOT / "configs/debug/hjepa.yaml")
    one = type(hjepa.method).model_validate({"name": "hjepa", "levels": [level]})
    assert tool.image_flops(flat.model_copy(update={"method": one})) == pytest.approx(tool.image_flops(flat), rel=1e-3)
    lower = hjepa.method.model_copy(update={"levels": hjepa.method.levels[:1]})
    assert tool.image_flops(hjepa) > tool.image_flops(hjepa.model_copy(update={"method": lower}))


def test_a_vit_b_has_the_flops_of_its_papers(tool):
    """Dosovitskiy et al. 2021 and DeiT give 17.5 G multiplications with additions of 197 tokens, which are two each here."""
    dim, depth, _, ratio = SIZES["vit_base"]
    patches = 2 * 196 * 3 * 16**2 * dim
    assert tool.blocks_flops(196, dim, depth, ratio) + patches == pytest.approx(2 * 17.5e9, rel=0.01)


@pytest.mark.parametrize("ways", [["plain", "compiled, checkpointed, fsdp2"], pytest.param(None, marks=pytest.mark.slow)])
def test_every_way_is_in_the_table(tool, environment, monkeypatch, ways):
    """With a backend that runs what it is given; the real compiler would take minutes."""
    ways = ways or list(tool.MODES)
    graphs, compile = [], torch.nn.Module.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend=backend))
    jaxtyping.config.update("jaxtyping_disable", True)  # the checks of shapes cannot be compiled
    try:
        found = tool.compare(ijepa(), ways, "cpu", steps=1, rounds=1)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert graphs and not torch.distributed.is_initialized()
    rows = tool.table_rows("tiny", found, flops=1e6, peak=1e12)
    assert [row.split(" | ")[1] for row in rows] == ways
    assert rows[0].split(" | ")[3] == "1.00 (1.00 to 1.00)"
    assert all(row.endswith(" | - |") and "%" in row for row in rows), "the memory of a CPU is not measured"


def test_figures_are_medians_and_ratios_of_the_same_round(tool):
    slow, fast = [(100, 2**30), (200, 3 * 2**30), (150, 2**30)], [(200, 2**29), (200, 2**29), (450, 2**29)]
    found = {
        way: [tool.Measurement(float(speed), memory) for speed, memory in pairs]
        for way, pairs in (("plain", slow), ("compiled", fast))
    } | {"fsdp2": [None, None, None]}
    assert tool.table_rows("x", found, flops=2e9, peak=1e12) == [
        "| x | plain | 150 (100 to 200) | 1.00 (1.00 to 1.00) | 30.0% | 3.0 GiB |",
        "| x | compiled | 200 (200 to 450) | 2.00 (1.00 to 3.00) | 40.0% | 0.5 GiB |",
        "| x | fsdp2 | out of memory | - | - | - |",
    ]
    del found["plain"]
    assert " - | - |" in tool.table_rows("x", {"fsdp2": [None], "compiled": found["compiled"][:1]}, 2e9, None)[1]


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA GH200 480GB", 989)],
)
def test_the_peak_is_known_by_the_gpus_name(tool, name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert tool.peak_flops("cuda", "bf16", None) == peak * 1e12
    assert tool.peak_flops("cuda", "bf16", 100.0) == tool.peak_flops("cpu", "fp32", 100.0) == 1e14
    assert tool.peak_flops("cuda", "fp32", None) is tool.peak_flops("cpu", "bf16", None) is None


def test_it_runs_as_a_user_runs_it(tool, environment, monkeypatch, capsys):
    monkeypatch.setattr(tool, "leave", sys.exit)
    command = ["bench_speed.py", str(IJEPA), *TINY, "--way", "plain", "--steps", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        tool.main()
    assert ended.value.code == 0
    first, empty, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("CPU, 1 threads, fp32, torch ") and "; 1 rounds of 1 steps" in first and not empty
    assert len(table) == 3 and table[2].startswith("| `ijepa_fashion_mnist`, micro-batch 8, ") and table[2].endswith(" | - | - |")


@pytest.mark.parametrize("arguments", [["--way", "quickly"], ["method.nmae=x"], ["--arch", "vit_medium"]])
def test_a_mistake_is_one_sentence(tool, arguments, monkeypatch, capsys):
    monkeypatch.setattr(tool, "leave", sys.exit)
    monkeypatch.setattr(sys, "argv", ["bench_speed.py", str(IJEPA), *arguments])
    with pytest.raises(SystemExit) as ended:
        tool.main()
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_other_methods_are_refused(tool):
    with pytest.raises(UserError, match="only the FLOPs of JEPAs are known"):
        tool.image_flops(load_config(ROOT / "configs/debug/vicreg.yaml", []))
