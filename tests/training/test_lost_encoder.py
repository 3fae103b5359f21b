"""A run's encoder can be had back from its checkpoint, and is on disk before the checkpoint that counts it."""

import io
import json
import os
import shutil
from pathlib import Path

from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.encoder_card import CARD, WEIGHTS
from jepa_pipeline.models.weights import read_card
from jepa_pipeline.training import checkpoint
from jepa_pipeline.training.checkpoint_callback import find_defect

SHORT = ("optim.total_samples=8", "optim.warmup_samples=0")


def pretrain_with_text(config):
    console = Console(record=True, width=500, file=io.StringIO())
    pretrain(config, console)
    return console.export_text()


LOSSES = {
    "the folder": lambda encoder: shutil.rmtree(encoder),
    "the weights": lambda encoder: (encoder / WEIGHTS).unlink(),
    "the card": lambda encoder: (encoder / CARD).unlink(),
    "all but an empty file": lambda encoder: (encoder / WEIGHTS).write_bytes(b""),
    "the end of the weights": lambda encoder: (encoder / WEIGHTS).write_bytes((encoder / WEIGHTS).read_bytes()[:-50]),
    "the card's text": lambda encoder: (encoder / CARD).write_bytes(b"\xff"),
    "the newest one": lambda encoder: (encoder / CARD).write_text((encoder / CARD).read_text().replace('"step": 6', '"step": 2')),
}


def test_a_finished_run_writes_its_encoder_anew_and_says_so(tiny):
    config = tiny()
    pretrain(config, Console(quiet=True))
    encoder = config.folder / "encoder"
    before = {path.name: path.read_bytes() for path in encoder.iterdir()}
    metrics = (config.folder / "metrics.jsonl").read_bytes()
    assert find_defect(config.folder, 6) is None
    for name, lose in LOSSES.items():
        shutil.copytree(encoder, config.folder / "kept")
        lose(encoder)
        assert find_defect(config.folder, 6), name
        shutil.rmtree(encoder, ignore_errors=True)
        (config.folder / "kept").rename(encoder)
    (encoder / WEIGHTS).write_bytes(b"")
    text = pretrain_with_text(config)
    assert "the encoder is written anew from the checkpoint of step 6" in text and "already finished at step 6" in text
    assert {path.name: path.read_bytes() for path in encoder.iterdir()} == before
    assert (config.folder / "metrics.jsonl").read_bytes() == metrics, "and it is not trained again"


def test_an_encoder_of_an_earlier_version_is_left_as_it_is(tiny):
    config = tiny(*SHORT)
    pretrain(config, Console(quiet=True))
    path = config.folder / "encoder" / CARD
    card = json.loads(path.read_text())
    del card["sha256"]
    path.write_text(json.dumps(card))
    assert "written anew" not in pretrain_with_text(config) and json.loads(path.read_text()) == card


def test_a_run_that_resumes_has_an_encoder_at_once(tiny, monkeypatch):
    config = tiny("checkpoint.every_steps=2")
    pretrain(config, Console(quiet=True))
    shutil.rmtree(config.folder / "checkpoints/step-00000006")
    shutil.rmtree(config.folder / "encoder")
    monkeypatch.setattr("jepa_pipeline.commands.pretrain.fit", lambda *_: None)
    text = pretrain_with_text(config)
    assert "the encoder is written anew from the checkpoint of step 4" in text and read_card(config.folder).step == 4


def test_the_encoder_is_synced_before_the_checkpoint_that_counts_it(tiny, monkeypatch):
    order, original, commit = [], os.fsync, checkpoint.commit

    def fsync(descriptor):
        order.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("jepa_pipeline.training.async_save.commit", lambda *them: (order.append("commit"), commit(*them)))
    config = tiny(*SHORT)
    pretrain(config, Console(quiet=True))
    before = [Path(path).name for path in order[: order.index("commit")]]
    assert {WEIGHTS, CARD, "encoder", config.folder.name, "metrics.jsonl"} <= set(before)


def test_what_killed_processes_left_in_a_run_is_gone_when_it_starts_again(tiny):
    config = tiny(*SHORT)
    pretrain(config, Console(quiet=True))
    left = ["encoder/.tmpAbCdEf", "encoder/model.safetensors.x.partial", "probes/.demo-26f8e414bae1.json", "probes/a.json.partial",
            "snapshots/.step-00000002", "energy/a.json.partial", "jobs/7.json.partial", "config.yaml.partial"]  # fmt: skip
    for name in left:
        (config.folder / name).parent.mkdir(exist_ok=True)
        (config.folder / name).touch()
    pretrain(config, Console(quiet=True))
    assert not [name for name in left if (config.folder / name).exists()]
