"""`jepa energy`: numbers and pictures of a small run, the same again, and mistakes refused in a sentence."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from jepa_pipeline.commands.energy import energy, future_samplers, save_picture, split_evenly
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.views import normalize
from jepa_pipeline.models.weights import read_card
from jepa_pipeline.probes.evaluate import build_eval_loader
from jepa_pipeline.probes.negatives import split_time
from jepa_pipeline.results.energy_report import EnergyReport, energy_key
from jepa_pipeline.training.trained_method import load_trained

DEBUG = Path(__file__).parents[1] / "configs/debug"
FEW = ["optim.total_samples=16", "optim.warmup_samples=0", "optim.batch_size_global=8", "trainer.accelerator=cpu"]


def make(recipe, train, folder):
    places = [f"data.train={train}", f"output={folder}"]
    return pretrain(load_config(DEBUG / recipe, [*FEW, *places]), Console(quiet=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, videos, shards):
    folder = tmp_path_factory.mktemp("runs")
    media = {"vjepa": videos, "hjepa": videos, "ijepa": shards, "vicreg": shards}
    return {name: make(f"{name}.yaml", around / "train", folder) for name, around in media.items()}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def read(report):
    return EnergyReport.model_validate_json(report.read_text())


def test_energies_of_the_future_of_videos(runs, videos, capsys):
    run = runs["vjepa"]
    report = energy(run, samples=9, pictures=2)
    name = f"{videos.name}-00000002-{energy_key(report, 2)}"
    assert read(run / "energy" / f"{name}.json") == report and report.samples == 9 and report.past_frames == 4
    assert {path.name for path in (run / "energy").iterdir()} == {
        f"{name}.json", f"{name}-horizons.png", f"{name}-00.gif", f"{name}-01.gif",
    }  # fmt: skip
    assert {(row.horizon, row.frames) for row in report.separations} == {(1, (1, 2)), (2, (3, 4)), (None, (1, 4))}
    assert {row.alternative for row in report.separations} == {"other", "shuffled", "reversed", "frozen"} and report.flattered
    assert all(row.error > 0 and row.copy_last > 0 and row.constant > 0 and row.n == 9 for row in report.errors)
    with Image.open(run / "energy" / f"{name}-00.gif") as picture:
        assert picture.n_frames == 8
    said = capsys.readouterr().out
    assert "flattered" in said
    assert f"evaluating on {videos / 'test'}, next to the shards it was trained on" in said and f"{name}.json" in said


def test_every_level_of_a_stack_has_the_same_past(runs, tmp_path, capsys):
    report = energy(runs["hjepa"], samples=8, pictures=1, out=tmp_path)
    assert {(row.level, row.frames) for row in report.errors} == {(1, (1, 2)), (1, (3, 4)), (1, (1, 4)), (2, (1, 4))}
    report = energy(runs["hjepa"], samples=8, pictures=1, out=tmp_path, past=0.9)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "4 of 8 frames are past, the nearest to 0.9 that lies between steps of every level" in said and said.count("nearest") == 1
    )
    assert len(report.colors) == 2 and len(report.said) == 3 and not report.flattered, "its attention is causal"


def test_a_level_of_one_time_step_is_left_out_with_a_note(videos, tmp_path):
    coarse = {"stride": {"time": 2, "space": 1}, "embed_dim": 32, "depth": 1, "num_heads": 2}
    level = {
        "encoder": coarse,
        "predictor": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "task": {
            "name": "masked",
            "masks": [{"name": "blocks", "num_blocks": 1, "scale": [0.3, 0.5], "context_keep": 0.25, "target_keep": 0.25}],
        },
    }
    config = load_config(DEBUG / "hjepa.yaml", [*FEW, f"data.train={videos / 'train'}", f"output={tmp_path}"])
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree["method"]["levels"].append(level)
    report = energy(pretrain(type(config).model_validate(tree), Console(quiet=True)), samples=6, pictures=1)
    assert {row.level for row in report.errors} == {row.level for row in report.separations} == {1, 2}
    assert report.said[-1] == "level 3 left out: one time step per clip, so nothing is past"
    assert report.past_frames == 4 and len(report.colors) == 2


def test_energies_of_masked_patches_of_images(runs, shards, tmp_path):
    report = energy(runs["ijepa"], shards / "test", samples=20, pictures=3, out=tmp_path)
    assert [(row.level, row.alternative, row.n) for row in report.separations] == [(1, "other", 20), (1, "shuffled", 20)]
    assert (report.data, report.past_frames, report.said) == ("test", None, [])
    assert (
        report.pictures == [f"test-00000002-{energy_key(report, 3)}-heat.png"]
        and not report.flattered
        and (tmp_path / report.pictures[0]).is_file()
    )


def test_the_same_command_gives_the_same_numbers_and_pictures(runs, tmp_path):
    first, second = (energy(runs["vjepa"], samples=7, pictures=1, out=tmp_path / name) for name in "ab")
    assert first == second
    for name in first.pictures:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = energy(runs["vjepa"], samples=7, pictures=0, out=tmp_path / "c", seed=1)
    assert other.separations != first.separations and [*(tmp_path / "c").glob("*.gif")] == []


def test_other_settings_write_other_files_and_the_same_replace_theirs(runs, tmp_path):
    asked = [{}, {"past": 0.25}, {"samples": 6}, {"seed": 1}, {"pictures": 1}]
    reports = [energy(runs["vjepa"], out=tmp_path, **{"samples": 7, "pictures": 2} | one) for one in asked]
    kept = [read(path) for path in tmp_path.glob("*.json")]
    assert len(kept) == 5 and all(report in kept for report in reports)
    named = [name for report in reports for name in report.pictures]
    assert len({*named}) == len(named) == 5 + 9
    there = sorted(path.name for path in tmp_path.iterdir())
    energy(runs["vjepa"], out=tmp_path, samples=7, pictures=2)
    assert there == sorted(path.name for path in tmp_path.iterdir()) and {*named} <= {*there} and len(there) == 5 + len(named)


def test_the_error_is_the_methods_own_loss(runs, tmp_path):
    """The masks hide the future; the error is averaged over all its tokens."""
    config = load_config(runs["vjepa"])
    report = energy(runs["vjepa"], samples=10, pictures=0, out=tmp_path)
    method, about = load_trained(runs["vjepa"], print)
    assert about.step == report.step and not method.training and not any(weight.requires_grad for weight in method.parameters())
    split = split_time(0.5, config.method.encoders)
    assert len(future_samplers(config.method, split)[0]) == len(config.method.masks), (
        "each set of masks has a mask token of its own"
    )
    shards = Shards(Path(config.data.train[0].path).parent / "test")
    (batch,) = build_eval_loader(shards, read_card(runs["vjepa"]), ProbeConfig(workers=0), 1, 1, 0).load([list(range(10))])
    generators = [keyed_generator(0, Stream.MASK, 0, row) for row in range(10)]
    views = [normalize(batch.views[0], config.views.mean, config.views.std)]
    masks = [sampler(generators, 0) for sampler in future_samplers(config.method, split)[0]]
    with torch.no_grad():
        loss = method(batch._replace(views=views, masks=masks), step=0, seed=0).losses["prediction"]
    (future,) = [row for row in report.errors if row.horizon is None]
    assert future.error == pytest.approx(float(loss), rel=1e-5)


def test_without_a_test_set_the_training_shards_are_used(runs, videos, tmp_path, capsys):
    shutil.copytree(videos / "train", tmp_path / "alone" / "clips")
    run = tmp_path / "run"
    shutil.copytree(runs["vjepa"], run)
    (run / "config.yaml").write_text(to_yaml(load_config(run, [f"data.train={tmp_path / 'alone/clips'}"])))
    report = energy(run, samples=4, pictures=0)
    assert report.data == "clips" and "which it was trained on, because there is no test/ (change" in capsys.readouterr().out


def test_a_full_disk_is_reported_and_leaves_no_partial_file(tmp_path):
    def full(path):
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        UserError, match=r"heat\.png could not be written \(No space left on device\): free some space, or set another --out"
    ):
        save_picture(tmp_path / "heat.png", full)
    assert not [*tmp_path.iterdir()]


def test_mistakes_are_refused_in_one_sentence(runs, videos, shards, tmp_path):
    with pytest.raises(UserError, match=r"was trained by vicreg, which predicts nothing that is hidden: name a run of a JEPA$"):
        energy(runs["vicreg"])
    with pytest.raises(UserError, match=r"holds images, which have no future: name videos with --data$"):
        energy(runs["vjepa"], shards)
    with pytest.raises(UserError, match=r"holds videos, but the run has an image encoder: name images with --data$"):
        energy(runs["ijepa"], videos)
    with pytest.raises(UserError, match=r"^1 sample of .* has no other one to be compared with: give 2 or more$"):
        energy(runs["vjepa"], samples=1)
    with pytest.raises(UserError, match=r"^--past is 1, but it is the share of a clip that is context: give one between 0 and 1$"):
        energy(runs["vjepa"], past=1.0)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(runs["vjepa"] / "config.yaml", bare)
    with pytest.raises(UserError, match=r"bare has no complete checkpoint, and so no predictor: train it further, or give another"):
        energy(bare)
    assert [path.name for path in bare.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("at_once", [1, 3, 4, 32])
def test_no_batch_has_a_single_sample(at_once):
    for count in range(2, 70):
        passes = split_evenly(list(range(count)), at_once)
        assert [number for part in passes for number in part] == list(range(count)) and min(map(len, passes)) >= 2
