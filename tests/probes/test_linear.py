"""The linear probe is logistic regression, and its choice never sees the test set."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.probes.linear import count_correct, fit, held_out, linear_probe, new_head, standardize

CONFIG = ProbeConfig(weight_decay=(1e-1, 1e-2, 1e-3))


def blobs(samples, classes=3, width=7, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(samples) % classes
    return centers[labels] + spread * torch.randn(samples, width, generator=generator), labels


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_heads_equal_scikit_learns(decay):
    raw, labels = blobs(401, spread=3.0)
    vectors, _, _ = standardize(raw)
    head = new_head(7, 3)
    fit(head, vectors, labels.to(vectors.device), decay, 200)
    theirs = LogisticRegression(C=1 / (decay * len(labels)), tol=1e-8, max_iter=2000).fit(vectors.cpu().numpy(), labels.numpy())
    ours = torch.softmax(head(vectors), 1).detach().cpu()
    expected = torch.from_numpy(theirs.predict_proba(vectors.cpu().numpy())).float()
    assert torch.allclose(ours, expected, atol=2e-3)
    assert count_correct(head, vectors, labels) == int((theirs.predict(vectors.cpu().numpy()) == labels.numpy()).sum())


def test_separable_classes_have_no_errors():
    train, test = blobs(300, spread=0.05), blobs(77, spread=0.05, seed=1)
    assert linear_probe({"last": train[0]}, train[1], {"last": test[0]}, test[1], 3, CONFIG).correct == 77


def test_the_choice_does_not_depend_on_the_test_set():
    (train, labels), (test, answers) = blobs(331, spread=4.0), blobs(101, spread=4.0, seed=1)
    noise = torch.randn(331, 5, generator=torch.Generator().manual_seed(3))
    kinds, unseen = {"noise": noise, "last": train}, {"noise": noise[:101], "last": test}
    honest = linear_probe(kinds, labels, unseen, answers, 3, CONFIG)
    shuffled = linear_probe(kinds, labels, unseen, answers.roll(1), 3, CONFIG)
    assert (honest.chosen, honest.trials) == (shuffled.chosen, shuffled.trials)
    assert honest.correct != shuffled.correct
    assert honest.chosen.features == "last"
    assert len(honest.trials) == 6


def test_odd_sizes_are_counted_exactly(monkeypatch):
    vectors, labels = blobs(1013, spread=4.0)
    head = new_head(7, 3)
    fit(head, vectors.to(head.weight.device), labels.to(head.weight.device), 1e-3, 20)
    whole = count_correct(head, vectors.to(head.weight.device), labels)
    weight = head.weight.detach().clone()
    monkeypatch.setattr("jepa_pipeline.probes.linear.ROWS", 64)
    assert count_correct(head, vectors.to(head.weight.device), labels) == whole
    again = new_head(7, 3)
    fit(again, vectors.to(head.weight.device), labels.to(head.weight.device), 1e-3, 20)
    assert torch.allclose(again.weight, weight, atol=1e-3)


def test_the_held_out_share_is_stratified_and_seeded():
    labels = torch.tensor([0] * 100 + [1] * 41 + [2] * 3 + [3])
    held = held_out(labels, 5, 0.1, seed=0)
    assert labels[held].bincount(minlength=5).tolist() == [10, 4, 1, 0, 0]
    assert torch.equal(held, held_out(labels, 5, 0.1, seed=0))
    assert not torch.equal(held, held_out(labels, 5, 0.1, seed=1))


def test_one_sample_a_class_cannot_be_probed():
    vectors = torch.eye(3)
    with pytest.raises(UserError, match="one per class"):
        linear_probe({"last": vectors}, torch.arange(3), {"last": vectors}, torch.arange(3), 3, CONFIG)


def test_constant_dimensions_change_nothing():
    vectors = torch.cat([blobs(60)[0], torch.full((60, 2), 0.1)], 1)
    scaled, _, _ = standardize(vectors)
    assert scaled.isfinite().all()
    assert scaled[:, -2:].abs().max() < 1e-5
