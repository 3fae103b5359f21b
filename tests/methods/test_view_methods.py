"""The methods that compare views: each step equals a plain implementation of the paper."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.load import load_config
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.byol import cosine_momentum
from jepa_pipeline.models.multicrop import forward_multicrop

DEBUG = Path(__file__).parents[2] / "configs" / "debug"
SMALL = ["method.encoder.args={channels: [4, 4, 8, 8], zero_init_last: false}", "method.encoder.image_size=16"]


def make(name, *overrides, views=2, seed=0):
    torch.manual_seed(seed)
    method = build_method(load_config(DEBUG / f"{name}.yaml", [*SMALL, *overrides, f"views.crops=[{{count: {views}}}]"]).method)
    return method.double(), Batch(list(torch.randn(views, 6, 3, 16, 16).double()), [], None, [], [])


def total(output):
    return sum(output.losses.values())


@pytest.mark.parametrize(
    "name", ["vicreg", "barlow_twins", "lejepa", "simclr", "info_nce", "square_square", "swav", "byol", "simsiam"]
)
def test_exactly_the_trained_parameters_get_a_gradient(name):
    method, batch = make(name, *(["method.frozen_steps=0"] if name == "swav" else []))
    output = method(batch, step=0, seed=0)
    total(output).backward()
    for parameter_name, parameter in method.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) != parameter_name.startswith("target."), (
            parameter_name
        )
    detached = [output.features, output.targets, output.predictions, *output.metrics.values()]
    assert not any(vectors.requires_grad for vectors in detached)
    assert output.targets.shape == output.predictions.shape and output.targets.shape[1] == method.embedding_width
    assert output.features.shape == (6, method.encoder_to_export.width)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_self_prediction_equals_the_paper(name):
    method, batch = make(name)
    first, second = batch.views
    online = [method.projector(method.encoder(view)) for view in (first, second)]
    if name == "byol":
        for parameter in method.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        targets = [method.target(view) for view in (first, second)]
    else:
        targets = [projection.detach() for projection in online]
    cosines = [F.cosine_similarity(method.predictor(online[n]), targets[1 - n]).mean() for n in (0, 1)]
    # BYOL sums eq. 2 over both directions; SimSiam eq. 2 is their mean of negative cosines, here shifted by 1
    paper = sum(2 - 2 * c for c in cosines) if name == "byol" else 1 - sum(cosines) / 2
    assert total(method(batch, step=0, seed=0)).item() == pytest.approx(paper.item(), abs=1e-10)


def test_byols_target_follows_its_parameters_and_keeps_its_own_batch_norm():
    method, batch = make("byol")
    before = [parameter.clone() for parameter in method.target.parameters()]
    with torch.no_grad():
        for parameter in [*method.encoder.parameters(), *method.projector.parameters()]:
            parameter.add_(1.0)
    method.after_optimizer_step(1, 100)
    for old, new in zip(before, method.target.parameters(), strict=True):
        assert torch.allclose(new, old + (1 - method.ema) * 1.0)
    method(batch, step=0, seed=0)
    own, online = (network.network.bn1.running_mean for network in (method.target[0], method.encoder))
    assert not torch.equal(own, torch.zeros_like(own)) and not torch.equal(own, online)
    assert method.encoder_to_export is method.encoder and method.export_kind == "online"


def test_byols_momentum_rises_along_a_cosine():
    assert [cosine_momentum(step, 4, 0.9) for step in (1, 3, 5, 9)] == pytest.approx([0.9, 0.95, 1.0, 1.0])
    assert cosine_momentum(2, 4, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)


def test_lejepas_slices_depend_on_the_seed():
    method, batch = make("lejepa")
    first, again = total(method(batch, step=0, seed=0)), total(method(batch, step=0, seed=0))
    assert first == again != total(method(batch, step=0, seed=1))


def test_swavs_prototypes_stay_on_the_sphere_and_are_frozen_at_first():
    method, batch = make("swav", "method.frozen_steps=2")
    for step in range(3):
        method.zero_grad()
        total(method(batch, step, seed=0)).backward()
        assert (method.prototypes.weight.grad.abs().sum() > 0) == (step >= 2)
        assert torch.allclose(method.prototypes.weight.norm(dim=1), torch.ones(64).double())


def test_swavs_codes_equal_the_paper_with_a_queue():
    method, batch = make("swav", "method.queue_length=12", "method.prototypes=7")
    method.normalize_prototypes()  # in float64 now
    with torch.no_grad():
        weight = F.normalize(method.prototypes.weight, dim=1)
        earlier = F.normalize(torch.randn(2, 12, weight.shape[1]).double(), dim=2)
        method.queue.copy_(earlier)
        method.queued = 12
        features = method.encoder(torch.cat(batch.views)).chunk(2)  # views of one size share the batch norm's statistics
        scores = F.normalize(method.projector(torch.cat(features)), dim=1).unflatten(0, (2, 6)) @ weight.T
        loss = torch.zeros((), dtype=torch.float64)
        for code_view in (0, 1):
            q = torch.exp(torch.cat([earlier[code_view] @ weight.T, scores[code_view]]) / 0.05).T
            q /= q.sum()
            for _ in range(3):
                q /= q.sum(1, keepdim=True) * 7
                q /= q.sum(0, keepdim=True) * 18
            codes = (q * 18).T[-6:]
            loss -= (codes * F.log_softmax(scores[1 - code_view] / 0.1, dim=1)).sum(1).mean() / 2
    assert total(method(batch, step=0, seed=0)).item() == pytest.approx(loss.item(), abs=1e-9)
    assert torch.allclose(method.queue[:, 6:], earlier[:, :6])
    assert torch.allclose(method.queue[:, :6].norm(dim=2), torch.ones(2, 6).double())


def test_the_queue_is_part_of_the_state():
    method, batch = make("swav", "method.queue_length=12")
    method(batch, step=0, seed=0)
    other, _ = make("swav", "method.queue_length=12", seed=1)
    other.load_state_dict(method.state_dict(), strict=True)
    assert other.queued == 6 and torch.equal(other.queue, method.queue)


def test_adjacent_views_of_one_size_are_one_batch():
    sizes = []

    class Network(torch.nn.Module):
        def forward(self, pixels):
            sizes.append(tuple(pixels.shape))
            return pixels.mean((2, 3))

    views = [torch.randn(4, 3, side, side) for side in (8, 8, 4, 4, 4)]
    features = forward_multicrop(Network(), views)
    assert sizes == [(8, 3, 8, 8), (12, 3, 4, 4)]
    assert all(torch.allclose(found, view.mean((2, 3))) for found, view in zip(features, views, strict=True))
