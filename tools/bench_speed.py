"""How fast one device trains a JEPA, and in how much memory, in each of the ways there are: a table in Markdown.

    python tools/bench_speed.py configs/ijepa_vits16.yaml optim.batch_size_global=256 --arch vit_base --arch vit_large

Each measurement builds the networks anew and spreads them as a run does (training/parallel.py); Lightning drives the module of
training/ over one random batch with real masks. All ways take turns in each of several rounds, so that what else the machine does
meets all of them. A figure is the median of the rounds with the least and the largest; a ratio is taken within a round.

MFU is the share of the device's peak that the arithmetic of the step needs (PaLM, Chowdhery et al. 2022, appendix B): what
activation checkpointing computes again does not count.
"""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from count_flops import cost
from timed_steps import OneBatch, lengthen, milliseconds

from jepa_pipeline.batch import Masks
from jepa_pipeline.cli import leave
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import JepaConfig
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import Architecture
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.loader import build_loader
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.training.environment import git_state
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.processes import RankInfo, process_group, read_rank_info
from jepa_pipeline.training.setup import choose_accelerator
from jepa_pipeline.training.trainer import build_trainer

WARM_UP = 3
WAYS = {
    "plain": {},
    "compiled": {"compile": True},
    "checkpointed": {"checkpoint_activations": True},
    "fsdp2": {"strategy": "fsdp2"},
    "compiled, checkpointed": {"compile": True, "checkpoint_activations": True},
    "compiled, fsdp2": {"compile": True, "strategy": "fsdp2"},
    "compiled, checkpointed, fsdp2": {"compile": True, "checkpoint_activations": True, "strategy": "fsdp2"},
}
PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "RTX 4090": 165,
}
"""TFLOP/s of bf16 products of dense matrices, from NVIDIA's data sheets, by what a GPU's name holds; the first that fits."""


class Measurement(NamedTuple):
    """images_per_s: of the median step; peak_bytes: the most that tensors took in a step, None on a CPU."""

    images_per_s: float
    peak_bytes: int | None


Rounds = dict[str, list[Measurement | None]]
"""By way, what each round measured; None where memory was too little."""


class Clocked(Pretraining):
    """Pretraining that reads a clock after every optimizer step, and forgets the memory that the first few took."""

    def start(self, device: str) -> None:
        self.timeline, self.readings = milliseconds(device), []

    def optimizer_step(self, *args: object) -> None:
        super().optimizer_step(*args)  # pyright: ignore[reportArgumentType]
        self.readings.append(self.timeline.now())
        if self.step == WARM_UP and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def step_ms(self) -> float:
        """Of the median step after the warm-up."""
        pairs = zip(self.readings[WARM_UP - 1 :], self.readings[WARM_UP:], strict=False)
        return median(self.timeline.between(*pair) for pair in pairs)


def blocks_flops(tokens: int, dim: int, depth: int, ratio: float) -> float:
    """Forward, of one sequence: the weights of a block are 4 D^2 in attention and 2 r D^2 in the MLP, each of them one
    multiplication and one addition a token; queries times keys and attention times values are 2 N^2 D each.
    """
    return depth * (2 * tokens * dim**2 * (4 + 2 * ratio) + 4 * tokens**2 * dim)


def step_flops(config: JepaConfig, masks: Sequence[Masks]) -> float:
    """Of one image or clip in one step, from its masks: of each set K tokens are seen, and G blocks of M are asked for.

    encoder forward and backward on what is seen:   patches of all N tokens, 2 x;  blocks of K, 3 x
    target forward on all:                          patches and blocks of N, 1 x;  shared with a gradient: 2 x and 3 x
    predictor forward and backward:                 G sequences of K + M tokens, K in and G M out, 3 x

    The backward pass is two products for each of the forward one's, for the weights' and for the inputs' gradient (Kaplan et al.
    2020, section 2.1); the pixels have none. Recomputation is not counted. Left out is what is no product of matrices (norms,
    softmax, GELU, positions, prediction error, optimizer, EMA) and all of a regularizer, an expander's layers too.
    """
    (dim, depth, _, ratio), (time, rows, columns) = config.encoder.size, config.encoder.clip_grid
    predictor, tokens = config.predictor, time * rows * columns
    patches = 2 * tokens * 3 * config.encoder.tubelet_size * config.encoder.patch_size**2 * dim
    shared = config.target == "shared"
    flops = (2 if shared else 1) * patches + (3 if shared else 1) * blocks_flops(tokens, dim, depth, ratio) + 2 * patches
    for one in masks:
        seen, (groups, asked) = one.context.shape[1], one.targets.shape[1:]
        flops += 3 * blocks_flops(seen, dim, depth, ratio)
        flops += 3 * 2 * (seen + groups * asked) * dim * predictor.embed_dim
        flops += 3 * groups * blocks_flops(seen + asked, predictor.embed_dim, predictor.depth, predictor.mlp_ratio)
    return flops


def image_flops(config: RunConfig) -> float:
    """Of all views of an image in one step.

    Raises:
        UserError: the method is no JEPA and no stack of them, whose arithmetic alone is known here.
    """
    if isinstance(config.method, HJepaConfig):
        return cost(config).step
    if not isinstance(config.method, JepaConfig):
        raise UserError(f"method.name is {config.method.name}, but only a JEPA's arithmetic is known here: give a recipe of one")
    return len(config.views.kinds) * step_flops(config.method, OneBatch(config, build_mask_samplers(config.method)).batch.masks)


