"""`jepa probe`: every row with its baselines, on disk as printed; mistakes are refused in a sentence."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_pipeline.commands.probe import probe
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import AttentiveConfig, ProbeConfig
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.data.index import index_path, load_index
from jepa_pipeline.data.manifest import INDEXED, load_manifest, save_manifest
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.writer import png_record, video_record, write_shards
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, save_encoder
from jepa_pipeline.results.probe_report import ProbeReport, load_reports

CONFIG = ProbeConfig(batch_size=16, workers=0, weight_decay=(1e-2, 1e-3), k=(1, 3), iterations=20)
ENCODER = EncoderConfig(image_size=16, patch_size=4, embed_dim=24, depth=4, num_heads=2)
CLIPS = EncoderConfig(image_size=16, patch_size=8, frames=4, tubelet_size=2, embed_dim=24, depth=2, num_heads=2)
CLIP = ClipConfig.model_validate({"stride": 2})
ATTENTIVE = {"lr": (1e-3, 1e-2), "weight_decay": (0.01,), "epochs": 4, "batch_size": 16, "segments": 2, "views": 3}
RESNET = BackboneConfig(timm="resnet18", image_size=16, small_stem=True, args={"channels": (8, 8, 12, 16)})


def write_set(folder, samples, classes=("dark", "light"), seed=0):
    generator = np.random.default_rng(seed)
    labels = [number % 2 for number in range(samples)]
    images = [Image.fromarray((generator.integers(0, 100, (20, 20, 3)) + 100 * label).astype(np.uint8)) for label in labels]
    records = [
        png_record(f"{number:05d}", image, label if classes else None)
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    write_shards(records, folder, classes=classes, made={})


def write_videos(folder, samples, seed=0):
    """8 frames of noise that gets brighter or darker."""
    generator = np.random.default_rng(seed)
    records = []
    for number in range(samples):
        label = number % 2
        ramp = np.linspace(-50, 50, 8) * (2 * label - 1)
        frames = (generator.integers(0, 60, (8, 20, 24, 3)) + 100 + ramp[:, None, None, None]).astype(np.uint8)
        records.append(video_record(f"{number:05d}", encode_video(list(frames), 10.0), "mp4", label))
    write_shards(records, folder, classes=("darker", "brighter"), made={})


def make_run(folder, config, **fields) -> Path:
    torch.manual_seed(7)
    card = EncoderCard(
        encoder=config,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        **{"name": "tiny", "method": "ijepa", "step": 3, "samples": 48, "version": "0", **fields},
        config_hash="c" * 12,
        data_hash="d" * 12,
    )
    save_encoder(folder / "encoder", build_encoder(config), card)
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run", ENCODER)


@pytest.fixture
def data(tmp_path) -> Path:
    write_set(tmp_path / "blobs" / "train", 41)
    write_set(tmp_path / "blobs" / "test", 23, seed=1)
    return tmp_path / "blobs"


def test_every_encoder_has_every_row_on_disk_as_returned(run, data, capsys):
    before = hash_weights(load_encoder(run))
    rows = probe(run, data, config=CONFIG)
    found = [(row.encoder, row.protocol, row.settings.get("k")) for row in rows]
    knn = [("knn", 1), ("knn", 3)]
    for name, kinds in (("target", 2), ("random_init", 2), ("pixels", 1)):
        assert [row[1:] for row in found if row[0] == name] == [("linear", None), *knn * kinds]
    assert all(row.n_test == 23 and row.ci95[0] <= row.top1 <= row.ci95[1] for row in rows)
    assert max(row.top1 for row in rows if row.encoder == "pixels") == 1.0

    (path,) = (run / "probes").glob("*.json")
    written = json.loads(path.read_text())
    assert path.name.startswith("blobs-")
    assert written["rows"] == json.loads(json.dumps([row.model_dump(mode="json") for row in rows]))
    assert set(written["rows"][0]) == {"encoder", "protocol", "settings", "top1", "ci95", "n_test", "seed", "seconds"}
    assert (written["data"], written["config_hash"], written["weights_hash"]) == ("blobs", "c" * 12, before)
    assert path.name in capsys.readouterr().out.replace("\n", "")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "ramps" / "train", 41)
    write_videos(folder / "ramps" / "test", 23, seed=1)
    return folder / "ramps"


def test_an_encoder_of_clips_has_frames_baselines(tmp_path, videos, capsys):
    run = make_run(tmp_path / "clips", CLIPS, clip=CLIP)
    before = hash_weights(load_encoder(run))
    config = CONFIG.model_copy(
        update={"protocols": ("linear", "knn", "attentive"), "attentive": AttentiveConfig.model_validate(ATTENTIVE)}
    )
    rows = probe(run, videos, config=config)
    names = ["target", "random_init", "frames_shuffled", "frames_apart", "pixels"]
    (report,) = load_reports(run / "probes")
    assert list(report.rankme) == names and report.rows == rows and report.weights_hash == before
    protocols = {name: {row.protocol for row in rows if row.encoder == name} for name in names}
    assert protocols == {name: {"linear", "knn"} | ({"attentive"} if name != "pixels" else set()) for name in names}
    assert all(row.n_test == 23 and (row.top1 * 23) == pytest.approx(round(row.top1 * 23)) for row in rows)
    linear = {row.encoder: row for row in rows if row.protocol == "linear"}
    assert linear["target"].top1 == linear["pixels"].top1 == 1.0
    assert max(linear["frames_shuffled"].top1, linear["frames_apart"].top1) < 0.8
    assert (linear["pixels"].settings["frames"], linear["pixels"].settings["side"]) == (4, 16)
    assert linear["target"].settings["segments"] == 2
    chosen = next(row for row in rows if row.protocol == "attentive").settings
    assert (chosen["form"], chosen["segments"], chosen["views"]) == ("vjepa", 2, 3)
    assert [(trial.lr, trial.weight_decay) for trial in report.attentive_selection["target"]] == [(1e-3, 0.01), (1e-2, 0.01)]
    out = capsys.readouterr().out
    assert "23 test videos" in out and "of target's linear 100.0, " in out and "target's attentive " in out


def test_an_encoder_of_clips_on_images_has_no_frames_baselines(tmp_path, data, capsys):
    run = make_run(tmp_path / "clips", CLIPS, clip=CLIP)
    rows = probe(run, data, config=CONFIG)
    assert list(dict.fromkeys(row.encoder for row in rows)) == ["target", "random_init", "pixels"]
    assert max(row.top1 for row in rows if row.encoder == "target") == 1.0
    assert {(row.settings["side"], "frames" in row.settings) for row in rows if row.encoder == "pixels"} == {(16, False)}
    assert "order of frames" not in capsys.readouterr().out


def test_an_attentive_probe_of_images(run, data):
    attentive = AttentiveConfig.model_validate({**ATTENTIVE, "form": "vjepa2", "epochs": 6})
    config = CONFIG.model_copy(update={"protocols": ("attentive",), "attentive": attentive})
    for folder in (run, make_run(run / "resnet", RESNET)):
        rows = probe(folder, data, config=config)
        assert [(row.encoder, row.protocol) for row in rows] == [("target", "attentive"), ("random_init", "attentive")]
        assert rows[0].top1 > 0.8 and rows[0].n_test == 23
        assert {"form", "epochs", "lr", "weight_decay", "selection_top1"} == set(rows[0].settings)


def refuse(*_, **__):
    raise RuntimeError("this must not be reached")


def test_the_attentive_protocol_extracts_no_pooled_features(run, data, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["jepa_pipeline.probes.evaluate"], "extract_set", refuse)
    attentive = AttentiveConfig.model_validate(ATTENTIVE)
    rows = probe(run, data, config=CONFIG.model_copy(update={"protocols": ("attentive",), "attentive": attentive}))
    (report,) = load_reports(run / "probes")
    assert report.rows == rows and report.rankme == {} and report.selection == {}
    assert "RankMe" not in capsys.readouterr().out


def test_linear_accuracies_are_saved_before_the_attentive_protocol(run, data, monkeypatch):
    config = CONFIG.model_copy(
        update={"protocols": ("linear", "attentive"), "attentive": AttentiveConfig.model_validate(ATTENTIVE)}
    )
    with monkeypatch.context() as failing:
        failing.setattr(sys.modules["jepa_pipeline.probes.evaluate"], "attentive_probe", refuse)
        with pytest.raises(RuntimeError, match="reached"):
            probe(run, data, config=config)
    (kept,) = load_reports(run / "probes")
    assert {row.protocol for row in kept.rows} == {"linear"} and list(kept.rankme) == ["target", "random_init", "pixels"]
    rows = probe(run, data, config=config)
    (whole,) = load_reports(run / "probes")
    assert whole.rows == rows and {row.protocol for row in rows} == {"linear", "attentive"}
    assert [row.top1 for row in rows[:3]] == [row.top1 for row in kept.rows]


@pytest.mark.parametrize(
    ("samples", "update", "message"),
    [
        (41, {"k": (5, 42)}, "k is 42 but there are 41 training samples"),
        (2, {"protocols": ("linear",)}, "2 training samples are one per class at most"),
        (2, {"protocols": ("attentive",)}, "2 training samples are one per class at most"),
    ],
)
def test_too_few_training_samples_are_refused_before_any_is_decoded(run, data, monkeypatch, samples, update, message):
    write_set(data / "few", samples)
    for name in ("extract_set", "build_eval_loader"):
        monkeypatch.setattr(sys.modules["jepa_pipeline.probes.evaluate"], name, refuse)
    with pytest.raises(UserError, match=message):
        probe(run, data / "few", data / "test", config=CONFIG.model_copy(update=update))


@pytest.mark.parametrize("protocols", [("linear",), ("attentive",)])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_is_named_with_the_cure(tmp_path, run, data, protocols, workers):
    update = {"protocols": protocols, "workers": workers, "attentive": AttentiveConfig.model_validate(ATTENTIVE)}
    config = CONFIG.model_copy(update=update)
    damage(data / "train")
    cure = r"^sample 00007 of .* cannot be used .*`jepa shards check .*train` lists all damage; remove it from the {} and build the shards"
    with pytest.raises(UserError, match=cure.format("images") + " anew$"):
        probe(run, data, config=config)
    write_videos(tmp_path / "ramps" / "train", 9)
    write_videos(tmp_path / "ramps" / "test", 9, seed=1)
    damage(tmp_path / "ramps" / "train")
    with pytest.raises(UserError, match=cure.format("videos") + r" anew \(with --reencode such are left out\)$"):
        probe(make_run(tmp_path / "clips", CLIPS, clip=CLIP), tmp_path / "ramps", config=config.model_copy(update={"k": (1,)}))


def test_an_index_with_other_labels_is_no_test_of_an_encoder(run, data, undecoded):
    (tar,) = (data / "test").glob("*.tar")
    path = index_path(tar)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "labels": values["labels"][::-1]}))
    with pytest.raises(UserError, match=rf"{path.name} is not the one that the manifest names") as refused:
        probe(run, data, config=CONFIG)
    assert len(str(refused.value).splitlines()) == 1 and not (run / "probes").exists()


def damage(folder):
    """Overwrite the image or video of sample 7."""
    (tar,) = folder.glob("*.tar")
    place = load_index(tar).media_range(7)
    with tar.open("r+b") as file:
        file.seek(place[0])
        file.write(bytes(place[1]))


def test_videos_are_refused_where_they_do_not_belong(run, data, videos):
    with pytest.raises(UserError, match=r"tiny takes images, but .*ramps/train holds videos: "):
        probe(run, videos, config=CONFIG)
    with pytest.raises(UserError, match=r"ramps/train holds videos but .*test holds images"):
        write_set(run / "test", 4, classes=("darker", "brighter"))
        probe(make_run(run / "clips", CLIPS, clip=CLIP), videos / "train", run / "test", config=CONFIG)
    with pytest.raises(UserError, match="does not define the frames of a clip"):
        probe(make_run(run / "clips", CLIPS), videos, config=CONFIG)


def test_old_reports_can_still_be_read(run, data):
    probe(run, data, config=CONFIG)
    (path,) = (run / "probes").glob("*.json")
    old = json.loads(path.read_text())
    del old["rankme"], old["attentive_selection"], old["probe"]["attentive"], old["probe"]["segments"], old["probe"]["protocols"]
    read = ProbeReport.model_validate(old)
    assert read.probe == CONFIG and read.rankme == {}


def test_an_online_timm_network_is_named_online(tmp_path, data, capsys):
    run = make_run(tmp_path / "resnet", RESNET, kept="online", step=5)
    rows = probe(run, data, config=CONFIG)
    assert list(dict.fromkeys(row.encoder for row in rows)) == ["online", "random_init", "pixels"]
    (report,) = load_reports(run / "probes")
    assert list(report.rankme) == ["online", "random_init", "pixels"] and report.step == 5
    assert all(1 <= rank <= width for rank, width in zip(report.rankme.values(), (16, 16, 41), strict=True))
    assert report.rankme["online"] != report.rankme["random_init"]
    assert f"RankMe of the last features: online {report.rankme['online']:.1f}" in " ".join(capsys.readouterr().out.split())


def test_repeating_a_probe_gives_the_same_accuracies_and_replaces_the_report(run, data):
    first, second = probe(run, data, config=CONFIG), probe(run, data / "train", data / "test", config=CONFIG, out=run / "probes")
    assert [row.top1 for row in first] == [row.top1 for row in second]
    assert {report.data for report in load_reports(run / "probes")} == {"blobs", "train"}
    probe(run, data, config=CONFIG)
    assert len(load_reports(run / "probes")) == 2


def test_only_the_chosen_features_are_probed(run, data):
    rows = probe(run, data, config=CONFIG.model_copy(update={"features": ("last",)}))
    assert {row.settings["features"] for row in rows} == {"last", "pixels"}


def write_recipe(run, config):
    (run / "config.yaml").write_text(to_yaml(config))


def test_the_default_data_is_around_the_training_shards(run, data, tiny, capsys):
    write_recipe(run, tiny(f"data.train={data / 'train'}"))
    rows = probe(run, config=CONFIG)
    assert f"probing on {data}, around the shards it was trained on" in capsys.readouterr().out
    assert [row.top1 for row in rows] == [row.top1 for row in probe(run, data, config=CONFIG)]
    assert len(load_reports(run / "probes")) == 1


def test_missing_default_data_is_named(run, data, tiny, tmp_path):
    with pytest.raises(UserError, match=r"run holds no config.yaml .*: name labeled shards with --data$"):
        probe(run, config=CONFIG)
    with pytest.raises(UserError, match=r"--test names .*: give them with --data$"):
        probe(run, test=data / "test", config=CONFIG)
    write_recipe(run, tiny(f"data.train={tmp_path / 'alone/train'}"))
    write_set(tmp_path / "alone" / "train", 9)
    sentence = r"^looked for labeled shards in .*alone/train and /test, .* but {}/ has none: name labeled shards with --data$"
    with pytest.raises(UserError, match=sentence.format("test")):
        probe(run, config=CONFIG)
    write_set(tmp_path / "alone" / "test", 9, classes=None, seed=1)
    with pytest.raises(UserError, match=sentence.format("test")):
        probe(run, config=CONFIG)
    assert not (run / "probes").exists()


@pytest.mark.parametrize("inside", ["", "encoder"])
def test_a_snapshot_reports_into_its_run_under_its_step(run, data, tiny, monkeypatch, inside):
    write_recipe(run, tiny(f"data.train={data / 'train'}"))
    snapshot = run / "snapshots" / "step-00000002"
    make_run(run / "made", ENCODER, step=2)
    (snapshot / inside).parent.mkdir(parents=True)
    (run / "made" / "encoder").rename(snapshot) if not inside else (run / "made").rename(snapshot)
    probe(snapshot, config=CONFIG)
    monkeypatch.chdir(snapshot.parent)
    probe(snapshot.name, config=CONFIG)
    (path,) = (run / "probes").glob("*.json")
    assert path.name.startswith("blobs-step-00000002-") and load_reports(run / "probes")[0].step == 2


def test_a_probe_that_changes_the_encoder_is_an_error(run, data, monkeypatch):
    def spoil(extractors, *_, **__):
        next(extractors["target"].encoder.parameters()).data.add_(1)

    monkeypatch.setattr(sys.modules["jepa_pipeline.probes.evaluate"], "extract_set", spoil)
    with pytest.raises(RuntimeError, match="changed the encoder"):
        probe(run, data, config=CONFIG)


@pytest.mark.parametrize(
    ("classes", "seed", "message"),
    [
        (None, 1, "has no classes"),
        (("dark", "bright"), 1, r"has the classes 2 \(dark, light\)"),
        (("dark", "light"), 0, "must not hold training samples"),
    ],
)
def test_a_test_set_that_does_not_belong_is_refused(run, data, tmp_path, classes, seed, message):
    write_set(tmp_path / "other", 41, classes, seed)
    with pytest.raises(UserError, match=message):
        probe(run, data / "train", tmp_path / "other", config=CONFIG)


@pytest.mark.parametrize(
    ("made", "cure"), [({}, "from two class folders or more, or with --labels FILE"), ({"by": INDEXED}, "index its tars with")]
)
def test_a_set_without_classes_is_refused_with_the_cure_of_its_kind(run, data, tmp_path, made, cure):
    folder = tmp_path / "other"
    write_set(folder, 41, None, 1)
    manifest = load_manifest(folder)
    save_manifest(manifest.model_copy(update={"made": made}), folder)
    with pytest.raises(UserError, match=f"has no classes, but a probe needs labels of two classes or more: .*{cure}"):
        probe(run, data / "train", folder, config=CONFIG)


@pytest.fixture
def undecoded(monkeypatch):
    """Nothing may be decoded."""
    for name in ("extract_set", "build_eval_loader"):
        monkeypatch.setattr(sys.modules["jepa_pipeline.probes.evaluate"], name, refuse)


def write_labels(folder, labels, classes, seed=0):
    """Images with the brightness of their class's name, so that a class looks the same under any number."""
    generator, shades = np.random.default_rng(seed), {"dark": 0, "gray": 70, "light": 140, "white": 200}
    images = [generator.integers(0, 50, (20, 20, 3)) + shades.get(classes[label], 0) for label in labels]
    records = [png_record(f"{n:05d}", Image.fromarray(image.astype(np.uint8)), labels[n]) for n, image in enumerate(images)]
    write_shards(records, folder, classes=classes, made={})
    return folder


