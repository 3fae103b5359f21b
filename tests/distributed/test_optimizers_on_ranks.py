"""An optimizer moves weights that are dealt out to several ranks as it moves whole ones, and a broken step moves none on any."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from jepa_pipeline.config.optim import AdamWConfig, LARSConfig, SGDConfig
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.distributed import full_tensor, is_sharded, to_local
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.parallel import parallelize

HORIZONS = {"batch_size_global": 8, "total_samples": 48, "weight_decay": 0.1, "clip_norm": 0.05}
CONFIGS = [
    AdamWConfig(lr=1e-2, **HORIZONS),
    LARSConfig(name="lars", lr=2.0, lr_biases=0.03, **HORIZONS),
    SGDConfig(name="sgd", lr=0.1, **HORIZONS),
]
EVERY = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
IMAGES, STEPS = 8, 3


@pytest.fixture(autouse=True)
def in_float64():
    """Weights, and rates too: of an optimizer that is not fused they are tensors, of torch's default kind."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Small(Method):
    """The loss of a network on rows of numbers. Two ranks have 3 and 2 rows of one weight, 1 and none of another; one is zero."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))
        self.beside = nn.Sequential(nn.Linear(7, 3))
        self.last = nn.Linear(3, 1)
        nn.init.zeros_(self.beside[0].weight)

    def forward(self, rows):
        return self.last((self.first(rows) + self.beside(rows)).tanh()).square().mean()

    encoder_to_export = property(lambda self: SimpleNamespace(width=3))
    embedding_width = 3


def make_module(tiny, config, sharded):
    torch.manual_seed(0)
    method = Small()
    if sharded:
        parallelize(method, TrainerConfig(strategy="fsdp2"), "cpu", local_size=2)
    run = tiny()
    module = Pretraining(method, config, run.views, run.seed)
    return module, module.configure_optimizers()


def take_step(module, optimizer, part, spoil=lambda loss: loss):
    """The optimizer step of a run, on a share of its rows."""
    rows = torch.randn(IMAGES, 7, generator=torch.Generator().manual_seed(module.step))[part]

    def closure():
        optimizer.zero_grad()
        loss = spoil(module.method(rows))
        loss.backward()
        module.last_loss = loss.detach()
        module.configure_gradient_clipping(optimizer)

    module.optimizer_step(0, 0, optimizer, closure)


def share(rank):
    return slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)


def weights(module, form):
    return {name: form(parameter.detach()).clone() for name, parameter in module.method.named_parameters()}


@EVERY
def test_weights_that_are_dealt_out_move_as_whole_ones(config, tiny, on_ranks):
    module, optimizer = make_module(tiny, config, sharded=False)
    before = weights(module, full_tensor)
    for _ in range(STEPS):
        take_step(module, optimizer, slice(None))
    expected, norm = weights(module, full_tensor), module.means.sums["gradient_norm"]
    assert norm / STEPS > 2 * config.clip_norm
    assert all(not torch.equal(value, before[name]) for name, value in expected.items())

    def on_rank(rank):
        module, optimizer = make_module(tiny, config, sharded=True)
        assert all(is_sharded(parameter) for parameter in module.method.parameters())
        rows = [len(to_local(module.method.get_parameter(name))) for name in ("first.0.weight", "last.weight")]
        for _ in range(STEPS):
            take_step(module, optimizer, share(rank))
        return rows, weights(module, full_tensor), module.means.sums["gradient_norm"]

    results = on_ranks(on_rank)
    assert [rows for rows, _, _ in results] == [[3, 1], [2, 0]]
    for _, found, its_norm in results:
        assert torch.allclose(its_norm, norm, atol=1e-9, rtol=0)
        for name, value in expected.items():
            assert torch.allclose(found[name], value, atol=1e-9, rtol=0), name


SPOILERS = {"the loss alone": lambda loss: loss + float("inf"), "the gradient too": lambda loss: loss * float("nan")}


@pytest.mark.parametrize("spoiler", SPOILERS)
@EVERY
def test_a_step_that_is_broken_on_one_rank_moves_no_weight_on_any(config, spoiler, tiny, on_ranks):
    def on_rank(rank):
        module, optimizer = make_module(tiny, config, sharded=True)
        take_step(module, optimizer, share(rank))
        before = weights(module, to_local)
        take_step(module, optimizer, share(rank), SPOILERS[spoiler] if rank == 1 else lambda loss: loss)
        take_step(module, optimizer, share(rank))
        after = weights(module, to_local)
        moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
        same = all(torch.equal(value, before[name]) for name, value in after.items())
        return int(module.guard.broken_step), same, all(bool(to_local(value).isfinite().all()) for value in moments)

    assert on_ranks(on_rank) == [(2, True, True)] * 2
