"""The rows of an energy report, from the measurements."""

from collections.abc import Iterator

from torch import Tensor

from jepa_pipeline.probes.auroc import separate
from jepa_pipeline.probes.energies import Measurements
from jepa_pipeline.probes.negatives import is_unchanged
from jepa_pipeline.results.energy_report import EnergyRow, ErrorRow, SeparationRow


def horizons(measured: Measurements, level: int, fps: float | None) -> Iterator[tuple[EnergyRow, slice]]:
    """Yield every horizon of a level, counted from 0, then the whole future, with its time steps."""
    samples, steps = measured.energies["true"][level].shape
    if not measured.rollouts:
        yield EnergyRow(level=level + 1, horizon=None, frames=None, seconds=None, n=samples), slice(None)
        return
    span = measured.rollouts[level].frames_per_step
    for horizon, first, last in [*((step + 1, step, step + 1) for step in range(steps)), (None, 0, steps)]:
        seconds = None if fps is None else last * span / fps
        frames = (first * span + 1, last * span)
        yield EnergyRow(level=level + 1, horizon=horizon, frames=frames, seconds=seconds, n=samples), slice(first, last)


def separation_rows(measured: Measurements, fps: float | None) -> list[SeparationRow]:
    """Return a row per level, horizon and alternative, but for horizons at which an alternative has the true frames."""
    future = [rollout.frames_per_step * rollout.error.shape[1] for rollout in measured.rollouts]
    return [
        SeparationRow(
            **row.model_dump(), alternative=name, **separate(mean_energy(true, steps), mean_energy(levels[level], steps))._asdict()
        )
        for level, true in enumerate(measured.energies["true"])
        for row, steps in horizons(measured, level, fps)
        for name, levels in measured.energies.items()
        if name != "true" and not (row.frames and is_unchanged(name, row.frames[0] - 1, row.frames[1], future[level]))
    ]


def mean_energy(energies: Tensor, steps: slice) -> Tensor:
    return energies[:, steps].mean(1)


def error_rows(measured: Measurements, fps: float | None) -> list[ErrorRow]:
    """Return a row per level and horizon."""
    rows = []
    for level, (true, constants) in enumerate(zip(measured.energies["true"], measured.constants, strict=True)):
        for row, steps in horizons(measured, level, fps):
            copied = float(measured.rollouts[level].copied[:, steps].mean()) if measured.rollouts else None
            error, constant = float(true[:, steps].mean()), float(constants[steps].mean())
            rows.append(ErrorRow(**row.model_dump(), error=error, copy_last=copied, constant=constant))
    return rows


def position_sentences(measured: Measurements) -> list[str]:
    """Return a sentence per level whose best constants are of some positions only, because of memory."""
    return [
        f"level {level}: the best constants are of {kept} of its {positions} positions, evenly spaced, to limit memory"
        for level, (kept, positions) in enumerate(measured.positions, start=1)
        if kept < positions
    ]
