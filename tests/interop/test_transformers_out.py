"""`jepa export --to hf`: transformers reads the same encoder, with its preprocessing, or there is no export."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import make_run

from jepa_pipeline.batch import Masks
from jepa_pipeline.commands import export as command
from jepa_pipeline.commands.export import check_parity, export
from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig, PredictorConfig
from jepa_pipeline.data.views import center_view, normalize
from jepa_pipeline.interop import hf_format
from jepa_pipeline.interop.read_back import read_back
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.training.trained_method import load_method

TOLERANCE = 1e-5
SIZES = {"image_size": 24, "patch_size": 6, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 48 / 11}
CLIP = {**SIZES, "frames": 4, "tubelet_size": 2, "positions": "rope_tiled"}
VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8}


def vit(**args) -> BackboneConfig:
    return BackboneConfig(timm="vit_tiny_patch16_224", image_size=32, args={**VIT, **args})


ENCODERS = {
    "ijepa": EncoderConfig(**SIZES),
    "ijepa other eps": EncoderConfig(**SIZES, norm_eps=1e-3),
    "vit": vit(),
    "vit other eps": vit(act_layer="gelu_tanh", qkv_bias=False).model_copy(update={"norm_eps": 1e-12}),
    "vjepa2": EncoderConfig(**CLIP),
    "vjepa2 wide heads": EncoderConfig(**{**CLIP, "embed_dim": 64, "frames": 8}),
}
CLASSES = {"ijepa": transformers.IJepaModel, "vit": transformers.ViTModel, "vjepa2": transformers.VJEPA2Model}


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    """Exported runs by name; the first is read back in a process of its own, as all are outside of tests."""
    runs = {name: make_run(tmp_path_factory.mktemp("runs") / name.replace(" ", "-"), config) for name, config in ENCODERS.items()}
    with pytest.MonkeyPatch.context() as patch:
        for run in runs.values():
            export(run, to="hf")
            patch.setattr(command, "read_back", lambda folder, format, here: read_back(folder, format, here=True))
    return runs


def load(folder: Path, **options):
    """Return the network and what transformers says of its weights, none of which it should have made up or left."""
    model, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return model.eval()


def pixels_of(config, side=None, batch=3):
    side = side or config.image_size
    shape = (batch, 3, config.frames, side, side) if config.frames > 1 else (batch, 3, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def tokens_of(model, pixels, **options):
    if pixels.ndim == 5:
        return model(pixels.transpose(1, 2), skip_predictor=True).last_hidden_state
    return model(pixels, **options).last_hidden_state


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ENCODERS)
def test_transformers_reads_the_same_encoder(exports, name, attention):
    model, encoder = load(exports[name] / "export" / "hf", attn_implementation=attention), load_encoder(exports[name])
    assert type(model) is CLASSES[name.partition(" ")[0]]
    pixels = pixels_of(encoder.config)
    assert (tokens_of(model, pixels) - encoder.forward_features(pixels)).abs().max() <= TOLERANCE
    if name.startswith("vit"):
        assert (model(pixels).pooler_output - encoder.pooled(pixels)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["ijepa", "vit", "vjepa2"])
def test_the_names_of_weights_are_those_that_both_versions_4_and_5_read(exports, tmp_path, name):
    """A new network is saved under the older names, which version 4 knows; one that was read under newer names is not."""
    model = load(exports[name] / "export" / "hf")
    type(model)(model.config).save_pretrained(tmp_path)
    weights = load_file(exports[name] / "export" / "hf" / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert {key: value.shape for key, value in weights.items()} == {key: value.shape for key, value in saved.items()}


def shift(pixels: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return what is left of pixels without the first rows and columns."""
    return pixels[..., rows:, columns:]


