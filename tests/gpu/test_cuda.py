"""What only a GPU can show."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from streams import load_stream

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.raster import Raster
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import DeferredViews, normalize
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.training.checkpoint import load_latest
from jepa_pipeline.training.module import Pretraining
from lightning.fabric.utilities import move_data_to_device

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


DEBUG = sorted((Path(__file__).parents[2] / "configs" / "debug").glob("*.yaml"))


def batches(config, count, crop_on_device=False):
    return list(islice(load_stream(config, build_mask_samplers(config.method), crop_on_device=uncut), count))


def on_gpu(batch):
    return move_data_to_device(batch, torch.device("cuda"))


def take_step(module, optimizer, batch):
    def closure():
        loss = module.training_step(module.on_after_batch_transfer(batch, 0), 0)
        optimizer.zero_grad()
        loss.backward()
        module.configure_gradient_clipping(optimizer)

    module.optimizer_step(0, 0, optimizer, closure)


OPTIMIZERS = [["optim.clip_norm=1.0"], ["optim.name=lars", "optim.lr=0.2"], ["optim.name=sgd", "optim.lr=0.1"]]


@pytest.mark.parametrize("options", OPTIMIZERS, ids=["adamw", "lars", "sgd"])
def test_a_step_never_waits_for_the_gpu(tiny, options):
    never_waits(tiny(*options), crop_on_device=False)


@pytest.mark.parametrize("recipe", DEBUG, ids=lambda path: path.stem)
def test_no_method_waits_for_the_gpu_that_cuts_its_views(recipe, shards):
    never_waits(load_config(recipe, [f"data.train={shards / 'train'}"]), crop_on_device=True)


def never_waits(config, uncut):
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed).cuda()
    optimizer = module.configure_optimizers()
    first, *rest = (on_gpu(batch) for batch in batches(config, 3, uncut))
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
    module = Pretraining(method, config.optim, config.views, config.seed)
    (batch,) = batches(config, 1)
    on_cpu = sum(method(module.on_after_batch_transfer(batch, 0), step=0, seed=0).losses.values())
    module.cuda()
    there = sum(method(module.on_after_batch_transfer(on_gpu(batch), 0), step=0, seed=0).losses.values())
    assert there.item() == pytest.approx(on_cpu.item(), rel=1e-4)


@pytest.mark.parametrize("recipe", DEBUG, ids=lambda path: path.stem)
def test_the_gpu_cuts_the_views_that_workers_cut(recipe, shards):
    config = load_config(recipe, [f"data.train={shards / 'train'}"])
    (theirs,), (uncut,) = batches(config, 1), batches(config, 1, crop_on_device=True)
    for view, there in zip(theirs.views, crop_views(on_gpu(uncut).deferred_crops), strict=True):
        assert (view.float() - there.cpu()).abs().mean() < 0.5


def test_sixteen_bits_are_pinned_cropped_and_normalized_there_as_here():
    images = [Raster(np.random.default_rng(n).integers(0, 1 << 16, (5, 40 + n, 50), np.uint16)) for n in range(4)]
    views = DeferredViews(ViewsConfig.model_validate({"crops": [{"flip": 0.5, "blur": {}}]}), 24, len(images))
    for number, image in enumerate(images):
        views.add(image, [keyed_generator(0, Stream.VIEW, 0, number)])
    deferred = views.finish()[1]
    there = deferred._replace(images=deferred.images.pin_memory())
    (ours,), (theirs,) = crop_views(deferred), crop_views(move_data_to_device(there, torch.device("cuda")))
    assert (ours - theirs.cpu()).abs().max() < 0.01
    mean, std = (0.5,) * 5, (0.25,) * 5
    assert torch.allclose(normalize(deferred.images, mean, std), normalize(there.images.cuda(), mean, std).cpu(), atol=1e-5)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=["adamw", "lars", "sgd"])
def test_a_broken_step_leaves_the_weights(tiny, options):
    config = tiny(*options)
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed).cuda()
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
    assert load_latest(config.folder / "checkpoints", log=pytest.fail).info.step == config.optim.total_steps


def test_a_killed_run_on_the_gpu_is_the_run_that_was_never_killed():
    """With deterministic kernels, as the selftest asks for."""
    result = subprocess.run(
        [sys.executable, "-m", "jepa_pipeline", "selftest", "resume"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
