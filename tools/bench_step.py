"""Where the time of an optimiser step goes: python tools/bench_step.py CONFIG [KEY=VALUE ...] [--steps 10] [--synthetic].

The steps are those of a run: Lightning drives the module of training/ over the loader of data/, and the module marks the time as
it goes by. Every second step is marked at its end alone, so that what marking costs can be seen. Nothing is written.
"""

import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.collate import MaskSampler
from jepa_pipeline.data.loader import loader, train_loader
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.masks.build import method_masks
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.attention import use_attention
from jepa_pipeline.pretrain import choose_accelerator, prepare
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.processes import World
from jepa_pipeline.training.trainer import build_trainer

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, address="127.0.0.1", port=0, started_by="hand")
WARM_UP = 2
REST = "rest of the loop"
MATMUL = {"cpu": 2048, "cuda": 8192}
ATTENTION_ON_CPU = {  # torch counts the fused attention of CUDA alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}


class Attention(StrEnum):
    fused = "fused"
    plain = "plain"


class Timeline:
    """Readings of a clock along optimiser steps: of its parts in every second step, and of its end alone in the others."""

    def __init__(self, now: Callable[[], Any], between: Callable[[Any, Any], float]) -> None:
        self.now = now
        self.between = between
        self.steps: list[list[tuple[str, Any]]] = [[]]

    def mark(self, part: str) -> None:
        """What went by since the mark before was `part`."""
        if len(self.steps) % 2:
            self.steps[-1].append((part, self.now()))

    def end_step(self, part: str) -> None:
        end = (part, self.now())
        self.steps[-1].append(end)
        self.steps.append([end])

    def wholes(self, skip: int) -> list[float]:
        """The steps after the first `skip` that were marked at their ends alone."""
        return [self.between(step[0][1], step[-1][1]) for step in self.steps[skip:-1] if len(step) == 2]

    def parts(self, skip: int) -> list[dict[str, float]]:
        """The parts of the other steps."""
        return [self.split(step) for step in self.steps[skip:-1] if len(step) > 2]

    def split(self, step: list[tuple[str, Any]]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for (_, start), (part, end) in pairwise(step):
            sums[part] = sums.get(part, 0.0) + self.between(start, end)
        return sums


def milliseconds(accelerator: str) -> Timeline:
    """Host time on a CPU; on a GPU events in its own queue, for which nobody waits before the run is over."""
    if accelerator == "cpu":
        return Timeline(time.perf_counter, lambda start, end: 1e3 * (end - start))

    def record() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return Timeline(record, lambda start, end: start.elapsed_time(end))


class Marked(Pretraining):
    """Pretraining that marks what it did. A method's networks are its children, which it calls through forward."""

    timeline: Timeline

    def __init__(self, config: RunConfig, method: Any) -> None:
        super().__init__(config, method)
        mark: Any = torch.compiler.disable(lambda part: self.timeline.mark(part))  # a compiled network is not to trace it
        for name, network in method.named_children():
            if next(network.parameters(), None) is None:
                continue
            network.register_forward_pre_hook(lambda *_: mark("loss"))
            network.register_forward_hook(lambda *_, part=f"{name} forward": mark(part))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.timeline.mark(REST)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.timeline.mark("data")
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.timeline.mark("transfer, normalise")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.timeline.mark(REST)
        loss = super().training_step(batch, batch_idx)
        self.timeline.mark("loss")
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        self.timeline.mark(REST)

    def on_after_backward(self) -> None:
        self.timeline.mark("backward")

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.timeline.mark(REST)

    def configure_optimizers(self) -> Optimizer:
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(lambda *_: self.timeline.mark("optimiser"))
        return optimizer

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, *args)
        self.timeline.end_step("EMA")


class Part(NamedTuple):
    ms: float
    flops: float


class Report(NamedTuple):
    """Medians over steps.

    attention_flops: how many of the parts' FLOPs the counter saw in attention; peak: FLOP/s; fused: attention was torch's call.
    """

    parts: dict[str, Part]
    whole_ms: float
    masks_ms: float
    loader_ms: float
    attention_flops: float
    peak: float
    fused: bool


class OneBatch(Dataset[Batch]):
    """Random pixels and real masks, the same batch for every number."""

    def __init__(self, config: RunConfig, masks: Sequence[MaskSampler]) -> None:
        sizes = config.views.sizes(config.method.encoder.image_size)
        images = config.optim.batch_size_global // config.optim.accumulate_steps
        encoder = config.method.encoder
        time = [encoder.frames] if isinstance(encoder, EncoderConfig) and encoder.clips else []
        views = [torch.randint(256, (images, 3, *time, size, size), dtype=torch.uint8) for size in sizes]
        self.batch = Batch(views, draw_masks(config, masks, images), None, [str(number) for number in range(images)], [])

    def __getitems__(self, numbers: list[int]) -> Batch:
        return self.batch


def draw_masks(config: RunConfig, masks: Sequence[MaskSampler], images: int) -> list[Masks]:
    """Those of all views of a batch; none for a method without masks."""
    views = range(len(config.views.kinds))
    generators = [keyed_generator(config.seed, Stream.MASK, 0, number, view) for view in views for number in range(images)]
    return [sampler(generators, 0) for sampler in masks]


def measure(config: RunConfig, steps: int, synthetic: bool, attention: Attention | None) -> Report:
    """Measure `steps` optimiser steps by parts and as many as wholes.

    Raises:
        UserError: the device or the shards are not there.
    """
    accelerator = choose_accelerator(config)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    config = lengthen(config, 2 * steps + WARM_UP + config.data.workers)
    masks, optim = method_masks(config.method), config.optim
    one = loader(OneBatch(config, masks), [[0]] * optim.total_steps * optim.accumulate_steps, workers=0)
    uncut, pin_memory = config.views.on_trainer(accelerator), accelerator == "cuda"
    real = one if synthetic else train_loader(config, masks, pin_memory=pin_memory, uncut=uncut)
    module = Marked(config, prepare(build_method(config.method), config, accelerator, local_size=1))
    if attention is not None:
        use_attention(module, fused=attention is Attention.fused)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        flops = run(module, one, Timeline(counter.get_total_flops, lambda start, end: end - start), 1, accelerator)
    counts = counter.get_flop_counts()["Global"].items()
    torch.compiler.reset()  # under the counter compilation was given up, and it would not be tried again
    times = run(module, real, milliseconds(accelerator), 2 * steps + WARM_UP, accelerator)
    return Report(
        parts=combine(times.parts(WARM_UP), flops.parts(0)[0]),
        whole_ms=median(times.wholes(WARM_UP)),
        masks_ms=time_masks(config, masks, steps),
        loader_ms=time_loader(real, config, steps),
        attention_flops=sum(count for operator, count in counts if "bmm" in str(operator) or "attention" in str(operator)),
        peak=matmul_peak(accelerator, config.trainer.precision),
        fused=any(getattr(layer, "fused_attn", False) for layer in module.modules()),
    )


def lengthen(config: RunConfig, steps: int) -> RunConfig:
    """The run with at least that many steps, so that the stream does not end while it is measured."""
    total = max(config.optim.total_samples, steps * config.optim.batch_size_global)
    return config.model_copy(update={"optim": config.optim.model_copy(update={"total_samples": total})})


def run(module: Marked, batches: DataLoader[Batch], timeline: Timeline, steps: int, accelerator: str) -> Timeline:
    """Train for that many optimiser steps, as `jepa pretrain` does but without its log and its checkpoints."""
    config, module.timeline = module.config, timeline
    trainer = build_trainer(config, accelerator, ALONE, steps, callbacks=[])
    trainer.fit(module, batches)
    if accelerator == "cuda":
        torch.cuda.synchronize()
    return timeline


def combine(steps: list[dict[str, float]], flops: dict[str, float]) -> dict[str, Part]:
    parts = sorted(steps[0], key=REST.__eq__)  # the rest comes last
    return {part: Part(median(step[part] for step in steps), flops.get(part, 0.0)) for part in parts}


def time_masks(config: RunConfig, masks: Sequence[MaskSampler], repeats: int) -> float:
    """Milliseconds in which one process draws the masks of a global batch."""
    return median(elapsed(lambda: draw_masks(config, masks, config.optim.batch_size_global)) for _ in range(repeats))


def time_loader(batches: DataLoader[Batch], config: RunConfig, count: int) -> float:
    """Milliseconds in which the loader makes a global batch while nobody else computes."""
    stream, parts = iter(batches), config.optim.accumulate_steps
    for _ in islice(stream, 1 + config.data.workers):  # the workers start
        pass
    return elapsed(lambda: list(islice(stream, count))) * parts / count


def matmul_peak(accelerator: str, precision: str) -> float:
    """FLOP/s of the fastest of a few large matrix products, in the networks' precision and on the step's threads."""
    size = MATMUL[accelerator]
    left = torch.randn(size, size, device=accelerator, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)

    def product() -> None:
        _ = left @ left
        if accelerator == "cuda":
            torch.cuda.synchronize()

    return 2e3 * size**3 / min(elapsed(product) for _ in range(4))


def elapsed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def as_table(report: Report, title: str, images: int) -> Table:
    """One row a part, then the whole, the floor, and what the data costs beside the step."""
    table = Table("part", title=title)
    for column in ("ms", "share", "GFLOP", "GFLOP/s", "images/s"):
        table.add_column(column, justify="right")

    def add(name: str, ms: float, flops: float = 0.0, speed: bool = False, **style: Any) -> None:
        counted = (f"{flops / 1e9:,.4g}", f"{flops / ms / 1e6:,.4g}") if flops else ("", "")
        table.add_row(name, f"{ms:,.4g}", f"{ms / total.ms:.1%}", *counted, f"{1e3 * images / ms:,.4g}" if speed else "", **style)

    total = Part(*map(sum, zip(*report.parts.values(), strict=True)))
    for name, part in report.parts.items():
        add(name, *part)
    table.add_section()
    add("sum of the parts", *total, speed=True)
    add("whole, parts unmarked", report.whole_ms, total.flops, speed=True)
    add("floor: matmul's peak", 1e3 * total.flops / report.peak, total.flops, speed=True)
    table.add_section()
    add("loader alone", report.loader_ms, speed=True)
    add("masks alone, one process", report.masks_ms, speed=True)
    table.caption = f"{report.attention_flops / total.flops:.1%} of the FLOPs counted are attention's own products"
    return table


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as those in configs/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted assignments laid over the recipe.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps measured by parts, and as many measured whole.")] = 10,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="One random batch again and again; no shards are needed.")] = False,
    attention: Annotated[Attention | None, typer.Option(help="How attention is computed; as the run would unless said.")] = None,
) -> None:
    """Print where the time of one optimiser step of a recipe goes."""
    config = load_config(recipe, overrides or [])
    report = measure(config, steps, synthetic, attention)
    images, kind = config.optim.batch_size_global, "fused" if report.fused else "plain"
    how = f"{choose_accelerator(config)}, {config.trainer.precision}, {kind} attention, threads: {torch.get_num_threads()}"
    Console().print(as_table(report, f"one step of {config.name}: {images} images, {how}", images))


def main() -> None:
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
