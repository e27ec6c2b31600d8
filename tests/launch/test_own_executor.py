"""Tests of an executor of the tests' own, which shares no folder with the launcher: one file is all that a new place takes.

Its jobs run in copies of the run's folder. Only files come back, and files that jobs wait for are sent.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from executors import ScratchExecutor
from scripting import model_bytes, small_settings

import partrain
from partrain import RunSettings
from partrain.data import Dataset, Glyphs
from partrain.launch.settings import Local
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.settings import Sequential
from partrain.shards.settings import Shards
from partrain.storage import checkpoint
from partrain.strategies.settings import DataParallel
from partrain.training.optimization import TrainSettings
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

TRAIN = TrainSettings(epochs=2, batch_size=64, early_stop=0, precision="fp32")


def settings_of(**changed: object) -> RunSettings:
    """Return the settings of a run of two segments and 20 steps each, with some of them changed."""
    return small_settings(train=TRAIN, launch=Local(device="cpu", threads=1), **changed)


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({}, ["segment", "segment"]),
        ({"schedule": Sequential(last_input="stored", recovery_epochs=1)}, ["segment"] * 3),
        (
            {"grouping": Pack(trial=False), "partition": PartitionSettings(segments=4)},
            ["pack", "pack_trial", "segment", "segment"],
        ),
        ({"grouping": Shards(budget_gib=0.0003)}, ["shards"]),
        ({"strategy": DataParallel()}, ["rank", "rank"]),
    ],
    ids=["segments", "sequential", "pack", "shards", "gang"],
)
def test_a_run_ends_with_the_bits_of_processes_on_this_machine(
    changed: dict[str, object], kinds: list[str], small: Dataset, tmp_path: Path
) -> None:
    settings = settings_of(**changed)
    executor = ScratchExecutor(tmp_path / "run", tmp_path / "scratch")
    (tmp_path / "run").mkdir()
    partrain.run(settings, tmp_path / "run", small, show_progress=False, executor=executor)
    assert sorted(job.kind for job in executor.started) == kinds
    partrain.run(settings, tmp_path / "here", small, show_progress=False)
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "here")


def test_a_search_trains_and_scores_there(small: Dataset, tmp_path: Path) -> None:
    settings = replace(
        settings_of(partition=PartitionSettings(segments=1), grouping=Pack(trial=False)),
        data=Glyphs(validation=0.1),
        train=replace(TRAIN, epochs=4),
    )
    budget = SearchSettings(
        method="successive_halving", configurations=4, eta=2, min_epochs=1, space=["train.lr=loguniform(1e-4,1e-1)"]
    )
    folder = tmp_path / "run"
    folder.mkdir()
    executor = ScratchExecutor(folder, tmp_path / "scratch")
    found = search(settings, budget, folder, small, show_progress=False, executor=executor)
    kinds = [job.kind for job in executor.started]
    assert kinds == ["pack_trial", "pack", "rung_scores", *kinds[3:]]
    assert kinds.count("rung_scores") == 3
    here = search(settings, budget, tmp_path / "here", small, show_progress=False)
    assert found["best"]["score"] == here["best"]["score"]
    rungs = [sorted((root / "rungs").iterdir()) for root in (folder, tmp_path / "here")]
    promoted = [[checkpoint.read_json(path)["promoted"] for path in paths] for paths in rungs]
    assert promoted[0] == promoted[1]
