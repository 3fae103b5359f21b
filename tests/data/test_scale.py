"""A thousand million samples in a hundred thousand shards on 4,096 ranks with 8 workers each: any position is found at once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.sampler import Deal, Order

SHARDS, SAMPLES = 100_000, 10_000
WORLD, WORKERS, BATCH = 4096, 8, 65_536
TRIES = 2

FIND = """
import json, re, sys, time
from jepa_pipeline.data.loader import mixture
from jepa_pipeline.data.sampler import Deal
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.config.run import RunConfig

folder, rank, worker, world, batch, workers, total = sys.argv[1], *map(int, sys.argv[2:])
config = RunConfig.model_validate(
    {"name": "scale", "data": {"train": folder}, "method": {"name": "ijepa", "encoder": {"arch": "vit_tiny"}}, "optim": {"batch_size_global": batch, "total_samples": total}}
)

def memory(kind):
    with open("/proc/self/status") as status:  # ru_maxrss would be that of the parent before it
        return 1024 * int(re.search(kind + r":\\s+(\\d+) kB", status.read())[1])

touched, python = [], (sys.prefix, sys.base_prefix)

def note(event, args):
    if event in ("open", "os.listdir", "os.scandir") and not str(args[0]).startswith(python):
        touched.append([event, str(args[0])])

before, began = memory("VmRSS"), time.process_time()
sys.addaudithook(note)
shards = Shards(folder, max_open=64)
stream = mixture(config, [shards])
deal = Deal(batch, 1, rank, world, total // batch // 2 * batch, total)
start = deal.starts[worker + workers * 1000]
found = stream.samples(start, start + deal.size)
seconds = time.process_time() - began
shards.fetch_ahead(stream.orders[0].shards_from(int(found.index[0])))
report = {"seconds": seconds, "touched": touched[:], "samples": found.sample.tolist(), "bytes": memory("VmHWM") - before}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of shards that are nowhere."""
    folder = tmp_path_factory.mktemp("scale")
    shards = [{"file": f"shard-{n:06d}.tar", "samples": SAMPLES, "bytes": 10**9, "sha256": f"{n:064x}"} for n in range(SHARDS)]
    manifest = {
        "version": 1,
        "created_by": "tests",
        "kind": "images",
        "shards": shards,
        "samples": SHARDS * SAMPLES,
        "extensions": ["jpg"],
        "classes": None,
        "made": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder


def find(folder: Path, rank: int, worker: int) -> dict:
    """What a fresh process of a worker of a rank finds half-way through four epochs, and the processor time and memory it took."""
    numbers = [rank, worker, WORLD, BATCH, WORKERS, 4 * SHARDS * SAMPLES]
    done = subprocess.run([sys.executable, "-c", FIND, folder, *map(str, numbers)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_any_rank_and_worker_finds_its_place_in_a_second_and_a_hundred_megabytes(folder: Path):
    generator = np.random.default_rng(0)
    found = [find(folder, int(generator.integers(WORLD)), int(generator.integers(WORKERS))) for _ in range(TRIES)]
    assert min(one["seconds"] for one in found) < 1, [one["seconds"] for one in found]
    assert max(one["bytes"] for one in found) < 100e6, [one["bytes"] for one in found]
    for one in found:
        assert one["touched"] == [["open", str(folder / "manifest.json")]]
        assert len(set(one["samples"])) == BATCH // WORLD
        assert all(0 <= number < SHARDS * SAMPLES for number in one["samples"])


@pytest.fixture(scope="module")
def stream() -> Mixture:
    return Mixture([Order([SAMPLES] * SHARDS, seed=0, window_shards=16)], [1.0])


@pytest.mark.parametrize("step", [0, 15_258, 1_000_000])
def test_the_ranks_together_read_a_global_batch_and_none_what_another_reads(stream: Mixture, step: int):
    deals = [Deal(BATCH, 1, rank, WORLD, step * BATCH, (step + 1) * BATCH) for rank in range(WORLD)]
    slices = [numbers for deal in deals for numbers in deal]
    assert len(slices) == WORLD
    assert [number for numbers in slices for number in numbers] == list(range(step * BATCH, (step + 1) * BATCH))
    whole = stream.samples(step * BATCH, (step + 1) * BATCH)
    ranks = np.random.default_rng(step).choice(WORLD, 64, replace=False)
    mine = [stream.samples(slices[rank][0], slices[rank][-1] + 1) for rank in ranks]
    for rank, found in zip(ranks, mine, strict=True):
        assert found.sample.tolist() == whole.sample[rank * deals[0].size : (rank + 1) * deals[0].size].tolist()
    read = np.concatenate([found.epoch * SHARDS * SAMPLES + found.sample for found in mine])
    assert len(np.unique(read)) == len(read)


def test_no_two_workers_of_any_rank_share_a_sample_in_an_epoch():
    """A DataLoader's worker w gets micro-batches w, w + 8, w + 16 and so on."""
    counts = [37, 50, 41, 64] * 12
    total, batch, world = sum(counts), 48, 4
    stream = Mixture([Order(counts, seed=0, window_shards=5)], [1.0])
    for epoch in range(3):
        owner = np.zeros(total, np.int64)
        for rank in range(world):
            deal = list(Deal(batch, 1, rank, world, 0, (epoch + 1) * total))
            for worker in range(WORKERS):
                numbers = [numbers for numbers in deal[worker::WORKERS] if numbers[-1] >= epoch * total]
                found = [stream.samples(part[0], part[-1] + 1) for part in numbers]
                samples = np.concatenate([part.sample[part.epoch == epoch] for part in found])
                assert (owner[samples] == 0).all()
                owner[samples] = 1 + rank * WORKERS + worker
        assert (owner == 0).sum() < batch
        assert len(np.unique(owner[owner > 0])) == world * WORKERS
