"""A billion samples in a hundred thousand shards on 4,096 ranks with 8 workers each: any index is located directly."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.sampler import DistributedBatchSampler, ShardSampler

SHARDS, SAMPLES = 100_000, 10_000
WORLD, WORKERS, BATCH = 4096, 8, 65_536
TRIES = 2

FIND = """
import json, re, sys, time
from jepa_pipeline.data.loader import build_mixture
from jepa_pipeline.data.sampler import DistributedBatchSampler
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
stream = build_mixture(config.data, config.seed, [shards])
sampler = DistributedBatchSampler(batch, total, rank=rank, world_size=world, start_samples=total // batch // 2 * batch)
start = sampler.starts[worker + workers * 1000]
found = stream.locate(start, start + sampler.micro_batch_size)
seconds = time.process_time() - began
shards.prefetch(stream.samplers[0].upcoming_shards(int(found.index[0])))
report = {"seconds": seconds, "touched": touched[:], "samples": found.sample.tolist(), "bytes": memory("VmHWM") - before}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of shards that do not exist."""
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
    """Return what a new process locates halfway through four epochs, and the CPU time and memory it took."""
    numbers = [rank, worker, WORLD, BATCH, WORKERS, 4 * SHARDS * SAMPLES]
    done = subprocess.run([sys.executable, "-c", FIND, folder, *map(str, numbers)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_any_rank_and_worker_locates_its_batch_in_a_second_and_a_hundred_megabytes(folder: Path):
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
    return Mixture([ShardSampler([SAMPLES] * SHARDS, seed=0, window_shards=16)], [1.0])


@pytest.mark.parametrize("step", [0, 15_258, 1_000_000])
def test_the_ranks_together_read_a_global_batch_and_none_what_another_reads(stream: Mixture, step: int):
    start, end = step * BATCH, (step + 1) * BATCH
    samplers = [DistributedBatchSampler(BATCH, end, rank=rank, world_size=WORLD, start_samples=start) for rank in range(WORLD)]
    slices = [numbers for sampler in samplers for numbers in sampler]
    assert len(slices) == WORLD
    assert [number for numbers in slices for number in numbers] == list(range(start, end))
    whole = stream.locate(start, end)
    ranks = np.random.default_rng(step).choice(WORLD, 64, replace=False)
    mine = [stream.locate(slices[rank][0], slices[rank][-1] + 1) for rank in ranks]
    for rank, found in zip(ranks, mine, strict=True):
        assert found.sample.tolist() == whole.sample[rank * BATCH // WORLD : (rank + 1) * BATCH // WORLD].tolist()
    read = np.concatenate([found.epoch * SHARDS * SAMPLES + found.sample for found in mine])
    assert len(np.unique(read)) == len(read)


def test_no_two_workers_of_any_rank_share_a_sample_in_an_epoch():
    """A DataLoader's worker w gets micro-batches w, w + 8, w + 16 and so on."""
    counts = [37, 50, 41, 64] * 12
    total, batch, world = sum(counts), 48, 4
    stream = Mixture([ShardSampler(counts, seed=0, window_shards=5)], [1.0])
    for epoch in range(3):
        owner = np.zeros(total, np.int64)
        for rank in range(world):
            batches = list(DistributedBatchSampler(batch, (epoch + 1) * total, rank=rank, world_size=world))
            for worker in range(WORKERS):
                numbers = [numbers for numbers in batches[worker::WORKERS] if numbers[-1] >= epoch * total]
                found = [stream.locate(part[0], part[-1] + 1) for part in numbers]
                samples = np.concatenate([part.sample[part.epoch == epoch] for part in found])
                assert (owner[samples] == 0).all()
                owner[samples] = 1 + rank * WORKERS + worker
        assert (owner == 0).sum() < batch
        assert len(np.unique(owner[owner > 0])) == world * WORKERS
