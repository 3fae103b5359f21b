"""Masks of clips: what is hidden is never seen, no time step or place is starved, and lengths depend on the configuration alone."""

import re
import time
from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.video_masks import LONG_RANGE, SHORT_RANGE, BlocksConfig, CausalConfig
from jepa_pipeline.masks.build import build_mask_sampler, build_mask_samplers
from jepa_pipeline.masks.multiblock import sample_uniform
from jepa_pipeline.masks.multiblock3d import MultiBlock3d, block_shapes
from jepa_pipeline.masks.published_multiblock3d import PublishedMultiBlock3d

CLIP = (8, 14, 14)
SETS = {
    "short": SHORT_RANGE,
    "long": LONG_RANGE,
    "brief": BlocksConfig(scale=(0.2, 0.5), time=(0.2, 0.8), context_keep=0.2, target_keep=0.4),
    "early": BlocksConfig(context_time=0.5, context_keep=0.1, target_keep=0.5),
    "rest is target": BlocksConfig(rest="target"),
    "rest is context": BlocksConfig(rest="context"),
    "inverse": BlocksConfig(inverse=True),
    "legacy": BlocksConfig(num_blocks=8, legacy=True),
    "legacy early": BlocksConfig(num_blocks=8, legacy=True, context_time=0.5, time=(0.3, 0.9)),
    "causal": CausalConfig(name="causal", context_keep=0.5, target_keep=0.3),
}


def generators(count, start=0):
    return [np.random.Generator(np.random.Philox(key=[0, 2], counter=[0, 0, n, 0])) for n in range(start, start + count)]


