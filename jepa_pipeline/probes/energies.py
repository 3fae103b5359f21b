"""The energies of a joint-embedding predictive architecture, of what is true and of alternatives to it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch, Energy, Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.error_maps import Shown
from jepa_pipeline.probes.features import Lens, compute_device
from jepa_pipeline.probes.negatives import Continuation, Cut, composed, continuations, continued, orders_within, untrue_order
from jepa_pipeline.probes.rollout_error import Curve, Distance, constant_errors, copy_last, some_places


@runtime_checkable
class Asked(Protocol):
    """Whatever says how badly the hidden part of each sample goes with the visible one, at each level."""

    def energy(self, batch: Batch) -> list[Energy]: ...


Draw = Callable[[list[np.random.Generator], int], list[list[Masks]]]
"""Masks of a batch, those of each level, from a generator a sample and the batch's number."""


class Subject(NamedTuple):
    """Who is asked, and what about. distances: of each level; images: what they are shown first, of so many heat maps are kept."""

    asked: Asked
    draw: Draw
    lens: Lens
    distances: Sequence[Distance]
    seed: int
    pictures: int


class Measured(NamedTuple):
    """What was found. energies: by continuation, of each level, of every sample at every time step after the cut, of images at the
    one there is; curves: of each level, of clips; constants: of each level, the errors at these steps of the best constant of each
    place; places: of each level, of how many places of how many.
    """

    energies: dict[Continuation, list[Float[Tensor, "S _"]]]
    curves: list[Curve]
    constants: list[Float[Tensor, "_"]]
    places: list[tuple[int, int]]
    shown: list[Shown]


class Kept:
    """What is gathered batch by batch of each level."""

    def __init__(self, distances: Sequence[Distance]) -> None:
        self.distances = distances
        self.energies: dict[Continuation, list[list[Tensor]]] = {}
        self.copied: list[list[Tensor]] = [[] for _ in distances]
        self.targets: list[list[Tensor]] = [[] for _ in distances]
        self.asked: list[list[Tensor]] = [[] for _ in distances]
        self.places: list[tuple[int, int]] = [(0, 0) for _ in distances]
        self.shown: list[Shown] = []

    def add(self, name: Continuation, level: int, energies: Float[Tensor, "B F"]) -> None:
        levels = self.energies.setdefault(name, [[] for _ in self.distances])
        levels[level].append(energies.double().cpu())

    def add_targets(self, level: int, targets: Float[Tensor, "B F H W D"], asked: Bool[Tensor, "B H W"], samples: int) -> None:
        """Keep the representations in some places, and in which of these they are asked for. samples: how many there will be."""
        flat = targets.flatten(2, 3)
        chosen = some_places(flat.shape[2], samples * flat.shape[1] * flat.shape[3])
        self.targets[level].append(flat[:, :, chosen.to(flat.device)].float().cpu())
        self.asked[level].append(asked.flatten(1)[:, chosen])
        self.places[level] = (len(chosen), flat.shape[2])

    def show(self, pixels: Num[Tensor, "B C *T H W"], errors: Sequence[Float[Tensor, "B _ _ _"]], most: int) -> None:
        """Keep the first samples' pixels with their errors, as long as there are fewer than so many."""
        for row in range(min(len(pixels), most - len(self.shown))):
            clip = pixels[row].unsqueeze(1) if pixels.ndim == 4 else pixels[row]
            self.shown.append(Shown(clip.permute(1, 2, 3, 0).numpy(), [error[row].float().cpu().numpy() for error in errors]))

    def finish(self, frames: Sequence[int]) -> Measured:
        """All of it. frames: how many a time step of each level spans; none for images.

        Raises:
            RuntimeError: an energy is not finite.
        """
        energies: dict[Continuation, list[Tensor]] = {}
        for name, levels in self.energies.items():
            energies[name] = [torch.cat(parts) for parts in levels]
        for name, levels in energies.items():
            for number, found in enumerate(levels, start=1):
                if not found.isfinite().all():
                    raise RuntimeError(f"level {number} has energies that are not finite ({name}): it is asked for other tokens")
        constants = [self.constants(level) for level in range(len(self.distances))]
        curves = [
            Curve(error, torch.cat(copied), constant, span)
            for error, copied, constant, span in zip(energies["true"], self.copied, constants, frames, strict=False)
        ]
        return Measured(energies, curves, constants, self.places, self.shown)

    def constants(self, level: int) -> Float[Tensor, "F"]:
        """At each time step, the error of the best constant of each place: of every sample the mean where it is asked for."""
        asked = torch.cat(self.asked[level]).double()
        shares = asked / asked.sum(1, keepdim=True).clamp(min=1)
        found = []
        for step in range(self.targets[level][0].shape[1]):
            errors = constant_errors(torch.cat([part[:, step] for part in self.targets[level]]), self.distances[level])
            found.append((errors * shares).sum() / shares.sum())
        return torch.stack(found)


