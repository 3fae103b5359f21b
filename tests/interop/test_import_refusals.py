"""What `jepa import` does not take is refused with one sentence, and nothing is written."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file
from warm_process import run_jepa

from jepa_pipeline.cli import app
from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.config.encoder_card import read_card
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.interop.families import FAMILIES
from jepa_pipeline.models.encoder import Encoder

CONFIG = EncoderConfig(image_size=12, patch_size=4, embed_dim=24, depth=2, num_heads=2)
GIVEN = ImportSettings(num_heads=2)


class Marker:
    """Would create a folder if it were read by pickle."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def state():
    return Encoder(CONFIG).state_dict()


def refusal(source, out, family=None, given=GIVEN, **options):
    """The sentence, after checking that nothing was written."""
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(UserError) as refused:
        import_weights(source, family, out=out, given=given, **options)
    assert not out.exists() and sorted(path.name for path in out.parent.iterdir()) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def saved(tmp_path, content, name="x.pth.tar", **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_not_read(tmp_path, state, zipped):
    marker = tmp_path / "marker"
    path = saved(tmp_path, {"target_encoder": state, "epoch": Marker(marker)}, _use_new_zipfile_serialization=zipped)
    assert "it names posix.mkdir" in (said := refusal(path, tmp_path / "out")) and "could run code" in said
    assert not marker.exists()
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Marker(marker)))
    assert refusal(tmp_path / "raw.pt", tmp_path / "out")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the trap is one
    assert marker.exists()


@pytest.mark.parametrize("kept", [0, 1, 8, 40, 0.5, 0.99])
@pytest.mark.parametrize("name", ["x.pth.tar", "x.safetensors", "legacy.pt"])
def test_a_truncated_file_is_damaged(tmp_path, state, name, kept):
    path = tmp_path / name
    if name == "x.safetensors":
        save_file(state, path)
    else:
        torch.save({"target_encoder": state}, path, _use_new_zipfile_serialization=name != "legacy.pt")
    path.write_bytes(path.read_bytes()[: kept if isinstance(kept, int) else int(kept * path.stat().st_size)])
    assert "is damaged, or no file of weights" in refusal(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"hello, I am a text", b"{}", b"PK\x03\x04 no zip", b"\x80\x02}q\x00.", bytes(100)])
def test_other_files_are_no_weights(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    assert "no file of weights" in (said := refusal(tmp_path / "x.pt", tmp_path / "out")) or "no tensors" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "a list and no tensors by name"),
        ({}, "holds no tensors by name"),
        ({"epoch": 3}, "holds no tensors by name"),
        ({"a": torch.zeros(2), "epoch": 3}, "holds epoch, which is not a tensor, among tensors such as a"),
        ({"first": {"a": torch.zeros(2)}, "second": {"a": torch.zeros(2)}}, "holds first and second, but no target_encoder"),
        ({"encoder": {"a": torch.zeros(2)}}, "holds encoder, but no target_encoder: name the network to take with --which"),
        ({"a": torch.zeros(2)}, "cannot be determined: choose one with --as"),
    ],
)
def test_checkpoints_without_the_network_are_refused(tmp_path, content, words):
    assert words in refusal(saved(tmp_path, content), tmp_path / "out")


def test_a_network_that_is_not_there(tmp_path, state):
    path = saved(tmp_path, {"encoder": state, "target_encoder": state})
    assert "holds encoder and target_encoder, but no teacher" in refusal(path, tmp_path / "out", which="teacher")


@pytest.mark.parametrize("family", [family.name for family in FAMILIES if family.argument is None and family.name != "ijepa"])
def test_the_wrong_layout_is_refused(tmp_path, state, family):
    said = refusal(saved(tmp_path, {"target_encoder": state}), tmp_path / "out", family)
    assert "x.pth.tar" in said


def test_an_unknown_layout_is_refused_with_the_list(tmp_path, state):
    path = saved(tmp_path, {"target_encoder": state})
    said = refusal(path, tmp_path / "out", "vjepa3")
    assert "did you mean vjepa" in said and all(family.name in said for family in FAMILIES)
    assert "takes no argument" in refusal(path, tmp_path / "out", "ijepa:vit")


