"""Clips, like images, are a pure function of seed and index, in mixtures, with several views and with damaged videos."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import load_stream

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import TrainDataset
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.views import normalize
from jepa_pipeline.data.writer import video_record, write_shards
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method

VIDEOS, BATCH, TOTAL = 24, 12, 60
WHOLE = "views.crops=[{scale: [1, 1], aspect: [1, 1]}]"
"""Views that differ only where clips begin."""
RUN = [
    "name=clips",
    "data.workers=0",
    "method.name=vjepa",
    "method.encoder={image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    "method.masks=[{name: blocks, num_blocks: 3, context_keep: 0.2, target_keep: 0.3}, {name: causal, context_keep: 0.5}]",
    "views.crops=[{scale: [0.5, 1.0], flip: 0.5}]",
    "views.clip.stride=2",
    f"optim={{batch_size_global: {BATCH}, total_samples: {TOTAL}}}",
]


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    """Shuffle three shards at a time, so that an epoch of the small data set has several windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa_pipeline.data.loader.WINDOW_SHARDS", 3)
        yield


def clips(folder: Path, *overrides: str) -> RunConfig:
    return load_overrides(RunConfig, [*RUN, f"data.train={folder}", *overrides])


def stream(config: RunConfig, world: int = 1, start: int = 0) -> list[Batch]:
    """Every micro-batch of every rank, in the order of the global stream."""
    masks = build_mask_samplers(config.method)
    loaders = [load_stream(config, masks, start_samples=start, rank=rank, world_size=world) for rank in range(world)]
    return [batch for parts in zip(*loaders, strict=True) for batch in parts]


def rows(batches: Sequence[Batch]) -> dict[str, list]:
    """Everything of a stream of one view, sample by sample, and what was damaged."""
    sets = range(len(batches[0].masks))
    parts = [[batch.views[0], *(rows for number in sets for rows in batch.masks[number])] for batch in batches]
    return {
        "keys": [key for batch in batches for key in batch.keys],
        "labels": [label for batch in batches if batch.labels is not None for label in batch.labels.tolist()],
        "pixels": list(torch.cat([part[0] for part in parts])),
        "masks": [[rows.tolist() for rows in row] for part in parts for row in zip(*part[1:], strict=True)],
        "damaged": [damaged for batch in batches for damaged in batch.damaged],
    }


def assert_same(ours: dict[str, list], theirs: dict[str, list], start: int = 0) -> None:
    """From sample `start` of ours on, they are row for row the same."""
    for name in ("keys", "labels", "masks"):
        assert ours[name][start:] == theirs[name], name
    assert len(ours["pixels"][start:]) == len(theirs["pixels"])
    assert all(map(torch.equal, ours["pixels"][start:], theirs["pixels"]))
    if not start:
        assert sorted(ours["damaged"]) == sorted(theirs["damaged"])