def measure_clips(subject: Subject, loader: DataLoader[Batch], passes: list[list[int]], cut: Cut) -> Measured:
    """The energies of clips' futures from their pasts."""
    kept, device, samples = Kept(subject.distances), compute_device(), sum(map(len, passes))
    spans: list[int] = []
    for number, (rows, batch) in enumerate(zip(passes, track(loader, "energies", len(passes)), strict=True)):
        clips, masks = batch.views[0], drawn(subject, rows, number)
        future = clips.shape[2] - cut.frames
        orders = [untrue_order(future, keyed_generator(subject.seed, Stream.VIEW, 0, row)) for row in rows]
        for name in continuations(future):
            others = continued(name, clips, cut.frames, torch.from_numpy(np.stack(orders)))
            found = ask(subject, others, masks, device)[: len(cut.steps)]
            for level, (energy, past) in enumerate(zip(found, cut.steps, strict=True)):
                kept.add(name, level, energy.error[:, past:].mean((2, 3)))
                if name == "true":
                    distance = subject.distances[level]
                    kept.copied[level].append(copy_last(energy.targets, past, distance).double().cpu())
                    everywhere = torch.ones(len(rows), *energy.targets.shape[2:4], dtype=torch.bool)
                    kept.add_targets(level, energy.targets[:, past:], everywhere, samples)
            if name == "true":
                kept.show(clips, [energy.error for energy in found], subject.pictures)
                spans = [clips.shape[2] // energy.error.shape[1] for energy in found]
    return kept.finish(spans)


def measure_images(subject: Subject, loader: DataLoader[Batch], passes: list[list[int]]) -> Measured:
    """The energies of what images hide; at each level of what that level hides, on its own grid.

    Raises:
        UserError: a level's masks hide nothing of an image.
    """
    kept, device, samples = Kept(subject.distances), compute_device(), sum(map(len, passes))
    for number, (rows, batch) in enumerate(zip(passes, track(loader, "energies", len(passes)), strict=True)):
        images, masks = batch.views[0], drawn(subject, rows, number)
        found = ask(subject, images, masks, device)
        kept.show(images, [energy.error for energy in found], subject.pictures)
        for level, truth in enumerate(found):
            hidden = hidden_cells(masks[level], truth.error.shape[2:])
            check_hidden(hidden, level + 1, len(masks[level]), rows)
            kept.add("true", level, mean_within(truth.error, hidden))
            kept.add_targets(level, truth.targets, hidden, samples)
            generators = [keyed_generator(subject.seed, Stream.VIEW, 0, row, view=level) for row in rows]
            orders = orders_within(hidden, generators)
            for name in ("other", "shuffled"):
                energies = ask(subject, composed(name, images, hidden, orders), masks, device)
                kept.add(name, level, mean_within(energies[level].error, hidden))
    return kept.finish(frames=[])


def drawn(subject: Subject, rows: Sequence[int], number: int) -> list[list[Masks]]:
    """The masks of these samples, keyed by each of them."""
    return subject.draw([keyed_generator(subject.seed, Stream.MASK, 0, row) for row in rows], number)


def ask(subject: Subject, pixels: Num[Tensor, "B C *T H W"], masks: list[list[Masks]], device: torch.device) -> list[Energy]:
    seen = normalize(pixels.to(device), subject.lens.mean, subject.lens.std)
    there = [Masks(one.context.to(device), one.targets.to(device)) for level in masks for one in level]
    return subject.asked.energy(Batch([seen], there, None, [], []))


def hidden_cells(masks: Sequence[Masks], grid: Sequence[int]) -> Bool[Tensor, "B _ _"]:
    """Which cells of an image are asked for by a question, and seen by none."""
    rows, columns = grid
    hidden = torch.zeros(len(masks[0].context), rows * columns, dtype=torch.bool)
    for one in masks:
        hidden.scatter_(1, one.targets.flatten(1).long(), True)
    for one in masks:
        hidden.scatter_(1, one.context.long(), False)
    return hidden.unflatten(1, (rows, columns))


def check_hidden(hidden: Bool[Tensor, "B _ _"], level: int, questions: int, rows: Sequence[int]) -> None:
    """Refuse an image of which nothing is hidden.

    Raises:
        UserError: there is one.
    """
    for row, cells in zip(rows, hidden.flatten(1).sum(1).tolist(), strict=True):
        if not cells:
            raise UserError(
                f"level {level}'s masks (sets: {questions}) hide nothing of image {row}, for one of them shows whatever another "
                "asks for: give fewer samples or another seed, or train with sets of masks that together hide something"
            )


def mean_within(error: Float[Tensor, "B 1 _ _"], hidden: Bool[Tensor, "B _ _"]) -> Float[Tensor, "B 1"]:
    """The mean error of the hidden cells of every image."""
    places = hidden.to(error.device)
    inside = torch.where(places, error[:, 0].double(), 0.0)
    return inside.sum((1, 2))[:, None] / places.sum((1, 2))[:, None]