def by_step(tokens, grid=CLIP):
    return torch.bincount(tokens.flatten() // (grid[1] * grid[2]), minlength=grid[0]).double()


@pytest.mark.parametrize("grid", [CLIP, (4, 8, 12)])
@pytest.mark.parametrize("name", SETS)
def test_context_and_target_never_meet_and_are_sorted_sets(name, grid):
    SETS[name].check_grid(grid)
    masks = build_mask_sampler(SETS[name], grid)(generators(100), 3)
    assert masks.targets.shape[:2] == (100, 1)
    for tokens in (masks.context, masks.targets[:, 0]):
        assert tokens.dtype == torch.int64 and len(tokens) == 100
        assert (tokens.diff() > 0).all() and tokens.min() >= 0 and tokens.max() < np.prod(grid)
    use = torch.zeros(100, int(np.prod(grid))).scatter_add_(1, masks.context, torch.ones(masks.context.shape))
    assert not use.gather(1, masks.targets[:, 0]).any()


@pytest.mark.parametrize("name", [name for name in SETS if "legacy" not in name])
def test_masks_of_a_clip_do_not_depend_on_its_batch(name):
    sampler = build_mask_sampler(SETS[name], CLIP)
    whole, alone = sampler(generators(48), 0), sampler(generators(1, start=17), 5)
    assert torch.equal(whole.context[17], alone.context[0]) and torch.equal(whole.targets[17], alone.targets[0])


def test_a_method_has_a_sampler_for_every_set_and_their_questions_differ(tiny):
    short, long = (
        "{name: blocks, num_blocks: 4, scale: [0.2, 0.3]}",
        "{name: blocks, num_blocks: 1, scale: [0.5, 0.6], target_keep: 0.4}",
    )
    encoder = "method.encoder={image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2}"
    clips = tiny("method.name=vjepa", encoder, f"method.masks=[{short}, {long}, {short}, {{name: causal}}]")
    samplers, keyed = build_mask_samplers(clips.method), generators(4)
    masks = [sampler(keyed, 0) for sampler in samplers]
    assert len(samplers) == 4 and len(build_mask_samplers(tiny().method)) == 1
    assert masks[0].context.shape == masks[2].context.shape and not torch.equal(masks[0].context, masks[2].context)


@pytest.mark.parametrize("config", [SHORT_RANGE, LONG_RANGE], ids=["short", "long"])
def test_every_time_step_is_used_equally(config):
    """Chi-square of 7 degrees of freedom, whose 0.999 quantile is 24.3; drawing without replacement only makes it smaller."""
    masks = MultiBlock3d(config, CLIP)(generators(2000), 0)
    for tokens in masks:
        count = by_step(tokens)
        assert float(((count - count.mean()) ** 2 / count.mean()).sum()) < 24.3


@pytest.mark.parametrize("config", [SHORT_RANGE, LONG_RANGE, SETS["brief"]], ids=["short", "long", "brief"])
def test_every_place_is_used_equally(config):
    """Corners, borders and center, as context and as target; a deviation of 3000 draws is about 1.5 % of a share of 0.5."""
    masks = MultiBlock3d(config, CLIP)(generators(3000), 0)
    for tokens in masks:
        use = torch.bincount(tokens.flatten(), minlength=1568).reshape(CLIP).double()
        for part in (use.mean(0), use.mean((1, 2))):
            assert (part / part.mean() - 1).abs().max() < 0.2
        frame = use.mean(0)
        border = torch.cat([frame[0], frame[-1], frame[:, 0], frame[:, -1]]).mean()
        assert float(border / frame[4:10, 4:10].mean()) == pytest.approx(1.0, abs=0.06)


def test_shapes_are_those_of_the_configuration_and_fit():
    chance = np.random.default_rng(0).random((200, 5, 3))
    for config, grid in product([SETS["short"], SETS["long"], SETS["brief"], BlocksConfig(scale=(0.3, 1))], [CLIP, (4, 8, 12)]):
        shapes = block_shapes(config, grid, chance)
        assert shapes.reshape(-1, 3).tolist() == [list(config.block_shape(grid, u)) for u in chance.reshape(-1, 3)]
        assert (shapes >= 1).all() and (shapes <= np.array(grid)).all()
        assert abs(shapes[..., 1:].prod(-1).mean() / (grid[1] * grid[2]) - np.mean(config.scale)) < 0.03


def test_steps_after_context_time_are_never_context_and_are_targets_as_blocks_are():
    masks = MultiBlock3d(SETS["early"], CLIP)(generators(500), 0)
    assert masks.context.max() < 4 * 196
    target = by_step(masks.targets)
    assert target[4:].min() / target[:4].mean() == pytest.approx(1 / 0.62, rel=0.05)  # all of a frame against what blocks cover
    whole = MultiBlock3d(BlocksConfig(context_time=0.5, context_keep=0.1, rest="target"), CLIP)(generators(20), 0)
    assert (by_step(whole.targets)[4:] == 20 * 196).all()


def test_variants_share_out_the_rest():
    hidden, target, context = (
        MultiBlock3d(BlocksConfig(rest=rest), CLIP)(generators(50), 0) for rest in ("hidden", "target", "context")
    )
    assert [masks.context.shape[1] for masks in (hidden, target, context)] == [376, 376, 784]
    assert [masks.targets.shape[2] for masks in (hidden, target, context)] == [784, 1568 - 376, 784]
    inverse = MultiBlock3d(BlocksConfig(inverse=True), CLIP)(generators(50), 0)
    assert torch.equal(inverse.context, hidden.targets[:, 0]) and torch.equal(inverse.targets[:, 0], hidden.context)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_clip_without_luck_still_has_its_lengths_and_does_not_see_the_future(share):
    config = BlocksConfig(num_blocks=1, scale=(1, 1), context_time=share, context_keep=0.25, target_keep=0.7)
    masks = MultiBlock3d(config, (4, 4, 4))(generators(20), 0)
    assert masks.context.shape == (20, 16) and masks.targets.shape == (20, 1, 45)
    assert masks.context.max() < 64 * share and (by_step(masks.context, (4, 4, 4))[: int(4 * share)] > 0).all()
    assert all(not set(a.tolist()) & set(b.tolist()) for a, b in zip(masks.context, masks.targets[:, 0], strict=True))


@pytest.mark.parametrize("grid", [CLIP, (8, 16, 16), (32, 24, 24), (4, 8, 8), (2, 6, 6), (4, 4, 4)])
def test_the_default_sets_fit_every_grid(grid):
    for config in (SHORT_RANGE, LONG_RANGE):
        config.check_grid(grid)


def test_few_clips_are_sampled_again_and_checking_is_fast():
    for config in (SHORT_RANGE, LONG_RANGE):
        sampler = MultiBlock3d(config, CLIP)
        assert sampler.invalid(sampler.cover(sample_uniform(generators(2000), 6 * config.num_blocks))).mean() < 0.06
        begun = time.thread_time()
        config.check_grid((8, 16, 16))
        assert time.thread_time() - begun < 0.15


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_keep": 0.6},
        {"target_keep": 0.9},
        {"context_keep": 0.37, "target_keep": 0.62},
        {"context_keep": 0.5, "rest": "target"},
        {"target_keep": 0.9, "rest": "context"},
        {"num_blocks": 1, "scale": (0.006, 0.006), "time": (0.1, 0.1)},
        {"context_time": 0.5},
        {"scale": (0.001, 0.15)},
        {"scale": (0.2, 0.9), "aspect": (2, 3)},
    ],
)
def test_a_refusal_names_a_value_that_will_do(wrong):
    with pytest.raises(ValueError, match=r"(lower|raise) (\w+) to (0\.\d+) or") as refused:
        BlocksConfig(**wrong).check_grid(CLIP)
    (verb, name, value), *_ = re.findall(r"(lower|raise) (\w+) to (0\.\d+) or", str(refused.value))
    if name != "scale":
        BlocksConfig(**{**wrong, name: float(value)}).check_grid(CLIP)
    else:
        low, high = wrong["scale"]
        BlocksConfig(**{**wrong, "scale": (float(value), high) if verb == "raise" else (low, float(value))}).check_shapes(CLIP)