@pytest.mark.parametrize("name", ["ijepa", "vit"])
@pytest.mark.parametrize("size", [(60, 60), (50, 37), (24, 91), (17, 20)])
def test_the_processor_gives_the_pixels_of_the_probes(exports, name, size):
    """But for one pixel where transformers rounds half a pixel down and timm up, as the card says."""
    folder, side = exports[name] / "export" / "hf", ENCODERS[name].image_size
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours = normalize(torch.from_numpy(center_view(image, side).copy())[None], (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    rows, columns = ((int(side * long / min(size)) - side) % 4 == 3 for long in size)
    ours = ours[..., : side - rows, : side - columns]
    exact = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="pt")["pixel_values"]
    assert (shift(exact, rows, columns) - ours).abs().max() <= 1e-6
    default = transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    assert (shift(default, rows, columns) - ours).abs().max() <= 1.01 / 255 / 0.4  # one level, where the deviation is least


@torch.inference_mode()
def test_clips_of_another_size_need_another_crop_size_as_the_card_says(exports):
    folder, encoder = exports["vjepa2"] / "export" / "hf", load_encoder(exports["vjepa2"])
    pixels = pixels_of(encoder.config, side=36)
    assert (tokens_of(load(folder), pixels) - encoder(pixels)).abs().max() > 1e-2
    assert (tokens_of(load(folder, crop_size=36), pixels) - encoder(pixels)).abs().max() <= TOLERANCE
    text = (folder / "README.md").read_text()
    assert "**Clips of another size than 24x24** must be squares and need `AutoModel.from_pretrained(..., crop_size=SIDE)`" in text


def test_the_card_says_what_the_processor_of_clips_does(exports):
    folder = exports["vjepa2"] / "export" / "hf"
    processor = transformers.AutoVideoProcessor.from_pretrained(folder)
    text = (folder / "README.md").read_text()
    assert f"resizes the shorter side to {processor.size['shortest_edge']} pixels, whatever its file says, and cuts out 24" in text
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    pixels = processor([np.zeros((30, 40, 3), np.uint8)] * 4, return_tensors="pt")["pixel_values_videos"]
    assert pixels.shape == (1, 4, 3, 24, 24)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "to"), [("ijepa", "hf"), ("vit", "hf"), ("vjepa2", "hf"), ("ijepa", "timm"), ("vit", "timm")])
def test_what_goes_out_comes_in_again_and_says_itself_what_it_is(exports, tmp_path, exports_read_here, name, to):
    folder = exports[name] / "export" / "hf" if to == "hf" else export(exports[name], to=to, out=tmp_path / "out")
    before, after = load_encoder(exports[name]), load_encoder(import_weights(folder, out=tmp_path / "in"))
    pixels = pixels_of(before.config)
    assert (before.pooled(pixels) - after.pooled(pixels)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["ijepa", "vit", "vjepa2"])
def test_the_code_of_the_card_runs(exports, tmp_path, monkeypatch, name):
    folder = exports[name] / "export" / "hf"
    shutil.copytree(folder, tmp_path / "export")
    monkeypatch.chdir(tmp_path / "export")
    Image.new("L", (50, 40), 77).save("photo.jpg")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("\n```")[0]
    scope = {}
    exec(code, scope)
    assert scope["features"].shape == (1, 24)


def test_every_file_has_the_permissions_that_the_umask_leaves(tmp_path, exports_read_here):
    before = os.umask(0o027)
    try:
        export(make_run(tmp_path / "run", ENCODERS["ijepa"]), to="hf")
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run" / "export" / "hf").rglob("*") if path.is_file()}
    assert files == dict.fromkeys(
        ["README.md", "config.json", "model.safetensors", "preprocessor_config.json", "outputs.safetensors"], 0o640
    )


