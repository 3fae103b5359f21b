"""Begin from published weights on images of another kind; judge the result beside those weights and beside a run from scratch.

    python examples/from_published_weights.py work

All is generated, in minutes on a CPU. The published weights are those of a small ResNet, trained by SimCLR on colored shapes, in
timm's format; in their place give a real file to `jepa import`. The other domain are few images, gray, dark and noisier. All runs
on it see equally many samples, with three seeds each; their probes are one table, which

    jepa table work/runs/adapted-* work/runs/scratch-* work/imported --over-seeds

prints again. The same command resumes where it was ended, and skips what is finished.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from jepa_pipeline import export, import_weights, load_config, pretrain, probe
from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.table import table
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.synthetic.shapes import CLASSES
from jepa_pipeline.synthetic.varied_shapes import generate_varied_shapes

RECIPE = Path(__file__).parents[1] / "configs/quickstart.yaml"
"""SimCLR on a small ResNet, which learns within minutes."""
NETWORKS = list[str]()
"""Overrides of the recipe for all runs."""
SEEDS = (0, 1, 2)
PROBE = ProbeConfig.model_validate({"workers": 0})


def other_camera(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes images of the other domain: gray, dark and noisier."""
    generator = np.random.default_rng(seed)

    def convert(pixels: np.ndarray) -> np.ndarray:
        gray = pixels.mean(-1, keepdims=True)
        noisy = gray * generator.uniform(0.4, 0.6, 3) + generator.normal(0, 12, pixels.shape)
        return noisy.clip(0, 255).astype(np.uint8)

    return convert


def make_shards(folder: Path, images: int, seed: int, split: float, camera: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write images of ten shapes, as a camera sees them, in a folder for each shape, and build shards of them."""
    if folder.exists():  # it gets its name once it is whole
        return
    files = folder.with_name(f"{folder.name}-images")
    for number, (image, label) in enumerate(generate_varied_shapes(images, 40, seed)):
        path = files / CLASSES[label] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(camera(np.asarray(image))).save(path)
    build(files, folder, split=split)


def length(samples: int) -> list[str]:
    """Return the overrides for a run of so many samples."""
    return [f"optim.total_samples={samples}", f"optim.warmup_samples={samples // 10}"]


def main(
    work: Path, published_samples: int = 38_400, samples: int = 6_400, images: int = 4_000, domain_images: int = 2_000
) -> None:
    """Make everything in a folder, and print the table.

    Args:
        work: a new folder, or that of an earlier call, whose finished steps are skipped.
        published_samples: on which the published weights are trained.
        samples: that each run on the other domain sees.
        images: of the published weights' domain.
        domain_images: of the other domain, half of which test the probes.
    """
    make_shards(work / "shapes", images, seed=0, split=0.2, camera=lambda pixels: pixels)
    make_shards(work / "domain", domain_images, seed=7, split=0.5, camera=other_camera(seed=7))

    common = [*NETWORKS, f"output={work / 'runs'}"]
    first = [f"data.train={work / 'shapes/train'}", *length(published_samples), "name=published"]
    published, imported = work / "published", work / "imported"
    run = pretrain(load_config(RECIPE, [*common, *first]))
    if not published.exists():
        export(run, to="timm", out=published)
    if not imported.exists():
        import_weights(published, out=imported)

    runs = []
    for seed in SEEDS:
        given = [*common, f"data.train={work / 'domain/train'}", *length(samples), f"seed={seed}"]
        runs += [
            pretrain(load_config(RECIPE, [*given, f"name=adapted-{seed}", f"init_from={imported}"])),
            pretrain(load_config(RECIPE, [*given, f"name=scratch-{seed}"])),
        ]
    for encoder in [*runs, imported]:
        probe(encoder, work / "domain", config=PROBE)
    table([*sorted(runs), imported], out=work / "table", over_seeds=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "work"))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command resumes")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