def test_other_masks_that_cannot_be_are_refused():
    with pytest.raises(
        ValueError, match="leave none of the 1568 tokens of the 8x14x14 grid as context: use fewer or smaller blocks"
    ):
        BlocksConfig(scale=(1, 1), legacy=True).check_grid(CLIP)
    with pytest.raises(ValidationError, match="remove one of the two"):
        BlocksConfig(rest="context", context_time=0.5)
    with pytest.raises(ValidationError, match="a range is"):
        BlocksConfig(time=(0.5, 0.2))


def test_both_default_sets_of_24_clips_take_less_than_15_ms_on_one_core():
    samplers, times = [MultiBlock3d(config, CLIP) for config in (SHORT_RANGE, LONG_RANGE)], []
    for start in range(30):
        keyed = generators(24, start * 24)
        begun = time.thread_time()
        for sampler in samplers:
            sampler(keyed, 0)
        times.append(time.thread_time() - begun)
    assert min(times) < 15e-3


def published(config, grid, batch, seed, position_seed):
    """The published collators, told as plainly as possible: sets of cells and torch's generators in its order of draws."""
    steps, rows, columns = grid
    sizes, positions = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(position_seed)

    def between(low, high):
        return low + torch.rand(1, generator=sizes).item() * (high - low)

    def start(side, part):
        return torch.randint(0, side - part + 1, (1,), generator=positions).item()

    depth = max(1, int(steps * between(*config.time)))
    area, ratio = int(rows * columns * between(*config.scale)), between(*config.aspect)
    height, width = min(rows, round((area * ratio) ** 0.5)), min(columns, round((area / ratio) ** 0.5))
    cells = list(product(range(steps), range(rows), range(columns)))
    contexts, targets = [], []
    while len(contexts) < batch:
        covered = {cell for cell in cells if cell[0] >= max(1, int(steps * config.context_time))}
        for _ in range(config.num_blocks):
            top, left, first = start(rows, height), start(columns, width), start(steps, depth)
            covered |= set(product(range(first, first + depth), range(top, top + height), range(left, left + width)))
        if len(covered) < len(cells):
            contexts.append([n for n, cell in enumerate(cells) if cell not in covered])
            targets.append([n for n, cell in enumerate(cells) if cell in covered])
    contexts = [tokens[: min(map(len, contexts))] for tokens in contexts]
    targets = [tokens[: min(map(len, targets))] for tokens in targets]
    if config.rest == "target":
        targets = [sorted(set(range(len(cells))) - set(tokens)) for tokens in contexts]
    if config.rest == "context":
        contexts = [sorted(set(range(len(cells))) - set(tokens)) for tokens in targets]
    return (targets, contexts) if config.inverse else (contexts, targets)


