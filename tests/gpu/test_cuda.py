"""What only a GPU can show."""

import subprocess
import sys

import pytest
import torch
from rich.console import Console

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.data.loader import train_loader
from jepa_pipeline.masks.build import build_masks
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.pretrain import pretrain
from jepa_pipeline.training.checkpoint import load_last
from jepa_pipeline.training.module import Pretraining

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def batches(config, count):
    loader = train_loader(config, build_masks(config.method.masks, config.method.encoder.grid))
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def on_gpu(batch):
    masks = [Masks(*(tokens.cuda() for tokens in masks)) for masks in batch.masks]
    return Batch([pixels.cuda() for pixels in batch.views], masks, None, batch.keys, [])


def take_step(module, optimizer, batch):
    def closure():
        loss = module.training_step(module.on_after_batch_transfer(batch, 0), 0)
        optimizer.zero_grad()
        loss.backward()
        module.configure_gradient_clipping(optimizer)

    module.optimizer_step(0, 0, optimizer, closure)


def test_a_step_never_waits_for_the_gpu(tiny):
    config = tiny("optim.clip_norm=1.0")
    module = Pretraining(config, build_method(config.method)).cuda()
    optimizer = module.configure_optimizers()
    first, *rest = (on_gpu(batch) for batch in batches(config, 3))
    take_step(module, optimizer, first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in rest:
            take_step(module, optimizer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert module.step == 3


def test_the_loss_is_the_cpus(tiny):
    config = tiny()
    method = build_method(config.method)
    module = Pretraining(config, method)
    (batch,) = batches(config, 1)
    on_cpu = sum(method(module.on_after_batch_transfer(batch, 0)).losses.values())
    module.cuda()
    there = sum(method(module.on_after_batch_transfer(on_gpu(batch), 0)).losses.values())
    assert there.item() == pytest.approx(on_cpu.item(), rel=1e-4)


def test_a_broken_step_leaves_the_weights(tiny):
    config = tiny()
    module = Pretraining(config, build_method(config.method)).cuda()
    optimizer = module.configure_optimizers()
    good, broken = (on_gpu(batch) for batch in batches(config, 2))
    take_step(module, optimizer, good)
    before = {name: value.clone() for name, value in module.method.encoder.state_dict().items()}
    module.method.predictor.mask_token.data.fill_(float("nan"))
    take_step(module, optimizer, broken)
    assert int(module.guard.broken_step) == 2
    assert all(torch.equal(value, before[name]) for name, value in module.method.encoder.state_dict().items())


@pytest.mark.parametrize(
    "options", [["trainer.precision=bf16"], ["trainer.precision=bf16", "trainer.compile=true"]], ids=["bf16", "compiled"]
)
def test_a_run_on_the_gpu_reaches_its_end(tiny, options):
    config = tiny("trainer.accelerator=cuda", *options)
    pretrain(config, Console(quiet=True))
    assert load_last(config.folder / "checkpoints", tell=pytest.fail).about.step == config.optim.total_steps


def test_a_killed_run_on_the_gpu_is_the_run_that_was_never_killed():
    """With deterministic kernels, as the selftest asks for."""
    result = subprocess.run(
        [sys.executable, "-m", "jepa_pipeline", "selftest", "resume"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
