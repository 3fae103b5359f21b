"""Every level of a stack is extracted in one pass, as it would be by itself, and has rows of its own."""

from pathlib import Path

import pytest
import torch

from jepa_pipeline.cli.arguments import parse_level
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import AttentiveConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.probes.attentive import max_heads
from jepa_pipeline.probes.evaluate import build_extractors
from jepa_pipeline.probes.feature_extractors import FeatureExtractor, feature_names
from jepa_pipeline.results.benchmark_table import ProbedRun, identity, label
from jepa_pipeline.results.levels import choose_level, is_baseline, is_untrained, level_of, levels_to_probe
from jepa_pipeline.results.probe_report import ProbeRow
from jepa_pipeline.results.probe_table import attribute_to_time

VIT = {"embed_dim": 24, "depth": 5, "num_heads": 2}
ABOVE = [
    {"stride": {"time": 2, "space": 2}, "coarsening": "conv", "embed_dim": 16, "depth": 2, "num_heads": 4},
    {"stride": {"time": 2, "space": 1}, "embed_dim": 8, "depth": 4, "num_heads": 1},
]
CLIPS = StackConfig.model_validate({"image_size": 16, "patch_size": 4, "frames": 8, "tubelet_size": 2, **VIT, "above": ABOVE})
IMAGES = StackConfig.model_validate(
    {"image_size": 16, "patch_size": 4, **VIT, "above": [{**ABOVE[0], "stride": {"space": 2}}], "level": "all"}
)
NAMES = {"level1": 1, "level2": 2, "level3": 3, "levels": "all"}
PIXELS = torch.randn(3, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))


def stack(config=CLIPS):
    torch.manual_seed(0)
    return build_encoder(config).requires_grad_(False).eval()


def card(config=CLIPS):
    hashes = {"config_hash": "c" * 12, "data_hash": "d" * 12}
    return EncoderCard(
        encoder=config, mean=(0.5,) * 3, std=(0.2,) * 3, name="s", method="hjepa", step=3, samples=24, version="0", **hashes
    )


@pytest.mark.parametrize("frames", ["in_order", "shuffled", "apart"])
def test_one_pass_gives_each_level_as_a_pass_of_its_own_does(frames):
    network = stack()
    together = FeatureExtractor(network, frames, 5, NAMES)
    vectors, tokens = together.pooled_features("s", PIXELS, range(3), 0), together.last_tokens("s", PIXELS, range(3), 0)
    assert [*vectors] == [*tokens] == feature_names({"s": together}) == [*NAMES]
    for name, level in list(NAMES.items())[:3]:
        alone = FeatureExtractor(network.read_level(level), frames, 5)
        assert all(
            torch.equal(found, vectors[name][kind]) for kind, found in alone.pooled_features("x", PIXELS, range(3), 0)["x"].items()
        )
        assert torch.equal(alone.last_tokens("x", PIXELS, range(3), 0)["x"], tokens[name])
    for kind in ("last", "last4"):
        assert torch.equal(vectors["levels"][kind], torch.cat([vectors[f"level{level}"][kind] for level in (1, 2, 3)], 1))
    assert [found["last4"].shape[1] for found in vectors.values()] == [4 * 24, 2 * 16, 4 * 8, 4 * 24 + 2 * 16 + 4 * 8]
    alone = FeatureExtractor(network, frames, 5)
    assert torch.equal(alone.last_tokens("x", PIXELS, range(3), 0)["x"], tokens["levels"])
    assert torch.allclose(alone.pooled_features("x", PIXELS, range(3), 0)["x"]["last"], vectors["levels"]["last"], atol=1e-5)


def test_no_level_is_computed_twice(monkeypatch):
    network, passes = stack(), []
    for number, encoder in enumerate(network.encoders, start=1):
        monkeypatch.setattr(
            encoder,
            "prepare_tokens",
            lambda *given, number=number, prepare=encoder.prepare_tokens: (passes.append(number), prepare(*given))[1],
        )
    FeatureExtractor(network, levels=NAMES).pooled_features("s", PIXELS, range(3), 0)
    assert passes == [1, 2, 3]
    passes.clear()
    FeatureExtractor(network.read_level(2), levels={"level2": 2}).last_tokens("s", PIXELS, range(3), 0)
    assert passes == [1, 2]


def test_the_untrained_first_level_is_that_of_a_flat_encoder():
    extractors = build_extractors(card(), stack(), None, seed=4, clips=False)
    flat = build_extractors(card(CLIPS.first), build_encoder(CLIPS.first).eval(), None, seed=4, clips=False)
    ours = extractors["random_init"].pooled_features("x", PIXELS, range(3), 0)["random_init_level1"]
    assert torch.equal(ours["last4"], flat["random_init"].pooled_features("x", PIXELS, range(3), 0)["x"]["last4"])


