"""The attentive probe is the published one, its heads are trained side by side and chosen without the test set."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import AttentiveConfig, ProbeConfig
from jepa_pipeline.data.views import normalize
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.probes.attentive import (
    attentive_probe,
    count_correct,
    max_heads,
    new_heads,
    parameter_groups,
    rate_factor,
    shuffled_batches,
    train_heads,
)
from jepa_pipeline.probes.eval_loader import EvalLoader
from jepa_pipeline.probes.feature_extractors import FeatureExtractor
from jepa_pipeline.probes.features import Preprocessing
from jepa_pipeline.probes.pooler import AttentivePooler, largest_divisor
from jepa_pipeline.probes.tokens import CachedTokens, ComputedTokens, cache_tokens

FORMS = pytest.mark.parametrize("form", ["vjepa", "vjepa2"])
LENS = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
ENCODER = EncoderConfig(image_size=16, patch_size=8, frames=4, tubelet_size=2, embed_dim=24, depth=2, num_heads=2)


def settings(**attentive) -> ProbeConfig:
    quick = {"lr": (1e-3, 1e-2), "weight_decay": (0.0, 0.1), "epochs": 3, "batch_size": 16, **attentive}
    return ProbeConfig.model_validate({"attentive": quick})


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perturbed_pooler(form, width=12, classes=5, heads=3) -> AttentivePooler:
    """A pooler none of whose weights is 0 or 1."""
    torch.manual_seed(0)
    pooler = AttentivePooler(width, classes, heads, form)
    with torch.no_grad():
        for parameter in pooler.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return pooler


def plain_attention(queries, keys, values, heads):
    """Of one sample, head after head."""
    width = queries.shape[1] // heads
    found = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(queries[:, part] @ keys[:, part].T / math.sqrt(width), 1)
        found.append(weights @ values[:, part])
    return torch.cat(found, 1)


def plain(pooler, tokens, heads):
    """The published formula for one sample, every token projected."""
    for block in pooler.blocks:
        q, k, v = F.linear(block.norm1(tokens), block.self_attn.in_proj_weight, block.self_attn.in_proj_bias).chunk(3, 1)
        tokens = tokens + block.self_attn.out_proj(plain_attention(q, k, v, heads))
        tokens = tokens + block.linear2(F.gelu(block.linear1(block.norm2(tokens))))
    normed = pooler.norm(tokens)
    found = plain_attention(pooler.to_query(pooler.query), pooler.to_key(normed), pooler.to_value(normed), heads)
    pooled = pooler.query + found
    norm, fc1, _, fc2 = pooler.mlp
    return pooler.classifier(pooled + fc2(F.gelu(fc1(norm(pooled)))))[0]


@FORMS
def test_the_pooler_is_the_published_formula(form):
    pooler, tokens = perturbed_pooler(form), normal(4, 7, 12)
    expected = torch.stack([plain(pooler, sample, 3) for sample in tokens])
    assert torch.allclose(pooler(tokens), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(pooler.eval()(tokens), expected, atol=1e-5)


@FORMS
def test_the_pooler_ignores_the_order_of_tokens(form):
    pooler, tokens = perturbed_pooler(form), normal(4, 7, 12)
    assert torch.allclose(pooler(tokens), pooler(tokens[:, torch.randperm(7)]), atol=1e-5)


@FORMS
def test_every_weight_has_a_gradient(form):
    pooler = perturbed_pooler(form)
    F.cross_entropy(pooler(normal(4, 7, 12)), torch.arange(4)).backward()
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in pooler.parameters())


def test_initial_weights_are_as_published():
    torch.manual_seed(0)
    pooler = AttentivePooler(96, 10, 4, "vjepa2")
    stds = [block.linear2.weight.std().item() for block in pooler.blocks] + [pooler.mlp[-1].weight.std().item()]
    assert stds == pytest.approx([0.02 / math.sqrt(2 * depth) for depth in (1, 2, 3, 3)], rel=0.05)
    assert pooler.to_key.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert AttentivePooler(96, 10, 4, "vjepa").mlp[-1].weight.std().item() == pytest.approx(0.02 / math.sqrt(2), rel=0.05)
    assert not pooler.to_value.bias.any() and not pooler.blocks[1].self_attn.in_proj_bias.any()


def test_heads_are_the_encoders_and_divide_the_width():
    backbone = BackboneConfig(timm="resnet18")
    of = AttentiveConfig.model_validate
    assert max_heads(ENCODER, of({})) == 2
    assert max_heads(ENCODER, of({"form": "vjepa2"})) == max_heads(backbone, of({})) == 16
    assert max_heads(backbone, of({"heads": 6})) == 6
    assert [largest_divisor(width, 16) for width in (384, 24, 17, 6)] == [16, 12, 1, 6]
    with pytest.raises(ValueError, match="width 12 is not a multiple of 5 heads"):
        AttentivePooler(12, 2, 5, "vjepa")


@FORMS
def test_what_decays_is_as_published(form):
    groups = parameter_groups(perturbed_pooler(form), (1e-3, 0.1), form)
    free = [parameter for group in groups if group["weight_decay"] == 0 for parameter in group["params"]]
    assert all(parameter.ndim == 1 for parameter in free)
    assert bool(free) == (form == "vjepa")
    assert sum(len(group["params"]) for group in groups) == len(list(perturbed_pooler(form).parameters()))


def test_the_learning_rate_warms_up_and_decays_to_zero():
    assert [rate_factor(step, 4, 104) for step in (0, 3, 4, 54)] == pytest.approx([0.25, 1, 1, 0.5])
    assert rate_factor(103, 4, 104) < 3e-4
    assert rate_factor(0, 0, 10) == 1


def test_every_epoch_has_every_sample_once():
    batches = list(shuffled_batches(range(5, 42), settings().attentive, 0))
    assert [len(batch) for batch in batches] == [16, 16, 5] * 3
    epochs = [[number for batch in batches[start : start + 3] for number in batch] for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(5, 42)) for epoch in epochs)
    assert epochs[0] != epochs[1] and batches == list(shuffled_batches(range(5, 42), settings().attentive, 0))


def samples_with_one_token(samples, views=1, seed=0, noise=0.5):
    """Samples of 12 tokens, one of which knows the class; most of its views do."""
    labels = torch.arange(samples) % 3
    tokens = noise * normal(samples, views, 12, 8, seed=seed)
    places = torch.randint(12, (samples, views), generator=torch.Generator().manual_seed(seed))
    tokens[torch.arange(samples)[:, None], torch.arange(views), places] += 4 * torch.eye(8)[labels][:, None]
    return CachedTokens({"x": tokens.bfloat16()}, labels), labels


@FORMS
def test_one_token_among_many_is_found(form):
    (train, labels), (test, _) = samples_with_one_token(150), samples_with_one_token(60, views=3, seed=1)
    config = settings(form=form, epochs=30 if form == "vjepa" else 12, lr=(3e-3, 1e-2), weight_decay=(0.01,))
    result = attentive_probe(train, labels, test, 3, {"x": 2}, config)["x"]
    assert result.correct >= 57
    assert {(trial.lr, trial.weight_decay) for trial in result.trials} == {(3e-3, 0.01), (1e-2, 0.01)}


@FORMS
def test_a_head_does_not_depend_on_the_other_heads(form):
    tokens, _ = samples_with_one_token(70)
    grid = [(1e-3, 0.0), (1e-2, 0.1), (1e-1, 0.0)]
    config = settings(form=form)
    together = new_heads(3, 8, 3, 2, config)
    train_heads({"x": together}, grid, tokens, range(70), config)
    for head, pair in zip(together, grid, strict=True):
        (alone,) = new_heads(1, 8, 3, 2, config)
        train_heads({"x": [alone]}, [pair], tokens, range(70), config)
        for ours, theirs in zip(head.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(together[0].query, together[1].query, atol=1e-4)


def test_the_choice_does_not_depend_on_the_test_set():
    (train, labels), (test, answers) = (
        samples_with_one_token(140, noise=1.5),
        samples_with_one_token(60, views=3, seed=1, noise=1.5),
    )
    honest = attentive_probe(train, labels, test, 3, {"x": 2}, settings(epochs=6))["x"]
    spoilt = attentive_probe(train, labels, CachedTokens(test.tokens, answers.roll(1)), 3, {"x": 2}, settings(epochs=6))["x"]
    assert (honest.chosen, honest.trials) == (spoilt.chosen, spoilt.trials)
    assert honest.correct != spoilt.correct
    assert honest.chosen.selection_top1 == max(trial.selection_top1 for trial in honest.trials)


class Clips(Dataset):
    """Random clips of 4 frames in several segments and views, in the order in which EvalClips has them."""

    def __init__(self, samples, segments, views):
        self.labels = torch.arange(samples) % 2
        shape = (samples, segments * views, 3, 4, 16, 16)
        self.clips = torch.randint(200, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.clips += (50 * self.labels).to(torch.uint8).view(-1, 1, 1, 1, 1, 1)
        self.seen = []

    def __getitems__(self, numbers):
        self.seen += numbers
        return Batch(list(self.clips[numbers].transpose(0, 1)), [], self.labels[numbers], [str(n) for n in numbers], [])


def clip_encoder():
    torch.manual_seed(3)
    return build_encoder(ENCODER).requires_grad_(False).eval()


def computed_tokens(dataset, views, rows, extractors=None):
    return ComputedTokens(
        extractors or {"x": FeatureExtractor(clip_encoder())}, EvalLoader(dataset, len(dataset.labels), views, rows, 0), LENS
    )


def test_tokens_are_the_encoders_by_view_and_then_by_segment():
    dataset, encoder = Clips(5, segments=2, views=3), clip_encoder()
    tokens = computed_tokens(dataset, 3, 2)
    assert tokens.shapes["x"] == (5, 3, 2 * 8, 24)
    (found, labels), (last, _) = tokens.batches([[3, 0, 1], [4]])
    assert labels.tolist() == [1, 0, 1] and last["x"].shape == (1, 3, 16, 24)
    with torch.no_grad():
        for row, number in enumerate((3, 0, 1)):
            for view in range(3):
                clips = normalize(dataset.clips[number, [view, 3 + view]], LENS.mean, LENS.std)
                assert torch.allclose(found["x"][row, view].float().cpu(), encoder(clips).flatten(0, 1), atol=0.02)


@FORMS
def test_every_video_counts_once_whatever_the_batches(form):
    dataset = Clips(23, segments=3, views=3)
    tokens, config = computed_tokens(dataset, 3, 4), settings(form=form, batch_size=16)
    dataset.seen.clear()
    heads = new_heads(2, 24, 2, 2, config)
    with torch.no_grad():
        heads[1].classifier.weight.neg_()
    counts = count_correct({"x": heads}, tokens, list(range(23)), config)
    assert sorted(dataset.seen) == list(range(23))
    expected = [0, 0]
    for number in range(23):
        ((shown, label),) = tokens.batches([[number]])
        for place, head in enumerate(heads):
            answers = [head(shown["x"][:, view]).softmax(1) for view in range(3)]
            expected[place] += int((sum(answers).argmax(1) == label).sum())
    assert counts == {"x": expected}


def test_counts_stay_on_the_device_until_the_end(monkeypatch):
    tokens, config, fetched = samples_with_one_token(40)[0], settings(batch_size=8), []
    heads, tolist = new_heads(3, 8, 3, 2, config), torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "cpu", lambda _: pytest.fail("a count was fetched"))
    monkeypatch.setattr(torch.Tensor, "item", lambda _: pytest.fail("a count was fetched"))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda counts: (fetched.append(counts), tolist(counts))[1])
    count_correct({"x": heads}, tokens, list(range(40)), config)
    assert len(fetched) == 1


def test_cached_and_computed_tokens_give_the_same_results():
    train, test = Clips(31, segments=2, views=1), Clips(14, segments=2, views=3)
    extractors = {name: FeatureExtractor(clip_encoder(), name, seed=1) for name in ("in_order", "shuffled", "apart")}
    results = []
    for memory_gb in (1.0, 0.0):
        tokens = cache_tokens(computed_tokens(train, 1, 5, extractors), memory_gb)
        assert isinstance(tokens, CachedTokens if memory_gb else ComputedTokens)
        results.append(
            attentive_probe(
                tokens, train.labels, computed_tokens(test, 3, 4, extractors), 2, dict.fromkeys(extractors, 2), settings()
            )
        )
    assert results[0] == results[1] and list(results[0]) == list(extractors)


def test_an_encoders_accuracy_does_not_depend_on_the_other_encoders():
    train, test = Clips(31, segments=1, views=1), Clips(14, segments=1, views=1)
    extractors = {name: FeatureExtractor(clip_encoder(), name) for name in ("in_order", "apart")}
    limits = dict.fromkeys(extractors, 2)
    both = attentive_probe(
        computed_tokens(train, 1, 8, extractors), train.labels, computed_tokens(test, 1, 8, extractors), 2, limits, settings()
    )
    for name, reader in extractors.items():
        alone = computed_tokens(train, 1, 8, {name: reader}), train.labels, computed_tokens(test, 1, 8, {name: reader})
        assert attentive_probe(*alone, 2, limits, settings())[name] == both[name]


def test_the_tokens_of_two_sets_are_shuffled_differently():
    dataset, extractors = Clips(9, segments=1, views=1), {"x": FeatureExtractor(clip_encoder(), "shuffled")}
    feed = EvalLoader(dataset, 9, 1, 4, 0)
    ((ours, _),) = ComputedTokens(extractors, feed, LENS).batches([list(range(9))])
    ((same, _),) = ComputedTokens(extractors, feed._replace(first=0), LENS).batches([list(range(9))])
    ((theirs, _),) = ComputedTokens(extractors, feed._replace(first=9), LENS).batches([list(range(9))])
    assert torch.equal(ours["x"], same["x"]) and not torch.equal(ours["x"], theirs["x"])


def test_frozen_encoders_stay_frozen():
    train, encoder = Clips(20, segments=1, views=1), clip_encoder()
    before = [parameter.clone() for parameter in encoder.parameters()]
    tokens = computed_tokens(train, 1, 5, {"x": FeatureExtractor(encoder)})
    attentive_probe(tokens, train.labels, tokens, 2, {"x": 2}, settings())
    assert all(torch.equal(ours, theirs.cpu()) for ours, theirs in zip(before, encoder.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in encoder.parameters())
