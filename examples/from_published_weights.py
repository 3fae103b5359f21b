"""Begin from published weights on images of another kind; judge the result beside those weights and beside a run from scratch.

    python examples/from_published_weights.py work

All is generated, in minutes on a CPU. The published weights are those of a small I-JEPA on colored shapes; in their place give an
encoder folder that `jepa import` has made of a real file. The other domain are few, dark and noisy images. All runs on it see
equally many samples, with three seeds each; their probes are one table, which

    jepa table work/runs/adapted-* work/runs/scratch-* work/published --over-seeds

prints again.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from jepa_pipeline import load_config, pretrain, probe
from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.demo_shards import demo
from jepa_pipeline.commands.table import table
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.synthetic.shapes import CLASSES, generate_shapes

RECIPE = Path(__file__).parents[1] / "configs/debug/ijepa.yaml"
NETWORKS = [
    "method.encoder={image_size: 24, patch_size: 4, embed_dim: 96, depth: 4, num_heads: 3}",
    "method.predictor={embed_dim: 48, depth: 2, num_heads: 3}",
    "optim.batch_size_global=64",
    "optim.warmup_samples=0",
]
SEEDS = (0, 1, 2)


def make_domain(folder: Path, images: int, seed: int) -> None:
    """Write images of the shapes in a folder for each: gray, dark and noisy, as from another camera."""
    generator = np.random.default_rng(seed)
    for number, (image, label) in enumerate(generate_shapes(images, 40, seed)):
        pixels = np.asarray(image.convert("L"), np.float32)
        gains = generator.uniform(0.1, 0.4, 3)
        noisy = 255 - (255 - pixels)[..., None] * gains + generator.normal(0, 25, (*pixels.shape, 3)) - 150
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{number:05d}.png")


def main(
    work: Path, published_samples: int = 51_200, samples: int = 6_400, images: int = 4_000, domain_images: int = 1_500
) -> None:
    """Make everything in a folder, and print the table.

    Args:
        work: a new folder.
        published_samples: on which the published weights are trained.
        samples: that each run on the other domain sees.
        images: of the published weights' domain.
        domain_images: of the other domain, half of which test the probes.
    """
    demo(work / "shapes", images=images)
    make_domain(work / "images", domain_images, seed=7)
    build(work / "images", work / "domain", split=0.5)

    common = [*NETWORKS, f"output={work / 'runs'}"]
    first = [f"data.train={work / 'shapes/train'}", f"optim.total_samples={published_samples}", "name=published"]
    shutil.copytree(pretrain(load_config(RECIPE, [*common, *first])) / "encoder", work / "published")

    runs = []
    for seed in SEEDS:
        given = [*common, f"data.train={work / 'domain/train'}", f"optim.total_samples={samples}", f"seed={seed}"]
        runs += [
            pretrain(load_config(RECIPE, [*given, f"name=adapted-{seed}", f"init_from={work / 'published'}"])),
            pretrain(load_config(RECIPE, [*given, f"name=scratch-{seed}"])),
        ]
    settings = ProbeConfig.model_validate({"workers": 0})
    for encoder in [*runs, work / "published"]:
        probe(encoder, work / "domain", config=settings)
    table([*sorted(runs), work / "published"], out=work / "table", over_seeds=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "work"))
