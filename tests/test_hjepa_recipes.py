"""H-JEPA recipes and their flat baselines cost the same and differ only in the levels above; tools/count_flops.py."""

import re
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
BASELINES = sorted(CONFIGS.glob("hjepa_*_flat.yaml"))
PAIRS = [(flat.with_stem(flat.stem.removesuffix("_flat")), flat) for flat in BASELINES]
IDS = [stack.stem for stack, _ in PAIRS]
COUNTED = [
    pytest.param(*pair, id=name, marks=pytest.mark.slow if "vit" in name else ()) for pair, name in zip(PAIRS, IDS, strict=True)
]
"""Counting the operations of a large network takes long."""


def load_tool(name):
    spec = spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")  # some tools import others
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool():
    return load_tool("count_flops")


@pytest.fixture(scope="module")
def costs(tool):
    """A function that counts the operations of a step of a recipe, once each."""
    return cache(lambda path: tool.count_step(load_config(path)))


def header(path):
    return path.read_text().split("\nname:")[0]


@pytest.mark.parametrize(("stack", "flat"), COUNTED)
def test_a_stack_and_its_flat_baseline_cost_the_same(costs, stack, flat):
    assert costs(flat).step == pytest.approx(costs(stack).step, rel=0.03)
    assert costs(flat).above == 0


@pytest.mark.parametrize(("stack", "flat"), COUNTED)
def test_recipe_headers_state_the_cost_of_a_step(costs, stack, flat):
    for path in (stack, flat):
        (stated,) = re.findall(r"A step costs ([\d,.]+) GFLOP", header(path))
        assert stated == f"{costs(path).step / 1e9:,.1f}"
        assert f"tools/count_flops.py configs/{stack.name} configs/{flat.name}" in header(path)
    (share,) = re.findall(r"the level above takes ([\d.]+) %", header(stack))
    above, step = costs(stack).above, costs(stack).step
    assert share == f"{100 * above / step:.1f}" and 0.05 < above / step < 0.155


@pytest.mark.parametrize(("stack", "flat"), PAIRS, ids=IDS)
def test_a_stack_and_its_baseline_differ_only_in_levels_and_size(stack, flat):
    tall, wide = load_config(stack), load_config(flat)
    assert tall.model_dump(exclude={"name", "method"}) == wide.model_dump(exclude={"name", "method"})
    first, (only,) = tall.method.levels[0], wide.method.levels
    assert first.model_dump(exclude={"encoder"}) == only.model_dump(exclude={"encoder"})
    ours, theirs = only.encoder.size, first.encoder.size
    assert ours._replace(depth=0, mlp_ratio=0.0) == theirs._replace(depth=0, mlp_ratio=0.0)
    assert ours.depth >= theirs.depth and ours.mlp_ratio >= theirs.mlp_ratio and ours != theirs
    sizes = {"arch", "embed_dim", "depth", "num_heads", "mlp_ratio"}
    sizes |= (
        {"window"} if first.encoder.window and not only.encoder.window else set()
    )  # the baseline may attend to more, not to less
    assert only.encoder.model_dump(exclude=sizes) == first.encoder.model_dump(exclude=sizes)


@pytest.mark.parametrize("recipe", ["ijepa_vits16", "vjepa_gpu_hour"])
def test_the_count_agrees_with_the_formula(tool, recipe):
    config, bench_speed = load_config(CONFIGS / f"{recipe}.yaml"), load_tool("bench_speed")
    small = config.model_copy(update={"optim": config.optim.model_copy(update={"batch_size_global": 2})})
    assert tool.count_step(config).step == pytest.approx(bench_speed.image_flops(small), rel=0.02)


def test_the_table_has_one_row_per_recipe(tool, capsys):
    tool.table([CONFIGS / "debug/hjepa.yaml", CONFIGS / "debug/ijepa_sigreg.yaml"])
    printed = capsys.readouterr().out
    assert "hjepa" in printed and "ijepa_sigreg" in printed and "0.0%" in printed


def test_other_methods_are_refused(tool):
    with pytest.raises(UserError, match=r"method\.name is byol, but only steps of JEPAs can be counted"):
        tool.count_step(load_config(CONFIGS / "debug/byol.yaml"))