def measure(config: RunConfig, info: RankInfo, device: str, steps: int) -> Measurement | None:
    """Build it and take WARM_UP steps, of which nothing is kept, and then so many; None if the GPU's memory is too little."""
    config = lengthen(config, WARM_UP + steps)
    torch.manual_seed(config.seed)
    torch.compiler.reset()
    numbers = [[0]] * (WARM_UP + steps) * config.optim.accumulate_steps
    batches = build_loader(OneBatch(config, build_mask_samplers(config.method)), numbers, workers=0, pin_memory=device == "cuda")
    try:
        method = parallelize(build_method(config.method), config.trainer, device, info.local_world_size)
        module = Clocked(method, config.optim, config.views, config.seed)
        module.start(device)
        trainer = build_trainer(config.trainer, device, info, WARM_UP + steps, config.optim.accumulate_steps, callbacks=[])
        trainer.fit(module, batches)
        if device == "cuda":
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        return Measurement(1e3 * config.optim.batch_size_global / module.step_ms(), peak)
    except torch.OutOfMemoryError:
        return None


def compare(config: RunConfig, ways: Sequence[str], device: str, steps: int, rounds: int) -> Rounds:
    """All ways of one recipe, in turns."""
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    alone = config.trainer.model_copy(update={"devices": 1, "nodes": 1})
    found: Rounds = {way: [] for way in ways}
    with process_group(read_rank_info(alone), device, always=True) as processes:
        for _ in range(rounds):
            for way in ways:
                plain = {"compile": False, "checkpoint_activations": False, "strategy": "auto"}
                trainer = alone.model_copy(update=plain | WAYS[way])
                found[way].append(measure(config.model_copy(update={"trainer": trainer}), processes.info, device, steps))
                gc.collect()  # what was built holds itself
                if device == "cuda":
                    torch.cuda.empty_cache()
    return found


def peak_flops(device: str, precision: str, said: float | None) -> float | None:
    """FLOP/s of the device as it was said or as its name tells; None where neither does."""
    if said is not None:
        return 1e12 * said
    if device == "cpu" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name()
    return next((1e12 * peak for part, peak in PEAKS.items() if part in name), None)


def as_rows(title: str, found: Rounds, flops: float, peak: float | None) -> list[str]:
    """A line of the table for each way; the ratio is to the first way in the same round."""
    rows, first = [], next(iter(found.values()))
    for way, measured in found.items():
        kept = [one for one in measured if one is not None]
        if len(kept) < len(measured):
            rows.append(f"| {title} | {way} | out of memory | - | - | - |")
            continue
        speeds = [one.images_per_s for one in kept]
        ratios = [one.images_per_s / beside.images_per_s for one, beside in zip(kept, first, strict=True) if beside is not None]
        mfu = f"{median(speeds) * flops / peak:.1%}" if peak else "-"
        memory = [one.peak_bytes for one in kept if one.peak_bytes is not None]
        taken = f"{max(memory) / 2**30:.1f} GiB" if memory else "-"
        rows.append(f"| {title} | {way} | {spread(speeds, ',.4g')} | {spread(ratios, '.2f')} | {mfu} | {taken} |")
    return rows


def spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})" if values else "-"


def describe(device: str, precision: str, peak: float | None, steps: int, rounds: int) -> str:
    """What it was measured on."""
    machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    known = f" of {peak / 1e12:,.4g} TFLOP/s" if peak else ""
    state = git_state()
    commit = "no commit" if state is None else f"commit {str(state['commit'])[:7]}{' with changes' if state['changed'] else ''}"
    return f"{machine}{known}, {precision}, torch {torch.__version__}, {commit}; {rounds} rounds of {steps} steps"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of a JEPA, such as configs/ijepa_vits16.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted assignments that override the recipe.")] = None,
    arch: Annotated[list[str] | None, typer.Option(help="Encoders in place of the recipe's, by name; again for each.")] = None,
    way: Annotated[list[str] | None, typer.Option(help=f"Ways to train, again for each; all of {'; '.join(WAYS)}.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a measurement.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each way, in turns.")] = 3,
    peak: Annotated[float | None, typer.Option(help="The device's peak in TFLOP/s, where its name does not tell.")] = None,
) -> None:
    """Print images/s, MFU and peak memory of each way to train a recipe on one device."""
    ways = way or list(WAYS)
    if unknown := [name for name in ways if name not in WAYS]:
        raise UserError(f"--way {unknown[0]!r} is none: it is one of {'; '.join(WAYS)}")
    archs: list[Architecture | str | None] = [*arch] if arch else [None]
    configs = [load_config(recipe, [*(overrides or []), *([f"method.encoder.arch={name}"] if name else [])]) for name in archs]
    device, precision = choose_accelerator(configs[0].trainer.accelerator), configs[0].trainer.precision
    most = peak_flops(device, precision, peak)
    rows = ["| recipe | way | images/s | beside the first | MFU | peak memory |", "|---|---|---|---|---|---|"]
    for name, config in zip(archs, configs, strict=True):
        flops, images = image_flops(config), config.optim.batch_size_global // config.optim.accumulate_steps
        title = f"`{config.name}`{f', {name}' if name else ''}, {images} at a time, {flops / 1e9:,.4g} GFLOP an image"
        rows += as_rows(title, compare(config, ways, device, steps, rounds), flops, most)
    print(describe(device, precision, most, steps, rounds), "", *rows, sep="\n")


def main() -> None:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(error, file=sys.stderr)
        leave(2)
    leave(0)


if __name__ == "__main__":
    main()
