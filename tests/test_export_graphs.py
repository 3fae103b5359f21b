"""`jepa export --to onnx` and `--to torch`: the same encoder without this package, or no export."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import CONFIGS, features_of_photo, make_run, run_card

from jepa_pipeline.commands.export import check_parity, export
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.image_video import ImageVideoConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.interop import onnx_format

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 4}
CLIPS = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "frames": 4, "tubelet_size": 2}
SWIN = {"depths": (1, 1), "embed_dim": 24, "num_heads": (2, 2), "window_size": 4, "patch_size": 4}
KINDS = {
    **CONFIGS,
    "clips, rope": EncoderConfig.model_validate({**CLIPS, "positions": "rope"}),
    "clips, rope_tiled": EncoderConfig.model_validate({**CLIPS, "positions": "rope_tiled"}),
    "vit with class token": BackboneConfig(timm="vit_tiny_patch16_224", image_size=32, args=VIT),
    "convnext": BackboneConfig(timm="convnext_atto", image_size=64, args={"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}),
    "swin": BackboneConfig(timm="swin_tiny_patch4_window7_224", image_size=32, args=SWIN),
    "dinov2": BackboneConfig(timm="vit_small_patch14_reg4_dinov2", image_size=32, args={**VIT, "patch_size": 8}),
    "dinov3": BackboneConfig(timm="vit_small_patch16_dinov3_qkvb", image_size=32, args={**VIT, "embed_dim": 32, "patch_size": 8}),
    "efficientnet": BackboneConfig(timm="efficientnet_lite0", image_size=32),
    "v-jepa 2.1": ImageVideoConfig.model_validate({**CLIPS, "positions": "rope", "rope_grid_size": 16}),
}


KEYS = ("mean", "std", "size")


def export_as_users(run: Path, *options: str) -> Path:
    """Without the checks of shapes that tests add to annotations, on which exporters trip; with the umask of a group."""
    command = [sys.executable, "-m", "jepa_pipeline", "export", str(run), *options]
    done = subprocess.run(command, capture_output=True, text=True, umask=0o002, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    (folder,) = {path.parent for path in (run / "export").glob("*/README.md")}
    assert f"exported to {folder}: the features that " in done.stdout
    return folder


@pytest.fixture(scope="module", params=["onnx", "torch"])
def exported(request, tmp_path_factory):
    """A run of images, its export, and the format."""
    run = make_run(tmp_path_factory.mktemp("run"), CONFIGS["images"])
    return run, export_as_users(run, "--to", request.param), request.param


def test_it_is_the_same_encoder_by_the_words_of_its_card(exported):
    run, folder, to = exported
    found = run_card(folder)
    assert np.abs(np.asarray(found["pooled"]) - features_of_photo(run, folder).numpy()).max() <= 1e-5
    assert found["pooled"].shape == (1, 24) and found["tokens"].shape == (1, 16, 24)
    difference = check_parity(folder, to)
    assert difference <= 1e-5 and f"difference is {difference:.1e}." in (folder / "README.md").read_text()


def test_every_file_is_for_all_whom_the_umask_lets_and_tells_no_path(exported):
    _, folder, to = exported
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "photo.jpg"]
    network = {"onnx": "model.onnx", "torch": "model.pt2"}[to]
    assert {path.name for path in files} == {network, "README.md", "outputs.safetensors"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o664}
    assert not [path for path in files if str(Path(__file__).parents[1]).encode() in path.read_bytes()]


def test_the_preprocessing_is_in_the_file(exported):
    run, folder, to = exported
    if to == "onnx":
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        told = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items() if name in KEYS}
        (pixels,) = session.get_inputs()
        assert (pixels.name, pixels.shape, pixels.type) == ("pixels", ["batch", 3, 16, 16], "tensor(float)")
        assert [output.name for output in session.get_outputs()] == ["tokens", "pooled"]
        assert onnx.load(folder / "model.onnx").opset_import[0].version == 20
        assert "opset 20 and was written with torch" in (folder / "README.md").read_text()
    else:
        extra = {"preprocessing.json": ""}
        torch.export.load(folder / "model.pt2", extra_files=extra)
        told = {name: value for name, value in json.loads(extra["preprocessing.json"]).items() if name in KEYS}
    assert told == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "size": 16}


def store_other_outputs(folder: Path, amount: float, out: Path) -> Path:
    """A copy of an export whose stored outputs differ, as if the network had been written wrong."""
    shutil.copytree(folder, out)
    stored = load_file(out / "parity/outputs.safetensors")
    stored["pooled"] += amount
    save_file(stored, out / "parity/outputs.safetensors")
    return out


def test_another_network_is_refused(exported, tmp_path, exports_read_here):
    """Of fp16 a difference is measured, but it may not be any."""
    _, folder, to = exported
    library = {"onnx": "onnxruntime", "torch": "torch"}[to]
    near, far = (store_other_outputs(folder, amount, tmp_path / f"{amount}") for amount in (1e-4, 0.5))
    refused = rf"nothing is exported, because {library} gives features that differ from the encoder's by"
    with pytest.raises(UserError, match=rf"{refused} 1.0e-04, more than 1e-05: check"):
        check_parity(near, to)
    assert check_parity(near, to, dtype="fp16") == pytest.approx(1e-4, rel=0.05)
    with pytest.raises(UserError, match=rf"{refused} 5.0e-01, more than .*: its features need --dtype fp32"):
        check_parity(far, to, dtype="fp16")


def test_missing_packages_are_one_sentence_and_nothing_is_written(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", CONFIGS["images"])
    monkeypatch.setattr(onnx_format, "find_spec", lambda name: None if name != "onnx" else find_spec(name))
    with pytest.raises(
        UserError, match=r"^exporting to ONNX needs packages that are not installed: pip install onnxscript onnxruntime$"
    ):
        export(run, to="onnx")
    assert not (run / "export").exists()


OPTIONS = ["--to onnx", "--to onnx --dtype fp16", "--to torch"]
ALWAYS = ("clips, rope_tiled", "--to onnx --dtype fp16")
CASES = [
    pytest.param(name, options.split(), id=f"{name} {options}", marks=() if (name, options) == ALWAYS else pytest.mark.slow)
    for options in OPTIONS
    for name in KINDS
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_encoders_of_all_kinds(tmp_path, name, options):
    run = make_run(tmp_path / "run", KINDS[name])
    folder, fp16 = export_as_users(run, *options), "fp16" in options
    card = (folder / "README.md").read_text()
    difference = float(re.search(r"largest\s+difference is (\S+)\.\s", card)[1])
    assert 0 <= difference <= (1e-2 if fp16 else 1e-5) and ("computations are fp16" in card) == fp16
    found = run_card(folder)
    assert found["pooled"].dtype in (np.float32, torch.float32) and found["pooled"].shape[0] == 1
    if not KINDS[name].modality.has_time:
        assert np.abs(np.asarray(found["pooled"]) - features_of_photo(run, folder).numpy()).max() <= (2e-2 if fp16 else 1e-5)
    if not fp16:
        return
    weights = onnx.load(folder / "model.onnx").graph.initializer
    assert not [weight.name for weight in weights if weight.data_type == onnx.TensorProto.FLOAT and weight.dims]


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 2])
def test_one_level_of_a_stack(tmp_path, level):
    run = make_run(tmp_path / "run", KINDS["stack of clips"])
    folder = export_as_users(run, "--to", "onnx", "--level", str(level))
    assert folder.name == f"onnx-level{level}"
    assert run_card(folder)["pooled"].shape == (1, {1: 24, 2: 16}[level])


@pytest.mark.slow
def test_large_weights_lie_beside_the_graph(tmp_path):
    run = make_run(tmp_path / "run", KINDS["images"])
    program = (
        "from jepa_pipeline.interop import onnx_format\nfrom jepa_pipeline.commands.export import export\n"
        f"onnx_format.LARGEST_FILE = 1000\nexport({str(run)!r}, to='onnx')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, umask=0o002)
    folder = run / "export/onnx"
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data", "README.md", "parity"}
    assert (folder / "model.onnx.data").stat().st_mode & 0o777 == 0o664
    assert "weights are in `model.onnx.data`, which must lie beside it" in (folder / "README.md").read_text()
    assert np.abs(run_card(folder)["pooled"] - features_of_photo(run, folder).numpy()).max() <= 1e-5
