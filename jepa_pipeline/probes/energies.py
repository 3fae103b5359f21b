"""Energies of a JEPA: of the truth and of alternatives to it, at each level and time step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor
from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch, Energy, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.method import Distance
from jepa_pipeline.console import track
from jepa_pipeline.data.picture import to_picture
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.error_maps import ErrorMap
from jepa_pipeline.probes.features import Preprocessing, compute_device
from jepa_pipeline.probes.negatives import (
    TimeSplit,
    candidates,
    derangement,
    replace_future,
    replace_masked,
    shuffle_masked,
)
from jepa_pipeline.probes.rollout_error import RolloutErrors, constant_errors, copy_last_errors, subsample_positions
from jepa_pipeline.results.energy_report import Candidate


@runtime_checkable
class EnergyModel(Protocol):
    """A method that returns the energy of each sample at each token, by level."""

    def energy(self, batch: Batch) -> list[Energy]: ...


SampleMasks = Callable[[list[np.random.Generator], int], list[list[Masks]]]
"""Return the masks of a batch by level, from a generator per sample and the number of the batch."""


class Evaluation(NamedTuple):
    """A model and the settings of its evaluation.

    Attributes:
        model: on the device.
        sample_masks: the masks of a batch.
        preprocessing: of pixels.
        distances: of each level.
        seed: of the masks and of shuffled alternatives.
        maps: number of samples whose error maps are kept.
    """

    model: EnergyModel
    sample_masks: SampleMasks
    preprocessing: Preprocessing
    distances: Sequence[Distance]
    seed: int
    maps: int


class Measurements(NamedTuple):
    """Results of an evaluation.

    Attributes:
        energies: by candidate and level, of every sample at every future time step; images have one.
        rollouts: by level, for clips.
        constants: by level, the error of the best constant of each position at every future time step.
        positions: by level, how many positions these constants are fitted to, and of how many.
        maps: error maps of the first samples.
    """

    energies: dict[Candidate, list[Float[Tensor, "S _"]]]
    rollouts: list[RolloutErrors]
    constants: list[Float[Tensor, "_"]]
    positions: list[tuple[int, int]]
    maps: list[ErrorMap]


class Collector:
    """Collects the results of the batches by level."""

    def __init__(self, distances: Sequence[Distance]) -> None:
        self.distances = distances
        self.energies: dict[Candidate, list[list[Tensor]]] = {}
        self.copied: list[list[Tensor]] = [[] for _ in distances]
        self.targets: list[list[Tensor]] = [[] for _ in distances]
        self.masked: list[list[Tensor]] = [[] for _ in distances]
        self.positions: list[tuple[int, int]] = [(0, 0) for _ in distances]
        self.maps: list[ErrorMap] = []

    def add(self, name: Candidate, level: int, energies: Float[Tensor, "B F"]) -> None:
        levels = self.energies.setdefault(name, [[] for _ in self.distances])
        levels[level].append(energies.double().cpu())

    def add_targets(self, level: int, targets: Float[Tensor, "B F H W D"], masked: Bool[Tensor, "B H W"], samples: int) -> None:
        """Keep the targets at some positions, and which of these are predicted. samples: total number of samples."""
        flat = targets.flatten(2, 3)
        positions = subsample_positions(flat.shape[2], samples * flat.shape[1] * flat.shape[3])
        self.targets[level].append(flat[:, :, positions.to(flat.device)].float().cpu())
        self.masked[level].append(masked.flatten(1)[:, positions])
        self.positions[level] = (len(positions), flat.shape[2])

    def add_maps(self, pixels: Num[Tensor, "B C *T H W"], errors: Sequence[Float[Tensor, "B _ _ _"]], limit: int) -> None:
        """Keep the error maps of the first samples, at most `limit` in total."""
        for row in range(min(len(pixels), limit - len(self.maps))):
            picture = to_picture(pixels[row])
            clip = picture.unsqueeze(1) if pixels.ndim == 4 else picture
            self.maps.append(ErrorMap(clip.permute(1, 2, 3, 0).numpy(), [error[row].float().cpu().numpy() for error in errors]))

    def finish(self, frames_per_step: Sequence[int]) -> Measurements:
        """Return the results of all batches. frames_per_step: of each level; empty for images.

        Raises:
            RuntimeError: an energy is not finite.
        """
        energies: dict[Candidate, list[Tensor]] = {}
        for name, levels in self.energies.items():
            energies[name] = [torch.cat(parts) for parts in levels]
            for number, values in enumerate(energies[name], start=1):
                if not values.isfinite().all():
                    raise RuntimeError(f"level {number} has energies that are not finite ({name}): other tokens are predicted")
        constants = [self.constants(level) for level in range(len(self.distances))]
        rollouts = [
            RolloutErrors(error, torch.cat(copied), constant, span)
            for error, copied, constant, span in zip(energies["true"], self.copied, constants, frames_per_step, strict=False)
        ]
        return Measurements(energies, rollouts, constants, self.positions, self.maps)

    def constants(self, level: int) -> Float[Tensor, "F"]:
        """Return the error of the best constant of each position at each time step, averaged over each sample's predictions."""
        masked = torch.cat(self.masked[level]).double()
        weights = masked / masked.sum(1, keepdim=True).clamp(min=1)
        means = []
        for step in range(self.targets[level][0].shape[1]):
            errors = constant_errors(torch.cat([part[:, step] for part in self.targets[level]]), self.distances[level])
            means.append((errors * weights).sum() / weights.sum())
        return torch.stack(means)


