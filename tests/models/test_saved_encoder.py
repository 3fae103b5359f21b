"""An encoder on disk is the one that was written, or it is refused, whatever has happened to its file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.config.encoder_card import CARD, WEIGHTS, EncoderCard
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.files import sha256_of
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import check_weights, load_encoder, read_card, save_encoder, save_tensors
from jepa_pipeline.probes.evaluate import load_frozen

CONFIG = EncoderConfig.model_validate({"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2})
ORIGIN = {"name": "tiny", "method": "ijepa", "step": 3, "samples": 48, "version": "0", "config_hash": "c", "data_hash": "d"}


@pytest.fixture
def folder(tmp_path):
    card = EncoderCard.model_validate({"encoder": CONFIG, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), **ORIGIN})
    save_encoder(tmp_path / "run/encoder", build_encoder(CONFIG), card)
    return tmp_path / "run/encoder"


def turn_signs(path):
    tensors = {name: -tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "signs turned": turn_signs,
    "a bit flipped": flip_a_bit,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros, as after a power cut": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
READERS = {"load_encoder": load_encoder, "probe": probe, "export": export, "benchmark": load_frozen, "energy": check_weights}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_other_weights(folder, damage, reader):
    assert sha256_of(folder / WEIGHTS) == read_card(folder).sha256
    DAMAGE[damage](folder / WEIGHTS)
    with pytest.raises(UserError, match=rf"{WEIGHTS} is not what was written \(its SHA-256 is .*run the command of its run again"):
        READERS[reader](folder.parent)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    encoder, card = load_encoder(folder), read_card(folder)
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[5] = value
    save_encoder(folder, encoder, card)
    with pytest.raises(UserError, match=r"holds NaN or infinite weights \(first: \w+.*whose features mean nothing"):
        load_encoder(folder)


def forget_hash(folder):
    card = json.loads((folder / CARD).read_text())
    del card["sha256"]
    (folder / CARD).write_text(json.dumps(card))


def test_a_card_of_an_earlier_version_is_read_and_what_is_not_checked_is_said(folder, capsys):
    forget_hash(folder)
    assert load_encoder(folder).config == CONFIG
    assert "was written by version 0 without a hash, so that damage to its weights would not show" in capsys.readouterr().err
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        load_encoder(folder)


def test_a_card_that_is_no_text_is_one_sentence(folder):
    (folder / CARD).write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match="is not an encoder's card"):
        read_card(folder)


def test_a_full_disk_under_weights_is_an_error_of_the_system(tmp_path):
    """safetensors has an error of its own, and leaves a file of its own."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            save_tensors(tmp_path / WEIGHTS, {"weight": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.filename == str(tmp_path / WEIGHTS)
