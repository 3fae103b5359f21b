"""Where the time of an optimizer step goes: python tools/bench_step.py CONFIG [KEY=VALUE ...] [--steps 10] [--synthetic].

The steps are those of a run: Lightning drives the module of training/ over the loader of data/, and the module marks the time as
it goes by. Every second step is marked at its end alone, so that what marking costs can be seen. Nothing is written.

Of a stack (hjepa) a second table says what each level adds to a step and to its memory (level_costs.py).
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from level_costs import compare_levels, levels_table
from rich.console import Console
from rich.table import Table
from timed_steps import OneBatch, Timed, Timeline, draw_masks, lengthen, milliseconds, run
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.loader import build_batch_sampler, build_loader, train_loader
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.setup import choose_accelerator

WARM_UP = 2
REST = "rest of the loop"
LEVEL = re.compile(r"levels\.(\d+)\.")
MATMUL = {"cpu": 2048, "cuda": 8192}
ATTENTION_ON_CPU = {  # torch counts the fused attention of CUDA alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}


class Attention(StrEnum):
    fused = "fused"
    plain = "plain"


class Marked(Timed):
    """Pretraining that marks what it did. It calls a method's networks through forward."""

    def __init__(self, config: RunConfig, method: Any) -> None:
        super().__init__(config, method)
        mark: Any = torch.compiler.disable(lambda part: self.timeline.mark(part))  # a compiled network is not to trace it
        names = {network: name for name, network in method.named_modules()}
        for network in method.networks():
            if next(network.parameters(), None) is None:
                continue
            name = LEVEL.sub(lambda level: f"level{int(level[1]) + 1}/", names[network])
            network.register_forward_pre_hook(lambda *_: mark("loss"))
            network.register_forward_hook(lambda *_, part=f"{name} forward": mark(part))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.timeline.mark(REST)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.timeline.mark("data")
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.timeline.mark("transfer, normalize")

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
        optimizer.register_step_post_hook(lambda *_: self.timeline.mark("optimizer"))
        return optimizer


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


def measure(config: RunConfig, steps: int, synthetic: bool, attention: Attention | None) -> Report:
    """Measure `steps` optimizer steps by parts and as many as wholes.

    Raises:
        UserError: the device or the shards are not there.
    """
    accelerator = choose_accelerator(config.trainer.accelerator)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    config = lengthen(config, 2 * steps + WARM_UP + config.data.workers)
    masks, optim = build_mask_samplers(config.method), config.optim
    one = build_loader(OneBatch(config, masks), [[0]] * optim.total_steps * optim.accumulate_steps, workers=0)
    uncut, pin_memory = config.views.on_trainer(accelerator), accelerator == "cuda"
    real = one
    if not synthetic:
        real = train_loader(
            config.data,
            config.views,
            config.method,
            masks,
            build_batch_sampler(optim),
            seed=config.seed,
            pin_memory=pin_memory,
            crop_on_device=uncut,
        )
    module = Marked(config, parallelize(build_method(config.method), config.trainer, accelerator, local_size=1))
    if attention is not None:
        set_fused_attn(module, fused=attention is Attention.fused)
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
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted assignments that override the recipe.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps measured by parts, and as many measured whole.")] = 10,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="One random batch again and again; no shards are needed.")] = False,
    attention: Annotated[Attention | None, typer.Option(help="Attention kernel; default: as the run would choose.")] = None,
) -> None:
    """Print where the time of one optimizer step of a recipe goes; of a stack also what each level adds."""
    config, console = load_config(recipe, overrides or []), Console()
    report = measure(config, steps, synthetic, attention)
    images, kind = config.optim.batch_size_global, "fused" if report.fused else "plain"
    device, threads = choose_accelerator(config.trainer.accelerator), torch.get_num_threads()
    how = f"{device}, {config.trainer.precision}, {kind} attention, threads: {threads}"
    console.print(as_table(report, f"one step of {config.name}: {images} images, {how}", images))
    if isinstance(config.method, HJepaConfig):
        console.print(levels_table(compare_levels(config, steps, report.fused), f"what each level adds to a step of {config.name}"))


def main() -> None:
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
