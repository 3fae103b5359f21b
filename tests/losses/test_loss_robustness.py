"""Losses stay finite on degenerate batches, are larger for collapsed embeddings, and never synchronize with the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_pipeline.losses.barlow_twins import barlow_twins
from jepa_pipeline.losses.contrastive import energies, info_nce, nt_xent, square_square
from jepa_pipeline.losses.prediction import cosine
from jepa_pipeline.losses.sigreg import lejepa, random_slices
from jepa_pipeline.losses.swapped import sinkhorn, swapped_prediction
from jepa_pipeline.losses.vicreg import regularize, vicreg

SAMPLES, WIDTH = 32, 8
aten = torch.ops.aten
SYNCHRONIZING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.lift_fresh,
    aten._to_copy,
}  # the last: .to(device), .cpu()
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def swapped(views):
    return swapped_prediction(views, torch.stack([sinkhorn(view.detach()) for view in views]))


# functions of the embeddings of two views, 2 x S x E; these prevent collapse by themselves
PREVENT_COLLAPSE = {
    "vicreg": vicreg,
    "regularize": lambda views: regularize([*views], 25.0, 1.0),
    "barlow_twins": barlow_twins,
    "lejepa": lambda views: lejepa(views, random_slices(WIDTH, 16, 0, views.device)),
    "nt_xent": nt_xent,
    "info_nce": lambda views: info_nce(energies(*views)),
    "square_square": lambda views: square_square(energies(*views)),
}
LOSSES = {**PREVENT_COLLAPSE, "cosine": lambda views: cosine(*views), "swapped": swapped}

BATCHES = {
    "zeros": torch.zeros(2, SAMPLES, WIDTH),
    "a constant": torch.linspace(-3, 3, WIDTH).expand(2, SAMPLES, WIDTH),
    "some zeros": normal(2, SAMPLES, WIDTH) * (torch.arange(SAMPLES) % 2)[:, None],
    "a dead dimension": normal(2, SAMPLES, WIDTH) * (torch.arange(WIDTH) > 0),
    "large": 1e4 * normal(2, SAMPLES, WIDTH),
    "small": 1e-6 * normal(2, SAMPLES, WIDTH),
    "far away": 1e4 + normal(2, SAMPLES, WIDTH),
    "the same views": normal(1, SAMPLES, WIDTH).expand(2, -1, -1),
    "opposite views": normal(1, SAMPLES, WIDTH) * torch.tensor([1.0, -1.0])[:, None, None],
    "two samples": normal(2, 2, WIDTH),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("views", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_degenerate_batches_have_finite_losses_and_gradients(loss, views, dtype):
    views = views.to(dtype, copy=True).requires_grad_()
    terms = loss(views)
    sum(terms.values()).backward()
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    assert views.grad.isfinite().all()


@pytest.mark.parametrize("name", ["large", "far away"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_single_precision_suffices_for_unnormalized_embeddings(loss, name):
    single, double = loss(BATCHES[name]), loss(BATCHES[name].double())
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("point", [0.0, 1.0])
@pytest.mark.parametrize("loss", PREVENT_COLLAPSE.values(), ids=PREVENT_COLLAPSE.keys())
def test_collapsed_embeddings_have_a_larger_loss_than_spread_ones(loss, point):
    """Perfect agreement of the views does not outweigh collapse."""
    spread = normal(256, WIDTH) + 0.1 * normal(2, 256, WIDTH, seed=1)
    assert sum(loss(torch.full_like(spread, point)).values()) > 1.5 * sum(loss(spread).values())


def test_the_cosine_distance_alone_is_least_when_collapsed():
    spread = normal(256, WIDTH) + 0.1 * normal(2, 256, WIDTH, seed=1)
    assert cosine(*torch.ones_like(spread))["cosine"].abs() < 1e-6 < cosine(*spread)["cosine"]


class HostSync(AssertionError):
    pass


class NoSyncMode(TorchDispatchMode):
    """Raise at operators that wait for a GPU: reading a value, counting the true entries of a mask, copying a constant to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator = func.overloadpacket
        masked = operator in INDEXING and any(index is not None for index in args[1])
        if operator in SYNCHRONIZING or masked:
            raise HostSync(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_no_loss_synchronizes_with_the_device(loss):
    views = normal(2, SAMPLES, WIDTH).requires_grad_()
    with NoSyncMode():
        sum(loss(views).values()).backward()


@pytest.mark.parametrize(
    "operation", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x * torch.tensor([1.0]), lambda x: x[[0, 1]]]
)
def test_a_synchronization_would_be_detected(operation):
    with pytest.raises(HostSync), NoSyncMode():
        operation(torch.zeros(3, 2))
