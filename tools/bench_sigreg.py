"""Time SIGReg beside its definition, a sine and a cosine at every knot: python tools/bench_sigreg.py [--pairs 15].

Both are differentiated, in turns, and timed in processor time of one thread. The share of a step is that of LeJEPA's recipe for
Fashion-MNIST on one random batch: the time of its SIGReg over that of a whole step, of which the recipe computes one for each view.
"""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import torch
import typer
from timed_steps import TimedPretraining, Timeline, extend_run, repeated_batches, train_steps
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.methods import LeJEPAConfig
from jepa_pipeline.losses.sigreg import KNOTS, LAST_KNOT, random_slices, sigreg
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.training.environment import git_state

SIZES = ((256, 128, 1024), (128, 64, 256))
STEPS = 8


def by_definition(sample: Tensor, slices: Tensor) -> Tensor:
    """Return the statistic as it is written, with the sines and cosines of each knot computed again in the backward pass."""
    projected, knot = sample @ slices, LAST_KNOT / (KNOTS - 1)
    integral = projected.new_zeros(slices.shape[1])
    for n in range(1, KNOTS):
        weight = 2 * (knot if n < KNOTS - 1 else knot / 2) * math.exp(-((n * knot) ** 2) / 2)
        integral = integral + weight * checkpoint(squared_error, projected, n * knot, use_reentrant=False, preserve_rng_state=False)
    return len(sample) * integral.mean()


def squared_error(projected: Tensor, t: float) -> Tensor:
    angles = t * projected
    return (angles.cos().mean(dim=0) - math.exp(-t * t / 2)).square() + angles.sin().mean(dim=0).square()


def seconds(function: Callable[[Tensor, Tensor], Tensor], sample: Tensor, slices: Tensor) -> float:
    """Return the processor time of value and gradient."""
    sample = sample.clone().requires_grad_()
    start = time.process_time()
    function(sample, slices).backward()
    return time.process_time() - start


def compare(samples: int, width: int, directions: int, pairs: int) -> tuple[float, float]:
    """Return the median seconds of SIGReg, and the median ratio to the definition's."""
    generator = torch.Generator().manual_seed(0)
    sample, slices = torch.randn(samples, width, generator=generator), random_slices(width, directions, 0, torch.device("cpu"))
    both = [(seconds(sigreg, sample, slices), seconds(by_definition, sample, slices)) for _ in range(pairs + 2)][2:]
    return median(ours for ours, _ in both), median(ours / plain for ours, plain in both)


def step_seconds(recipe: str) -> tuple[float, float, float]:
    """Return the seconds of a step of a recipe, and those of its SIGReg here and by definition."""
    config = extend_run(load_config(recipe, ["data.train=nowhere", "trainer.accelerator=cpu", "trainer.threads=1"]), STEPS)
    module = TimedPretraining(config, build_method(config.method))
    timeline = Timeline(time.process_time, lambda start, end: end - start)  # as SIGReg is timed, whatever else the machine does
    step_s = median(train_steps(module, repeated_batches(config, STEPS), timeline, STEPS, "cpu").step_times(2))
    method, views = config.method, len(config.views.kinds)
    assert isinstance(method, LeJEPAConfig)
    ours, ratio = compare(config.optim.batch_size_global, method.projector.out, method.slices, 5)
    return step_s, views * ours, views * ours / ratio


def main(pairs: Annotated[int, typer.Option(min=1, help="Timed pairs.")] = 15) -> None:
    """Print the time of SIGReg relative to its definition, and its share of a step."""
    torch.set_num_threads(1)
    state = git_state()
    print(f"torch {torch.__version__}, one thread, commit {str(state['commit'])[:7] if state else 'unknown'}")
    for size in SIZES:
        ours, ratio = compare(*size, pairs)
        print(f"{size[0]} samples, width {size[1]}, {size[2]} slices: {1e3 * ours:.1f} ms, {ratio:.2f} of the definition's time")
    step_s, ours, plain = step_seconds("lejepa_fashion_mnist")
    shares = f"{ours / step_s:.1%} of it, and by definition would be {plain / (step_s - ours + plain):.1%}"
    print(f"a step of LeJEPA takes {step_s:.2f} s: SIGReg is {shares}")


if __name__ == "__main__":
    typer.run(main)
