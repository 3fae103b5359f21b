"""Shards of videos: they are stored as they are, what the index says of them is so, and what is wrong with them is found."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tars import forget_hashes, pack
from typer.testing import CliRunner

from jepa_pipeline.cli.shards import shards
from jepa_pipeline.commands.build_shards import build, reencoding_from_options
from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.commands.index_shards import index
from jepa_pipeline.commands.shard_stats import stats
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.channel_stats import compute_channel_stats
from jepa_pipeline.data.index import ShardIndex, load_index, save_index
from jepa_pipeline.data.manifest import MANIFEST, Manifest, Skipped, load_manifest
from jepa_pipeline.data.media_folder import MediaFile
from jepa_pipeline.data.prepare import Reencoding, prepare
from jepa_pipeline.data.sample import MEDIA_EXTENSIONS, DecodeError, VideoMetadata
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.summary import compute_video_stats, format_video_stats, metadata_table
from jepa_pipeline.data.video import open_video
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.writer import video_record, write_shards

CODECS = {
    "mp4": ("mp4", "libx264", "yuv420p"),
    "mkv": ("matroska", "libx264", "yuv420p"),
    "webm": ("webm", "libvpx-vp9", "yuv420p"),
    "avi": ("avi", "mpeg4", "yuv420p"),
    "gif": ("gif", "gif", "rgb8"),
}
FRAMES = {"mp4": 30, "mkv": 25, "webm": 20, "avi": 15, "gif": 8}
FPS = 10


def shapes(frames: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> list[np.ndarray]:
    """A smooth picture that moves."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    whole = np.asarray(Image.fromarray(small).resize(size))
    return [np.roll(whole, 2 * number, 1) for number in range(frames)]