LEGACY = {
    "short": {"num_blocks": 8},
    "long": {"num_blocks": 2, "scale": (0.7, 0.7)},
    "brief": {"scale": (0.2, 0.5), "time": (0.2, 0.8)},
    "early": {"context_time": 0.6},
    "full_complement": {"rest": "target"},
    "pred_full_complement": {"rest": "context"},
    "inv_block": {"inverse": True},
    "crowded": {"num_blocks": 2, "scale": (0.8, 1.0), "aspect": (1.0, 1.3)},
}


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("seed", [0, 7])
def test_legacy_is_the_published_collator_index_for_index(name, seed):
    config = BlocksConfig(legacy=True, **LEGACY[name])
    masks = PublishedMultiBlock3d(config, CLIP).collate(6, *(torch.Generator().manual_seed(s) for s in (seed, seed + 100)))
    context, targets = published(config, CLIP, 6, seed, seed + 100)
    assert masks.context.tolist() == context and masks.targets[:, 0].tolist() == targets


def test_legacy_sizes_are_the_published_ones():
    """Sizes the published collator gives for its first six batches."""
    chances = [torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(6)]
    sets = (BlocksConfig(num_blocks=8, legacy=True), BlocksConfig(num_blocks=2, scale=(0.7, 0.7), legacy=True))
    short, long = ([config.legacy_block_shape(CLIP, u) for u in chances] for config in sets)
    assert short == [(8, 5, 6), (8, 6, 5), (8, 6, 5), (8, 5, 5), (8, 5, 6), (8, 6, 5)]
    assert long == [(8, 11, 13), (8, 12, 11), (8, 13, 11), (8, 11, 12), (8, 11, 13), (8, 14, 10)]


@pytest.mark.parametrize(
    ("blocks", "context", "target"),
    [
        ("short", [0.376, 0.376, 0.373, 0.345, 0.249, 0.128, 0.049, 0.016], [0.62, 0.47, 0.21, 0.054]),
        ("long", [0.192, 0.170, 0.097, 0.052, 0.022, 0.012, 0.009, 0.008], [0.81, None, 0.59, 0.196]),
    ],
)
def test_legacy_starves_the_last_frames_as_measured_on_the_published_one(blocks, context, target):
    sampler = PublishedMultiBlock3d(BlocksConfig(legacy=True, **LEGACY[blocks]), CLIP)
    batches = [sampler(generators(24, 24 * n), n) for n in range(150)]
    use = [sum(by_step(masks[part]) for masks in batches) / (150 * 24 * 196) for part in range(2)]
    assert np.abs(use[0].numpy() - context).max() < 0.02
    seen = [use[1][0], *use[1][5:]]
    assert all(abs(measured - known) < 0.04 for measured, known in zip(seen, target, strict=True) if known is not None)


def test_legacy_blocks_that_leave_nothing_do_not_search_for_ever():
    with pytest.raises(UserError, match="2 legacy blocks of 2x4x4 tokens leave no context"):
        PublishedMultiBlock3d(BlocksConfig(num_blocks=2, scale=(1, 1), aspect=(1, 1), legacy=True), (2, 4, 4))(generators(1), 0)


def test_the_check_samples_the_same_blocks_as_the_masks():
    """The check works on integers of bits and the masks on arrays: they leave as many tokens."""
    for config in (SHORT_RANGE, SETS["brief"], SETS["early"]):
        free = config.sample_free_counts(CLIP)
        sampled = 1568 - MultiBlock3d(config, CLIP).cover(sample_uniform(generators(2000), 6 * config.num_blocks)).sum(1)
        assert np.median(free) == pytest.approx(np.median(sampled), rel=0.05)
