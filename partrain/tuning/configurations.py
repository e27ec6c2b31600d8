"""The configurations of a search: drawn from the space before anything is trained, and checked."""

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
from partrain.settings import RunSettings
from partrain.tuning.brackets import Bracket, hyperband, one_rung, successive_halving
from partrain.tuning.settings import SearchSettings
from partrain.tuning.space import Space
from partrain.tuning.values import described, settings_with


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What is tried: `values` by setting; `bracket` is the number of the one it is in."""

    index: int
    bracket: int
    values: dict[str, Any]

    def __str__(self) -> str:
        return f"configuration {self.index} ({described(self.values)})"


def brackets_of(settings: SearchSettings, space: Space, max_epochs: int) -> list[Bracket]:
    """The brackets of the method that `settings` name.

    Raises:
        ValueError: the budget is too small for one, or the space has no grid.
    """
    if settings.method == "hyperband":
        return hyperband(max_epochs, settings.eta, settings.min_epochs)
    if settings.method == "grid":
        return one_rung(len(space.grid()), max_epochs)
    assert settings.configurations is not None
    if settings.method == "random":
        return one_rung(settings.configurations, max_epochs)
    return successive_halving(settings.configurations, max_epochs, settings.eta, settings.min_epochs)


def draw(settings: SearchSettings, space: Space, brackets: Sequence[Bracket], seed: int) -> list[Configuration]:
    """All configurations, bracket by bracket: of a grid each, else each from a stream of its own."""
    places = [bracket.number for bracket in brackets for _ in range(bracket.rungs[0].configurations)]
    if settings.method == "grid":
        drawn = space.grid()
    else:
        streams = (np.random.default_rng(derive_seed(seed, "configuration", index)) for index in range(len(places)))
        drawn = [space.sample(stream) for stream in streams]
    return [
        Configuration(index=index, bracket=bracket, values=values)
        for index, (bracket, values) in enumerate(zip(places, drawn, strict=True))
    ]


def check_configurations(
    configurations: Sequence[Configuration], shared: RunSettings, dataset: Dataset, num_images: int
) -> None:
    """Plan a run of every configuration on `num_images`, so that what cannot be is said before anything has begun.

    Raises:
        ValueError: of the first configuration that cannot be trained; the message names it.
    """
    seen: set[str] = set()
    for configuration in configurations:
        try:
            settings = settings_with(shared, configuration.values)
            if (form := _planned_from(settings)) not in seen:
                _check(settings, dataset, num_images)
                seen.add(form)
        except ValueError as error:
            raise UserError(f"{configuration}: {error}") from None


def _planned_from(settings: RunSettings) -> str:
    """All that `_check` looks at."""
    parts = (settings.network, settings.partition, settings.labels, settings.schedule, settings.strategy)
    return json.dumps([*map(asdict, parts), settings.train.batch_size, settings.train.compile, settings.seed])


def _check(settings: RunSettings, dataset: Dataset, num_images: int) -> None:
    """Raise `ValueError` for what has no plan, or cannot be trained a few epochs at a time."""
    strategy, schedule = settings.strategy, settings.schedule
    if strategy.is_group:
        raise UserError(f"strategy={strategy.name} is not for a search; take strategy=synthetic or end_to_end")
    if schedule.name == "sequential":
        raise UserError("schedule=sequential is not for a search, as its segments cannot pause together; leave it out")
    if schedule.recovery_epochs:
        raise UserError(
            f"schedule.recovery_epochs={schedule.recovery_epochs} is not for a search, which scores without; leave it out"
        )
    prepare_run(settings, Path(), dataset, num_images)