@pytest.fixture(scope="module")
def folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos in shards of 5."""
    source, folder = Shards(videos / "train"), tmp_path_factory.mktemp("clips") / "set"
    samples = [source.read(0, member) for member in range(VIDEOS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 5)
        records = (video_record(sample.key, sample.media, "mp4", sample.label) for sample in samples)
        write_shards(records, folder, classes=["left", "right"], made={})
    return folder


@pytest.fixture(scope="module")
def straight(folder: Path) -> dict[str, list]:
    return rows(stream(clips(folder)))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_any_workers_and_any_world_read_the_same_clips(folder: Path, straight: dict[str, list], workers: int, world: int):
    assert len(straight["keys"]) == TOTAL and straight["pixels"][0].shape == (3, 4, 16, 16)
    assert_same(straight, rows(stream(clips(folder, f"data.workers={workers}"), world)))


@pytest.mark.parametrize(("start", "workers", "world"), [(BATCH, 0, 2), (2 * BATCH, 1, 1), (4 * BATCH, 2, 2)])
def test_a_run_continued_anywhere_sees_the_same_remainder(folder: Path, straight: dict, start: int, workers: int, world: int):
    continued = clips(folder, f"data.workers={workers}", "optim.accumulate_steps=2")
    assert_same(straight, rows(stream(continued, world, start)), start)


def test_a_clip_does_not_depend_on_those_decoded_before_it(folder: Path, straight: dict[str, list]):
    dataset = load_stream(clips(folder), []).dataset
    assert isinstance(dataset, TrainDataset)
    for number in (59, 3, 30, 4, 3):
        assert torch.equal(dataset.__getitems__([number]).views[0][0], straight["pixels"][number])


def test_epochs_differ_in_their_clips(folder: Path, straight: dict[str, list]):
    first, second = (straight["keys"][epoch * VIDEOS :][:VIDEOS] for epoch in (0, 1))
    assert sorted(first) == sorted(second) and first != second
    begun = rows(stream(clips(folder, WHOLE)))
    again = [VIDEOS + second.index(key) for key in first]
    assert not any(torch.equal(straight["pixels"][row], straight["pixels"][other]) for row, other in enumerate(again))
    assert not any(straight["masks"][row] == straight["masks"][other] for row, other in enumerate(again))
    moved = [not torch.equal(begun["pixels"][row], begun["pixels"][other]) for row, other in enumerate(again)]
    assert sum(moved) > VIDEOS / 2, "of 6 starts that fit, two epochs share one in 6"


def test_another_seed_is_another_stream(folder: Path, straight: dict[str, list]):
    other = rows(stream(clips(folder, "seed=1")))
    assert other["keys"] != straight["keys"] and other["masks"] != straight["masks"]


def mixed(shards: Path, videos: Path) -> str:
    return f"data.train=[{{path: {shards / 'train'}, weight: 1}}, {{path: {videos}, weight: 3}}]"


def test_images_of_a_mixture_stand_still_and_videos_do_not(shards: Path, folder: Path):
    """Also where short videos are skipped: an image is not a short video."""
    config = clips(folder, mixed(shards, folder), "views.crops=[{scale: [0.9, 1], flip: 0.5}]", "views.clip.short=skip")
    loader = load_stream(config, build_mask_samplers(config.method))
    mixture = loader.dataset.mixture  # pyright: ignore[reportAttributeAccessIssue]
    read = rows(list(loader))
    still = [bool((clip == clip[:, :1]).all()) for clip in read["pixels"]]
    source = mixture.locate(0, TOTAL).source
    assert still == (source == 0).tolist()
    assert mixture.count_by_source(TOTAL) == [sum(still), TOTAL - sum(still)] and 5 < sum(still) < 25
    assert mixture.count_by_source(4096 * 2) == [2048, 6144]
    assert read["damaged"] == []
    assert_same(read, rows(stream(config.model_copy(update={"data": config.data.model_copy(update={"workers": 2})}), world=2)))


HEADS = "projector: {hidden: [8], out: 8}"
IMAGE_METHODS = {
    "ijepa": ["method={name: ijepa, encoder: {image_size: 16, patch_size: 2, embed_dim: 8, depth: 1, num_heads: 1}}"],
    "vicreg": [f"method={{name: vicreg, encoder: {{timm: resnet18}}, {HEADS}}}", "views.crops=[{count: 2}]"],
    "lejepa": [f"method={{name: lejepa, encoder: {{timm: resnet18}}, {HEADS}}}", "views.crops=[{count: 2}]"],
}


@pytest.mark.parametrize("method", IMAGE_METHODS)
@pytest.mark.parametrize("alone", [True, False])
def test_a_method_of_images_refuses_videos(shards: Path, folder: Path, method: str, alone: bool):
    data = f"data.train={folder}" if alone else mixed(shards, folder)
    optim = f"optim={{batch_size_global: {BATCH}, total_samples: {TOTAL}}}"
    config = load_overrides(RunConfig, ["name=images", data, optim, *IMAGE_METHODS[method]])
    with pytest.raises(UserError) as refused:
        load_stream(config, [])
    assert str(refused.value) == (
        f"{folder} holds videos, but this run's {method} trains an image encoder: choose vjepa, vjepa2 or hjepa, or use other data"
    )


def test_the_cure_for_vjepa_of_one_frame_is_more_frames(folder: Path):
    with pytest.raises(UserError, match=r"raise method\.encoder\.frames, or use other data$"):
        load_stream(clips(folder, "method.encoder={frames: 1, tubelet_size: 1}", "method.masks=[{name: blocks}]"), [])


TWO = "views.crops=[{count: 2, scale: [1, 1], aspect: [1, 1]}]"


def generators(config: RunConfig, dataset: TrainDataset, numbers: range, view: int) -> list[np.random.Generator]:
    found = dataset.mixture.locate(numbers[0], numbers[-1] + 1)
    ids = zip(found.epoch.tolist(), found.sample.tolist(), strict=True)
    return [keyed_generator(config.seed, Stream.MASK, epoch, sample, view) for epoch, sample in ids]


def test_two_clips_of_a_video_start_separately_and_each_has_its_masks(folder: Path):
    config = clips(folder, TWO)
    samplers, batches = build_mask_samplers(config.method), stream(config)
    dataset = load_stream(config, samplers).dataset
    assert isinstance(dataset, TrainDataset)
    for number, (batch, single) in enumerate(zip(batches, stream(clips(folder, WHOLE)), strict=True)):
        first, second = batch.views
        assert first.shape == second.shape == (BATCH, 3, 4, 16, 16) and torch.equal(first, single.views[0])
        assert sum(map(torch.equal, first, second)) < BATCH / 2, "of 6 starts that fit, two clips share one in 6"
        assert len(batch.masks) == len(samplers) == 2
        indices = range(number * BATCH, (number + 1) * BATCH)
        given = [generator for view in (0, 1) for generator in generators(config, dataset, indices, view)]
        for masks, sampler, of_one in zip(batch.masks, samplers, single.masks, strict=True):
            expected = sampler(given, number)
            assert len(masks.context) == len(masks.targets) == 2 * BATCH
            assert torch.equal(masks.context, expected.context) and torch.equal(masks.targets, expected.targets)
            assert torch.equal(masks.context[:BATCH], of_one.context) and torch.equal(masks.targets[:BATCH], of_one.targets)
            assert not torch.equal(masks.context[:BATCH], masks.context[BATCH:])


@pytest.mark.parametrize("name", ["vjepa", "vjepa2"])
def test_a_step_on_two_clips_is_the_mean_of_one_on_each(folder: Path, name: str):
    config = clips(folder, TWO, f"method.name={name}", f"method.encoder.positions={'sincos' if name == 'vjepa' else 'rope'}")
    torch.manual_seed(0)
    method = build_method(config.method)
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)
    losses = []
    for step, batch in enumerate(stream(config)[:3], 1):
        views = [normalize(view, config.views.mean, config.views.std) for view in batch.views]
        both = method(batch._replace(views=views), step=0, seed=0)
        parts = [slice(None, BATCH), slice(BATCH, None)]
        split = [[Masks(masks.context[part], masks.targets[part]) for masks in batch.masks] for part in parts]
        separate = [
            method(batch._replace(views=[view], masks=masks), step=0, seed=0) for view, masks in zip(views, split, strict=True)
        ]
        assert both.losses.keys() == {"prediction"} and both.features.shape == (2 * BATCH, 24)
        loss = both.losses["prediction"]
        assert loss.isfinite()
        torch.testing.assert_close(loss, torch.stack([one.losses["prediction"] for one in separate]).mean())
        optimizer.zero_grad()
        loss.backward()
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
        optimizer.step()
        method.after_optimizer_step(step, 3)
        losses.append(loss.item())
    assert len(set(losses)) == 3


def zero_tail(media: bytes) -> bytes:
    """Return what an interrupted copy leaves on some file systems."""
    return media[: len(media) // 2] + bytes(len(media) - len(media) // 2)


def garbage(media: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(media))


def lost_frames(media: bytes) -> bytes:
    """Return a video that opens and has a full table of frames, none of which decodes."""
    start, end = media.index(b"mdat") + 4, media.index(b"moov") - 4
    assert start < end
    return media[:start] + bytes(end - start) + media[end:]


DAMAGE: dict[int, Callable[[bytes], bytes]] = {3: zero_tail, 4: garbage, 17: lost_frames}
BAD = {f"{number:04d}" for number in DAMAGE}


@pytest.fixture(scope="module")
def damaged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three videos damaged in place, so that every index stays valid."""
    copy = tmp_path_factory.mktemp("damaged") / "set"
    shutil.copytree(folder, copy)
    for number, spoil in DAMAGE.items():
        tar = copy / f"shard-{number // 5:06d}.tar"
        place = load_index(tar).media_range(number % 5)
        assert place is not None
        with tar.open("r+b") as file:
            file.seek(place[0])
            media = spoil(file.read(place[1]))
            assert len(media) == place[1]
            file.seek(place[0])
            file.write(media)
    return copy


