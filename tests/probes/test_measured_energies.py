"""Energies of models whose separations are known: an oracle, and one whose energy is constant."""

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Energy, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.video_masks import CausalConfig
from jepa_pipeline.data.views import normalize
from jepa_pipeline.data.workers import build_loader
from jepa_pipeline.masks.causal import Causal
from jepa_pipeline.masks.multiblock import MultiBlock
from jepa_pipeline.probes import rollout_error
from jepa_pipeline.probes.energies import (
    Collector,
    EnergyModel,
    Evaluation,
    Measurements,
    check_masked,
    masked_mean,
    masked_patches,
    measure_clips,
    measure_images,
)
from jepa_pipeline.probes.energy_rows import error_rows, position_sentences, separation_rows
from jepa_pipeline.probes.features import Preprocessing
from jepa_pipeline.probes.negatives import candidates, split_time
from jepa_pipeline.probes.rollout_error import RolloutErrors
from jepa_pipeline.results.energy_report import error_table, own_sentences, separation_cell, separation_table

LENS = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
BATCHES = [[3, 0, 1], [2, 4]]
ENCODERS = [
    EncoderConfig(image_size=16, patch_size=4, frames=8, tubelet_size=2, embed_dim=24, depth=1, num_heads=2),
    EncoderConfig(image_size=4, patch_size=2, frames=4, tubelet_size=2, embed_dim=24, depth=1, num_heads=2),
]
SPLIT = split_time(0.5, ENCODERS)
GRID = (4, 4)


