"""Unusable samples in training: counted, named once, the same after a kill, and too many of them end the run."""

import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.data import WINDOW_SHARDS
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.sampler import ShardSampler
from jepa_pipeline.data.writer import png_record, write_shards
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training import callbacks
from jepa_pipeline.training.checkpoint import load_latest
from jepa_pipeline.training.loggers import HASHES
from jepa_pipeline.training.skipped_samples import DAMAGED

QUIET = Console(quiet=True)


@pytest.fixture
def damaged(tiny, tmp_path):
    """Return a function that makes the configuration of a run on 20 samples, two of which are not images."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    records = [png_record(f"k{n:02d}", Image.fromarray(image), None) for n, image in enumerate(pixels)]
    records = [record._replace(media=b"no image") if n in (2, 4) else record for n, record in enumerate(records)]
    write_shards(records, tmp_path / "damaged", classes=None, made={})

    def make(*overrides):
        return tiny(f"data.train={tmp_path / 'damaged'}", "data.damage.limit=1", *overrides)

    return make


def test_each_is_counted_and_named_once(damaged):
    console = Console(record=True, width=300)
    config = damaged()
    pretrain(config, console)
    named = read_json_lines(config.folder / DAMAGED)
    assert sorted(row["sample"] for row in named) == [2, 4]
    assert all("it is not a JPEG, PNG or WebP image" in row["reason"] for row in named)
    rows = {row["step"]: row["skipped_samples"] for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row}
    order = Mixture([ShardSampler([20], config.seed, WINDOW_SHARDS)], [1.0])
    damaged_ones = np.isin(order.locate(0, 48).sample, [2, 4])
    assert rows == {step: damaged_ones[: 8 * step].sum() for step in (2, 4, 6)}
    first = {number: int(np.flatnonzero(order.locate(0, 48).sample == number)[0]) // 8 + 1 for number in (2, 4)}
    assert {row["sample"]: row["step"] for row in named} == first
    text = console.export_text()
    assert text.count("skipped: sample k02") == text.count("skipped: sample k04") == 1
    assert "skipped samples" in text


def test_a_run_over_damage_resumes_exactly(damaged, monkeypatch):
    options = ["checkpoint.every_steps=2", "log.hashes_every_steps=1"]
    straight, config = damaged("name=straight", *options), damaged("name=cut", *options)
    pretrain(straight, QUIET)
    original = callbacks.HealthMonitor.on_step

    def killed(self, trainer, module):
        original(self, trainer, module)
        if module.step == 5:
            raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.HealthMonitor, "on_step", killed)
        with pytest.raises(KeyError):
            pretrain(config, QUIET)
    pretrain(config, QUIET)
    assert read_json_lines(config.folder / HASHES) == read_json_lines(straight.folder / HASHES)
    assert [row["sample"] for row in read_json_lines(config.folder / DAMAGED)] == [
        row["sample"] for row in read_json_lines(straight.folder / DAMAGED)
    ]


def test_too_much_of_it_stops_the_run_and_a_higher_limit_goes_on(damaged):
    config = damaged("data.damage.limit=0.05")
    with pytest.raises(
        UserError, match=r"of 48 samples are unusable, more than data.damage.limit 0.05 allows; they are listed in"
    ) as stopped:
        pretrain(config, QUIET)
    assert str(stopped.value).endswith(": fix the data, or raise the limit; nothing is saved yet, so the same command starts over")
    pretrain(damaged("data.damage.limit=0.5"), QUIET)
    assert load_latest(config.folder / "checkpoints", log=pytest.fail).info.step == 6


def test_the_stop_names_the_checkpoint_from_which_it_goes_on(damaged):
    with pytest.raises(UserError, match=r"raise the limit; the same command resumes from .*/step-00000004$"):
        pretrain(damaged("data.damage.limit=0.05", "checkpoint.every_steps=2"), QUIET)


def test_it_is_judged_early_in_a_long_run(damaged, monkeypatch):
    monkeypatch.setattr("jepa_pipeline.training.skipped_samples.MIN_SAMPLES", 16)
    with pytest.raises(UserError, match=r"of (16|24|32) samples are unusable"):
        pretrain(damaged("data.damage.limit=0.05"), QUIET)


def test_policy_stop_ends_the_run_in_one_sentence(damaged):
    with pytest.raises(UserError, match=r"sample k0[24] of .* cannot be used .*`jepa shards check .*` lists all damage"):
        pretrain(damaged("data.damage.policy=stop", "data.workers=1"), QUIET)


def test_a_mixture_logs_its_realized_shares(tiny, shards):
    config = tiny(f"data.train=[{{path: {shards / 'train'}, weight: 3}}, {shards / 'test'}]")
    pretrain(config, QUIET)
    last = [row for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row][-1]
    first, second = last[f"share/{shards / 'train'}"], last[f"share/{shards / 'test'}"]
    assert first + second == 1 and 0.6 < first < 0.9
    assert last[f"epoch/{shards / 'train'}"] == pytest.approx(48 * first / 200)
    assert last[f"epoch/{shards / 'test'}"] == pytest.approx(48 * second / 60)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[]", "it is an empty list"),
        ("[{path: a, weight: 0}]", "greater than 0"),
        ("[a, b, a]", "a is in the mixture twice: give it once, with the sum of the weights"),
        ("[{path: a, wieght: 2}]", "unknown key 'data.train.0.wieght'"),
        ("[{path: a, weight: 100000}, b]", "weight 1 of b is under 1/4000 of the sum"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(tiny, value, says):
    with pytest.raises(UserError, match=says) as refused:
        tiny(f"data.train={value}")
    assert len(str(refused.value).splitlines()) == 1


def test_other_images_under_the_same_manifest_end_the_run(tiny, shards, tmp_path):
    data = shutil.copytree(shards / "train", tmp_path / "data")
    tar = min(data.glob("*.tar"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"does not hold the samples of its manifest: the SHA-256 of {tar.name} is"):
        pretrain(tiny(f"data.train={data}", "data.check_hashes=true"), QUIET)
    tar.write_bytes(whole + bytes(512))
    with pytest.raises(
        UserError, match=rf"does not hold the samples of its manifest: {tar.name} has [\d,]+ bytes, the manifest says"
    ):
        pretrain(tiny(f"data.train={data}"), QUIET)
