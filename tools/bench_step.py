"""Profile an optimizer step by parts: python tools/bench_step.py CONFIG [KEY=VALUE ...] [--steps 10] [--synthetic].

The steps are those of a run: Lightning drives the module of training/ over the loader of data/, and the module marks the time
between the parts. Every second step is marked only at its end, which shows the cost of the marks. Nothing is written.

For stacks (hjepa) a second table shows what each level adds to the time and the memory of a step (level_costs.py).
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
from timed_steps import TimedPretraining, Timeline, extend_run, millisecond_timeline, repeated_batches, sample_masks, train_steps
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
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.setup import choose_accelerator

WARM_UP = 2
REST = "rest of the loop"
LEVEL_PREFIX = re.compile(r"levels\.(\d+)\.")
MATMUL = {"cpu": 2048, "cuda": 8192}
"""Size of the matrices whose product is taken as the peak."""
ATTENTION_ON_CPU = {  # torch counts fused attention on CUDA only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}


class Attention(StrEnum):
    fused = "fused"
    plain = "plain"


class MarkedPretraining(TimedPretraining):
    """Pretraining that marks the parts of a step, with hooks of torch and Lightning that run between them."""

    def __init__(self, config: RunConfig, method: Any) -> None:
        super().__init__(config, method)
        mark: Any = torch.compiler.disable(lambda part: self.timeline.mark(part))  # not traced into compiled networks
        names = {network: name for name, network in method.named_modules()}
        for network in method.networks():
            if next(network.parameters(), None) is None:
                continue
            name = LEVEL_PREFIX.sub(lambda level: f"level{int(level[1]) + 1}/", names[network])
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

    Attributes:
        parts: of a marked step.
        whole_ms: time of an unmarked step.
        masks_ms: time to sample the masks of a global batch in one process.
        loader_ms: time to load a global batch while nothing else runs.
        attention_flops: FLOPs of the parts that are attention's own products.
        peak: FLOP/s of the fastest large matrix product.
        fused: attention was torch's fused one.
    """

    parts: dict[str, Part]
    whole_ms: float
    masks_ms: float
    loader_ms: float
    attention_flops: float
    peak: float
    fused: bool


def measure(config: RunConfig, steps: int, synthetic: bool, attention: Attention | None) -> Report:
    """Measure `steps` optimizer steps with marks, and as many without.

    Raises:
        UserError: the device or the shards do not exist.
    """
    accelerator = choose_accelerator(config.trainer.accelerator)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    config = extend_run(config, 2 * steps + WARM_UP + config.data.workers)
    masks, optim = build_mask_samplers(config.method), config.optim
    repeated = repeated_batches(config, optim.total_steps)
    batches = repeated
    if not synthetic:
        batches = train_loader(
            config.data,
            config.views,
            config.method,
            masks,
            build_batch_sampler(optim),
            seed=config.seed,
            pin_memory=accelerator == "cuda",
            crop_on_device=config.views.on_trainer(accelerator),
        )
    module = MarkedPretraining(config, parallelize(build_method(config.method), config.trainer, accelerator, local_size=1))
    if attention is not None:
        set_fused_attn(module, fused=attention is Attention.fused)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        flops = train_steps(module, repeated, Timeline(counter.get_total_flops, lambda start, end: end - start), 1, accelerator)
    counts = counter.get_flop_counts()["Global"].items()
    torch.compiler.reset()  # the counter disables compilation for good
    times = train_steps(module, batches, millisecond_timeline(accelerator), 2 * steps + WARM_UP, accelerator)
    return Report(
        parts=combine(times.part_times(WARM_UP), flops.part_times(0)[0]),
        whole_ms=median(times.step_times(WARM_UP)),
        masks_ms=time_masks(config, masks, steps),
        loader_ms=time_loader(batches, config, steps),
        attention_flops=sum(count for operator, count in counts if "bmm" in str(operator) or "attention" in str(operator)),
        peak=matmul_peak(accelerator, config.trainer.precision),
        fused=any(getattr(layer, "fused_attn", False) for layer in module.modules()),
    )


def combine(steps: list[dict[str, float]], flops: dict[str, float]) -> dict[str, Part]:
    parts = sorted(steps[0], key=REST.__eq__)  # the rest comes last
    return {part: Part(median(step[part] for step in steps), flops.get(part, 0.0)) for part in parts}


def time_masks(config: RunConfig, masks: Sequence[MaskSampler], repeats: int) -> float:
    """Return the milliseconds in which one process samples the masks of a global batch."""
    return median(elapsed_ms(lambda: sample_masks(config, masks, config.optim.batch_size_global)) for _ in range(repeats))


def time_loader(batches: DataLoader[Batch], config: RunConfig, count: int) -> float:
    """Return the milliseconds per global batch of the loader while nothing else runs."""
    stream, parts = iter(batches), config.optim.accumulate_steps
    for _ in islice(stream, 1 + config.data.workers):  # until all workers have started
        pass
    return elapsed_ms(lambda: list(islice(stream, count))) * parts / count


def matmul_peak(accelerator: str, precision: str) -> float:
    """Return the FLOP/s of the fastest of a few large matrix products, in the networks' precision."""
    size = MATMUL[accelerator]
    left = torch.randn(size, size, device=accelerator, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)

    def product() -> None:
        _ = left @ left
        if accelerator == "cuda":
            torch.cuda.synchronize()

    return 2e3 * size**3 / min(elapsed_ms(product) for _ in range(4))


def elapsed_ms(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def report_table(report: Report, title: str, images: int) -> Table:
    """Return a table with a row per part, then the whole step, its lower bound, and the loader and masks by themselves."""
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
    steps: Annotated[int, typer.Option(min=1, help="Steps measured by parts, and as many measured as a whole.")] = 10,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Repeat one random batch; no shards are needed.")] = False,
    attention: Annotated[Attention | None, typer.Option(help="Attention kernel; default: as the run would choose.")] = None,
) -> None:
    """Print the time of one optimizer step of a recipe by parts; for stacks also by levels."""
    config, console = load_config(recipe, overrides or []), Console()
    report = measure(config, steps, synthetic, attention)
    images, kind = config.optim.batch_size_global, "fused" if report.fused else "plain"
    device, threads = choose_accelerator(config.trainer.accelerator), torch.get_num_threads()
    how = f"{device}, {config.trainer.precision}, {kind} attention, threads: {threads}"
    console.print(report_table(report, f"one step of {config.name}: {images} images, {how}", images))
    if isinstance(config.method, HJepaConfig):
        console.print(levels_table(compare_levels(config, steps, report.fused), f"cost of each level in a step of {config.name}"))


def main() -> None:
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