@pytest.mark.parametrize(("classes", "labels"), [(("dark",), [0] * 9), (("dark", "light"), [1] * 9)])
def test_a_probe_of_one_class_is_refused(run, undecoded, tmp_path, classes, labels):
    train = write_labels(tmp_path / "train", labels, classes)
    test = write_labels(tmp_path / "test", labels[:5], classes, seed=1)
    with pytest.raises(UserError, match=r"has samples of one class.*: probe on data of two classes or more"):
        probe(run, train, test, config=CONFIG)
    assert not (run / "probes").exists()


def test_a_test_set_without_a_training_class_is_refused(run, undecoded, tmp_path):
    names = ("dark", "gray", "light")
    train = write_labels(tmp_path / "train", [0, 1] * 5, names)
    test = write_labels(tmp_path / "test", [2] * 5, names, seed=1)
    with pytest.raises(UserError, match=r"no class of .*test has a sample in .*train, so that no prediction can be right"):
        probe(run, train, test, config=CONFIG)


def test_what_no_head_can_get_right_is_said_and_counted(run, tmp_path, capsys):
    names = ("dark", "gray", "light")
    train = write_labels(tmp_path / "train", [0, 2] * 12, names)
    test = write_labels(tmp_path / "test", [0, 1, 2, 1, 0], names, seed=1)
    rows = probe(run, train, test, config=CONFIG)
    said = "2 of 5 test samples are of class gray, without a training sample: no accuracy can be above 60.0 %"
    assert capsys.readouterr().out.count(said) == 2, "before decoding, and below the table"
    (report,) = load_reports(run / "probes")
    assert report.labels.model_dump() == {
        "classes": 3,
        "train_classes": 2,
        "test_classes": 3,
        "without_training": {"gray": 2},
        "impossible": 2,
        "most_frequent_top1": 0.4,
        "n_test": 5,
    }
    assert report.labels.attainable_top1 == 0.6 >= max(row.top1 for row in rows)


