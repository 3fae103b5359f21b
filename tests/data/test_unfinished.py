"""A build that was interrupted is continued as if it had never stopped; what it would not have written is begun anew."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.index_shards import STAGED, index
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.manifest import read_manifest
from jepa_pipeline.data.unfinished import Progress
from jepa_pipeline.data.worker_pool import die_with_parent, process_pool
from jepa_pipeline.files import read_json_lines


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of 24 images of two classes, of which some are broken; a shard has up to 4."""
    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 9, 12, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if number % 7 == 3:
            path.write_bytes(path.read_bytes()[:60])
    return tmp_path / "images"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def interrupt(monkeypatch: pytest.MonkeyPatch, shards: int, images: Path, out: Path, error: type[BaseException], **options) -> None:
    """Build until a number of shards are finished."""
    original, finished = Progress.add, []

    def stop(self, shard):
        original(self, shard)
        finished.append(shard)
        if len(finished) == shards:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", stop)
        with pytest.raises(error):
            build(images, out, workers=1, **options)


@pytest.mark.parametrize(("split", "error"), [(0.0, OSError), (0.25, KeyboardInterrupt)])
def test_a_continued_build_is_the_uninterrupted_one(images: Path, tmp_path: Path, monkeypatch, capsys, split: float, error):
    build(images, tmp_path / "whole", split=split, workers=1)
    expected = contents(tmp_path / "whole")
    for shards in (1, 4, sum(name.endswith(".tar") for name in expected)):
        out = tmp_path / f"out-{shards}"
        interrupt(monkeypatch, shards, images, out, error, split=split)
        kept = "1 finished shard" if shards == 1 else f"{shards} finished shards"
        assert f"out-{shards}.partial keeps {kept}: the same command continues with them" in capsys.readouterr().err
        (out.with_name(f"{out.name}.partial") / ("train" if split else ".") / "shard-000009.tar").write_bytes(b"half")
        build(images, out, split=split, workers=1)
        assert f"out-{shards}.partial is continued: {kept} of a build that was interrupted" in capsys.readouterr().err
        assert contents(out) == expected


def change_file(images: Path) -> None:
    path = min(images.rglob("*.png"))
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (change_file, {}, "files"),
        (lambda images: min(images.rglob("*.png")).unlink(), {}, "files"),
        (lambda images: None, {"size": 8}, "size"),
        (lambda images: None, {"seed": 1}, "files, seed"),
        (lambda images: None, {"no_labels": True}, "files, labels"),
    ],
)
def test_another_build_is_begun_anew(images: Path, tmp_path: Path, monkeypatch, capsys, change, options: dict, named: str):
    interrupt(monkeypatch, 3, images, tmp_path / "out", KeyboardInterrupt)
    change(images)
    build(images, tmp_path / "out", workers=1, **options)
    sentence = f"out.partial is begun anew: it was left by a build that differs in {named}"
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    build(images, tmp_path / "whole", workers=1, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_shard_that_is_whole_no_more_is_written_again(images: Path, tmp_path: Path, monkeypatch):
    """The machine crashed too."""
    interrupt(monkeypatch, 4, images, tmp_path / "out", KeyboardInterrupt)
    os.truncate(tmp_path / "out.partial/shard-000002.tar", 100)
    build(images, tmp_path / "out", workers=1)
    build(images, tmp_path / "whole", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_build_without_a_finished_shard_leaves_nothing(images: Path, tmp_path: Path):
    for path in images.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="none of 24 files could be used"):
        build(images, tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_index_clears_what_a_killed_one_left(images: Path, tmp_path: Path):
    build(images, tmp_path / "set", workers=1)
    tars = tmp_path / "tars"
    tars.mkdir()
    for path in (tmp_path / "set").glob("*.tar"):
        path.rename(tars / path.name)
    (tars / STAGED).mkdir()
    (tars / STAGED / "shard-000000.index.json").write_text("half")
    index([str(tars)], workers=1)
    assert not (tars / STAGED).exists() and (tars / "manifest.json").exists()


def hold_pool(pids) -> None:
    with process_pool(2) as pool:
        pids.put([pool.submit(os.getpid).result(), *pool._processes])
        time.sleep(60)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def start_and_wait(code: int):
    preexec = partial(die_with_parent, os.getpid())
    os._exit(subprocess.run([sys.executable, "-c", f"raise SystemExit({code})"], preexec_fn=preexec).returncode)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_starts_others(method: str):
    """As a notebook's pool of processes that trains on several devices: its own parent is not theirs."""
    process = multiprocessing.get_context(method).Process(target=start_and_wait, args=[7])
    process.start()
    process.join()
    assert process.exitcode == 7


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_a_pool_outlasts_its_parent(number: int):
    context = multiprocessing.get_context("fork")
    pids = context.SimpleQueue()
    parent = context.Process(target=hold_pool, args=[pids])
    parent.start()
    workers = pids.get()
    os.kill(parent.pid, number)
    parent.join()
    while any(map(is_running, workers)):  # a hang is ended by the suite's own time limit
        time.sleep(0.01)


def test_a_killed_process_of_a_pool_is_one_sentence():
    with pytest.raises(UserError, match="probably for lack of memory: give fewer --workers"), process_pool(1) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


@pytest.mark.slow
def test_builds_that_are_killed_at_random_end_as_the_quiet_one(tmp_path: Path):
    generator = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (400, 60, 60, 3), np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03d}.png")
    command = [sys.executable, "-m", "jepa_pipeline", "shards", "build", str(tmp_path / "images")]
    options = ["--shard-size", "1", "--size", "50", "--workers", "2"]
    subprocess.run([*command, str(tmp_path / "whole"), *options], check=True)
    out, progress, kills = tmp_path / "out", tmp_path / "out.partial/.progress.jsonl", 0
    while not out.exists():
        before = len(read_json_lines(progress))
        build = subprocess.Popen([*command, str(out), *options])
        while build.poll() is None and len(read_json_lines(progress)) == before:  # starting takes seconds
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2))
        if build.poll() is None:
            build.send_signal(generator.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            build.wait()
            kills += 1
    assert kills >= 1 and contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("split", [0.0, 0.25])
def test_an_interrupted_build_is_no_data_set(images: Path, tmp_path: Path, monkeypatch, split: float):
    interrupt(monkeypatch, 2, images, tmp_path / "out", KeyboardInterrupt, split=split)
    left = tmp_path / "out.partial"
    tars = {path.parent for path in left.rglob("*.tar")}
    for folder in (left, tmp_path / "out", *tars):
        with pytest.raises(UserError, match=r"out\.partial is an interrupted build, which lacks samples: run the command"):
            read_manifest(folder)
    for folder in tars:
        with pytest.raises(UserError, match="is an interrupted build"):
            index([str(folder)], workers=1)


def test_a_row_that_cannot_be_read_ends_what_is_continued(images: Path, tmp_path: Path, monkeypatch):
    build(images, tmp_path / "whole", workers=1)
    for damaged in (b"\0" * 40, b'{"shard": 3}'):
        out = tmp_path / f"out-{len(damaged)}"
        interrupt(monkeypatch, 3, images, out, KeyboardInterrupt)
        progress = out.with_name(f"{out.name}.partial") / ".progress.jsonl"
        first, _, third = progress.read_bytes().splitlines()
        progress.write_bytes(b"\n".join([first, damaged, third, b""]))
        build(images, out, workers=1)
        assert contents(out) == contents(tmp_path / "whole")


def test_the_folder_one_stands_in_may_hold_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^\. has no manifest.json"):
        read_manifest(".")
