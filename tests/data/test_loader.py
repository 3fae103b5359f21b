"""Workers, ranks, accumulation and restarts do not change the data of a run."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streams import load_stream
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import EvalImages, TrainDataset
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.sampler import ShardSampler
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.workers import build_loader
from jepa_pipeline.data.writer import Record, compute_channel_stats, png_record, write_shards
from jepa_pipeline.probes.eval_loader import EvalLoader

TOTAL, BATCH = 30, 12


class Masker:
    """A fake mask sampler, whose masks show which generators and batch number it was given."""

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        drawn = torch.from_numpy(np.stack([generator.integers(2**40, size=3) for generator in generators]))
        return Masks(drawn, torch.full((len(generators), 1, 1), batch_number))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    pixels = np.random.default_rng(0).integers(0, 256, (TOTAL, 20, 24, 3), np.uint8)
    records = (png_record(f"k{n:02d}", Image.fromarray(image), n % 3) for n, image in enumerate(pixels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 4)
        write_shards(records, folder, classes=("a", "b", "c"), made={})
    return folder


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffle three shards at a time, so that an epoch of the small data set has several windows."""
    monkeypatch.setattr("jepa_pipeline.data.loader.WINDOW_SHARDS", 3)


def run_config(folder: Path, workers: int = 0, accumulate: int = 1, **changes: object) -> RunConfig:
    encoder = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depth": 1, "num_heads": 1}
    return RunConfig.model_validate(
        {
            "name": "test",
            "data": {"train": folder, "workers": workers},
            "views": {"crops": [{"flip": 0.5}]},
            "method": {"name": "ijepa", "encoder": encoder},
            "optim": {"batch_size_global": BATCH, "accumulate_steps": accumulate, "total_samples": 70, "lr": 1e-3, **changes},
        }
    )


