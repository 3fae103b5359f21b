"""Begin from published weights on images of another kind; judge the result beside those weights and beside a run from scratch.

    python examples/from_published_weights.py work

All is generated, in minutes on a CPU. The published weights are those of a small I-JEPA on colored shapes, in timm's format; in
their place give a real file to `jepa import`. The other domain are few, dark and noisy images. All runs on it see equally many
samples, with three seeds each; their probes are one table, which

    jepa table work/runs/adapted-* work/runs/scratch-* work/imported --over-seeds

prints again. The same command resumes where it was ended, and skips what is finished.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from jepa_pipeline import export, import_weights, load_config, pretrain, probe
from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.demo_shards import demo
from jepa_pipeline.commands.table import table
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.synthetic.shapes import CLASSES, generate_shapes

RECIPE = Path(__file__).parents[1] / "configs/debug/ijepa.yaml"
NETWORKS = [
    "method.encoder={image_size: 32, patch_size: 4, embed_dim: 96, depth: 4, num_heads: 3}",
    "method.predictor={embed_dim: 48, depth: 2, num_heads: 3}",
    "method.masks={num_targets: 4, target_scale: [0.14, 0.15], context_keep: 0.3125}",
    "method.ema=[0.99, 1.0]",
    "views={crops: [{scale: [0.5, 1.0]}], mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}",
    "optim={batch_size_global: 64, lr: 1e-3, start_lr: 1e-4, final_weight_decay: 0.1}",
]
"""A small network, which trains in minutes."""
SEEDS = (0, 1, 2)
PROBE = ProbeConfig.model_validate({"workers": 0})


def make_domain(folder: Path, images: int, seed: int) -> None:
    """Write images of the shapes in a folder for each: gray, inverted, dark and noisy, as from another camera."""
    generator = np.random.default_rng(seed)
    for number, (image, label) in enumerate(generate_shapes(images, 40, seed)):
        pixels = np.asarray(image.convert("L"), np.float32)
        gains = generator.uniform(0.4, 0.6, 3)
        noisy = (255 - pixels)[..., None] * gains + generator.normal(0, 12, (*pixels.shape, 3))
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{number:05d}.png")


def length(samples: int) -> list[str]:
    """Return the overrides for a run of so many samples."""
    return [f"optim.total_samples={samples}", f"optim.warmup_samples={samples // 10}"]


def main(
    work: Path, published_samples: int = 25_600, samples: int = 3_200, images: int = 2_000, domain_images: int = 1_000
) -> None:
    """Make everything in a folder, and print the table.

    Args:
        work: a new folder, or that of an earlier call, whose finished steps are skipped.
        published_samples: on which the published weights are trained.
        samples: that each run on the other domain sees.
        images: of the published weights' domain.
        domain_images: of the other domain, half of which test the probes.
    """
    if not (work / "shapes").exists():  # each of these folders gets its name once it is whole
        demo(work / "shapes", images=images)
    if not (work / "domain").exists():
        make_domain(work / "images", domain_images, seed=7)
        build(work / "images", work / "domain", split=0.5)

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
