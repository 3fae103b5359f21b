"""SIGReg is small for a standard normal sample, and grows with the sample size for any other."""

import math

import pytest
import torch

from jepa_pipeline.losses.sigreg import lejepa, random_slices, sigreg

CPU = torch.device("cpu")
NULL = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # integral of (1 - exp(-t²)) exp(-t²/2): expectation for a normal sample
POINT = math.sqrt(2 * math.pi) * (
    1 - math.sqrt(2) + 1 / math.sqrt(3)
)  # integral of (1 - exp(-t²/2))² exp(-t²/2): value for S zeros, over S


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_slices_are_a_function_of_the_seed():
    before = torch.get_rng_state()
    slices = random_slices(16, 64, 7, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(random_slices(16, 64, 7, CPU), slices)
    assert (random_slices(16, 64, 8, CPU) - slices).abs().mean() > 0.1
    torch.testing.assert_close(slices.norm(dim=0), torch.ones(64))
    torch.testing.assert_close(slices @ slices.T * 16 / 64, torch.eye(16), rtol=0, atol=0.6)  # spread over all directions


def by_definition(sample, slices):
    """A sine and a cosine at every knot."""
    projected, knots = sample @ slices, torch.linspace(0, 3, 17).tolist()
    error = [
        ((t * projected).cos().mean(dim=0) - math.exp(-t * t / 2)).square() + (t * projected).sin().mean(dim=0).square()
        for t in knots
    ]
    integrand = torch.stack([math.exp(-t * t / 2) * e for t, e in zip(knots, error, strict=True)])
    return len(sample) * 2 * torch.trapezoid(integrand, torch.tensor(knots, dtype=sample.dtype), dim=0).mean()


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0], ids=["nearly collapsed", "normal", "too wide"])
@pytest.mark.parametrize(("samples", "width", "count"), [(256, 128, 1024), (128, 64, 256), (16, 3, 5)])
def test_value_and_gradient_are_those_of_the_definition(samples, width, count, scale):
    x, slices = scale * normal(samples, width), random_slices(width, count, 0, CPU)
    fast, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    value, wanted = sigreg(fast, slices), by_definition(exact, slices.double())
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (fast.grad - exact.grad).abs().max() <= 1e-5 * exact.grad.abs().max()


def test_the_gradient_is_that_of_the_value():
    slices = random_slices(4, 6, 0, CPU).double()
    assert torch.autograd.gradcheck(lambda x: sigreg(x, slices), normal(5, 4).double().requires_grad_())


@pytest.mark.parametrize("samples", [64, 1024])
def test_a_normal_sample_of_any_size_has_the_expected_value(samples):
    values = [sigreg(normal(samples, 16, seed=n), random_slices(16, 32, n, CPU)) for n in range(20)]
    assert torch.stack(values).mean() == pytest.approx(NULL, rel=0.1)


NOT_NORMAL = {
    "scaled up": lambda x: 2 * x,
    "scaled down": lambda x: x / 2,
    "shifted": lambda x: x + 0.5,
    "of low rank": lambda x: x[:, :1].expand_as(x),
    "with a dead half": lambda x: x * (torch.arange(16) < 8),
    "heavy-tailed": lambda x: x / normal(len(x), 1, seed=9).abs(),
}


@pytest.mark.parametrize("change", NOT_NORMAL.values(), ids=NOT_NORMAL.keys())
def test_other_samples_have_a_larger_value_than_a_normal_one(change):
    x, slices = normal(2048, 16), random_slices(16, 64, 0, CPU)
    assert sigreg(change(x), slices) > 10 * sigreg(x, slices)


def test_a_collapsed_sample_has_a_value_proportional_to_its_size():
    slices = random_slices(16, 8, 0, CPU)
    for samples in (10, 1000):
        assert sigreg(torch.zeros(samples, 16), slices) == pytest.approx(
            POINT * samples, rel=0.02
        )  # 1.7 % of the integral lie beyond the last knot


def test_rotating_sample_and_directions_changes_nothing():
    x, slices = normal(256, 8).double(), random_slices(8, 16, 0, CPU).double()
    skewed = x * torch.linspace(0.5, 2, 8)
    rotation = torch.linalg.qr(normal(8, 8, seed=1).double())[0]
    torch.testing.assert_close(sigreg(skewed @ rotation, rotation.T @ slices), sigreg(skewed, slices))
    many = random_slices(8, 4096, 1, CPU)
    assert sigreg(skewed @ rotation, many) == pytest.approx(float(sigreg(skewed, many)), rel=0.05)


def test_minimizing_it_makes_a_sample_standard_normal():
    x = (0.1 * normal(256, 4) + 1).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(x, random_slices(4, 16, step, CPU)).backward()
        optimizer.step()
    assert x.mean(dim=0).abs().max() < 0.15
    torch.testing.assert_close(torch.cov(x.detach().T), torch.eye(4), rtol=0, atol=0.25)


def test_the_center_is_that_of_the_global_views():
    views, slices = normal(4, 16, 8), random_slices(8, 4, 0, CPU)
    views[:2] = views[0]
    terms = lejepa(views, slices)
    assert terms["invariance"] == pytest.approx(0.95 * float((views - views[0]).square().mean()))
    assert lejepa(views[:2], slices)["invariance"] == 0
    assert lejepa(views, slices, global_views=4)["invariance"] < terms["invariance"]
    only_sigreg = lejepa(views, slices, weight=1.0)
    assert only_sigreg["invariance"] == 0
    assert only_sigreg["sigreg"] == pytest.approx(20 * float(terms["sigreg"]))