@pytest.mark.parametrize("lacking", ["dark", "gray", "light"])
def test_a_test_set_that_lacks_a_class_is_probed_by_name(run, tmp_path, lacking, capsys):
    """Parts that were built each by itself number the classes that they have."""
    names = ("dark", "light", "white")
    train = write_labels(tmp_path / "train", [0, 1, 2] * 10, names)
    kept = tuple(name for name in names if name != lacking)
    test = write_labels(tmp_path / "test", [*range(len(kept))] * 6, kept, seed=1)
    rows = probe(run, train, test, config=CONFIG)
    assert max(row.top1 for row in rows if row.encoder == "pixels") == 1.0
    said = "2 of 3 classes with training samples have test samples: accuracies are of those alone"
    assert (said in capsys.readouterr().out) == (lacking in names)
    assert load_reports(run / "probes")[0].labels.classes == 3


def test_a_class_of_the_test_set_alone_is_counted_by_name(run, tmp_path):
    train = write_labels(tmp_path / "train", [0, 1] * 10, ("dark", "white"))
    test = write_labels(tmp_path / "test", [0, 1, 2, 2] * 3, ("dark", "light", "white"), seed=1)
    config = CONFIG.model_copy(
        update={"protocols": ("linear", "attentive"), "attentive": AttentiveConfig.model_validate(ATTENTIVE)}
    )
    rows = probe(run, train, test, config=config)
    labels = load_reports(run / "probes")[0].labels
    assert (labels.classes, labels.without_training, labels.attainable_top1) == (3, {"light": 3}, 0.75)
    assert max(row.top1 for row in rows) == 0.75