@pytest.mark.parametrize(
    ("level", "own"), [(None, [*NAMES]), (2, ["level2"]), ("all", ["levels"]), (3, ["level3"])], ids=["unsaid", "2", "all", "3"]
)
def test_the_names_of_the_features(level, own):
    extractors = build_extractors(card(), stack(), level, seed=0, clips=True)
    twins = [f"random_init_{name}" for name in own]
    assert feature_names(extractors) == [*own, *twins, "frames_shuffled", "frames_apart"]
    assert extractors["frames_apart"].levels == {"frames_apart": NAMES[own[-1]]}
    for name in own + twins:
        assert ProbeRow.model_validate(row(name, 1)).encoder == name
        assert level_of(name) == NAMES[name.removeprefix("random_init_")]
        assert is_untrained(name) == (name in twins) == is_baseline(name)


@pytest.mark.parametrize("name", ["level0", "level", "level01", "levels2", "random_init_level", "frames_level1"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="encoder"):
        ProbeRow.model_validate(row(name, 1))


def row(name, right, total=100):
    share = right / total
    return {
        "encoder": name,
        "protocol": "linear",
        "settings": {},
        "top1": share,
        "ci95": (0, 1),
        "n_test": total,
        "seed": 0,
        "seconds": 0.1,
    }


def test_accuracy_is_attributed_to_time_for_all_levels_or_the_chosen_one():
    blinded = [row("frames_shuffled", 40), row("frames_apart", 30)]
    every = [row("level1", 80), row("level2", 70), row("levels", 90), row("random_init_levels", 20), *blinded, row("pixels", 10)]
    said = attribute_to_time([ProbeRow.model_validate(one) for one in every])
    assert len(said) == 2 and all(sentence.startswith("of levels' linear 90.0, ") for sentence in said)
    said = attribute_to_time([ProbeRow.model_validate(one) for one in [row("level2", 70), row("random_init_level2", 9), *blinded]])
    assert len(said) == 2 and all(sentence.startswith("of level2's linear 70.0, ") for sentence in said)


def test_levels_are_chosen_by_number():
    flat = CLIPS.first
    assert [choose_level(flat, level, Path("runs/x")) for level in (None, 1, "all")] == [None] * 3
    assert [choose_level(CLIPS, level, Path("runs/x")) for level in (None, 1, 3, "all")] == [None, 1, 3, "all"]
    second = CLIPS.model_copy(update={"level": 2})
    assert [choose_level(second, level, Path("runs/x")) for level in (None, 1)] == [2, 1]
    with pytest.raises(UserError, match=r"^--level 2: the encoder of runs/x has 1 level: give 1, or omit it$"):
        choose_level(flat, 2, Path("runs/x"))
    with pytest.raises(UserError, match=r"^--level 4: the encoder of runs/x has 3 levels: give a number from 1 to 3, or all$"):
        choose_level(CLIPS, 4, Path("runs/x"))
    assert levels_to_probe(CLIPS, None) == (1, 2, 3, "all") and levels_to_probe(CLIPS, 2) == (2,)
    alone = CLIPS.model_copy(update={"above": ()})
    assert levels_to_probe(alone, None) == (1,)
    assert [parse_level(text) for text in ("all", "1", "12")] == ["all", 1, 12]
    for text in ("0", "-1", "two", "1.5", ""):
        with pytest.raises(UserError, match="levels are counted from 1: give a number such as 1, or all"):
            parse_level(text)


def test_a_level_without_those_above_it():
    assert CLIPS.up_to_level(1) == CLIPS.first and type(CLIPS.up_to_level(1)) is EncoderConfig
    second = CLIPS.up_to_level(2)
    assert isinstance(second, StackConfig) and (second.above, second.level) == (CLIPS.above[:1], 2)
    assert CLIPS.up_to_level("all") == CLIPS and CLIPS.first.up_to_level(1) == CLIPS.first


def test_a_stack_is_described_by_the_sizes_of_its_levels():
    assert CLIPS.describe() == "ViT 24 x 5 + 16 x 2 (stride 2x2x2) + 8 x 4 (stride 2x1x1), patches of 2x4x4, 8x16x16"
    assert IMAGES.describe() == "ViT 24 x 5 + 16 x 2 (stride 2x2), patches of 4, 16x16"
    entry = ProbedRun("s", Path(), card(), {})
    assert label("level2", entry) == "s"
    assert label("random_init_level1", entry) == "untrained ViT 24 x 5, patches of 2x4x4, 8x16x16"
    assert label("random_init_levels", entry) == f"untrained {CLIPS.describe()}"
    lower = ProbedRun("t", Path(), card(CLIPS.up_to_level(2)), {})
    shared = [identity(name, entry) == identity(name, lower) for name in ("random_init_level1", "random_init_level2", "pixels")]
    assert all(shared) and identity("random_init_levels", entry) != identity("random_init_levels", lower)


def test_attention_heads_are_those_of_the_level():
    settings = AttentiveConfig.model_validate({})
    assert [max_heads(CLIPS, settings, level) for level in (1, 2, 3, "all")] == [2, 4, 1, 4]
    assert max_heads(CLIPS, AttentiveConfig.model_validate({"heads": 8}), 2) == 8
    assert max_heads(CLIPS.up_to_level(2), settings) == 4, "frames_shuffled, which is of no level by its name, where one is read"
    assert max_heads(CLIPS, AttentiveConfig.model_validate({"form": "vjepa2"}), 2) == 16
