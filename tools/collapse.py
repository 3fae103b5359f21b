"""Check that collapse prevention works, and that the health meters detect its absence: python tools/collapse.py [METHOD ...].

Each method trains twice on synthetic shapes from its recipe in configs/debug, with and without its collapse prevention. The table
shows the health meters of both runs at the end, for every level of a stack: the effective rank of the embeddings, the mean cosine
of different ones and the standard deviation of a dimension; and the meters that detect the collapse.
"""

import sys
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jepa_pipeline.training.module as training_module
from jepa_pipeline.batch import Batch
from jepa_pipeline.commands.demo_shards import demo
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.losses.prediction import cosine
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.hjepa import HJEPA
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.regularizer import Regularizer
from jepa_pipeline.methods.targets import SharedTarget
from jepa_pipeline.training.callbacks import measure_health
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.optim import set_rates
from jepa_pipeline.training.schedules import learning_rate, weight_decay

DEBUG = Path(__file__).parents[1] / "configs" / "debug"
BATCH = 64
VECTORS = 16 * BATCH
"""Vectors of the health meters: the runs are too short for the 2048 of training."""
IMAGES = 1000
Health = dict[str, float]
"""Health meters by name."""


def remove_regularizer(method: Method) -> None:
    method.regularizer = Regularizer()


def remove_negatives(method: Method) -> None:
    """Replace the loss by the distance between the views of an image."""
    method.objective = lambda embeddings, **_: cosine(*embeddings)  # pyright: ignore[reportArgumentType]


def remove_stop_gradient(method: Method) -> None:
    """Predict the other view's projection with its gradient."""
    method.teacher_output = lambda views, projections: projections  # pyright: ignore[reportArgumentType]


def share_target(method: Method) -> None:
    """Make the encoder itself, with its gradient, the target; at every level of a stack."""
    for level in method.jepas if isinstance(method, HJEPA) else [method]:
        level.target_encoder = SharedTarget(level.encoder)  # pyright: ignore[reportArgumentType]


class Removal(NamedTuple):
    """How to disable a method's collapse prevention: by overrides of its recipe, or by a change of the built method."""

    what: str
    overrides: tuple[str, ...] = ()
    change: Callable[[Method], None] = lambda method: None


REMOVALS = {
    "vicreg": Removal("variance and covariance", ("method.variance=0", "method.covariance=0")),
    "barlow_twins": Removal("decorrelation", ("method.off_diagonal=0",)),
    "lejepa": Removal("SIGReg", ("method.weight=0",)),
    "simclr": Removal("negatives", change=remove_negatives),
    "info_nce": Removal("negatives", change=remove_negatives),
    "square_square": Removal("negatives", change=remove_negatives),
    "swav": Removal("Sinkhorn", ("method.sinkhorn_iterations=0",)),
    "byol": Removal("EMA, stop-gradient", change=remove_stop_gradient),
    "simsiam": Removal("stop-gradient", change=remove_stop_gradient),
    "ijepa": Removal("EMA, stop-gradient", change=share_target),
    "vjepa": Removal("EMA, stop-gradient", change=share_target),
    "vjepa2": Removal("EMA, stop-gradient", change=share_target),
    "hjepa": Removal("EMA, stop-gradient", change=share_target),
    "ijepa_vicreg": Removal("VICReg", change=remove_regularizer),
    "ijepa_sigreg": Removal("SIGReg", change=remove_regularizer),
}


def make_config(method: str, removal: Removal | None, data: Path, steps: int) -> RunConfig:
    overrides = [
        f"data.train={data}",
        f"optim.batch_size_global={BATCH}",
        f"optim.total_samples={steps * BATCH}",
        f"optim.warmup_samples={steps // 10 * BATCH}",
        *(removal.overrides if removal else ()),
    ]
    return load_config(DEBUG / f"{method}.yaml", overrides)


def read_batches(config: RunConfig, passes: int) -> list[Batch]:
    """Return the batches of a few passes over the images."""
    masks, sampler = build_mask_samplers(config.method), build_batch_sampler(config.optim)
    loader = train_loader(config.data, config.views, config.method, masks, sampler, seed=config.seed)
    return list(islice(loader, passes * IMAGES // config.optim.batch_size_global))


def train(config: RunConfig, batches: list[Batch], change: Callable[[Method], None]) -> list[Health]:
    """Train for the configured steps, and return the health of every level at the end."""
    torch.manual_seed(config.seed)
    method = build_method(config.method)
    change(method)
    with patch.object(training_module, "HEALTH_VECTORS", VECTORS):
        module = Pretraining(method, config.optim, config.views, config.seed)
    optimizer = module.configure_optimizers()
    for batch in islice(cycle(batches), config.optim.total_steps):
        module.on_train_batch_start(batch, 0)
        loss = module.training_step(module.on_after_batch_transfer(batch, 0), 0)
        optimizer.zero_grad()
        loss.backward()
        module.step += 1
        set_rates(optimizer, learning_rate(module.step, config.optim), weight_decay(module.step, config.optim))
        optimizer.step()
        method.after_optimizer_step(module.step, config.optim.schedule_steps)
    return [measure_health(*level.contents()) for level in module.recent]  # pyright: ignore[reportCallIssue]


def compare(method: str, data: Path, steps: int) -> list[tuple[Health, Health]]:
    """Return the health of every level with and without collapse prevention."""
    intact, removed = make_config(method, None, data, steps), make_config(method, REMOVALS[method], data, steps)
    batches = read_batches(intact, passes=4)
    trained = train(intact, batches, lambda method: None), train(removed, batches, REMOVALS[method].change)
    return [*zip(*trained, strict=True)]


SHOWN = {"rank": "health/target_rankme", "cosine": "health/target_cosine", "deviation": "health/target_std_mean"}


def detected_by(intact: Health, removed: Health) -> list[str]:
    """Return the meters by which the second run has collapsed compared with the first."""
    (rank, cosine, deviation), (low_rank, high_cosine, low_deviation) = (
        [run[key] for key in SHOWN.values()] for run in (intact, removed)
    )
    detected = {
        "rank": low_rank < rank / 2,
        "cosine": high_cosine > 0.7 > cosine + 0.1,
        "deviation": low_deviation < deviation / 2,
    }
    return [name for name, collapsed in detected.items() if collapsed]


def main(
    methods: Annotated[list[str] | None, typer.Argument(help="Names of methods; default: all.")] = None,
    steps: Annotated[int, typer.Option(min=20, help="Optimizer steps of each run.")] = 300,
) -> None:
    """Train each method with and without its collapse prevention, and show the health meters of both runs."""
    chosen = methods or list(REMOVALS)
    if unknown := [name for name in chosen if name not in REMOVALS]:
        raise UserError(f"'{unknown[0]}' is not a method: choose from {', '.join(REMOVALS)}")
    console = Console()
    table = Table("method", *SHOWN, "without", *SHOWN, "detected by", title=f"embeddings after {steps} steps")
    with TemporaryDirectory() as folder:
        demo(Path(folder) / "shapes", images=IMAGES)
        for name in track(chosen, "training", console=console):
            pairs = compare(name, Path(folder) / "shapes" / "train", steps)
            for level, pair in enumerate(pairs, start=1):
                intact, removed = ([f"{health[key]:.3g}" for key in SHOWN.values()] for health in pair)
                label = f"{name}, level {level}" if len(pairs) > 1 else name
                table.add_row(label, *intact, REMOVALS[name].what, *removed, ", ".join(detected_by(*pair)))
    console.print(table)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"{error}")
