"""Every loss equals its paper's formula, written here as sums over samples and pairs, in value and gradient."""

import math
from itertools import combinations

import pytest
import torch

from jepa_pipeline.losses.barlow_twins import barlow_twins
from jepa_pipeline.losses.contrastive import energies, info_nce, nt_xent, square_square
from jepa_pipeline.losses.prediction import cosine
from jepa_pipeline.losses.sigreg import lejepa, sigreg
from jepa_pipeline.losses.swapped import sinkhorn, swapped_prediction
from jepa_pipeline.losses.vicreg import covariance, regularize, variance_hinge, vicreg


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def angle(a, b):
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def slow_cosine(predictions, targets):
    pairs = zip(predictions.reshape(-1, predictions.shape[-1]), targets.reshape(-1, targets.shape[-1]), strict=True)
    return {"cosine": mean(2 - 2 * angle(p, t) for p, t in pairs)}


def slow_covariance_matrix(x):
    """Return the covariance matrix as a list of rows, each entry a sum over samples."""
    samples, width = x.shape
    center = mean(x)
    return [
        [sum((x[n, i] - center[i]) * (x[n, j] - center[j]) for n in range(samples)) / (samples - 1) for j in range(width)]
        for i in range(width)
    ]


def slow_hinge(x):
    c = slow_covariance_matrix(x)
    return mean((1 - (c[i][i] + 1e-4).sqrt()).clamp_min(0) for i in range(len(c)))