def change(state, name, tensor=None):
    return {key: value for key, value in state.items() if key != name} | ({} if tensor is None else {name: tensor})


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("blocks.1.mlp.fc2.bias", None, "lacks blocks.1.mlp.fc2.bias of shape [24]"),
        ("norm.weight", None, "lacks norm.weight"),
        ("blocks.1.mlp.fc1.weight", torch.zeros(95, 24), "blocks.1.mlp.fc1.weight in "),
        (
            "blocks.0.attn.proj.weight",
            torch.zeros(24, 23),
            "has the shape [24, 23], but in ViT 24 x 2, patches of 4, 12x12 it is [24, 24]",
        ),
        ("pos_embed", torch.zeros(1, 10, 24), "pos_embed in "),
        ("patch_embed.proj.weight", torch.zeros(24, 3, 4, 5), "not a square patch embedding"),
        ("patch_embed.proj.weight", torch.zeros(24, 17, 4, 4), "in_channels: Input should be less"),
        ("patch_embed.proj.weight", None, "holds no patch_embed.proj.weight"),
        ("blocks.9.norm1.weight", torch.zeros(24), "blocks.9.norm1.weight"),
        ("head.weight", torch.zeros(10, 24), "holds head.weight of shape [10, 24]"),
        ("cls_token", torch.zeros(1, 1, 24), "holds cls_token of shape [1, 1, 24]"),
        ("blocks.x.norm1.weight", torch.zeros(24), "holds blocks.x.norm1.weight"),
        ("norm.bias", torch.full((24,), float("nan")), "holds NaN or infinite values in norm.bias"),
        ("norm.bias", torch.zeros(24, dtype=torch.complex64), "holds norm.bias as complex64"),
        ("norm.bias", torch.zeros(24).to_sparse(), "holds norm.bias as float32 (torch.sparse_coo)"),
    ],
)
def test_every_tensor_must_fit(tmp_path, state, name, tensor, words):
    path = saved(tmp_path, {"target_encoder": change(state, name, tensor)})
    said = refusal(path, tmp_path / "out", "ijepa")
    assert words in said and (name in said or "in_channels" in words)


def test_two_tensors_of_one_name_are_no_network(tmp_path, state):
    path = saved(tmp_path, {"target_encoder": state | {"module.norm.bias": torch.zeros(24)}})
    assert "holds norm.bias twice, once as module.norm.bias" in refusal(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 24}, "pos_embed in "),
        ({"frames": 4}, "cannot be built|frames"),
        ({"fps": 4.0}, "image encoder, which has no rate of frames"),
        ({"num_heads": 5}, "cannot be built: embed_dim 24 is not a multiple of num_heads 5"),
    ],
)
def test_what_the_user_says_must_be_possible(tmp_path, state, given, words):
    path = saved(tmp_path, {"target_encoder": state})
    said = refusal(path, tmp_path / "out", "ijepa", ImportSettings(**{"num_heads": 2, **given}))
    assert any(word in said for word in words.split("|"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["std=[0,1,1]"], "'std.0' is 0: it should be greater than 0"),
        (["std=[1,1,-0.5]"], "'std.2' is -0.5"),
        (["std=[.nan,1,1]"], "'std.0' is "),
        (["std=[.inf,1,1]"], "'std.0' is "),
        (["mean=[a,1,1]"], "'mean.0' is "),
        (["mean=0.5"], "'mean' is 0.5"),
        (["bits=12"], "'bits' is 12"),
    ],
)
def test_impossible_preprocessing_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        load_overrides(ImportSettings, settings)


def test_mean_and_deviation_have_a_value_per_channel(tmp_path, state):
    path = saved(tmp_path, {"target_encoder": state})
    said = refusal(path, tmp_path / "out", given=ImportSettings(num_heads=2, mean=(0.5, 0.5)))
    assert "takes images of 3 channels, but there are 2 of mean and 3 of std: give mean=[...] and std=[...]" in said
    given = ImportSettings(num_heads=2, std=(1e-320, 1.0, 1.0))
    assert "beyond what fp32 holds: give mean=[...] and std=[...]" in refusal(path, tmp_path / "out", given=given)
    gray = saved(tmp_path, {"target_encoder": state | {"patch_embed.proj.weight": torch.randn(24, 1, 4, 4)}})
    assert "takes images of 1 channel, but there are 3 of mean and 3 of std" in refusal(gray, tmp_path / "out")
    out = import_weights(gray, out=tmp_path / "gray", given=ImportSettings(num_heads=2, mean=(0.5,), std=(0.2,)))
    card = read_card(out)
    assert (card.encoder.in_channels, card.mean, card.std, card.bits) == (1, (0.5,), (0.2,), 8)
    text = (out / "config.json").read_text()
    for bad in ("0.0", "-1.0", '"Infinity"', '"NaN"'):
        (out / "config.json").write_text(text.replace("0.2", bad))
        with pytest.raises(UserError, match=r"is not an encoder's card \(std.0: "):
            read_card(out)


