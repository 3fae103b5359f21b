"""An imported encoder is probed, compared, benchmarked, exported and, with its predictor, evaluated as an energy."""

import json

import pytest
import torch

from jepa_pipeline.commands.benchmark import benchmark
from jepa_pipeline.commands.energy import energy
from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.commands.table import table
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.jepa import IJepaConfig, VJepa2Config, VJepaConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.config.suite import SetConfig, SuiteConfig
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.positions import sincos
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.training.trained_method import load_imported

ENCODER = {"image_size": 16, "patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0}
CLIP = {**ENCODER, "frames": 4, "tubelet_size": 2}
PREDICTOR = {"embed_dim": 24, "depth": 1, "num_heads": 2}
METHODS = {
    "ijepa": IJepaConfig.model_validate({"name": "ijepa", "encoder": ENCODER, "predictor": PREDICTOR}),
    "vjepa": VJepaConfig.model_validate(
        {"name": "vjepa", "encoder": {**CLIP, "positions": "sincos_uniform"}, "predictor": PREDICTOR}
    ),
    "vjepa2": VJepa2Config.model_validate(
        {
            "name": "vjepa2",
            "encoder": {**CLIP, "positions": "rope_tiled"},
            "predictor": {**PREDICTOR, "shared_mask_token": True},
        }
    ),
}
GIVEN = ImportSettings(num_heads=2, frames=4, image_size=16)
GIVEN_IMAGES = ImportSettings(num_heads=2, image_size=16)
PROBE = {"workers": 0, "protocols": ["linear", "knn"], "weight_decay": [0.01], "iterations": 5, "k": [5]}


def official_predictor(method):
    """The tensors of a predictor by their official names, with ten mask tokens where V-JEPA 2 has them."""
    state = {}
    for name, tensor in method.predictor.state_dict().items():
        if name == "mask_token":
            tokens = [*tensor.split(1), *(torch.randn(1, 1, 24) for _ in range(9 if method.config.name == "vjepa2" else 0))]
            names = ["mask_token"] if method.config.name == "ijepa" else [f"mask_tokens.{number}" for number in range(len(tokens))]
            state |= dict(zip(names, tokens, strict=True))
        else:
            state[f"predictor_{name}"] = tensor
    return state | {"predictor_pos_embed": sincos(method.config.encoder, 24)[None]}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """An official file per method, and the method that it was made from."""
    folder, made = tmp_path_factory.mktemp("official"), {}
    for name, config in METHODS.items():
        torch.manual_seed(0)
        method = build_method(config).eval().requires_grad_(False)
        method.config = config
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        networks = {"encoder": method.encoder.state_dict(), "target_encoder": method.target.state_dict()}
        networks["predictor"] = official_predictor(method)
        content = {key: {f"module.{n}": t for n, t in state.items()} for key, state in networks.items()}
        torch.save(content | {"epoch": 1}, folder / f"{name}.pth.tar")
        made[name] = folder / f"{name}.pth.tar", method
    return made


@pytest.fixture(scope="module")
def imported(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    given = {"ijepa": GIVEN_IMAGES, "vjepa": GIVEN, "vjepa2": GIVEN.model_copy(update={"predictor_heads": 2})}
    return {
        name: import_weights(path, name, out=folder / name, license="cc-by-nc-4.0", given=given[name], predictor=True)
        for name, (path, _) in checkpoints.items()
    }


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_an_imported_encoder_is_probed_and_stands_in_tables(imported, shards, tmp_path, capsys):
    rows = probe(imported["ijepa"], shards, config=ProbeConfig.model_validate(PROBE))
    assert {"target", "random_init", "pixels"} <= {row.encoder for row in rows}
    linear = next(row.top1 for row in rows if (row.encoder, row.protocol) == ("target", "linear"))
    table([imported["ijepa"], imported["vjepa"]], tmp_path / "table")
    first, second = json.loads((tmp_path / "table.json").read_text())
    assert [run["state"] for run in (first, second)] == ["imported", "imported"]
    assert [found["top1"] for found in first["probes"] if found["protocol"] == "linear"] == [linear] and not second["probes"]
    assert "imported" in capsys.readouterr().out


def test_an_imported_encoder_of_clips_is_probed(imported, videos):
    rows = probe(imported["vjepa2"], videos, config=ProbeConfig.model_validate({**PROBE, "protocols": ["knn"], "segments": 1}))
    assert {"target", "frames_shuffled"} <= {row.encoder for row in rows}


def test_an_imported_encoder_is_benchmarked(imported, shards, tmp_path):
    suite = SuiteConfig(name="few", data=(SetConfig(name="shapes", path=str(shards)),), settings=PROBE)
    assert benchmark(suite, [imported["ijepa"]], tmp_path)
    assert json.loads((tmp_path / "few.json").read_text())["rows"][0]["run"] == "ijepa"


@pytest.mark.parametrize(("name", "to"), [("ijepa", "timm"), ("vjepa2", "jepa")])
def test_the_export_keeps_source_and_license(imported, tmp_path, exports_read_here, name, to):
    folder = export(imported[name], to=to, out=tmp_path / to)
    text, source = (folder / "README.md").read_text(), read_card(imported[name]).source
    assert source is not None and f"| SHA-256 of the source | {source.sha256} |" in text
    assert "license: " in text and "| license of the weights | cc-by-nc-4.0 |" in text
    assert f"they are the target_encoder of {name}.pth.tar" in text and "untrained" not in text
    if to == "jepa":
        assert read_card(folder).source == source


@pytest.mark.parametrize("name", METHODS)
def test_the_predictor_comes_along(checkpoints, imported, name):
    """Of V-JEPA 2's ten mask tokens the first: the others differ."""
    original, (method, saved) = checkpoints[name][1], load_imported(imported[name])
    assert saved.method.model_dump() == METHODS[name].model_dump()
    state = method.state_dict()
    assert {*state} == {*original.state_dict()}
    for key, tensor in original.state_dict().items():
        assert torch.equal(state[key], tensor), key
    source = read_card(imported[name]).source
    assert source is not None and any("mask_tokens.0 is taken" in note for note in source.notes) == (name == "vjepa2")


def test_the_energy_of_an_imported_jepa(imported, videos, shards, tmp_path):
    with pytest.raises(UserError, match="was trained on is not known: name shards with --data"):
        energy(imported["vjepa"])
    report = energy(imported["vjepa"], videos, samples=6, pictures=0, out=tmp_path)
    assert report.samples == 6 and report.step == 0 and report.errors
    assert energy(imported["ijepa"], shards, samples=6, pictures=0, out=tmp_path).errors


def test_without_a_predictor_there_is_no_energy(checkpoints, tmp_path, videos, capsys):
    path, _ = checkpoints["vjepa"]
    folder = import_weights(path, "vjepa", out=tmp_path / "out", given=GIVEN)
    assert "left out: the predictor (21 tensors); import it with --predictor" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds an encoder without a predictor: import a checkpoint that has one"):
        energy(folder, videos)


def change(path, out, networks):
    """A copy of a checkpoint with other networks; None: without it."""
    content = torch.load(path, weights_only=True) | networks
    torch.save({name: value for name, value in content.items() if value is not None}, out)
    return out


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ({"predictor": None}, "does not hold an encoder, a target_encoder and a predictor"),
        ({"encoder": None}, "does not hold an encoder, a target_encoder and a predictor"),
        ({"encoder": {"norm.weight": torch.zeros(24)}}, "holds no patch_embed.proj.weight"),
        ({"predictor": {"predictor_embed.weight": torch.zeros(24, 24)}}, "has 0 mask tokens, but vjepa has 2"),
    ],
)
def test_what_is_no_predictor_is_refused_and_nothing_written(checkpoints, tmp_path, networks, words):
    path = change(checkpoints["vjepa"][0], tmp_path / "x.pth.tar", networks)
    with pytest.raises(UserError, match=words):
        import_weights(path, "vjepa", out=tmp_path / "out", given=GIVEN, predictor=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pth.tar"]
    if "predictor" in networks:
        assert load_encoder(import_weights(path, "vjepa", out=tmp_path / "out", given=GIVEN))
