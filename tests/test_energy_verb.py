"""`jepa energy`: numbers and pictures of a small run, the same again, and mistakes refused in a sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.show import to_yaml
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.views import normalize
from jepa_pipeline.energy import deal, energy, future, trained
from jepa_pipeline.models.weights import read_card
from jepa_pipeline.pretrain import pretrain
from jepa_pipeline.probes.energy_report import EnergyReport
from jepa_pipeline.probes.examine import feed

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


def test_a_videos_future_is_looked_at(runs, videos, capsys):
    run = runs["vjepa"]
    report = energy(run, samples=9, pictures=2)
    name = f"{videos.name}-00000002"
    assert read(run / "energy" / f"{name}.json") == report and report.samples == 9 and report.past_frames == 4
    assert {path.name for path in (run / "energy").iterdir()} == {
        f"{name}.json", f"{name}-horizons.png", f"{name}-00.gif", f"{name}-01.gif",
    }  # fmt: skip
    assert {(row.horizon, row.frames) for row in report.separations} == {(1, (1, 2)), (2, (3, 4)), (None, (1, 4))}
    assert {row.alternative for row in report.separations} == {"other", "shuffled", "reversed", "frozen"}
    assert all(row.error > 0 and row.copy_last > 0 and row.constant > 0 and row.n == 9 for row in report.errors)
    with Image.open(run / "energy" / f"{name}-00.gif") as picture:
        assert picture.n_frames == 8
    said = capsys.readouterr().out
    assert f"looking at {videos / 'test'}, around the shards it was trained on" in said and f"{name}.json" in said


def test_every_level_of_a_stack_has_the_same_past(runs, tmp_path):
    report = energy(runs["hjepa"], samples=8, pictures=1, out=tmp_path)
    assert {(row.level, row.frames) for row in report.errors} == {(1, (1, 2)), (1, (3, 4)), (1, (1, 4)), (2, (1, 4))}
    assert len(report.colours) == 2 and len(report.said) == 3


def test_what_an_image_hides_is_looked_at(runs, shards, tmp_path):
    report = energy(runs["ijepa"], shards / "test", samples=20, pictures=3, out=tmp_path)
    assert [(row.level, row.alternative, row.n) for row in report.separations] == [(1, "other", 20), (1, "shuffled", 20)]
    assert (report.data, report.past_frames, report.said) == ("test", None, [])
    assert report.pictures == ["test-00000002-heat.png"] and (tmp_path / report.pictures[0]).is_file()


def test_the_same_command_gives_the_same_numbers_and_pictures(runs, tmp_path):
    first, second = (energy(runs["vjepa"], samples=7, pictures=1, out=tmp_path / name) for name in "ab")
    assert first == second
    for name in first.pictures:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = energy(runs["vjepa"], samples=7, pictures=0, out=tmp_path / "c", seed=1)
    assert other.separations != first.separations and [*(tmp_path / "c").glob("*.gif")] == []


def test_the_error_is_the_methods_own_loss(runs, tmp_path):
    """Of masks of the future, averaged over all that is asked for."""
    config = load_config(runs["vjepa"])
    report = energy(runs["vjepa"], samples=10, pictures=0, out=tmp_path)
    method, about = trained(runs["vjepa"])
    assert about.step == report.step and not method.training and not any(weight.requires_grad for weight in method.parameters())
    assert len(future(config.method, 0.5)[0]) == len(config.method.masks), "each set of masks has a mask token of its own"
    shards = Shards(Path(config.data.train[0].path).parent / "test")
    (batch,) = feed(shards, read_card(runs["vjepa"]), ProbeConfig(workers=0), 1, 1, 0).load([list(range(10))])
    generators = [keyed_generator(0, Stream.MASK, 0, row) for row in range(10)]
    views = [normalize(batch.views[0], config.views.mean, config.views.std)]
    masks = [sampler(generators, 0) for sampler in future(config.method, 0.5)[0]]
    with torch.no_grad():
        loss = method(batch._replace(views=views, masks=masks)).losses["prediction"]
    (whole,) = [row for row in report.errors if row.horizon is None]
    assert whole.error == pytest.approx(float(loss), rel=1e-5)


def test_without_a_test_set_it_is_the_training_shards_and_says_so(runs, videos, tmp_path, capsys):
    shutil.copytree(videos / "train", tmp_path / "alone" / "clips")
    run = tmp_path / "run"
    shutil.copytree(runs["vjepa"], run)
    (run / "config.yaml").write_text(to_yaml(load_config(run, [f"data.train={tmp_path / 'alone/clips'}"])))
    report = energy(run, samples=4, pictures=0)
    assert report.data == "clips" and "which it was trained on, for there is no test/ beside" in capsys.readouterr().out


def test_mistakes_are_one_sentence(runs, videos, shards, tmp_path):
    with pytest.raises(UserError, match=r"was trained by vicreg, which predicts nothing that is hidden: name a run of a JEPA$"):
        energy(runs["vicreg"])
    with pytest.raises(UserError, match=r"holds images, which have no future: name videos with --data$"):
        energy(runs["vjepa"], shards)
    with pytest.raises(UserError, match=r"holds videos, but this run's ijepa trains an encoder of images"):
        energy(runs["ijepa"], videos)
    with pytest.raises(UserError, match=r"^1 sample of .* has no other one to be told from: give 2 or more$"):
        energy(runs["vjepa"], samples=1)
    with pytest.raises(UserError, match=r"^--past is 1, but it is the share of a clip that is seen: give one between 0 and 1$"):
        energy(runs["vjepa"], past=1.0)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(runs["vjepa"] / "config.yaml", bare)
    with pytest.raises(UserError, match=r"bare holds no whole checkpoint, and so no predictor: train it further, or name another"):
        energy(bare)
    assert [path.name for path in bare.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("at_once", [1, 3, 4, 32])
def test_nobody_is_left_alone_in_a_batch(at_once):
    for count in range(2, 70):
        passes = deal(list(range(count)), at_once)
        assert [number for part in passes for number in part] == list(range(count)) and min(map(len, passes)) >= 2