def stream(folder: Path, workers: int = 0, accumulate: int = 1, world: int = 1, start: int = 0) -> list[Batch]:
    """Every micro-batch of every rank, in the order of the global stream."""
    config = run_config(folder, workers, accumulate)
    loaders = [load_stream(config, [Masker()], start_samples=start, rank=rank, world_size=world) for rank in range(world)]
    return [batch for parts in zip(*loaders, strict=True) for batch in parts]


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    """Return whether two streams hold the same samples, views, labels and masks, however they are split into micro-batches."""
    if [key for batch in ours for key in batch.keys] != [key for batch in theirs for key in batch.keys]:
        return False
    return all(
        torch.equal(torch.cat([take(batch) for batch in ours]), torch.cat([take(batch) for batch in theirs]))
        for take in (lambda batch: batch.views[0], lambda batch: batch.labels, lambda batch: batch.masks[0].context)
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_world_and_any_workers_read_the_same_stream(folder: Path, workers: int, world: int):
    assert same(stream(folder), stream(folder, workers=workers, world=world))


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulation_splits_the_same_stream(folder: Path, accumulate: int):
    batches = stream(folder, accumulate=accumulate, world=2)
    assert same(stream(folder), batches)
    assert {len(batch.keys) for batch in batches} == {BATCH // accumulate // 2}
    # block sizes of the published collators are seeded by the step, as there, where all ranks count alike
    assert [int(batch.masks[0].targets[0]) for batch in batches] == [n // (2 * accumulate) for n in range(len(batches))]


@pytest.mark.parametrize("start", range(0, 60, BATCH))
def test_a_run_continued_anywhere_sees_the_same_remainder(folder: Path, start: int):
    assert same(stream(folder)[start // BATCH :], stream(folder, accumulate=2, world=2, start=start))


def test_epochs_hold_every_sample_once_with_new_views(folder: Path):
    mixture = Mixture([ShardSampler([4] * 7 + [2], 0, 3)], [1.0])
    stream = TrainDataset(
        [Shards(folder)],
        mixture,
        run_config(folder).views,
        EncoderConfig(image_size=16, arch="vit_tiny"),
        [Masker()],
        skip_damaged=True,
        batch_size_global=TOTAL,
    )
    first, second = stream.__getitems__([*range(TOTAL)]), stream.__getitems__([*range(TOTAL, 2 * TOTAL)])
    assert sorted(first.keys) == sorted(second.keys) == [f"k{n:02d}" for n in range(TOTAL)]
    assert first.keys != second.keys
    row, again = 0, second.keys.index(first.keys[0])
    assert not torch.equal(first.views[0][row], second.views[0][again])
    assert not torch.equal(first.masks[0].context[row], second.masks[0].context[again])
    assert len(set(first.masks[0].context[:, 0].tolist())) == TOTAL


def test_a_batch_is_whole_and_moves_as_it_is(folder: Path):
    batch = next(iter(load_stream(run_config(folder), [])))
    assert batch.views[0].shape == (BATCH, 3, 16, 16)
    assert batch.views[0].dtype == torch.uint8
    assert batch.views[0].is_contiguous()
    assert batch.masks == []
    assert batch.labels is not None
    assert batch.labels.tolist() == [int(key[1:]) % 3 for key in batch.keys]


def test_iterating_leaves_the_global_generator_alone(folder: Path):
    before = torch.get_rng_state()
    list(load_stream(run_config(folder, workers=1), []))
    assert torch.equal(before, torch.get_rng_state())


def test_spawned_workers_read_the_same_stream(folder: Path):
    loader = load_stream(run_config(folder, workers=1), [])
    loader.multiprocessing_context = "spawn"
    views = [torch.equal(a.views[0], b.views[0]) for a, b in zip(loader, load_stream(run_config(folder), []), strict=True)]
    assert views == [True] * 5


def evaluation(folder: Path, image_size: int, at_once: int, workers: int = 0) -> list[Batch]:
    """Return every batch that a probe is given."""
    shards = Shards(folder)
    feed = EvalLoader(EvalImages(shards, image_size), shards.manifest.samples, 1, at_once, workers)
    return list(feed.load(feed.batches()))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_sample_in_order(folder: Path, workers: int):
    batches = evaluation(folder, 16, 8, workers)
    assert [key for batch in batches for key in batch.keys] == [f"k{n:02d}" for n in range(TOTAL)]
    assert [len(batch.keys) for batch in batches] == [8, 8, 8, 6]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [n % 3 for n in range(TOTAL)]


def test_unlabeled_batches_have_no_labels(tmp_path: Path):
    write_shards([png_record("a", Image.new("RGB", (8, 8)), None)], tmp_path / "bare", classes=None, made={})
    assert evaluation(tmp_path / "bare", 8, 8)[0].labels is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_does_not_decode_is_named_with_its_cure(tmp_path: Path, workers: int):
    broken = Record("b", b"no image", "jpg", None, compute_channel_stats(Image.new("RGB", (1, 1))))
    write_shards([png_record("a", Image.new("RGB", (8, 8)), None), broken], tmp_path / "set", classes=None, made={})
    with pytest.raises(SampleError) as caught:
        evaluation(tmp_path / "set", 8, 1, workers)
    shard = tmp_path / "set" / "shard-000000.tar"
    reason = "it is not a JPEG, PNG or WebP image, nor a TIFF image or an .npy array"
    assert (
        str(caught.value) == f"sample b of {shard} cannot be used ({reason}): `jepa shards check {shard.parent}` lists all damage"
    )


@pytest.mark.parametrize("name", ["INT", "TERM", "USR1", "USR2"])
def test_workers_outlive_signals_that_are_not_the_parents(folder: Path, name: str):
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        batches = iter(load_stream(run_config(folder, workers=1), []))
        keys = next(batches).keys
        (worker,) = batches._workers
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
        keys += [key for batch in batches for key in batch.keys]
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert len(keys) == 60
    assert worker.is_alive()


def test_a_users_mistake_in_a_worker_stays_one_sentence():
    printed = 'Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\n  File "x"\njepa_pipeline.config.errors.UserError: a.tar is gone: copy it again\n'
    assert str(UserError(printed)) == "a.tar is gone: copy it again"
    assert str(UserError("a: UserError: b")) == "a: UserError: b"


class Unsendable(Dataset):
    """Batches that cannot be pickled: the error is what torch raises where a tensor finds no room."""

    def __init__(self, text: str):
        self.text = text

    def __getitems__(self, samples: list[int]):
        return self

    def __reduce__(self):
        raise RuntimeError(self.text)


FULL = "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"
FILES = "unable to open shared memory object </torch_1_2> in read-write mode: Too many open files (24)"


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (FULL, UserError, r"^/dev/shm is too small for the batches of the data workers \(.* of .* MB are free\): enlarge it"),
        (FILES, UserError, r"^a data worker may open no more files, of which each batch takes some: raise `ulimit -n`"),
        ("something else", RuntimeError, "something else"),
    ],
)
def test_a_batch_that_cannot_be_sent_is_an_error_and_no_wait(capfd, text: str, kind: type[Exception], said: str):
    """multiprocessing would print a traceback in the worker, drop the batch, and leave training waiting for it."""
    with pytest.raises(kind, match=said) as raised:
        list(build_loader(Unsendable(text), [[0]], workers=1))
    assert kind is not UserError or "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_never_share_a_sample_in_an_epoch_and_miss_none(folder: Path, world: int):
    """Epochs of 30 samples end inside batches of 12; each sample still comes once an epoch, at one rank."""
    config = run_config(folder, total_samples=5 * BATCH)
    loaders = [load_stream(config, [], rank=rank, world_size=world) for rank in range(world)]
    read = [[key for batch in loader for key in batch.keys] for loader in loaders]
    size = BATCH // world
    epochs: list[list[tuple[str, int]]] = [[], []]
    for rank, keys in enumerate(read):
        for place, key in enumerate(keys):
            number = place // size * BATCH + rank * size + place % size
            epochs[number // TOTAL].append((key, rank))
    for epoch in epochs:
        assert len(epoch) == TOTAL and len({key for key, _ in epoch}) == TOTAL
    assert [key for key, _ in epochs[0]] != [key for key, _ in epochs[1]]
