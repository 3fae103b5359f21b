"""GFLOP of one training step, a sample: python tools/count_flops.py CONFIG [CONFIG ...].

Those of the products of matrices, forward and backward, as torch counts them on its meta device, where nothing is computed, so that
any size is counted in seconds. Of a stack also the share of the levels above the first: what a step costs beyond one of the first
level alone, the passes that the levels above make through those below included. Regularizers are left out.
"""

import sys
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import IJepaConfig, NoRegularizer, PredictionConfig, VJepaConfig
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn

AnyJepaConfig = IJepaConfig | VJepaConfig | HJepaConfig
Prediction = TypeVar("Prediction", bound=PredictionConfig)
SAMPLES = 2
"""Of a batch."""


class Cost(NamedTuple):
    """FLOPs of one training step, a sample. above: those that levels above the first add."""

    step: int
    above: int


def cost(config: RunConfig) -> Cost:
    """Of the run's method, without regularizers.

    Raises:
        UserError: the method is no JEPA.
    """
    method = config.method
    if isinstance(method, IJepaConfig | VJepaConfig):
        return Cost(count(config, bare(method)), 0)
    if not isinstance(method, HJepaConfig):
        raise UserError(f"method.name is {method.name}, but only the steps of JEPAs are counted here: give a recipe of one")
    levels = [bare(level) for level in method.levels]
    upto = {top: count(config, method.model_copy(update={"levels": levels[:top]})) for top in {1, len(levels)}}
    return Cost(upto[len(levels)], upto[len(levels)] - upto[1])


def bare(config: Prediction) -> Prediction:
    """Without its regularizer, whose random directions and test of a distribution cannot be had without computing."""
    return config.model_copy(update={"regularizer": NoRegularizer()})


def count(config: RunConfig, method: AnyJepaConfig) -> int:
    """FLOPs of one step of the run, a sample, if its method were this one."""
    with torch.device("meta"):
        network = build_method(method)
    set_fused_attn(network, fused=False)  # torch does not see the products in a fused call on every device
    batch = meta_batch(config, method)
    with FlopCounterMode(display=False) as counter:
        torch.stack([*network(batch, step=0, seed=0).losses.values()]).sum().backward()
    return counter.get_total_flops() // SAMPLES


def meta_batch(config: RunConfig, method: AnyJepaConfig) -> Batch:
    """Views and masks of a batch, of which there is nothing but their shapes."""
    encoder, kinds = method.encoder, range(len(config.views.kinds))
    time = [encoder.frames] if encoder.modality.has_time else []
    views = [torch.empty(SAMPLES, 3, *time, size, size, device="meta") for size in config.views.sizes(encoder.image_size)]
    generators = [keyed_generator(config.seed, Stream.MASK, 0, number, view) for view in kinds for number in range(SAMPLES)]
    masks = [Masks(*(part.to("meta") for part in sampler(generators, 0))) for sampler in build_mask_samplers(method)]
    return Batch(views, masks, None, [str(number) for number in range(SAMPLES)], [])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def table(recipes: Annotated[list[Path], typer.Argument(help="YAML recipes of JEPAs, or run folders.")]) -> None:
    """Print GFLOP of one training step, a sample, and of a stack the share of the levels above the first."""
    rows = Table("recipe", "GFLOP a sample", "of the levels above")
    for path in recipes:
        step, above = cost(load_config(path))
        rows.add_row(path.stem, f"{step / 1e9:,.1f}", f"{above / step:.1%}")
    Console().print(rows)


def main() -> None:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