def test_scalars_of_numpy_are_numbers(tmp_path, state):
    numbers = {"epoch": np.int64(3), "loss": np.float32(0.3), "half": np.float16(1), "done": np.bool_(True), "byte": np.uint8(3)}
    assert import_weights(saved(tmp_path, {"target_encoder": state, **numbers}), out=tmp_path / "out", given=GIVEN)


def test_a_pickle_is_not_called_damaged(tmp_path):
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"a": Marker(tmp_path / "marker")}, protocol=4))
    said = refusal(tmp_path / "raw.pt", tmp_path / "out")
    assert "a pickle that torch.save has not written" in said and "ask its publisher for safetensors" in said
    assert not (tmp_path / "marker").exists()


def test_a_header_of_safetensors_that_begins_as_a_pickle_does_is_read(tmp_path, state):
    """Its first bytes are its length, which is 0x..0480 here."""
    for fill in range(3000):
        save_file(state, tmp_path / "x.safetensors", metadata={"fill": "x" * fill})
        if (tmp_path / "x.safetensors").read_bytes()[:1] == b"\x80" and fill % 8 == 0:
            break
    start = (tmp_path / "x.safetensors").read_bytes()[:2]
    assert start[:1] == pickle.PROTO and start[1:] > b"\x03"
    assert import_weights(tmp_path / "x.safetensors", "ijepa", out=tmp_path / "out", given=GIVEN)


def test_a_table_that_training_has_changed_is_not_ijepas(tmp_path, state):
    path = saved(tmp_path, {"target_encoder": state | {"pos_embed": torch.randn(1, 9, 24)}})
    assert "is not the table of sines and cosines that I-JEPA has" in refusal(path, tmp_path / "out", "ijepa")


def test_a_place_that_cannot_be_written_is_named_with_a_cure(tmp_path, state):
    path = saved(tmp_path, {"target_encoder": state})
    with pytest.raises(UserError, match=r"out cannot be written, because .*x.pth.tar is not a folder: name a place in a folder"):
        import_weights(path, out=path / "below" / "out", given=GIVEN)
    assert path.is_file()


def test_folders_without_weights(tmp_path, state):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    said = refusal(folder, tmp_path / "out")
    assert "holds no weights" in said and "name the file or folder that holds them" in said
    for name in ("a.pt", "b.pt"):
        torch.save({"target_encoder": state}, folder / name)
    assert "holds 2 files of weights (a.pt, b.pt, ...): name one of them" in refusal(folder, tmp_path / "out")
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusal(folder, tmp_path / "out")
    assert "there is no " in refusal(tmp_path / "nothing", tmp_path / "out")


def test_an_index_names_files_beside_it_only(tmp_path, state):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(state, tmp_path / "elsewhere.safetensors")
    for names in ({"a": "../elsewhere.safetensors"}, {"a": str(tmp_path / "elsewhere.safetensors")}, {"a": 3}, {}, []):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        assert "copy the folder again" in refusal(folder, tmp_path / "out")


def test_a_folder_of_this_package_is_used_as_it_is(tmp_path, state):
    folder = import_weights(saved(tmp_path, {"target_encoder": state}), out=tmp_path / "encoder", given=GIVEN)
    assert "is an encoder of this package already" in refusal(folder, tmp_path / "out")
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder"):
        import_weights(tmp_path / "x.pth.tar", out=full, given=GIVEN)
    assert [path.name for path in full.iterdir()] == ["notes.txt"]


def test_help_names_every_layout_and_every_setting():
    text = " ".join(
        option.help or "" for option in typer.main.get_command(app).commands["import"].params if hasattr(option, "help")
    )
    words = {word.strip(".,;:") for word in text.split()}
    assert {family.name for family in FAMILIES} <= words and {*ImportSettings.model_fields} <= words


def test_the_command_line_says_it_in_one_sentence(tmp_path, state):
    """In a process in which nothing but this package has been imported, such as what would allow more."""
    path = saved(tmp_path, {"target_encoder": state, "epoch": Marker(tmp_path / "marker")})
    done = run_jepa(["import", path, "--as", "ijepa"], tmp_path, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"})
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "could run code" in done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.pth.tar"]