@pytest.fixture(scope="module")
def skipping(damaged: Path) -> dict[str, list]:
    return rows(stream(clips(damaged)))


def test_a_damaged_video_moves_no_other(straight: dict[str, list], skipping: dict[str, list], damaged: Path):
    bad = [place for place, key in enumerate(straight["keys"]) if key in BAD]
    assert len(bad) >= 2 * len(BAD) and skipping["masks"] == straight["masks"]
    for place, key in enumerate(straight["keys"]):
        if key not in BAD:
            assert skipping["keys"][place] == key and skipping["labels"][place] == straight["labels"][place]
            assert torch.equal(skipping["pixels"][place], straight["pixels"][place])
        else:
            later = [other for other in straight["keys"][place + 1 :] if other not in BAD]
            assert skipping["keys"][place] == later[0] if later else skipping["keys"][place] not in BAD
    assert sorted(hurt.sample for hurt in skipping["damaged"]) == sorted(int(straight["keys"][place]) for place in bad)
    for hurt in skipping["damaged"]:
        place = damaged / f"shard-{hurt.sample // 5:06d}.tar"
        assert hurt.source == 0 and hurt.reason.startswith(f"sample {hurt.sample:04d} of {place} cannot be used (")
    assert straight["damaged"] == []


def test_a_replacement_is_cropped_as_the_damaged_video_would_have_been(skipping: dict[str, list], damaged: Path):
    dataset = load_stream(clips(damaged), []).dataset
    assert isinstance(dataset, TrainDataset)
    found = dataset.mixture.locate(0, TOTAL)
    for place, (epoch, sample) in enumerate(zip(found.epoch.tolist(), found.sample.tolist(), strict=True)):
        if sample in DAMAGE:
            views, replacement = dataset.create_views(1), int(skipping["keys"][place])
            dataset.add_views(views, replacement // 5, replacement % 5, (0, epoch, sample))
            assert torch.equal(views.finish()[0][0][0], skipping["pixels"][place])


@pytest.mark.parametrize(("workers", "world", "start"), [(2, 1, 0), (1, 2, 0), (0, 2, 2 * BATCH)])
def test_replacements_depend_on_nothing_else(damaged: Path, skipping: dict[str, list], workers: int, world: int, start: int):
    assert_same(skipping, rows(stream(clips(damaged, f"data.workers={workers}"), world, start)), start)


def test_a_damaged_video_stops_a_run_that_is_to_stop(damaged: Path):
    with pytest.raises(SampleError, match=r"sample \d{4} of .*tar cannot be used \(.*`jepa shards check .*` lists all damage$"):
        stream(clips(damaged, "data.damage.policy=stop"))


SHORT = {1, 6}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 videos of 12 frames, but two of 5."""
    folder, pixels = tmp_path_factory.mktemp("uneven") / "set", np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    records = []
    for number, colors in enumerate(pixels):
        frames = np.broadcast_to(colors[:, None, None], (12, 24, 24, 3))[: 5 if number in SHORT else 12]
        records.append(video_record(f"{number:04d}", encode_video(frames, 12.0), "mp4", number % 2))
    write_shards(records, folder, classes=["left", "right"], made={})
    return folder


@pytest.mark.parametrize(
    ("rate", "reason"),
    [
        ("views.clip.stride=2", "it has 5 frames, but a clip of 4 with stride 2 spans 7"),
        ("views.clip={fps: 6}", "it lasts 0.42 s, but a clip of 4 frames at 6 fps needs more than 0.50 s"),
    ],
)
def test_a_video_that_is_too_short_is_looped_or_skipped(uneven: Path, rate: str, reason: str):
    run = [override for override in RUN if not override.startswith("views.clip")]
    looped, skipped = (
        rows(stream(load_overrides(RunConfig, [*run, f"data.train={uneven}", rate, f"views.clip.short={short}"])))
        for short in ("loop", "skip")
    )
    short = [place for place, key in enumerate(looped["keys"]) if int(key) in SHORT]
    assert looped["damaged"] == [] and looped["masks"] == skipped["masks"] and len(short) >= 14
    assert sorted(hurt.sample for hurt in skipped["damaged"]) == sorted(int(looped["keys"][place]) for place in short)
    cure = "set views.clip.short to loop or hold, or views.clip to a shorter span"
    assert all(hurt.reason.endswith(f"cannot be used ({reason}): {cure}") for hurt in skipped["damaged"])
    for place, key in enumerate(looped["keys"]):
        if place in short:
            assert int(skipped["keys"][place]) not in SHORT
        else:
            assert skipped["keys"][place] == key and torch.equal(skipped["pixels"][place], looped["pixels"][place])


def test_a_video_that_is_too_short_stops_a_run_that_is_to_stop(uneven: Path):
    with pytest.raises(SampleError, match="it has 5 frames, but a clip of 4 with stride 2 spans 7"):
        stream(clips(uneven, "views.clip.short=skip", "data.damage.policy=stop"))
