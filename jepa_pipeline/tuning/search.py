"""The search: the recipe as it is, the same with another seed, each other setting alone, and the faster ones together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.training.trial import WARM_UP
from jepa_pipeline.tuning.comparison import Comparison, Measured, Trial, compare, loss_difference, winners
from jepa_pipeline.tuning.process import OUT_OF_MEMORY, TrialProcesses
from jepa_pipeline.tuning.trials import Machine, list_trials

MOST_MICRO_BATCHES = 64
"""Micro-batches of a step up to which smaller ones are tried where those of the recipe need too much memory."""
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class SearchResult(NamedTuple):
    """The trials of a search, and the one to use.

    Attributes:
        compared: all trials: first those of the recipe as it is, until the memory was enough.
        plain: of the recipe as it is, or with the micro-batches that fit.
        chosen: the fastest trial whose losses are within the noise.
        noise: the difference of the losses of two seeds; None if there is no second one.
        spread: ratio of the longest and the shortest time of the recipe as it is, in several trials.
    """

    compared: list[Comparison]
    plain: Comparison
    chosen: Comparison
    noise: float | None
    spread: float


class Search:
    """Tries a recipe with other settings.

    Args:
        recipe: a recipe.
        overrides: of all trials.
        processes: run the trials.
        machine: what trials may use.
        say: called with a sentence for each trial.
    """

    def __init__(
        self,
        recipe: Path,
        overrides: Sequence[str],
        processes: TrialProcesses,
        machine: Machine,
        say: Callable[[Trial], object],
    ) -> None:
        self.recipe, self.overrides, self.processes, self.machine, self.say = recipe, overrides, processes, machine, say
        self.total_steps = self.load([]).optim.total_steps
        self.trials: list[Trial] = []
        self.plain: list[Measured] = []
        self.other_seed: Measured | None = None

    def run(self, only: Sequence[str], show_progress: Progress) -> SearchResult:
        """Run all trials.

        Args:
            only: keys; trials that change others are left out.
            show_progress: of `console`.

        Raises:
            UserError: the recipe as it is cannot be trained here or is too short, or a key is not tried.
        """
        self.plan(only, [])  # before a trial takes its time
        plain = self.try_plain()
        base = plain.overrides
        planned = self.plan(only, base)
        with show_progress("trials", len(planned) + 2) as advance:
            measured = self.processes.run(self.load([*base, f"seed={self.load([]).seed + 1}"]))
            self.other_seed = measured if isinstance(measured, Measured) else None
            advance(1)
            for changes in planned:
                self.try_setting(base, changes)
                advance(1)
            again = self.processes.run(self.load(base))  # after all others, for what else this machine does may have changed
            self.plain += [one for one in (self.other_seed, again) if isinstance(one, Measured)]
            advance(1)
        spread = max(one.step_s for one in self.plain) / min(one.step_s for one in self.plain)
        best = winners(self.compare_all(), spread)
        if len(best) > 1:
            self.try_setting(base, [override for one in best for override in one.trial.overrides if override not in base])
            best = winners(self.compare_all(), spread)
        noise = loss_difference(self.other_seed.losses, self.plain[0].losses) if self.other_seed else None
        compared = self.compare_all()
        chosen = best[0] if best else next(one for one in compared if one.trial == plain)
        return SearchResult(compared, next(one for one in compared if one.trial == plain), chosen, noise, spread)

    def plan(self, only: Sequence[str], base: Sequence[str]) -> list[list[str]]:
        """Return the overrides of each trial, beside those of `base`; of `only` these keys, if there are any."""
        if self.total_steps <= WARM_UP:
            raise UserError(
                f"{self.recipe} has {self.total_steps} step, of which none can be timed after the first: raise optim.total_samples"
            )
        trials = list_trials(self.load(base), self.machine)
        keys = {trial[0].partition("=")[0] for trial in trials}
        if unknown := set(only) - keys:
            raise UserError(f"--only {min(unknown)}: here only {', '.join(sorted(keys))} can be tried")
        return [trial for trial in trials if not only or trial[0].partition("=")[0] in only]

    def compare_all(self) -> list[Comparison]:
        """Return all trials beside those of the recipe as it is."""
        return [compare(trial, self.plain, self.other_seed, self.total_steps) for trial in self.trials]

    def load(self, changes: Sequence[str]) -> RunConfig:
        return load_config(self.recipe, [*self.overrides, *changes])

    def try_plain(self) -> Trial:
        """Train the recipe as it is; with smaller micro-batches where it needs too much memory."""
        config, base = self.load([]), list[str]()
        while True:
            measured = self.processes.run(self.load(base), count_flops=True)
            if isinstance(measured, Measured):
                self.plain = [measured]
                return self.add(Trial(base, measured))
            steps = 2 * self.load(base).optim.accumulate_steps
            can_be_split = (
                not config.method.compares_samples
                and steps <= MOST_MICRO_BATCHES
                and config.optim.batch_size_global % (steps * config.trainer.processes) == 0
            )
            if measured != OUT_OF_MEMORY or not can_be_split:
                cure = ": lower optim.batch_size_global or the sizes of the encoder" if measured == OUT_OF_MEMORY else ""
                raise UserError(f"{self.recipe} cannot be trained here: {measured}{cure}")
            self.add(Trial(base, None, measured))
            base = [f"optim.accumulate_steps={steps}"]

    def try_setting(self, base: Sequence[str], changes: Sequence[str]) -> None:
        """Train with other settings, and compare."""
        overrides = [one for one in base if one.partition("=")[0] not in {new.partition("=")[0] for new in changes}]
        overrides += changes
        try:
            measured = self.processes.run(self.load(overrides))
        except UserError as error:
            measured = first_line(error)
        self.add(Trial(overrides, measured) if isinstance(measured, Measured) else Trial(overrides, None, measured))

    def add(self, trial: Trial) -> Trial:
        self.trials.append(trial)
        self.say(trial)
        return trial
