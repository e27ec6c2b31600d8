"""Tests that Hyperband in packs and without them has the same promotions and winner, also where a trial fails."""

from pathlib import Path
from typing import Any

import pytest

from partrain.data import Dataset, Glyphs
from partrain.launch import supervisor
from partrain.launch.settings import GroupingSettings, Local
from partrain.networks import MLP
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.settings import Alone, RunSettings
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

# One learning rate in five makes the loss NaN.
SPACE = [
    "train.lr=choice(0.001,0.003,0.01,0.03,1e200)",
    "network.width=choice(8,16)",
    "train.weight_decay=uniform(0,1)",
]

PACKED = Pack(trial=False)


def shared(segments: int, grouping: GroupingSettings) -> RunSettings:
    """Return the settings that all trials have in common."""
    return RunSettings(
        data=Glyphs(validation=0.1),
        network=MLP(depth=3, width=8),
        partition=PartitionSettings(segments=segments),
        train=TrainSettings(epochs=9, batch_size=64, precision="fp64", early_stop=0),
        grouping=grouping,
        launch=Local(device="cpu", threads=2),
        report=ReportSettings(page=False),
    )


def rungs(folder: Path) -> dict[str, Any]:
    """Return the contents of all rungs' files without their seconds, by file name."""
    results = {path.name: checkpoint.read_json(path) for path in (folder / "rungs").iterdir()}
    for result in results.values():
        del result["seconds"]
    return results


def test_packed_and_plain_hyperband_promote_the_same(small: Dataset, tmp_path: Path) -> None:
    settings = SearchSettings(space=SPACE)
    plain, packed = (
        search(shared(1, grouping), settings, tmp_path / grouping.name, small, show_progress=False)
        for grouping in (Alone(), PACKED)
    )
    assert rungs(tmp_path / "alone") == rungs(tmp_path / "pack")
    assert len(rungs(tmp_path / "pack")) == 6
    assert plain["best"] | {"command": ""} == packed["best"] | {"command": ""}
    assert (plain["packed"], packed["packed"]) == (False, True)
    failed = {index for rung in rungs(tmp_path / "pack").values() for index in rung["failed"]}
    assert failed
    assert len(failed) < 17
    reasons = [reason for rung in rungs(tmp_path / "pack").values() for reason in rung["failed"].values()]
    assert all(reason.startswith("segment 0: the loss is nan at epoch 1, step ") for reason in reasons)


def test_partition_settings_killed_and_gone_on_with(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop a search over labels of cut networks while it trains, and compare it with one that was not stopped."""
    space = ["labels=choice(simplex,gaussian)", "labels.noise=uniform(1,4)"]
    settings = SearchSettings(method="successive_halving", configurations=4, eta=2, min_epochs=4, space=space)
    undisturbed = search(shared(2, PACKED), settings, tmp_path / "a", small, show_progress=False)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(supervisor.Supervisor, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(shared(2, PACKED), settings, tmp_path / "b", small, show_progress=False)
    disturbed = search(shared(2, PACKED), settings, tmp_path / "b", small, show_progress=False)
    assert rungs(tmp_path / "a") == rungs(tmp_path / "b")
    assert disturbed["best"] == undisturbed["best"]
    weights = [(tmp_path / name / "configurations" / str(undisturbed["best"]["index"])) for name in "ab"]
    one, other = ((folder / "model/model.safetensors").read_bytes() for folder in weights)
    assert one == other