def video(extension: str, frames: int | None = None, size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    file = io.BytesIO()
    form, codec, pixels = CODECS[extension]
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        for frame in shapes(frames or FRAMES[extension], size, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def packets(data: bytes) -> list[Any]:
    """The encoded frames of a video in the order in which they lie."""
    container: Any = av.open(io.BytesIO(data))
    with container:
        return [packet for packet in container.demux(video=0) if packet.size]


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data() -> dict[str, bytes]:
    return {extension: video(extension, seed=number) for number, extension in enumerate(CODECS)}


@pytest.fixture
def folder(data: dict[str, bytes], tmp_path: Path) -> Path:
    """One video of each format in nested folders of two classes, one with its extension in capitals."""
    for number, (extension, whole) in enumerate(data.items()):
        name = f"{number}.{extension.upper() if extension == 'avi' else extension}"
        save(tmp_path / "videos" / ("walk", "run")[number % 2] / "deep.er" / name, whole)
    (tmp_path / "videos" / "run" / "notes.txt").write_text("no video")
    return tmp_path / "videos"


@pytest.fixture
def built(folder: Path, tmp_path: Path) -> Path:
    build(folder, tmp_path / "set", workers=1)
    return tmp_path / "set"


def only(manifests: dict[Path, Manifest]) -> tuple[Path, Manifest]:
    ((folder, manifest),) = manifests.items()
    return folder, manifest


def extensions(index: ShardIndex) -> list[str]:
    return [
        next(ext for ext in MEDIA_EXTENSIONS[index.kind] if index.members.get(ext, [])[n : n + 1] not in ([], [None]))
        for n in range(len(index.keys))
    ]


def test_videos_of_five_formats_are_stored_byte_for_byte_with_their_facts(folder: Path, data: dict[str, bytes], tmp_path: Path):
    out, manifest = only(build(folder, tmp_path / "set", workers=2))
    assert (manifest.kind, manifest.samples, manifest.classes, manifest.skipped) == ("videos", 5, ("run", "walk"), ())
    assert manifest.extensions == tuple(sorted(["cls", *CODECS]))
    read, written = Shards(out), load_index(out / "shard-000000.tar")
    assert read.manifest.kind == "videos" and written.videos
    for member, (extension, facts) in enumerate(zip(extensions(written), written.videos, strict=True)):
        sample = read.read(0, member)
        assert sample.media == data[extension]
        assert sample.label == ("run", "walk").index(("walk", "run")[list(CODECS).index(extension) % 2])
        assert facts and (facts.width, facts.height, facts.frames) == (64, 48, FRAMES[extension])
        assert facts.fps == pytest.approx(FPS, rel=0.01) and facts.duration_s == pytest.approx(FRAMES[extension] / FPS, rel=0.01)
    report = check(out, workers=1)
    assert report.problems == report.warnings == []
    assert (report.parts[0].mean, report.parts[0].std) == (manifest.mean, manifest.std)


def test_the_moments_are_those_of_the_first_frame(data: dict[str, bytes]):
    first = open_video(data["mp4"]).frames(np.zeros(1, np.int64))[0]
    record = video_record("a", data["mp4"], "mp4", 0)
    assert record.channel_stats == compute_channel_stats(Image.fromarray(first))
    assert np.allclose(record.channel_stats.mean, shapes(1)[0].mean((0, 1)) / 255, atol=0.02)


def test_a_build_depends_on_the_seed_and_not_on_the_workers(folder: Path, tmp_path: Path):
    hashes = [
        only(build(folder, tmp_path / f"{n}", workers=w, seed=s))[1].hash() for n, (w, s) in enumerate([(1, 0), (2, 0), (1, 1)])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_facts_lie_beside_their_videos_in_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 2)
    records = [video_record(f"{n}", encode_video(shapes(5 + n), float(FPS)), "mp4", None) for n in range(5)]
    manifest = write_shards(records, tmp_path / "set", classes=None, made={})
    indexes = [load_index(tmp_path / "set" / shard.file) for shard in manifest.shards]
    assert [[facts and facts.frames for facts in one.videos or ()] for one in indexes] == [[5, 6], [7, 8], [9]]
    assert check(tmp_path / "set", workers=1).ok


def test_reencoding_sets_key_frames_and_keeps_the_time(folder: Path, data: dict[str, bytes], tmp_path: Path):
    out, manifest = only(build(folder, tmp_path / "set", size=24, reencode=Reencoding(gop=4, crf=23), workers=1))
    assert manifest.extensions == ("cls", "mp4")
    assert (manifest.made["size"], manifest.made["gop"], manifest.made["crf"]) == (24, 4, 23)
    read, written = Shards(out), load_index(out / "shard-000000.tar")
    for member, facts in enumerate(written.videos or ()):
        assert facts and (facts.width, facts.height) == (32, 24)
        assert facts.frames in FRAMES.values() and facts.duration_s == pytest.approx(facts.frames / FPS, rel=0.01)
        ordered = sorted(packets(read.read(0, member).media), key=lambda packet: packet.pts)
        assert ordered[0].stream.codec_context.name == "h264"
        assert [packet.is_keyframe for packet in ordered] == [number % 4 == 0 for number in range(facts.frames)]
    assert sorted(facts.frames for facts in written.videos or () if facts) == sorted(FRAMES.values())
    assert check(out, workers=1).ok


def test_what_is_no_whole_video_is_left_out_and_named(folder: Path, data: dict[str, bytes], tmp_path: Path):
    save(folder / "run/empty.mp4", b"")
    save(folder / "run/text.mp4", b"<html>not found</html>")
    for extension in ("mp4", "mkv", "avi"):
        save(folder / f"walk/cut.{extension}", data[extension][: len(data[extension]) // 2])
    (folder / "walk/link.mp4").symlink_to(folder / "walk/deep.er/0.mp4")
    for number, how in enumerate((None, Reencoding())):
        _, manifest = only(build(folder, tmp_path / f"set{number}", reencode=how, workers=2))
        broken = ["run/empty.mp4", "run/text.mp4", "walk/cut.avi", "walk/cut.mkv", "walk/cut.mp4", "walk/link.mp4"]
        assert sorted(skip.file for skip in manifest.skipped) == broken
        assert all(skip.reason for skip in manifest.skipped) and manifest.samples == 5
        assert "it is a link to another video of the folder" in {skip.reason for skip in manifest.skipped}


def test_mov_and_m4v_are_videos_too(tmp_path: Path):
    file, mp4 = io.BytesIO(), video("mp4")  # encoded once: the encoder's threads may give other bytes the next time
    with av.open(io.BytesIO(mp4)) as source, av.open(file, "w", format="mov") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    save(tmp_path / "videos/a.MOV", file.getvalue())
    save(tmp_path / "videos/b.m4v", mp4)
    out, manifest = only(build(tmp_path / "videos", tmp_path / "set", workers=1))
    assert (manifest.samples, manifest.extensions, manifest.skipped) == (2, ("m4v", "mov"), ())
    assert {sample.media for sample in map(Shards(out).read, (0, 0), (0, 1))} == {file.getvalue(), mp4}
    assert check(out, workers=1).ok


def test_files_that_are_not_read_are_counted_and_hidden_ones_passed_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("a.flv", "walk/b.FLV", "walk/c.mpg", "walk/README", "walk/._0.mp4", ".DS_Store", ".hidden/d.mp4"):
        save(folder / name, b"no video")
    _, manifest = only(build(folder, tmp_path / "set", workers=1))
    assert (manifest.samples, manifest.skipped) == (5, ())
    says = capsys.readouterr()
    (line,) = (line for line in (says.out + says.err).splitlines() if "not read" in line)
    counted = line.removeprefix("not read: ").split(", ")
    assert counted[0] == "2 .flv" and sorted(counted[1:]) == ["1 .mpg", "1 .txt", "1 without a suffix"]
    for name in range(12):
        save(tmp_path / f"others/x.{name}", b"")
    save(tmp_path / "others/y.3", b"")
    with pytest.raises(UserError, match=r"file at any depth, but 2 \.3, (1 \.\d+, ){7}4 more: name the folder"):
        build(tmp_path / "others", tmp_path / "none")


def test_a_video_of_more_bytes_than_are_read_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jepa_pipeline.data.prepare.MAX_MEDIA_BYTES", 1000)
    skipped = prepare(folder, None, None, ("key", MediaFile(folder / "walk/deep.er/0.mp4", 0)))
    assert isinstance(skipped, Skipped) and "bytes, but a video has up to 1000: cut it into shorter ones" in skipped.reason


def test_images_and_videos_are_refused_in_one_folder(folder: Path, tmp_path: Path):
    save(folder / "run/a.jpg", jpeg())
    with pytest.raises(
        UserError, match=r"holds 1 images, such as run/a.jpg, and 5 videos, .*build those separately, and mix them in data.tr"
    ):
        build(folder, tmp_path / "set", workers=1)
    assert not (tmp_path / "set").exists()


def test_options_of_what_is_not_there_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--size is 32, but videos are stored as they are: add --reencode"):
        build(folder, tmp_path / "set", size=32)
    save(tmp_path / "images/a.jpg", jpeg())
    with pytest.raises(UserError, match=r"--reencode is for videos, and the folder holds images"):
        build(tmp_path / "images", tmp_path / "set", reencode=Reencoding())
    assert reencoding_from_options(False, None, None) is None
    assert (reencoding_from_options(True, None, None), reencoding_from_options(True, 3, 30)) == (
        Reencoding(12, 18),
        Reencoding(3, 30),
    )
    for values, sentence in (
        ((False, 12, None), "--gop is 12, but videos are stored as they are: add --reencode"),
        ((False, None, 0), "--crf is 0, but"),
        ((True, 0, None), "--gop is 0: "),
        ((True, None, 52), "--crf is 52: "),
    ):
        with pytest.raises(UserError, match=sentence):
            reencoding_from_options(*values)
    assert not (tmp_path / "set").exists()


def test_the_command_line_does_as_the_functions_do(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = ["--reencode", "--gop", "5", "--size", "24", "--workers", "1"]
    result = CliRunner().invoke(shards, ["build", str(folder), str(tmp_path / "set"), *options])
    assert result.exit_code == 0 and load_manifest(tmp_path / "set").made["gop"] == 5
    result = CliRunner().invoke(shards, ["build", str(folder), str(tmp_path / "other"), "--crf", "20"])
    assert "--crf is 20, but videos are stored as they are" in str(result.exception)
    drawn = []
    monkeypatch.setattr("jepa_pipeline.commands.demo_shards.demo_video", lambda *arguments: drawn.append(arguments))
    CliRunner().invoke(shards, ["demo-video", str(tmp_path / "demo"), "--videos", "40", "--seed", "1"])
    assert drawn == [(tmp_path / "demo", 40, 1)]


def test_a_build_tells_its_length_and_so_does_stats_without_the_shards(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    build(folder, tmp_path / "set", workers=1)
    said = capsys.readouterr().err
    for tar in (tmp_path / "set").glob("*.tar"):
        tar.unlink()
    (contents,) = stats(tmp_path / "set", workers=1)
    for text in (said, capsys.readouterr().out):
        assert "0.2 minutes of video; shorter than 1 s: 1" in text
        assert "frames: 8 to 30, median 20; frames per second: 10.0 to 10.0, median 10.0" in text
        assert "shorter side: 48 to 48, median 48 pixels; 64x48 (5)" in text
        assert "would normalize their first frames exactly" in text
    assert "5 videos, 2 classes" in said and "videos/s" in said
    assert contents.kind == "videos" and contents.videos
    assert contents.videos.hours == pytest.approx(sum(FRAMES.values()) / FPS / 3600, abs=1e-5)
    assert contents.videos.model_dump(include={"videos", "under_1s", "sizes"}) == {
        "videos": 5,
        "under_1s": 1,
        "sizes": {"64x48": 5},
    }


def test_many_sizes_are_told_in_short_and_hours_as_such():
    facts = [VideoMetadata(duration_s=3600, fps=29.97, width=100 + n, height=50, frames=107_892) for n in range(7)]
    assert format_video_stats(compute_video_stats([metadata_table(facts[:3]), metadata_table(facts[3:])])) == [
        "7.0 hours of video; shorter than 1 s: 0",
        "frames: 107892 to 107892, median 107892; frames per second: 29.97 to 29.97, median 29.97",
        "shorter side: 50 to 50, median 50 pixels; 100x50 (1), 101x50 (1), 102x50 (1), 103x50 (1), 104x50 (1) and 2 more sizes",
    ]
    assert compute_video_stats([metadata_table(None)]) is None and format_video_stats(None) == []


def in_tar(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write the tar again with the one mp4 in it changed."""

    def damage(folder: Path) -> None:
        tar = folder / "shard-000000.tar"
        with tarfile.open(tar) as archive:
            members = {info.name: (archive.extractfile(info) or io.BytesIO()).read() for info in archive}
        pack(tar, {name: change(data) if name.endswith("mp4") else data for name, data in members.items()})

    return damage


def in_index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "shard-000000.index.json"
        values = json.loads(path.read_text())
        change(next(facts for facts in values["videos"] if facts["frames"] == FRAMES["mp4"]))
        path.write_text(json.dumps(values))

    return damage


def noisy(data: bytes) -> bytes:
    """With noise in place of a frame in the middle, and as long as before."""
    packet = packets(data)[FRAMES["mp4"] // 2]
    place, size = packet.pos, packet.size
    return data[:place] + np.random.default_rng(0).bytes(size) + data[place + size :]


KEY = r"0\d+_0"
DAMAGE = {
    "truncated": (in_tar(lambda data: data[:2000]), "video", rf"sample {KEY} cannot be used: its video cannot be read \("),
    "text": (in_tar(lambda data: b"<html>"), "video", rf"sample {KEY} cannot be used: its video cannot be read \("),
    "empty": (
        in_tar(lambda data: b""),
        "video",
        rf"sample {KEY} cannot be used: its video has 0 bytes, but a video has 1 to 1073741824",
    ),
    "a frame of noise": (in_tar(noisy), "decode", rf"sample {KEY} does not decode \("),
    "frames": (
        in_index(lambda facts: facts.update(frames=29)),
        "facts",
        rf"its index states 29 frames of 64x48 pixels, 10 per second for 3 s for sample {KEY}, which has 30 frames of 64x48 pixels, 10 per",
    ),
    "duration": (
        in_index(lambda facts: facts.update(duration_s=3.1)),
        "facts",
        rf"its index states 30 frames .* for 3.1 s for sample {KEY}",
    ),
    "size": (in_index(lambda facts: facts.update(width=48, height=64)), "facts", r"its index states 30 frames of 48x64 pixels"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_that_came_later_is_found_by_check(what: str, built: Path):
    damage, kind, sentence = DAMAGE[what]
    damage(built)
    problems = {problem.kind: problem.sentence for problem in check(built, workers=1).parts[0].problems}
    assert re.match(sentence, problems[kind])
    assert problems.keys() - {kind} <= ({"size", "hash"} if kind != "facts" else set())


def test_a_sample_that_cannot_be_read_is_one_sentence_of_a_video(built: Path):
    path = built / "shard-000000.index.json"
    values = json.loads(path.read_text())
    for extension in CODECS:
        values["members"][extension] = [None] * 5
    path.write_text(json.dumps(values))
    forget_hashes(built)
    with pytest.raises(SampleError, match=r"it has no mp4, mov, m4v, mkv, webm, avi, gif"):
        Shards(built).read(0, 0)


@pytest.fixture
def foreign(data: dict[str, bytes], tmp_path: Path) -> Path:
    """As video2dataset packs it, with a thumbnail beside one video."""
    label = [json.dumps({"label": n, "caption": "x"}).encode() for n in range(2)]
    pack(
        tmp_path / "tars/0.tar",
        {"a.jpg": jpeg(), "a.json": label[0], "a.mp4": data["mp4"], "b.json": label[1], "b.webm": data["webm"]},
    )
    pack(tmp_path / "tars/1.tar", {"c.mkv": data["mkv"], "c.json": label[1]})
    return tmp_path / "tars"


def test_foreign_shards_of_videos_are_read_like_our_own(foreign: Path, data: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    manifest, left_out = index([str(foreign)], workers=2)
    assert (manifest.kind, manifest.samples, manifest.classes, left_out) == ("videos", 3, ("0", "1"), [])
    assert "minutes of video" in capsys.readouterr().err
    read = [Shards(foreign).read(*place) for place in ((0, 0), (0, 1), (1, 0))]
    assert [sample.media for sample in read] == [data["mp4"], data["webm"], data["mkv"]]
    assert [sample.label for sample in read] == [0, 1, 1]
    assert [facts and facts.frames for facts in load_index(foreign / "0.tar").videos or ()] == [FRAMES["mp4"], FRAMES["webm"]]
    assert check(foreign, workers=2).problems == []
    assert (videos := stats(foreign, workers=1)[0].videos) and videos.videos == 3


def test_a_foreign_video_that_does_not_open_is_left_out_and_named(foreign: Path, data: dict[str, bytes]):
    pack(foreign / "2.tar", {"d.mp4": data["mp4"][:900], "d.json": b"{}", "e.mp4": data["mp4"], "f.txt": b"x"})
    manifest, _ = index([str(foreign)], workers=1)
    named = {skip.file: skip.reason for skip in manifest.skipped}
    assert manifest.samples == 4 and list(named) == ["2.tar/d", "2.tar/f"]
    assert named["2.tar/d"].startswith("its video cannot be read (")
    assert named["2.tar/f"] == "it has no mp4, mov, m4v, mkv, webm, avi, gif, only txt"
    report = check(foreign, workers=1)
    assert report.problems == [] and len(report.warnings) == 2


def test_tars_of_both_kinds_are_refused(foreign: Path, data: dict[str, bytes], tmp_path: Path):
    pack(foreign / "2.tar", {"d.mp4": data["mp4"], "e.jpg": jpeg()})
    (tar,) = index([str(foreign)], workers=1).skipped
    assert tar.file == "2.tar" and tar.reason == (
        "it holds 1 images, such as e, and 1 videos, such as d: pack them into separate tars, index those separately, and mix them in "
        "data.train"
    )
    pack(foreign / "2.tar", {"e.jpg": jpeg()})
    with pytest.raises(
        UserError, match=r"2.tar holds images and 1.tar videos: index them separately, .*--out, and mix them in data.train"
    ):
        index([str(foreign)], out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_an_index_of_images_from_before_videos_were_read_still_means_the_images(tmp_path: Path, data: dict[str, bytes]):
    pack(tmp_path / "old/a.tar", {"a.jpg": jpeg(), "a.txt": b"x"})
    index([str(tmp_path / "old")], workers=1)
    written = (tmp_path / "old/a.index.json").read_text()
    assert "videos" not in written, "earlier releases refuse what they do not know"
    tar = pack(tmp_path / "set/a.tar", {"a.jpg": jpeg(), "a.mp4": data["mp4"]})
    index([str(tmp_path / "set")], workers=1)
    values = json.loads((tmp_path / "set" / MANIFEST).read_text())
    del values["kind"]
    (tmp_path / "set" / MANIFEST).write_text(json.dumps(values))
    save_index(load_index(tar).model_copy(update={"videos": None}), tar)
    forget_hashes(tmp_path / "set")
    assert load_manifest(tmp_path / "set").kind == "images"
    assert Shards(tmp_path / "set").read(0, 0).media == jpeg()
    assert check(tmp_path / "set", workers=1).ok


def test_facts_and_samples_of_an_index_are_as_many():
    facts = VideoMetadata(duration_s=1, fps=10, width=4, height=4, frames=10)
    with pytest.raises(ValueError, match="different lengths"):
        ShardIndex(keys=["a"], members={"mp4": [(0, 1)]}, labels=[None], videos=[facts, facts])


def test_a_record_of_no_video_is_an_error():
    with pytest.raises(DecodeError):
        video_record("a", b"no video", "mp4", None)
