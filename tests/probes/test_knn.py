"""k-NN is exact cosine search with a majority vote."""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.probes.knn import knn_probe, vote


def sample(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 9, generator=generator), torch.randint(2, (rows,), generator=generator)


def test_votes_without_ties_equal_scikit_learns(monkeypatch):
    monkeypatch.setattr("jepa_pipeline.probes.knn.SIMILARITIES", 203 * 16)
    (train, labels), (test, answers) = sample(203, 0), sample(101, 1)
    counts = knn_probe(train, labels, test, answers, 2, (1, 5, 11))
    for k in (1, 5, 11):
        theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train.numpy(), labels.numpy())
        assert counts[k] == int((theirs.predict(test.numpy()) == answers.numpy()).sum())


def test_ties_go_to_the_nearer_neighbors():
    labels = torch.tensor([[2, 0, 0, 2], [1, 0, 0, 1], [1, 0, 0, 0]])
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.5], [0.9, 0.8, 0.7, 0.65], [0.9, 0.1, -0.2, -1.0]])
    assert vote(labels, similarity, 3).tolist() == [0, 1, 0]


def test_each_training_sample_is_its_own_nearest():
    vectors, labels = sample(50, 2)
    assert knn_probe(vectors, labels, 3 * vectors, labels, 2, (1,)) == {1: 50}


def test_more_neighbors_than_samples_is_refused():
    vectors, labels = sample(5, 0)
    with pytest.raises(UserError, match="k is 10 but there are 5"):
        knn_probe(vectors, labels, vectors, labels, 2, (1, 10))