class Pixels(Dataset):
    """Five clips or images of noise."""

    def __init__(self, *shape):
        self.pixels = torch.randint(0, 256, (5, 3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __getitems__(self, numbers):
        return Batch([self.pixels[numbers]], [], None, [str(number) for number in numbers], [])


class Oracle:
    """Energy is the distance of the pixels from those of the sample with the same visible part; blind: it is constant."""

    def __init__(self, pixels, grids, visible, blind=False):
        self.truth, self.grids, self.visible, self.blind = normalize(pixels, *LENS[:2]), grids, visible, blind

    def energy(self, batch):
        views = batch.views[0]
        gaps = (views[:, None] - self.truth).abs() * self.visible(batch)[:, None]
        truth = self.truth[gaps.flatten(2).sum(2).argmin(1)]
        error = (views - truth).abs().mean(1)
        error = torch.ones_like(error) if self.blind else error
        error = error if error.ndim == 4 else error[:, None]
        found = []
        for number, grid in enumerate(self.grids):
            pooled = torch.nn.functional.adaptive_avg_pool3d(error, grid)
            if len(batch.masks) > number and pooled.shape[1] > 1:
                pooled[:, : grid[0] // 2] = torch.nan
            found.append(Energy(pooled, views.new_ones(*pooled.shape, 3)))
        return found


def past(batch):
    return (torch.arange(8) < SPLIT.frames).view(1, 1, 8, 1, 1)


def context(batch):
    seen = torch.zeros(len(batch.views[0]), 16).scatter_(1, batch.masks[0].context, 1.0).view(-1, 1, *GRID)
    return torch.nn.functional.interpolate(seen, scale_factor=4)


def clip_masks(generators, number):
    masks = [Causal(CausalConfig(name="causal", context_time=SPLIT.share), encoder.clip_grid) for encoder in ENCODERS]
    return [[one(generators, number)] for one in masks]


def measure_noise_clips(blind=False, pictures=3):
    clips, grids = Pixels(8, 16, 16), [encoder.clip_grid for encoder in ENCODERS]
    oracle = Oracle(clips.pixels, grids, past, blind)
    assert isinstance(oracle, EnergyModel)
    subject = Evaluation(oracle, clip_masks, LENS, ["l1", "smooth_l1"], 0, pictures)
    return measure_clips(subject, build_loader(clips, BATCHES, 0), BATCHES, SPLIT)


def test_an_oracle_separates_the_truth_at_every_level_and_horizon():
    measured = measure_noise_clips()
    rows = separation_rows(measured, fps=10.0)
    assert all(row.auroc == 1 and row.own == 1 and row.ci95[1] == 1 and row.margin > 1 for row in rows)
    assert {row.alternative for row in rows} == {"other", "shuffled", "reversed", "frozen"}
    places = {(row.level, row.horizon, row.frames, row.seconds, row.n) for row in rows}
    assert places == {
        (1, 1, (1, 2), 0.2, 5), (1, 2, (3, 4), 0.4, 5), (1, None, (1, 4), 0.4, 5), (2, 1, (1, 4), 0.4, 5), (2, None, (1, 4), 0.4, 5),
    }  # fmt: skip
    assert all(row.error == 0 and row.copy_last == 0 and row.constant == 0 for row in error_rows(measured, None))
    assert len(rows) == 4 * 5 and "shuffled 100.0 % (56.6-100.0)" in own_sentences(rows)[1]


def test_a_constant_energy_separates_nothing():
    measured = measure_noise_clips(blind=True, pictures=0)
    rows = separation_rows(measured, fps=None)
    assert all(row.auroc == 0.5 and row.own == 0.5 and row.margin is None and row.seconds is None for row in rows)
    assert separation_cell(rows[0]).startswith("50.0 ") and measured.maps == []


def test_a_table_has_a_row_per_horizon_within_100_columns():
    table = separation_table(separation_rows(measure_noise_clips(), fps=10.0), 5)
    assert table.row_count == 5 and [column.header for column in table.columns][:3] == ["level", "frames", "s"]
    assert Console(width=200).measure(table).maximum <= 100


def test_tables_of_many_frames_and_large_margins_fit_100_columns():
    rows = separation_rows(measure_noise_clips(), fps=10.0)
    wild = [row.model_copy(update={"frames": (113, 128), "seconds": 12.75, "margin": 1e6, "ci95": (0.9999, 1.0)}) for row in rows]
    errors = [
        row.model_copy(update={"frames": (113, 128), "seconds": 12.75}) for row in error_rows(measure_noise_clips(), fps=10.0)
    ]
    for table in (separation_table(wild, 5), error_table(errors, flattered=True)):
        assert Console(width=200).measure(table).maximum <= 100
    assert separation_cell(wild[0]).endswith(" >99")


def test_only_full_attention_flatters_copying():
    rows = error_rows(measure_noise_clips(), None)
    said = [str(error_table(rows, flattered).caption) for flattered in (True, False)]
    assert ["flattered" in caption for caption in said] == [True, False] and all("of each position" in caption for caption in said)


def test_a_horizon_that_reversal_leaves_unchanged_has_no_row():
    """Reversal leaves the fourth of seven frames where it is."""
    energies = {name: [torch.rand(5, 7)] for name in candidates(7)}
    curve = RolloutErrors(energies["true"][0], energies["true"][0], torch.ones(7), frames_per_step=1)
    measured = Measurements(energies, [curve], [torch.ones(7)], [(4, 4)], [])
    rows = separation_rows(measured, None)
    assert {row.horizon for row in rows if row.alternative == "reversed"} == {1, 2, 3, 5, 6, 7, None}
    assert {row.horizon for row in rows if row.alternative == "shuffled"} == {1, 2, 3, 4, 5, 6, 7, None}
    cells = [[*column.cells] for column in separation_table(rows, 5).columns]
    headers = [column.header for column in separation_table(rows, 5).columns]
    assert cells[headers.index("reversed")][3] == "" and "" not in cells[headers.index("shuffled")]


def test_a_level_that_is_left_out_is_computed_and_not_measured():
    clips, grids = Pixels(8, 16, 16), [*(encoder.clip_grid for encoder in ENCODERS), (1, 2, 2)]
    subject = Evaluation(Oracle(clips.pixels, grids, past), clip_masks, LENS, ["l1", "smooth_l1"], 0, 2)
    measured = measure_clips(subject, build_loader(clips, BATCHES, 0), BATCHES, SPLIT)
    assert len(measured.rollouts) == len(measured.constants) == len(measured.maps[0].errors) == 2


def test_a_sentence_says_that_positions_are_subsampled(monkeypatch: pytest.MonkeyPatch):
    assert position_sentences(measure_noise_clips()) == []
    monkeypatch.setattr(rollout_error, "MAX_VALUES", 5 * 2 * 3 * 4)
    assert position_sentences(measure_noise_clips()) == [
        "level 1: the best constants are of 4 of its 16 positions, evenly spaced, to limit memory"
    ]


def test_error_maps_are_of_the_first_samples_and_of_the_future():
    shown = measure_noise_clips().maps
    assert len(shown) == 3
    for one, number in zip(shown, BATCHES[0], strict=True):
        assert (torch.from_numpy(one.frames) == Pixels(8, 16, 16).pixels[number].permute(1, 2, 3, 0)).all()
        for error, steps in zip(one.errors, SPLIT.steps, strict=True):
            known = torch.from_numpy(error).isfinite()
            assert known[steps:].all() and not known[:steps].any()


def test_energies_that_are_not_finite_are_an_error():
    clips = Pixels(8, 16, 16)
    oracle = Oracle(clips.pixels, [encoder.clip_grid for encoder in ENCODERS], past)
    subject = Evaluation(oracle, clip_masks, LENS, ["l1", "l1"], 0, 0)
    with pytest.raises(RuntimeError, match="level 1 has energies that are not finite"):
        measure_clips(subject, build_loader(clips, BATCHES, 0), BATCHES, SPLIT._replace(steps=(1, 1)))


def measure_noise_images(blind=False):
    images, masks = Pixels(16, 16), MultiBlock(MultiBlockConfig(name="multiblock", num_targets=2, target_scale=(0.15, 0.3)), GRID)
    drawn = []

    def draw(generators, number):
        drawn.append(masks(generators, number))
        return [[drawn[-1]]]

    subject = Evaluation(Oracle(images.pixels, [(1, *GRID)], context, blind), draw, LENS, ["smooth_l1"], 0, 2)
    return measure_images(subject, build_loader(images, BATCHES, 0), BATCHES), drawn


def test_an_oracle_separates_masked_patches_of_images():
    measured, drawn = measure_noise_images()
    rows = separation_rows(measured, None)
    assert [(row.level, row.horizon, row.frames, row.alternative, row.auroc) for row in rows] == [
        (1, None, None, "other", 1.0), (1, None, None, "shuffled", 1.0),
    ]  # fmt: skip
    (error,) = error_rows(measured, None)
    assert error.copy_last is None and measured.rollouts == [] and len(measured.maps) == 2
    assert all(row.auroc == 0.5 for row in separation_rows(measure_noise_images(blind=True)[0], None))


def test_masked_patches_are_targets_and_never_context():
    masks = measure_noise_images()[1][0]
    hidden = masked_patches([masks], GRID)
    assert hidden.flatten(1)[0].nonzero().flatten().tolist() == sorted(set(masks.targets[0].flatten().tolist()))
    assert not hidden.flatten(1).gather(1, masks.context).any()
    error = torch.where(hidden, 2.0, torch.nan)[:, None]
    assert torch.equal(masked_mean(error, hidden), torch.full((3, 1), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("distance", ["l1", "smooth_l1"])
def test_the_best_constant_of_an_image_is_that_of_its_masked_positions(distance):
    """Positions differ in difficulty, and images in which and how many are masked."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 5.0, 20.0]).view(1, 1, 2, 2, 1)
    targets = spread * torch.randn(400, 1, 2, 2, 8, generator=generator)
    hidden = torch.tensor([[True, False], [False, False]]).repeat(400, 1, 1)
    hidden[::4, 0, 1] = True
    kept = Collector([distance])
    for part in (slice(0, 150), slice(150, 400)):
        kept.add_targets(0, targets[part], hidden[part], 400)
    zero = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[distance](torch.zeros_like(targets), targets, reduction="none").mean(4)
    assert float(kept.constants(0)) == pytest.approx(float(masked_mean(zero, hidden).mean()), rel=0.02)


def test_masks_that_hide_nothing_are_refused():
    seen, asked = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[[2, 3]], [[2, 3]]])
    masks = [Masks(seen, asked), Masks(asked[:, 0], seen[:, None])]
    with pytest.raises(
        UserError, match=r"^the masks of level 2 \(2 sets\) mask nothing of image 7, because every target of one set is context"
    ):
        check_masked(masked_patches(masks, (2, 2)), 2, len(masks), [7, 8])
    check_masked(masked_patches(masks[:1], (2, 2)), 2, 1, [7, 8])
    images = Pixels(8, 8)
    oracle = Oracle(images.pixels, [(1, 2, 2)], lambda batch: torch.ones(1, 1, 8, 8))

    def draw(generators, number):
        return [[Masks(*(part[:1].expand(len(generators), *part.shape[1:]) for part in one)) for one in masks]]

    with pytest.raises(UserError, match=r"^the masks of level 1 \(2 sets\) mask nothing of image 3"):
        measure_images(Evaluation(oracle, draw, LENS, ["l1"], 0, 0), build_loader(images, BATCHES, 0), BATCHES)
