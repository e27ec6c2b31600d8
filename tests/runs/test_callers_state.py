"""Tests that calls of partrain leave the caller's random generator and number of threads as they were."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sharding import TIGHT, settings_of
from trainings import write_tasks

import partrain
from partrain import Shards
from partrain.data import Dataset
from partrain.launch.settings import Inline
from partrain.networks import MLP

SETTINGS = settings_of(network=MLP(depth=4, width=32, dropout=0.3))


def state() -> dict[str, Any]:
    """Return the states of all random generators, and the number of threads."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    """Let PyTorch use another number of threads than the trainings."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_in_shards(small: Dataset, folder: Path, run: Path) -> None:
    tasks = write_tasks(folder, small, [SETTINGS])
    shard_settings = Shards(budget_gib=TIGHT)
    assert partrain.train_sharded(tasks, ["cpu"], folder / "shards", shard_settings, show_progress=False) == {}


def train_inline(small: Dataset, folder: Path, run: Path) -> None:
    launch = Inline(device="cpu", threads=1)
    partrain.run(replace(SETTINGS, launch=launch), folder, small, show_progress=False)


def unify_two(small: Dataset, folder: Path, run: Path) -> None:
    other = replace(SETTINGS, network=MLP(depth=2, width=16, dropout=0.3))  # Nothing is stacked.
    tasks = write_tasks(folder, small, [SETTINGS, other])
    assert partrain.unify(tasks, folder / "pack").run()


CALLS: dict[str, Callable[[Dataset, Path, Path], object]] = {
    "prepare_run": lambda small, folder, run: partrain.prepare_run(SETTINGS, folder, small).write(),
    "run": lambda small, folder, run: partrain.run(SETTINGS, folder, small, show_progress=False),
    "load": lambda small, folder, run: partrain.load(run),
    "evaluate": lambda small, folder, run: partrain.evaluate(run, small, show_progress=False),
    "train_sharded": train_in_shards,
    "inline": train_inline,
    "unify": unify_two,
}
"""Calls with the data, a new folder, and the folder of a finished run."""


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_generators_and_threads_as_they_were(
    small: Dataset, tmp_path: Path, run: Path, name: str
) -> None:
    with with_threads(torch.get_num_threads() + 2):
        before = state()
        CALLS[name](small, tmp_path / name, run)
        assert state() == before
