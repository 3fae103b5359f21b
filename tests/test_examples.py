"""The programs in examples/ run, and show what they claim to show."""

import ast
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from jepa_pipeline.config.encoder_card import read_card
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.results.confidence_interval import mean_interval
from jepa_pipeline.results.probe_report import load_reports

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name):
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_published_weights_beside_runs_that_begin_with_them_and_from_scratch(tmp_path, capsys, monkeypatch, exports_read_here):
    """One table: three seeds each, at equal samples, with intervals."""
    example = load_example("from_published_weights")
    example.NETWORKS[:] = [
        "method.encoder={timm: resnet18, image_size: 24, args: {layers: [1, 1, 1, 1], channels: [4, 8, 8, 8], zero_init_last: false}}",
        "method.projector={hidden: [16], out: 8}",
        "optim.batch_size_global=8",
    ]
    example.PROBE = ProbeConfig(workers=0, iterations=2, weight_decay=(0.01,), features=("last",), protocols=("linear",))
    sizes = {"published_samples": 16, "samples": 8, "images": 50, "domain_images": 100}
    for step in ("export", "probe"):  # ended before it, and called again
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(example, step, interrupt)
            example.main(tmp_path, **sizes)
    example.main(tmp_path, **sizes)
    said = capsys.readouterr().out
    assert "initialized with the encoder of" in said and "the moments of the optimizer are new" in said
    rows = {row["run"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert {name: row["seeds"] for name, row in rows.items()} == {"adapted": [0, 1, 2], "scratch": [0, 1, 2], "imported": [None]}
    for name in ("adapted", "scratch"):
        (linear,) = [found for found in rows[name]["probes"] if found["column"] == "linear"]
        reports = [load_reports(tmp_path / f"runs/{name}-{seed}/probes")[0] for seed in range(3)]
        assert linear["values"] == [report.headlines("online")[0].top1 for report in reports]
        assert linear["ci95"] == pytest.approx(mean_interval(linear["values"]))
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {name} | {seeds} |" in text for name, seeds in (("adapted", 3), ("scratch", 3), ("imported", 1)))
    assert "of the mean over seeds (Student's t)" in text and text.count("–") >= 3
    cards = {name: read_card(tmp_path / f"runs/{name}-0") for name in ("adapted", "scratch")}
    assert cards["adapted"].samples == cards["scratch"].samples == 8, "at equal samples"
    assert str(tmp_path / "imported") in cards["adapted"].begun_from and cards["scratch"].begun_from is None


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, exports_read_here):
    """Its cells are run in one module called __main__, as a kernel does."""
    notebook = json.loads((EXAMPLES / "own_data.ipynb").read_text())
    kernel = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", kernel)
    monkeypatch.chdir(tmp_path)
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are not committed"
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), kernel.__dict__)
    assert {row.encoder for row in kernel.rows} == {"target", "random_init", "pixels"}
    assert kernel.vectors.values.shape == (100, 48)
    assert (tmp_path / "runs/own_encoder/export/torch/model.pt2").is_file()
    assert kernel.load_config(kernel.run).method.init_args == {"weight": 0.5}


@pytest.mark.parametrize("name", ["own_dataset", "own_encoder", "own_method"])
def test_the_examples_of_own_parts_are_at_most_twenty_lines(name):
    """Of code: without the docstrings, blank lines, and what imports and starts it."""
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    code = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    lines = ast.unparse(ast.Module([strip_docstrings(node) for node in code], [])).splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


def strip_docstrings(node):
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner):
            inner.body = inner.body[1:]
    return node
