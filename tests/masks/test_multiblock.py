"""Masks: what is hidden is never seen, every place is reachable, and lengths depend on nothing but the configuration."""

import time

import numpy as np
import pytest
import torch

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.masks import LEGACY_MIN_KEEP, MultiBlockConfig, legacy_block_size
from jepa_pipeline.masks.multiblock import MultiBlock, block_masks, sample_uniform
from jepa_pipeline.masks.published_multiblock import PublishedMultiBlock

GRIDS = [(14, 14), (16, 16), (8, 8), (12, 20)]


def generators(count, start=0):
    return [np.random.Generator(np.random.Philox(key=[0, 2], counter=[0, 0, n, 0])) for n in range(start, start + count)]


@pytest.mark.parametrize("grid", GRIDS)
def test_context_and_targets_never_meet_and_are_sorted_sets(grid):
    masks = MultiBlock(MultiBlockConfig(context_keep=0.25), grid)(generators(200), 0)
    for context, targets in zip(masks.context, masks.targets, strict=True):
        assert not set(context.tolist()) & set(targets.flatten().tolist())
        for tokens in (context, *targets):
            assert (tokens.diff() > 0).all()
            assert tokens[0] >= 0 and tokens[-1] < grid[0] * grid[1]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_patch_is_reached_by_context_and_targets(grid):
    masks = MultiBlock(MultiBlockConfig(context_keep=0.25), grid)(generators(3000), 0)
    for tokens in (masks.context, masks.targets):
        assert (torch.bincount(tokens.flatten(), minlength=grid[0] * grid[1]) > 0).all()


def test_lengths_and_masks_of_an_image_do_not_depend_on_its_batch():
    sampler = MultiBlock(MultiBlockConfig(), (14, 14))
    whole, alone = sampler(generators(64), 0), sampler(generators(1, start=17), 5)
    assert whole.context.shape == (64, sampler.context_tokens) == (64, round(0.3 * 196))
    assert torch.equal(whole.context[17], alone.context[0]) and torch.equal(whole.targets[17], alone.targets[0])


def test_no_row_of_the_grid_is_starved():
    """The published cut from the tail leaves the last rows nearly unused; here rows differ by geometry alone, top as bottom."""
    masks = MultiBlock(MultiBlockConfig(), (14, 14))(generators(4000), 0)
    for tokens in (masks.context, masks.targets):
        use = torch.bincount(tokens.flatten(), minlength=196).reshape(14, 14).float()
        for rows in (use.sum(1), use.sum(0)):
            assert torch.allclose(rows, rows.flip(0), rtol=0.12)  # four deviations of the counts
            assert rows.min() > 0.2 * rows.mean()


def test_targets_are_whole_blocks_where_all_shapes_are_equally_large():
    sampler = MultiBlock(MultiBlockConfig(), (8, 8))
    assert sampler.target_shapes.tolist() == [[3, 4], [4, 3]]
    for tokens in sampler(generators(50), 0).targets.flatten(0, 1):
        rows, columns = tokens // 8, tokens % 8
        assert (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1) == len(tokens) == 12


def test_masked_tokens_that_are_no_targets_stay_masked():
    """Of a 6x6 block only 30 tokens are targets; the other six must not appear in the context."""
    sampler = MultiBlock(MultiBlockConfig(), (14, 14))
    masks = sampler(generators(100), 0)
    corners, shapes = sampler.sample_targets(sample_uniform(generators(100), 12), generators(100))
    assert (sampler.count_free_tokens(corners, shapes) >= sampler.context_tokens).mean() > 0.8
    rows = sampler.count_free_tokens(corners, shapes) >= sampler.context_tokens  # the others were sampled again
    masks, corners, shapes = Masks(*(tokens[torch.from_numpy(rows)] for tokens in masks)), corners[rows], shapes[rows]
    hidden = block_masks(corners, shapes, (14, 14)).any(1)
    assert not hidden[np.arange(rows.sum())[:, None], masks.context.numpy()].any()


def test_a_context_that_seldom_fits_is_still_of_full_length():
    """Four blocks of a quarter of the grid rarely leave 45 of 64 tokens: they are sampled again, and at last stacked."""
    config = MultiBlockConfig(target_scale=(0.25, 0.25), target_aspect=(1, 1), context_keep=0.74)
    masks = MultiBlock(config, (8, 8))(generators(64), 0)
    assert masks.context.shape == (64, 47)
    for context, targets in zip(masks.context, masks.targets, strict=True):
        assert not set(context.tolist()) & set(targets.flatten().tolist())


