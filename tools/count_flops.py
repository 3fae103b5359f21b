"""Count the GFLOP of one training step per sample: python tools/count_flops.py CONFIG [CONFIG ...].

Counted are the matrix products of the forward and backward pass, by torch on its meta device, where nothing is computed, so that
any size is counted in seconds. For stacks the table also has the share of the levels above the first: the difference between a
step of the stack and a step of its first level alone, which includes passes of higher levels through lower ones. Regularizers are
not counted.
"""

import sys
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table
from timed_steps import sample_masks, view_shapes
from torch.utils.flop_counter import FlopCounterMode

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import IJepaConfig, VJepaConfig
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.prediction import NoRegularizer, PredictionConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn

AnyJepaConfig = IJepaConfig | VJepaConfig | HJepaConfig
Prediction = TypeVar("Prediction", bound=PredictionConfig)
SAMPLES = 2
"""Samples per counted batch."""


class StepFlops(NamedTuple):
    """FLOPs of one training step per sample, and those of them that the levels above the first add."""

    step: int
    above: int


def count_step(config: RunConfig) -> StepFlops:
    """Count the FLOPs of a run's method.

    Raises:
        UserError: the method is not a JEPA.
    """
    method = config.method
    if isinstance(method, IJepaConfig | VJepaConfig):
        return StepFlops(count_flops(config, without_regularizer(method)), 0)
    if not isinstance(method, HJepaConfig):
        raise UserError(f"method.name is {method.name}, but only steps of JEPAs can be counted: give a recipe of a JEPA")
    levels = [without_regularizer(level) for level in method.levels]
    flops = {top: count_flops(config, method.model_copy(update={"levels": levels[:top]})) for top in {1, len(levels)}}
    return StepFlops(flops[len(levels)], flops[len(levels)] - flops[1])


def without_regularizer(config: Prediction) -> Prediction:
    # A regularizer samples directions and evaluates a test, neither of which the meta device can do.
    return config.model_copy(update={"regularizer": NoRegularizer()})


def count_flops(config: RunConfig, method: AnyJepaConfig) -> int:
    """Return the FLOPs per sample of one step of a method on the views and masks of a run."""
    with torch.device("meta"):
        network = build_method(method)
        views = [torch.empty(SAMPLES, *shape) for shape in view_shapes(config)]
    set_fused_attn(network, fused=False)  # torch does not count fused attention on every device
    masks = sample_masks(config, build_mask_samplers(method), SAMPLES)
    masks = [Masks(*(part.to("meta") for part in mask_set)) for mask_set in masks]
    batch = Batch(views, masks, None, [str(number) for number in range(SAMPLES)], [])
    with FlopCounterMode(display=False) as counter:
        torch.stack([*network(batch, step=0, seed=0).losses.values()]).sum().backward()
    return counter.get_total_flops() // SAMPLES


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def table(recipes: Annotated[list[Path], typer.Argument(help="YAML recipes of JEPAs, or run folders.")]) -> None:
    """Print the GFLOP of one training step per sample, and for stacks the share of the levels above the first."""
    rows = Table("recipe", "GFLOP per sample", "levels above the first")
    for path in recipes:
        flops = count_step(load_config(path))
        rows.add_row(path.stem, f"{flops.step / 1e9:,.1f}", f"{flops.above / flops.step:.1%}")
    Console().print(rows)


def main() -> None:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