def measure_clips(evaluation: Evaluation, loader: DataLoader[Batch], batches: list[list[int]], split: TimeSplit) -> Measurements:
    """Return the energies of the futures of clips, given their pasts. batches: numbers of the samples that the loader returns."""
    collector, device, samples = Collector(evaluation.distances), compute_device(), sum(map(len, batches))
    spans: list[int] = []
    for number, (rows, batch) in enumerate(zip(batches, track(loader, "energies", len(batches)), strict=True)):
        clips, masks = batch.views[0], keyed_masks(evaluation, rows, number)
        future = clips.shape[2] - split.frames
        orders = [derangement(future, keyed_generator(evaluation.seed, Stream.VIEW, 0, row)) for row in rows]
        for name in candidates(future):
            replaced = replace_future(name, clips, split.frames, torch.from_numpy(np.stack(orders)))
            energies = compute_energies(evaluation, replaced, masks, device)[: len(split.steps)]
            for level, (energy, past) in enumerate(zip(energies, split.steps, strict=True)):
                collector.add(name, level, energy.error[:, past:].mean((2, 3)))
                if name == "true":
                    distance = evaluation.distances[level]
                    collector.copied[level].append(copy_last_errors(energy.targets, past, distance).double().cpu())
                    everywhere = torch.ones(len(rows), *energy.targets.shape[2:4], dtype=torch.bool)
                    collector.add_targets(level, energy.targets[:, past:], everywhere, samples)
            if name == "true":
                collector.add_maps(clips, [energy.error for energy in energies], evaluation.maps)
                spans = [clips.shape[2] // energy.error.shape[1] for energy in energies]
    return collector.finish(spans)


def measure_images(evaluation: Evaluation, loader: DataLoader[Batch], batches: list[list[int]]) -> Measurements:
    """Return the energies of the masked patches of images, at each level on its own grid.

    Raises:
        UserError: the masks of a level mask nothing of an image.
    """
    collector, device, samples = Collector(evaluation.distances), compute_device(), sum(map(len, batches))
    for number, (rows, batch) in enumerate(zip(batches, track(loader, "energies", len(batches)), strict=True)):
        images, masks = batch.views[0], keyed_masks(evaluation, rows, number)
        true_energies = compute_energies(evaluation, images, masks, device)
        collector.add_maps(images, [energy.error for energy in true_energies], evaluation.maps)
        for level, true in enumerate(true_energies):
            masked = masked_patches(masks[level], true.error.shape[2:])
            check_masked(masked, level + 1, len(masks[level]), rows)
            collector.add("true", level, masked_mean(true.error, masked))
            collector.add_targets(level, true.targets, masked, samples)
            generators = [keyed_generator(evaluation.seed, Stream.VIEW, 0, row, view=level) for row in rows]
            orders = shuffle_masked(masked, generators)
            for name in ("other", "shuffled"):
                energies = compute_energies(evaluation, replace_masked(name, images, masked, orders), masks, device)
                collector.add(name, level, masked_mean(energies[level].error, masked))
    return collector.finish(frames_per_step=[])


def keyed_masks(evaluation: Evaluation, rows: Sequence[int], number: int) -> list[list[Masks]]:
    """Return the masks of the samples with these numbers, each from its own generator, so that batching changes nothing."""
    return evaluation.sample_masks([keyed_generator(evaluation.seed, Stream.MASK, 0, row) for row in rows], number)


def compute_energies(
    evaluation: Evaluation, pixels: Num[Tensor, "B C *T H W"], masks: list[list[Masks]], device: torch.device
) -> list[Energy]:
    """Return the energies of each level."""
    mean, std, _ = evaluation.preprocessing
    views = [normalize(pixels.to(device), mean, std)]
    flat = [Masks(mask.context.to(device), mask.targets.to(device)) for level in masks for mask in level]
    return evaluation.model.energy(Batch(views, flat, None, [], []))


def masked_patches(masks: Sequence[Masks], grid: Sequence[int]) -> Bool[Tensor, "B _ _"]:
    """Return which patches of an image are targets of a mask set, and context of none."""
    rows, columns = grid
    masked = torch.zeros(len(masks[0].context), rows * columns, dtype=torch.bool)
    for mask in masks:
        masked.scatter_(1, mask.targets.flatten(1).long(), True)
    for mask in masks:
        masked.scatter_(1, mask.context.long(), False)
    return masked.unflatten(1, (rows, columns))


def check_masked(masked: Bool[Tensor, "B _ _"], level: int, sets: int, rows: Sequence[int]) -> None:
    """Raise UserError if an image has no masked patch. sets: number of mask sets; rows: numbers of the samples."""
    for row, count in zip(rows, masked.flatten(1).sum(1).tolist(), strict=True):
        if not count:
            raise UserError(
                f"the masks of level {level} ({sets} sets) mask nothing of image {row}, because every target of one set is context "
                "of another: give fewer samples or another seed, or train with mask sets that share masked patches"
            )


def masked_mean(error: Float[Tensor, "B 1 _ _"], masked: Bool[Tensor, "B _ _"]) -> Float[Tensor, "B 1"]:
    """Return the mean error of the masked patches of each image."""
    masked = masked.to(error.device)
    # not error * masked: the error is NaN where nothing is predicted
    inside = torch.where(masked, error[:, 0].double(), 0.0)
    return inside.sum((1, 2))[:, None] / masked.sum((1, 2))[:, None]
