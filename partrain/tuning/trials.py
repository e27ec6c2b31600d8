"""Trials of a search: drawn from the search space, and checked before anything is trained."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.rng import derive_seed
from partrain.runs.prepare import prepare_run
from partrain.settings import RunSettings, Sequential
from partrain.tuning.brackets import Bracket, hyperband, one_rung, successive_halving
from partrain.tuning.settings import SearchSettings
from partrain.tuning.space import Space
from partrain.tuning.values import apply_values, format_values


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial of a search: one configuration of the searched settings, trained in a run's folder of its own.

    Files, pages and messages name it "configuration <index>".
    """

    index: int
    """The position among all trials of the search, from 0."""
    bracket: int
    """The number of the bracket that the trial belongs to."""
    values: dict[str, Any]
    """The value of each searched setting, by the setting's dotted name."""

    def __str__(self) -> str:
        """Return "configuration 3 (train.lr=0.01)"."""
        return f"configuration {self.index} ({format_values(self.values)})"


def make_brackets(settings: SearchSettings, space: Space, max_epochs: int) -> list[Bracket]:
    """Return the brackets of the search method, whose last rungs train `max_epochs` epochs.

    Raises:
        UserError: If the budget is too small for a bracket, or a grid is asked of a space without one.
    """
    if settings.method == "hyperband":
        return hyperband(max_epochs, settings.eta, settings.min_epochs)
    if settings.method == "grid":
        return one_rung(len(space.grid()), max_epochs)
    assert settings.configurations is not None
    if settings.method == "random":
        return one_rung(settings.configurations, max_epochs)
    return successive_halving(settings.configurations, max_epochs, settings.eta, settings.min_epochs)


def draw_trials(settings: SearchSettings, space: Space, brackets: Sequence[Bracket], seed: int) -> list[Trial]:
    """Return the trials of all brackets, bracket by bracket.

    A grid search has one trial for each point of the grid. In all other methods each trial is drawn from a random
    stream of its own, which depends on `seed` and the trial's index alone.
    """
    bracket_numbers: list[int] = []
    for bracket in brackets:
        bracket_numbers += [bracket.number] * bracket.rungs[0].num_trials

    if settings.method == "grid":
        drawn = space.grid()
    else:
        seeds = (derive_seed(seed, "configuration", index) for index in range(len(bracket_numbers)))
        drawn = [space.sample(np.random.default_rng(trial_seed)) for trial_seed in seeds]

    return [
        Trial(index=index, bracket=bracket, values=values)
        for index, (bracket, values) in enumerate(zip(bracket_numbers, drawn, strict=True))
    ]


def check_trials(trials: Sequence[Trial], shared: RunSettings, dataset: Dataset) -> None:
    """Plan a run of every trial, so that a configuration that cannot be trained is reported before the search begins.

    Args:
        trials: All trials of the search.
        shared: The settings that all trials have in common.
        dataset: The data that the trials are trained on.

    Raises:
        UserError: For the first trial that cannot be trained. The message names it.
    """
    checked: set[str] = set()
    for trial in trials:
        try:
            settings = apply_values(shared, trial.values)
            key = _plan_key(settings)
            if key not in checked:
                _check_settings(settings, dataset)
                checked.add(key)
        except UserError as error:
            raise UserError(f"Cannot train {trial}: {error}") from None


def _plan_key(settings: RunSettings) -> str:
    """Return a text that is equal for settings of which `_check_settings` reads the same."""
    parts = (settings.network, settings.partition, settings.labels, settings.schedule, settings.strategy)
    return json.dumps([*map(asdict, parts), settings.train.batch_size, settings.train.compile, settings.seed])


def _check_settings(settings: RunSettings, dataset: Dataset) -> None:
    """Raise `UserError` for settings without a valid plan, and for those that cannot pause at the end of a rung."""
    strategy, schedule = settings.strategy, settings.schedule
    if strategy.is_group:
        raise UserError(f"strategy={strategy.name} cannot be used in a search; set strategy=synthetic")
    if isinstance(schedule, Sequential):
        raise UserError(
            "schedule=sequential cannot be used in a search, because its segments cannot pause together; remove it"
        )
    if schedule.recovery_epochs:
        raise UserError(
            f"schedule.recovery_epochs={schedule.recovery_epochs} cannot be used in a search, which scores networks "
            "before any recovery; remove it"
        )
    prepare_run(settings, Path(), dataset)