def test_classes_that_only_either_set_has_are_refused_with_a_cure_that_applies(run, data, tmp_path):
    write_set(tmp_path / "other", 41, ("dark", "bright"), 1)
    with pytest.raises(
        UserError, match=r"'light' is only in the first and 'bright' only in the second: give classes the same names"
    ):
        probe(run, data / "train", tmp_path / "other", config=CONFIG)


def test_sets_of_the_same_classes_have_nothing_to_say(run, data, capsys):
    probe(run, data, config=CONFIG)
    (report,) = load_reports(run / "probes")
    assert [*report.labels.sentences()] == [] and report.labels.most_frequent_top1 == 12 / 23
    assert "test samples are of" not in capsys.readouterr().out


def test_a_folder_without_two_parts_is_refused_with_the_cure(run, data, tmp_path):
    with pytest.raises(UserError, match=r"jepa shards build IMAGES .* --split"):
        probe(run, data / "train", config=CONFIG)
    with pytest.raises(UserError, match="no folder"):
        probe(tmp_path / "nothing", data, config=CONFIG)
    assert not (run / "probes").exists()


def test_an_invalid_report_is_named(run):
    (run / "probes").mkdir()
    (run / "probes" / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"a.json is not a probe report \(data: "):
        load_reports(run / "probes")
