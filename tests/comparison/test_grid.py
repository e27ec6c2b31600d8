"""Tests of the grid: its cells, their names, their settings, and the errors about its settings."""

from typing import Any

import pytest

from partrain.comparison.grid import Cell, GridSettings, check_shared_settings, grid_cells, skipped_cell_notes
from partrain.errors import UserError
from partrain.networks import CNN, MLP
from partrain.partition.plan import PartitionSettings
from partrain.settings import Parallel, RunSettings, Sequential
from partrain.strategies.settings import GPipe, Synthetic
from partrain.training.optimization import TrainSettings


def names(**grid: Any) -> list[str]:
    """Return the names of a grid's cells."""
    return [cell.name for cell in grid_cells(GridSettings(**grid))]


def test_the_cells_of_a_grid() -> None:
    assert names(
        strategies=["end_to_end", "1f1b", "sequential"], widths=[32, 64], segments=[2, 4], microbatches=[2, 4]
    ) == [
        "end_to_end-mlp32-b256",
        "1f1b-mlp32-k2-b256-m2",
        "1f1b-mlp32-k2-b256-m4",
        "sequential-mlp32-k2-b256",
        "1f1b-mlp32-k4-b256-m4",
        "sequential-mlp32-k4-b256",
        "end_to_end-mlp64-b256",
        "1f1b-mlp64-k2-b256-m2",
        "1f1b-mlp64-k2-b256-m4",
        "sequential-mlp64-k2-b256",
        "1f1b-mlp64-k4-b256-m4",
        "sequential-mlp64-k4-b256",
    ]


def test_a_network_without_a_width_appears_once() -> None:
    assert names(strategies=["synthetic"], networks=["mlp", "cnn"], widths=[32, 64], batch_sizes=[50]) == [
        "synthetic-mlp32-k2-b50",
        "synthetic-mlp64-k2-b50",
        "synthetic-cnn-k2-b50",
    ]


def test_microbatches_that_are_too_few_for_1f1b_are_left_out_if_others_remain() -> None:
    grid = GridSettings(strategies=["gpipe", "1f1b"], segments=[2, 3, 5], microbatches=[1, 2, 4])
    assert skipped_cell_notes(grid) == [
        "1f1b with 2 segments is skipped for grid.microbatches=[1]: it needs at least 2 microbatches",
        "1f1b with 3 segments is skipped for grid.microbatches=[1, 2]: it needs at least 3 microbatches",
    ]
    counts = [(cell.segments, cell.microbatches) for cell in grid_cells(grid) if cell.strategy == "1f1b"]
    assert counts == [(2, 2), (2, 4), (3, 4), (5, 1), (5, 2), (5, 4)]
    assert skipped_cell_notes(GridSettings(strategies=["gpipe"], segments=[8])) == []


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"strategies": ["pipeline"]}, "grid.strategies=pipeline is unknown; known: 1f1b, data_parallel, decoupled, "),
        ({"networks": ["rnn"]}, "grid.networks=rnn is unknown; known: cnn, custom, mlp, torchvision"),
        ({"widths": [0]}, "grid.widths must be at least 1, got 0"),
        ({"repeats": 0}, "grid.repeats must be at least 1, got 0"),
        ({"segments": []}, "grid.segments is empty; give at least one"),
        ({"batch_sizes": [64, 64]}, "grid.batch_sizes=[64, 64]: a value is repeated; give each once"),
        ({"accuracies": [85]}, "grid.accuracies must be between 0 and 1, got 85"),
    ],
)
def test_a_mistake_in_the_grid(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        GridSettings(**grid)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (
            {"train": TrainSettings(batch_size=64)},
            "train.batch_size=64 has no effect in a comparison; remove it, and set grid.batch_sizes",
        ),
        (
            {"network": MLP(width=64)},
            "network.width=64 has no effect in a comparison; remove it, and set grid.widths",
        ),
        (
            {"partition": PartitionSettings(at=[1, 2])},
            "partition.at=[1, 2] has no effect in a comparison; remove it, and set grid.segments",
        ),
        (
            {"strategy": GPipe()},
            "strategy=gpipe has no effect in a comparison; remove it, and set grid.strategies",
        ),
        (
            {"schedule": Sequential()},
            "schedule=sequential has no effect in a comparison; remove it, and set grid.strategies",
        ),
    ],
)
def test_what_the_grid_decides_is_not_set_elsewhere(shared: dict[str, Any], message: str) -> None:
    check_shared_settings(RunSettings(), GridSettings())
    with pytest.raises(UserError) as caught:
        check_shared_settings(RunSettings(**shared), GridSettings())
    assert str(caught.value).startswith(message)


def test_the_chosen_network_is_in_the_grid() -> None:
    check_shared_settings(RunSettings(network=CNN()), GridSettings())  # It names none.
    with pytest.raises(UserError) as caught:
        check_shared_settings(RunSettings(network=CNN()), GridSettings(networks=["mlp"]))
    assert str(caught.value) == "network=cnn is not in grid.networks=[mlp]; add it, or set network=mlp"


def test_the_settings_of_a_cells_run() -> None:
    shared = RunSettings(
        seed=7,
        network=MLP(depth=3),
        train=TrainSettings(epochs=2),
    )
    cell = Cell(strategy="sequential", network="mlp", width=32, segments=3, batch_size=50, microbatches=None)
    run = cell.settings(shared, repeat=2)
    assert (run.seed, run.network, run.partition.segments) == (9, MLP(depth=3, width=32), 3)
    assert (run.train, run.strategy) == (TrainSettings(epochs=2, batch_size=50), Synthetic())
    assert run.schedule == Sequential()
    other = Cell(strategy="gpipe", network="cnn", width=None, segments=2, batch_size=50, microbatches=5)
    run = other.settings(shared, repeat=0)
    assert (run.network, run.schedule) == (CNN(), Parallel())
    assert run.strategy == GPipe(microbatches=5)
