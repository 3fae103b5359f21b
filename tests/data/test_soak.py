"""Memory stays flat over a long run: python tests/data/test_soak.py SHARDS SAMPLES prints bytes along the way as JSON."""

import json
import re
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import pytest

SAMPLES = 2_000_000
BATCH = 64
READINGS = 50


def resident() -> int:
    """Bytes of memory that this process and its children hold; what they share counts once, mapped files do not."""
    rollups = [Path(f"/proc/{process}/smaps_rollup") for process in ("self", *(child.pid for child in active_children()))]
    return sum(
        1024 * int(kilobytes)
        for rollup in rollups
        for kilobytes in re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup.read_text())
    )


def soak(folder: str, samples: int) -> list[int]:
    """Resident bytes at equal distances along a stream of so many samples, decoded, cut and masked by two workers."""
    from streams import load_stream

    import jepa_pipeline.data.loader as loader_module
    from jepa_pipeline.config.run import RunConfig
    from jepa_pipeline.masks.build import build_mask_sampler

    loader_module.WINDOW_SHARDS = 2
    config = RunConfig.model_validate(
        {
            "name": "soak",
            "data": {"train": folder, "workers": 2},
            "views": {"crops": [{"flip": 0.5}]},
            "method": {
                "name": "ijepa",
                "encoder": {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
                "masks": {"num_targets": 2, "target_scale": (0.2, 0.3), "context_keep": 0.3},
            },
            "optim": {"batch_size_global": BATCH, "total_samples": samples},
        }
    )
    loader = load_stream(config, [build_mask_sampler(config.method.masks, config.method.encoder.clip_grid)])
    apart, sizes, seen = len(loader) // READINGS, [], 0
    for number, batch in enumerate(loader):
        seen += len(batch.keys)
        if number % apart == apart - 1:
            sizes.append(resident())
    assert seen == samples // BATCH * BATCH
    return sizes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="resident size is read from Linux's /proc")
def test_memory_stays_flat_over_two_million_samples(tmp_path: Path):
    write(tmp_path / "set")
    command = [sys.executable, __file__, str(tmp_path / "set"), str(SAMPLES)]
    sizes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    warm, end = sizes[READINGS // 10], sizes[-1]
    assert abs(end - warm) <= 0.05 * warm, f"{warm / 1e6:.1f} MB after warm-up, {end / 1e6:.1f} MB at the end"


def write(folder: Path, count: int = 2000) -> None:
    """A set with more shards than a worker keeps open."""
    import numpy as np
    from PIL import Image

    from jepa_pipeline.data.writer import png_record, write_shards
    from jepa_pipeline.synthetic.shapes import SHAPES, generate_shape

    generator, names = np.random.default_rng(0), list(SHAPES)
    images = (Image.fromarray(generate_shape(names[n % 10], 20, generator)) for n in range(count))
    records = (png_record(f"{n:05d}", image, n % 10) for n, image in enumerate(images))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 100)
        write_shards(records, folder, classes=names, made={"from": "tests"})


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print(json.dumps(soak(sys.argv[1], int(sys.argv[2]))))