ROTATED = {**SIZES, "positions": "rope"}
REFUSED = {
    "rope": (
        EncoderConfig(**{**CLIP, "positions": "rope"}),
        "positions rope, .* give wrong features: train with method.encoder.positions",
    ),
    "causal": (EncoderConfig(**CLIP, attention="causal"), "causal attention, .* train with method.encoder.attention=full"),
    "sincos": (
        EncoderConfig(**{**CLIP, "positions": "sincos_uniform"}),
        "no class of transformers adds such positions to clips: train",
    ),
    "images": (EncoderConfig(**ROTATED), "IJepaModel adds a table of positions to the patches: train with .*=sincos"),
    "resnet": (
        BackboneConfig(timm="resnet18", image_size=48, args={"channels": (8, 8, 16, 16)}),
        "no vision transformer .*--to timm",
    ),
    "mean": (vit(global_pool="avg"), "with the pooling avg, but ViTModel pools the class token: export it with --to timm"),
    "registers": (vit(reg_tokens=2), r"whose reg_token ViTModel does not have|without a position"),
    "layer scale": (vit(init_values=0.1), "whose blocks.0.ls1.gamma ViTModel does not have: export it with --to timm"),
    "silu": (vit(act_layer="silu"), "with the activation SiLU, which ViTModel does not have"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_has_not_is_refused_with_the_way_out(tmp_path, name):
    config, message = REFUSED[name]
    run = make_run(tmp_path / "run", config)
    with pytest.raises(
        UserError, match=rf"transformers cannot load the encoder of .*run, which .*{message}.*or export it with --to onnx"
    ):
        export(run, to="hf")
    assert not (run / "export").exists()


def test_without_transformers_it_is_one_sentence(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", ENCODERS["ijepa"])
    monkeypatch.setattr(hf_format, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="transformers, which is not installed: pip install transformers"):
        export(run, to="hf")
    assert not (run / "export").exists()


def test_spoilt_weights_are_noticed(exports, tmp_path, exports_read_here):
    folder = shutil.copytree(exports["ijepa"] / "export" / "hf", tmp_path / "copy")
    assert check_parity(folder, "hf") <= TOLERANCE
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"layernorm.bias": weights["layernorm.bias"] + 1e-3}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(UserError, match=r"nothing is exported, because transformers gives features that differ"):
        check_parity(folder, "hf")
    del weights["layernorm.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"cannot load the encoder: .*missing_keys.*layernorm.bias"):
        check_parity(folder, "hf")


def test_an_imported_vit_comes_out_as_it_went_in(tmp_path, exports_read_here):
    """With the epsilon of transformers, which is not timm's, and its source and license in the card."""
    torch.manual_seed(0)
    values = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    network = transformers.ViTModel(transformers.ViTConfig(**values, image_size=32, patch_size=8), add_pooling_layer=False)
    network.save_pretrained(tmp_path / "published")
    imported = import_weights(tmp_path / "published", out=tmp_path / "imported", license="apache-2.0")
    with pytest.raises(UserError, match="layer norms with an epsilon of 1e-12, for which timm has no argument"):
        export(imported, to="timm")
    folder = export(imported, to="hf")
    before, after = (load_file(each / "model.safetensors") for each in (tmp_path / "published", folder))
    assert all(torch.equal(after.pop(name), tensor) for name, tensor in before.items())
    assert after.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    config = json.loads((folder / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-12
    text = (folder / "README.md").read_text()
    assert "apache-2.0" in text and "published" in text and "untrained" not in text
    assert read_card(imported).source.sha256 in text


def test_an_export_to_timm_is_read_by_transformers_too(tmp_path, exports_read_here):
    run = make_run(tmp_path / "run", ENCODERS["ijepa"])
    folder, encoder = export(run, to="timm"), load_encoder(run)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = pixels_of(encoder.config)
    with torch.inference_mode():
        found = model(pixels)
        assert (found.last_hidden_state - encoder(pixels)).abs().max() <= TOLERANCE
        assert (found.pooler_output - encoder.pooled(pixels)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("shared", [False, True])
def test_the_predictor_goes_along_with_one_mask_token(tmp_path, monkeypatch, exports_read_here, shared):
    run = make_run(tmp_path / "run", ENCODERS["vjepa2"])
    torch.manual_seed(5)
    config = PredictorConfig(embed_dim=12, depth=2, num_heads=2, shared_mask_token=shared)
    predictor = Predictor(config, ENCODERS["vjepa2"], mask_sets=2).eval().requires_grad_(False)
    for parameter in predictor.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    method = SimpleNamespace(predictor=predictor, encoder_to_export=load_encoder(run))
    monkeypatch.setattr(command, "load_method", lambda folder: method)
    folder = export(run, to="hf", predictor=True)
    stored, model = load_file(folder / "parity" / "outputs.safetensors"), load(folder)
    assert model.config.pred_num_mask_tokens == 1
    context, targets = torch.arange(0, 32, 2).expand(2, -1), torch.arange(1, 32, 2).expand(2, -1)
    with torch.inference_mode():
        found = model(stored["pixels"].transpose(1, 2), [context], [targets]).predictor_output.last_hidden_state
    assert (found - stored["predicted"]).abs().max() <= TOLERANCE
    said = "its only one" if shared else "the first of those of its 2 mask sets; the others are left out"
    assert f"the predictor with one mask token, {said}" in (folder / "README.md").read_text()
    weights = load_file(folder / "model.safetensors")
    spoilt = {"predictor.proj.bias": weights["predictor.proj.bias"] + 1e-3}
    save_file(weights | spoilt, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"nothing is exported, because transformers gives features that differ"):
        check_parity(folder, "hf")
    method.encoder_to_export.norm.bias.add_(1)
    with pytest.raises(UserError, match=r"newest checkpoint of .* is of another step"):
        export(run, to="hf", out=tmp_path / "other", predictor=True)


def test_a_trained_run_goes_out_with_its_predictor(videos, tmp_path, exports_read_here):
    """Two steps of V-JEPA 2, whose target encoder and predictor are those of its last checkpoint."""
    steps = ["optim.total_samples=8", "optim.warmup_samples=0", "optim.constant_samples=0", "optim.batch_size_global=4"]
    place = [f"data.train={videos / 'train'}", f"output={tmp_path}", "name=run", "trainer.accelerator=cpu"]
    recipe = Path(__file__).parents[2] / "configs/debug/vjepa2.yaml"
    run = pretrain(load_config(recipe, [*steps, *place, "method.encoder.positions=rope_tiled"]))
    folder, method = export(run, to="hf", predictor=True), load_method(run)
    model, clip = load(folder), pixels_of(method.encoder_to_export.config, batch=2)
    count = clip.shape[2] // 2 * 16
    context, targets = (torch.arange(first, count, 2).expand(2, -1) for first in (0, 1))
    with torch.inference_mode():
        found = model(clip.transpose(1, 2), [context], [targets])
        tokens, predictor = method.encoder_to_export(clip), method.predictor
        masks = Masks(context.contiguous(), targets[:, None].contiguous())
        predicted = predictor.predict_blocks(tokens[:, context[0]], masks, predictor.mask_token[0]).squeeze(1)
    assert read_card(run).step == 2 and (found.last_hidden_state - tokens).abs().max() <= TOLERANCE
    assert (found.predictor_output.last_hidden_state - predicted).abs().max() <= TOLERANCE


def test_a_predictor_is_for_clips_and_for_transformers(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", ENCODERS["ijepa"])
    with pytest.raises(UserError, match="--predictor is for --to hf: timm holds the encoder alone"):
        export(run, predictor=True)
    predictor = Predictor(PredictorConfig(embed_dim=12, depth=1, num_heads=2), ENCODERS["ijepa"])
    method = SimpleNamespace(predictor=predictor, encoder_to_export=load_encoder(run))
    monkeypatch.setattr(command, "load_method", lambda folder: method)
    with pytest.raises(UserError, match="--predictor is for clips"):
        export(run, to="hf", predictor=True)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="is an encoder without the run that holds its predictor"):
        export(run, to="hf", predictor=True)
    (run / "config.yaml").touch()
    method.predictor = None
    with pytest.raises(UserError, match="has no predictor of masked tokens"):
        export(run, to="hf", predictor=True)