def test_masks_of_128_images_cost_little_more_than_their_random_numbers():
    """1 ms on one quiet core, 1.4 times as long as to sample and to sort the numbers they are made of; 2 times with shapes checked, as
    they are here. The bound is the 3 ms that 128 images may take where the numbers take 0.67.
    """
    sampler, times, floor = MultiBlock(MultiBlockConfig(), (14, 14)), [], []
    for start in range(60):
        images = generators(128, start * 128)
        begun = time.thread_time()
        sampler(images, 0)
        times.append(time.thread_time() - begun)
        images = generators(128, start * 128)
        begun = time.thread_time()
        np.argsort(sample_uniform(images, 12 + 3 + 196 + 4 * 50), axis=1)
        floor.append(time.thread_time() - begun)
    assert min(times) < 4.5 * min(floor)


def test_masks_that_would_pile_up_are_refused():
    """Where every second image would be sampled again, block positions would no longer be uniform."""
    for config in (MultiBlockConfig(), MultiBlockConfig(context_keep=0.4)):
        config.check_grid((1, 14, 14))
    with pytest.raises(ValueError, match=r"lower context_keep to 0\.5"):
        MultiBlockConfig(context_keep=0.7).check_grid((1, 14, 14))


def published(config, grid, batch, seed, position_seed):
    """The published collator, told as plainly as possible: nested lists, sets and torch's generators in its order of draws."""
    height, width = grid
    sizes, positions = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(position_seed)

    def size(scale, aspect):
        u = torch.rand(1, generator=sizes).item()
        keep = int(height * width * (scale[0] + u * (scale[1] - scale[0])))
        ratio = aspect[0] + u * (aspect[1] - aspect[0])
        h, w = round((keep * ratio) ** 0.5), round((keep / ratio) ** 0.5)
        while h >= height:
            h -= 1
        while w >= width:
            w -= 1
        return h, w

    def block(h, w, forbidden):
        tries, failures = 0, 0
        while True:
            top = torch.randint(0, height - h, (1,), generator=positions).item()
            left = torch.randint(0, width - w, (1,), generator=positions).item()
            cells = [(r, c) for r in range(top, top + h) for c in range(left, left + w)]
            free = [cell for cell in cells if not any(cell in other for other in forbidden[: max(len(forbidden) - tries, 0)])]
            if len(free) > LEGACY_MIN_KEEP:
                return cells, free
            failures += 1
            if failures == 20:
                tries, failures = tries + 1, 0

    target, context = size(config.target_scale, config.target_aspect), size(config.context_scale, (1.0, 1.0))
    all_targets, contexts = [], []
    for _ in range(batch):
        blocks = [block(*target, []) for _ in range(config.num_targets)]
        all_targets.append([[r * width + c for r, c in free] for _, free in blocks])
        contexts.append([r * width + c for r, c in block(*context, [set(cells) for cells, _ in blocks])[1]])
    shortest, shortest_target = min(map(len, contexts)), min(len(tokens) for image in all_targets for tokens in image)
    return [tokens[:shortest] for tokens in contexts], [[tokens[:shortest_target] for tokens in image] for image in all_targets]


@pytest.mark.parametrize("seed", range(4))
def test_legacy_is_the_published_collator_index_for_index(seed):
    config = MultiBlockConfig(legacy=True)
    masks = PublishedMultiBlock(config, (16, 16)).collate(24, *(torch.Generator().manual_seed(s) for s in (seed, seed + 100)))
    context, targets = published(config, (16, 16), 24, seed, seed + 100)
    assert masks.context.tolist() == context
    assert masks.targets.tolist() == targets


def test_legacy_sizes_are_the_published_ones():
    """Sizes the published collator gives on a 16x16 grid for its first four batches."""
    sampled = [float(torch.rand(1, generator=torch.Generator().manual_seed(seed))) for seed in range(4)]
    assert [legacy_block_size(u, (16, 16), (0.15, 0.2), (0.75, 1.5)) for u in sampled] == [(7, 6), (8, 6), (7, 6), (5, 7)]


def test_legacy_never_uses_the_last_row_and_column_and_shrinks_with_the_batch():
    sampler = PublishedMultiBlock(MultiBlockConfig(legacy=True), (16, 16))
    lengths = {}
    for batch in (1, 64):
        contexts = [sampler(generators(batch, n * batch), n) for n in range(8)]
        used = torch.cat([tokens.flatten() for masks in contexts for tokens in masks])
        assert (used // 16).max() < 15 and (used % 16).max() < 15
        lengths[batch] = np.mean([masks.context.shape[1] for masks in contexts])
    assert lengths[64] < 0.8 * lengths[1]


def test_legacy_on_a_grid_too_small_says_so_instead_of_searching_for_ever():
    with pytest.raises(
        ValueError, match=r"more than 10 patches, but on the 8x8 grid some have 9: raise target_scale, or set legacy to false"
    ):
        MultiBlockConfig(legacy=True).check_grid((1, 8, 8))
    config = MultiBlockConfig(legacy=True, target_scale=(0.25, 0.3))
    config.check_grid((1, 8, 8))
    assert len(PublishedMultiBlock(config, (8, 8))(generators(32), 0).context) == 32
