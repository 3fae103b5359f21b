"""Measure the speed and memory of training a JEPA on one device, in every mode of training: a table in Markdown.

    python tools/bench_speed.py configs/ijepa_vits16.yaml optim.batch_size_global=256 --arch vit_base --arch vit_large

Each measurement builds the networks anew and parallelizes them as a run does (training/parallel.py); Lightning drives the module
of training/ over one random batch with real masks. All modes take turns in each of several rounds, so that other load on the
machine affects them equally. Figures are medians over rounds with their range; ratios are taken within a round.

MFU is the share of the device's peak that the arithmetic of the step needs (PaLM, Chowdhery et al. 2022, appendix B):
recomputation by activation checkpointing does not count.
"""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from count_flops import count_step
from timed_steps import RepeatedBatch, TimedPretraining, extend_run, millisecond_timeline, repeated_batches, train_steps

from jepa_pipeline.batch import Masks
from jepa_pipeline.cli import leave
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import JepaConfig
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import Architecture
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.training.device_peak import known_peak
from jepa_pipeline.training.environment import git_state
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.processes import RankInfo, process_group, read_rank_info
from jepa_pipeline.training.setup import choose_accelerator

WARM_UP = 3
MODES = {
    "plain": {},
    "compiled": {"compile": True},
    "checkpointed": {"checkpoint_activations": True},
    "fsdp2": {"strategy": "fsdp2"},
    "compiled, checkpointed": {"compile": True, "checkpoint_activations": True},
    "compiled, fsdp2": {"compile": True, "strategy": "fsdp2"},
    "compiled, checkpointed, fsdp2": {"compile": True, "checkpoint_activations": True, "strategy": "fsdp2"},
}


class Measurement(NamedTuple):
    """Speed and memory of one mode in one round.

    Attributes:
        images_per_s: of the median step.
        peak_bytes: largest size of all tensors within a step; None on CPUs.
    """

    images_per_s: float
    peak_bytes: int | None


Rounds = dict[str, list[Measurement | None]]
"""Measurement of each round by mode; None if memory ran out."""


def blocks_flops(tokens: int, dim: int, depth: int, ratio: float) -> float:
    """Return the FLOPs of one sequence in a forward pass.

    A block has 4 D^2 weights in attention and 2 r D^2 in the MLP, each with one multiplication and one addition per token;
    queries times keys and attention times values are 2 N^2 D each.
    """
    return depth * (2 * tokens * dim**2 * (4 + 2 * ratio) + 4 * tokens**2 * dim)


def step_flops(config: JepaConfig, masks: Sequence[Masks]) -> float:
    """Return the FLOPs of one image or clip in one step, whose mask sets have K context tokens and G target blocks of M tokens.

    encoder, forward and backward on the context:   patches of all N tokens, 2 x;  blocks of K, 3 x
    target, forward on all tokens:                  patches and blocks of N, 1 x;  shared with a gradient: 2 x and 3 x
    predictor, forward and backward:                G sequences of K + M tokens, K in and G M out, 3 x

    The backward pass has two products for each one of the forward pass, for the gradients of weights and inputs (Kaplan et al.
    2020, section 2.1); pixels have no gradient. Recomputation is not counted, nor are operations other than matrix products
    (norms, softmax, GELU, positions, prediction error, optimizer, EMA) and regularizers with their expanders.
    """
    (dim, depth, _, ratio), (time, rows, columns) = config.encoder.size, config.encoder.clip_grid
    predictor, tokens = config.predictor, time * rows * columns
    patches = 2 * tokens * config.encoder.in_channels * config.encoder.tubelet_size * config.encoder.patch_size**2 * dim
    shared = config.target == "shared"
    flops = (2 if shared else 1) * patches + (3 if shared else 1) * blocks_flops(tokens, dim, depth, ratio) + 2 * patches
    for mask_set in masks:
        context, (blocks, target) = mask_set.context.shape[1], mask_set.targets.shape[1:]
        flops += 3 * blocks_flops(context, dim, depth, ratio)
        flops += 3 * 2 * (context + blocks * target) * dim * predictor.embed_dim
        flops += 3 * blocks * blocks_flops(context + target, predictor.embed_dim, predictor.depth, predictor.mlp_ratio)
    return flops


def image_flops(config: RunConfig) -> float:
    """Return the FLOPs of all views of an image in one step.

    Raises:
        UserError: the method is not a JEPA.
    """
    if isinstance(config.method, HJepaConfig):
        return count_step(config).step
    if not isinstance(config.method, JepaConfig):
        raise UserError(f"method.name is {config.method.name}, but only the FLOPs of JEPAs are known: give a recipe of a JEPA")
    return len(config.views.kinds) * step_flops(config.method, RepeatedBatch(config).batch.masks)


