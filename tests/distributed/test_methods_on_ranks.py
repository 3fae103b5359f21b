"""Several ranks with a part of the batch each train every method exactly as one process does."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.distributed import full_tensor
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.batch_norm import convert_sync_batchnorm
from jepa_pipeline.training.parallel import parallelize

DEBUG = Path(__file__).parents[2] / "configs" / "debug"
IMAGES, STEPS = 12, 3
SMALL = [
    "method.encoder.args={channels: [4, 4, 8, 8], layers: [1, 1, 1, 1], zero_init_last: false}",
    "method.encoder.image_size=16",
]
EXPANDER = "method.regularizer.expander={hidden: [16], out: 24}"
VIC = "method.regularizer={name: vicreg, weight: 0.04}"
SHARED = ("target=shared", "regularizer={name: vicreg, weight: 0.04}")
MASKED = (
    "method.levels.1.task={name: masked, masks: ["
    "{name: blocks, num_blocks: 1, scale: [0.25, 0.25], context_keep: 0.25, target_keep: 0.25}]}"
)
MULTI_CROP = "views.crops=[{count: 2}, {count: 3, image_size: 8}]"
CASES = {
    "ijepa": ("ijepa", []),
    "ijepa, shared target and VICReg": ("ijepa_vicreg", [EXPANDER]),
    "ijepa, shared target and SIGReg": ("ijepa_sigreg", []),
    "ijepa, stopped gradient": ("ijepa", ["method.target=stop_gradient"]),
    "vjepa": ("vjepa", []),
    "vjepa, two clips, shared target and VICReg": ("vjepa", ["views.crops=[{count: 2}]", "method.target=shared", VIC]),
    "vjepa2": ("vjepa2", ["method.predictor.shared_mask_token=true"]),
    "hjepa": ("hjepa", []),
    "hjepa, nothing detached": ("hjepa", ["method.levels.1.detach=false"]),
    "hjepa, masked levels, nothing detached": ("hjepa", ["method.levels.1.detach=false", MASKED]),
    "hjepa, shared targets and VICReg": ("hjepa", [f"method.levels.{n}.{key}" for n in range(2) for key in SHARED]),
    "vicreg": ("vicreg", SMALL),
    "barlow_twins": ("barlow_twins", SMALL),
    "lejepa": ("lejepa", SMALL),
    "simclr": ("simclr", SMALL),
    "info_nce": ("info_nce", SMALL),
    "square_square": ("square_square", SMALL),
    "lejepa, multi-crop": ("lejepa", [*SMALL, MULTI_CROP]),
    "swav": ("swav", [*SMALL, "method.frozen_steps=1"]),
    "swav, multi-crop": ("swav", [*SMALL, "method.frozen_steps=0", MULTI_CROP]),
    "swav with a queue": ("swav", [*SMALL, "method.frozen_steps=0", "method.queue_length=18", "method.queue_start_steps=1"]),
    "byol": ("byol", SMALL),
    "simsiam": ("simsiam", SMALL),
}


def make_batch(config, step, part):
    """Return one rank's part of a global batch."""
    generator = torch.Generator().manual_seed(step)
    sizes = config.views.sizes(config.method.encoder.image_size)
    encoder = config.method.encoder
    time = [encoder.frames] if encoder.modality.has_time else []
    views = [torch.randn(IMAGES, 3, *time, side, side, generator=generator, dtype=torch.float64)[part] for side in sizes]
    generators = [np.random.default_rng([step, view, n]) for view in range(len(views)) for n in range(IMAGES)]
    sets = [sampler(generators, 0) for sampler in build_mask_samplers(config.method)]
    return Batch(views, [Masks(*(select_part(rows, part) for rows in masks)) for masks in sets], None, [], [])


def select_part(rows, part):
    """Return one rank's rows of every view."""
    return rows.unflatten(0, (-1, IMAGES))[:, part].flatten(0, 1)


def train(config, part, wrap):
    """Train a few steps; return each loss, and the gradients of the last step with the whole state. wrap: applies the strategy."""
    torch.manual_seed(0)
    method = build_method(config.method).double()
    called = wrap(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = torch.stack(list(called(make_batch(config, step, part), step, seed=step).losses.values())).sum()
        loss.backward()
        losses.append(loss.detach())
        if step + 1 < STEPS:
            optimizer.step()
            method.after_optimizer_step(step + 1, 10)
    named = ((name.replace("_checkpoint_wrapped_module.", ""), p.grad) for name, p in method.named_parameters())
    gradients = {f"gradient of {name}": full_tensor(gradient) for name, gradient in named if gradient is not None}
    state = {name: full_tensor(value) for name, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    return torch.stack(losses), gradients | state


def ddp(method):
    return DistributedDataParallel(convert_sync_batchnorm(method))


def sharded(strategy, **choices):
    return lambda method: parallelize(method, TrainerConfig(strategy=strategy, **choices), "cpu", local_size=2)


STRATEGIES = {
    "ddp": (2, ddp),
    "fsdp2": (2, sharded("fsdp2")),
    "4 x ddp": (4, ddp),
    "4 x fsdp2": (4, sharded("fsdp2")),
    "2 x 2 hsdp, activation checkpointing": (4, sharded("hsdp", checkpoint_activations=True)),
}
PAIRS = [(name, strategy) for name in CASES for strategy in ("ddp", "fsdp2")]
ON_FOUR = [(name, "4 x fsdp2") for name in ("ijepa", "swav")] + [("hjepa", "2 x 2 hsdp, activation checkpointing")]
"""The most that strategies and methods have: batch norm, gathered scores, targets by EMA, several levels."""
SLOW = [(name, "4 x ddp") for name in ("ijepa", "vjepa", "hjepa", "vicreg", "swav", "byol")]
SLOW += [(name, "4 x fsdp2") for name in ("vjepa", "hjepa", "vicreg", "byol")]
SLOW += [(name, "2 x 2 hsdp, activation checkpointing") for name in ("ijepa", "vjepa")]


@cache
def in_one_process(name):
    recipe, overrides = CASES[name]
    config = load_config(DEBUG / f"{recipe}.yaml", overrides)
    return config, *train(config, slice(None), wrap=lambda method: method)


@pytest.mark.parametrize(("name", "strategy"), [*PAIRS, *ON_FOUR, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_several_ranks_train_as_one_process(name, strategy, on_ranks):
    config, losses, expected = in_one_process(name)
    world, wrap = STRATEGIES[strategy]

    def on_rank(rank):
        return train(config, slice(rank * IMAGES // world, (rank + 1) * IMAGES // world), wrap)

    results = on_ranks(on_rank, world)
    assert torch.allclose(sum(found for found, _ in results) / world, losses, atol=1e-6, rtol=0)
    assert losses[-1] != losses[0] and len([name for name in expected if name.startswith("gradient")]) > 5
    for _, state in results:
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(state[name], value, atol=1e-6, rtol=1e-6), name


def test_a_full_queue_changes_the_loss():
    config = load_config(DEBUG / "swav.yaml", [*SMALL, "method.queue_length=18"])
    torch.manual_seed(0)
    method = build_method(config.method).double()
    batches = [make_batch(config, step, slice(None)) for step in range(3)]
    for batch in batches[:2]:
        assert not method.queue_is_full
        method(batch, step=0, seed=0)
    assert method.queue_is_full and method.queue.norm(dim=2).allclose(torch.ones(2, 18).double())
    queued = method(batches[2], step=0, seed=0).losses["swapped"]
    method.queued = 0
    assert queued != method(batches[2], step=0, seed=0).losses["swapped"]