def slow_covariance(x):
    c = slow_covariance_matrix(x)
    return sum(c[i][j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j) / len(c)


def slow_regularize(*samples, variance=2.0, covariance=3.0):
    return {
        "variance": variance * mean(map(slow_hinge, samples)),
        "covariance": covariance * sum(map(slow_covariance, samples)),
    }


def slow_vicreg(views):
    difference = mean(mean(((x - y) ** 2).mean() for x, y in zip(a, b, strict=True)) for a, b in combinations(views, 2))
    return {"invariance": 25 * difference, **slow_regularize(*views, variance=25, covariance=1)}


def slow_barlow(views):
    on, off = [], []
    for a, b in combinations(views, 2):
        a, b = ((x - mean(x)) / (mean((x - mean(x)) ** 2) + 1e-5).sqrt() for x in (a, b))
        c = [[mean(x * y for x, y in zip(a[:, i], b[:, j], strict=True)) for j in range(b.shape[1])] for i in range(a.shape[1])]
        on.append(sum((1 - c[i][i]) ** 2 for i in range(len(c))))
        off.append(sum(c[i][j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j))
    return {"on_diagonal": mean(on), "off_diagonal": 0.0051 * mean(off)}


def slow_sigreg(sample, slices):
    values = []
    for direction in slices.T:
        integral, step = 0, 3 / 16
        for knot in range(-16, 17):
            t = knot * step
            empirical = mean(torch.exp(1j * t * (x @ direction)) for x in sample)
            weight = (step / 2 if abs(knot) == 16 else step) * math.exp(-t * t / 2)
            integral = integral + weight * (empirical - math.exp(-t * t / 2)).abs() ** 2
        values.append(len(sample) * integral)
    return mean(values)


def slow_lejepa(views, slices):
    center = (views[0] + views[1]) / 2
    distance = mean(((center[n] - view[n]) ** 2).mean() for view in views for n in range(len(center)))
    return {"invariance": 0.95 * distance, "sigreg": 0.05 * mean(slow_sigreg(view, slices) for view in views)}


def slow_sinkhorn(scores, epsilon=0.05, iterations=3):
    """Return the codes as in the paper, where Q is prototypes by samples, with total mass 1."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def slow_swapped(scores, codes):
    def entropy(score, code):
        p = torch.exp(score / 0.1) / torch.exp(score / 0.1).sum()
        return -sum(q * torch.log(p[k]) for k, q in enumerate(code))

    def against(c):
        return mean(mean(map(entropy, scores[v], codes[c])) for v in range(len(scores)) if v != c)

    return {"swapped": mean(map(against, range(len(codes))))}


def slow_nt_xent(views, temperature=0.1):
    both, losses = torch.cat(list(views)), []
    for i in range(len(both)):
        j = (i + len(views[0])) % len(both)
        scores = [torch.exp(angle(both[i], both[k]) / temperature) for k in range(len(both)) if k != i]
        losses.append(-torch.log(torch.exp(angle(both[i], both[j]) / temperature) / sum(scores)))
    return {"nt_xent": mean(losses)}


def slow_energies(first, second):
    def distance(a, b):
        return (a / a.square().sum().sqrt() - b / b.square().sum().sqrt()).square().sum()

    return torch.stack([torch.stack([distance(a, b) for b in second]) for a in first])


def slow_info_nce(f, temperature=0.1):
    def loss(matrix):
        return mean(
            -torch.log(torch.exp(-row[i] / temperature) / torch.exp(-row / temperature).sum()) for i, row in enumerate(matrix)
        )

    return {"info_nce": (loss(f) + loss(f.T)) / 2}


def others(f):
    return [(i, j) for i in range(len(f)) for j in range(len(f)) if i != j]


def slow_square_square(f, margin=1.0):
    return {
        "attract": mean(f[i, i] ** 2 for i in range(len(f))),
        "repel": mean((margin - f[i, j]).clamp_min(0) ** 2 for i, j in others(f)),
    }


def pair_energies():
    return energies(normal(7, 5), normal(7, 5, seed=1))


# name: the loss, its slow form, and their inputs
LOSSES = {
    "cosine": (cosine, slow_cosine, [normal(3, 4, 5), normal(3, 4, 5, seed=1)]),
    "vicreg": (vicreg, slow_vicreg, [0.7 * normal(2, 9, 5) + 1]),
    "vicreg of four views": (vicreg, slow_vicreg, [0.7 * normal(4, 6, 3) + 1]),
    "regularize": (lambda *x: regularize(x, 2.0, 3.0), slow_regularize, [0.7 * normal(9, 4), 0.5 * normal(5, 4, seed=1)]),
    "variance": (lambda x: {"": variance_hinge(x)}, lambda x: {"": slow_hinge(x)}, [0.7 * normal(6, 4)]),
    "covariance": (lambda x: {"": covariance(x)}, lambda x: {"": slow_covariance(x)}, [normal(6, 4) + 2]),
    "covariance of one dimension": (
        lambda x: {"": covariance(x)},
        lambda x: {"": slow_covariance(x) + 0 * x.sum()},
        [normal(6, 1)],
    ),
    "barlow_twins": (barlow_twins, slow_barlow, [3 * normal(2, 8, 5) + 1]),
    "barlow_twins of three views": (barlow_twins, slow_barlow, [normal(3, 6, 4)]),
    "sigreg": (lambda *x: {"": sigreg(*x)}, lambda *x: {"": slow_sigreg(*x)}, [normal(7, 4) + 0.3, normal(4, 3, seed=1)]),
    "lejepa": (lejepa, slow_lejepa, [normal(4, 5, 3), normal(3, 2, seed=1)]),
    "sinkhorn": (lambda x: {"": sinkhorn(x)[2, 1]}, lambda x: {"": slow_sinkhorn(x)[2, 1]}, [0.1 * normal(7, 4)]),
    "swapped": (swapped_prediction, slow_swapped, [0.2 * normal(4, 5, 3), normal(2, 5, 3, seed=1).softmax(-1)]),
    "nt_xent": (nt_xent, slow_nt_xent, [normal(2, 5, 4)]),
    "energies": (
        lambda *x: {"": energies(*x)[1, 2]},
        lambda *x: {"": slow_energies(*x)[1, 2]},
        [normal(4, 3), normal(4, 3, seed=1)],
    ),
    "info_nce": (info_nce, slow_info_nce, [pair_energies()]),
    "square_square": (square_square, slow_square_square, [pair_energies() / 2]),
}


def run(loss, inputs, autocast=False):
    """Return the loss's terms, and the gradients of their sum."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = loss(*inputs)
    return {name: term.detach() for name, term in terms.items()}, torch.autograd.grad(sum(terms.values()), inputs)


@pytest.mark.parametrize("fast, slow, inputs", LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_equals_its_formula(fast, slow, inputs):
    (terms, gradients), (expected, expected_gradients) = run(fast, inputs), run(slow, inputs)
    assert terms.keys() == expected.keys()
    assert all(term.shape == () and term.dtype == torch.float64 for term in terms.values())
    torch.testing.assert_close(terms, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("fast, _, inputs", LOSSES.values(), ids=LOSSES.keys())
def test_half_precision_inputs_are_computed_in_fp32(fast, _, inputs, autocast, dtype):
    """Under autocast as well, which would multiply matrices in half precision."""
    rounded = [x.to(dtype) for x in inputs]
    terms, gradients = run(fast, rounded, autocast)
    expected, expected_gradients = run(fast, [x.double() for x in rounded])
    assert all(term.dtype == torch.float32 for term in terms.values())
    torch.testing.assert_close(terms, expected, rtol=2e-5, atol=2e-6, check_dtype=False)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-4}
    torch.testing.assert_close(gradients, expected_gradients, **tolerance, check_dtype=False)


SYMMETRIC_IN_VIEWS = ["vicreg", "vicreg of four views", "barlow_twins", "barlow_twins of three views", "nt_xent"]
BATCHED = {"lejepa": 1, "swapped": 2}  # number of inputs with a dimension of samples


@pytest.mark.parametrize("name", [*SYMMETRIC_IN_VIEWS, *BATCHED])
def test_the_order_of_samples_does_not_matter(name):
    loss, _, inputs = LOSSES[name]
    order = torch.randperm(inputs[0].shape[1], generator=torch.Generator().manual_seed(1))
    count = BATCHED.get(name, 1)
    permuted = [x[:, order] for x in inputs[:count]] + inputs[count:]
    torch.testing.assert_close(loss(*permuted), loss(*inputs))


@pytest.mark.parametrize("name", SYMMETRIC_IN_VIEWS)
def test_the_order_of_views_does_not_matter(name):
    loss, _, (views,) = LOSSES[name]
    torch.testing.assert_close(loss(views.flip(0)), loss(views))


@pytest.mark.parametrize("loss", [info_nce, square_square])
def test_the_order_of_pairs_does_not_matter(loss):
    matrix, order = pair_energies(), torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(matrix[order][:, order]), loss(matrix))