def measure(config: RunConfig, info: RankInfo, device: str, steps: int) -> Measurement | None:
    """Build the networks and train for WARM_UP + `steps` steps; return the figures of the last, or None if memory ran out."""
    total = WARM_UP + steps
    config = extend_run(config, total)
    torch.manual_seed(config.seed)
    torch.compiler.reset()
    batches = repeated_batches(config, total, pin_memory=device == "cuda")
    try:
        method = parallelize(build_method(config.method), config.trainer, device, info.local_world_size)
        module = TimedPretraining(config, method, warm_up=WARM_UP)
        step_ms = median(train_steps(module, batches, millisecond_timeline(device), total, device, info).step_times(WARM_UP))
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        return Measurement(1e3 * config.optim.batch_size_global / step_ms, peak)
    except torch.OutOfMemoryError:
        return None


def compare(config: RunConfig, modes: Sequence[str], device: str, steps: int, rounds: int) -> Rounds:
    """Measure all modes of one recipe in turns."""
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    single = config.trainer.model_copy(update={"devices": 1, "nodes": 1})
    measured: Rounds = {mode: [] for mode in modes}
    with process_group(read_rank_info(single), device, always=True) as processes:
        for _ in range(rounds):
            for mode in modes:
                plain = {"compile": False, "checkpoint_activations": False, "strategy": "auto"}
                trainer = single.model_copy(update=plain | MODES[mode])
                measured[mode].append(measure(config.model_copy(update={"trainer": trainer}), processes.info, device, steps))
                gc.collect()  # trainer and module refer to each other
                if device == "cuda":
                    torch.cuda.empty_cache()
    return measured


def peak_flops(device: str, precision: str, tflops: float | None) -> float | None:
    """Return the FLOP/s of the device, given in TFLOP/s or known from its name, or None if unknown."""
    if tflops is not None:
        return 1e12 * tflops
    return None if device == "cpu" else known_peak(torch.cuda.get_device_name(), precision)


def table_rows(title: str, modes: Rounds, flops: float, peak: float | None) -> list[str]:
    """Return a row for each mode; ratios are to the first mode in the same round."""
    rows, first = [], next(iter(modes.values()))
    for mode, rounds in modes.items():
        complete = [measured for measured in rounds if measured is not None]
        if len(complete) < len(rounds):
            rows.append(f"| {title} | {mode} | out of memory | - | - | - |")
            continue
        speeds = [measured.images_per_s for measured in complete]
        ratios = [speed / base.images_per_s for speed, base in zip(speeds, first, strict=True) if base is not None]
        mfu = f"{median(speeds) * flops / peak:.1%}" if peak else "-"
        memory = [measured.peak_bytes for measured in complete if measured.peak_bytes is not None]
        peak_memory = f"{max(memory) / 2**30:.1f} GiB" if memory else "-"
        rows.append(f"| {title} | {mode} | {spread(speeds, ',.4g')} | {spread(ratios, '.2f')} | {mfu} | {peak_memory} |")
    return rows


def spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})" if values else "-"


def describe(device: str, precision: str, peak: float | None, steps: int, rounds: int) -> str:
    """Return the device, precision, versions and number of rounds in words."""
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
    arch: Annotated[list[str] | None, typer.Option(help="Encoder by name instead of the recipe's; may be repeated.")] = None,
    modes: Annotated[list[str] | None, typer.Option("--way", help=f"Mode; may be repeated; default: {'; '.join(MODES)}.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps per measurement.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each mode, in turns.")] = 3,
    peak: Annotated[float | None, typer.Option(help="The device's peak in TFLOP/s; default: from its name.")] = None,
) -> None:
    """Print images/s, MFU and peak memory of each mode of training a recipe on one device."""
    modes = modes or list(MODES)
    if unknown := [name for name in modes if name not in MODES]:
        raise UserError(f"--way is {unknown[0]!r}: choose one of {'; '.join(MODES)}")
    archs: list[Architecture | str | None] = [*arch] if arch else [None]
    configs = [load_config(recipe, [*(overrides or []), *([f"method.encoder.arch={name}"] if name else [])]) for name in archs]
    device, precision = choose_accelerator(configs[0].trainer.accelerator), configs[0].trainer.precision
    peak_rate = peak_flops(device, precision, peak)
    rows = ["| recipe | mode | images/s | relative to the first | MFU | peak memory |", "|---|---|---|---|---|---|"]
    for name, config in zip(archs, configs, strict=True):
        flops, images = image_flops(config), config.optim.batch_size_global // config.optim.accumulate_steps
        title = f"`{config.name}`{f', {name}' if name else ''}, micro-batch {images}, {flops / 1e9:,.4g} GFLOP per image"
        rows += table_rows(title, compare(config, modes, device, steps, rounds), flops, peak_rate)
    print(describe(device, precision, peak_rate, steps, rounds), "", *rows, sep="\n")


def main() -> None:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(error, file=sys.stderr)
        leave(2)
    leave(0)


if __name__ == "__main__":
    main()
