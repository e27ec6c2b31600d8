"""Pack-aware Hyperband and plain Hyperband: the same promotions, the same winner, also where a configuration fails."""

from pathlib import Path
from typing import Any

import pytest

from partrain.data import Dataset
from partrain.launch import supervisor
from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings
from partrain.partition.plan import PartitionSettings
from partrain.report.settings import ReportSettings
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

# one rate in five makes losses that are no number
SPACE = [
    "train.lr=choice(0.001,0.003,0.01,0.03,1e200)",
    "network.width=choice(8,16)",
    "train.weight_decay=uniform(0,1)",
]


def shared(segments: int, pack: str) -> RunSettings:
    return RunSettings(
        network=MLPSettings(depth=3, width=8),
        partition=PartitionSettings(segments=segments),
        train=TrainSettings(epochs=9, batch_size=64, precision="fp64", early_stop=0),
        launch=LaunchSettings(device="cpu", threads=2, pack=pack),
        report=ReportSettings(page=False),
    )


def rungs(folder: Path) -> dict[str, Any]:
    """All that rungs say but how long they took."""
    found = {path.name: checkpoint.read_json(path) for path in (folder / "rungs").iterdir()}
    return {name: {key: value for key, value in rung.items() if key != "seconds"} for name, rung in found.items()}


def test_packed_and_plain_hyperband_promote_the_same(small: Dataset, tmp_path: Path) -> None:
    settings = SearchSettings(space=SPACE)
    plain, packed = (
        search(shared(1, pack), settings, tmp_path / pack, small, show=False) for pack in ("never", "always")
    )
    assert rungs(tmp_path / "never") == rungs(tmp_path / "always")
    assert len(rungs(tmp_path / "always")) == 6
    assert plain["best"] | {"command": ""} == packed["best"] | {"command": ""}
    assert (plain["packed"], packed["packed"]) == (False, True)
    failed = {index for rung in rungs(tmp_path / "always").values() for index in rung["failed"]}
    assert failed
    assert len(failed) < 17
    reasons = [reason for rung in rungs(tmp_path / "always").values() for reason in rung["failed"].values()]
    assert all(reason.startswith("segment 0: the loss is nan at epoch 1, step ") for reason in reasons)


def test_partition_settings_killed_and_gone_on_with(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search over labels of cut networks, stopped while it trains: the same result as undisturbed."""
    space = ["labels.family=choice(simplex,gaussian)", "labels.noise=uniform(1,4)"]
    settings = SearchSettings(method="successive_halving", configurations=4, eta=2, min_epochs=4, space=space)
    undisturbed = search(shared(2, "always"), settings, tmp_path / "a", small, show=False)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(supervisor.Supervisor, "look", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(shared(2, "always"), settings, tmp_path / "b", small, show=False)
    disturbed = search(shared(2, "always"), settings, tmp_path / "b", small, show=False)
    assert rungs(tmp_path / "a") == rungs(tmp_path / "b")
    assert disturbed["best"] == undisturbed["best"]
    weights = [(tmp_path / name / "configurations" / str(undisturbed["best"]["index"])) for name in "ab"]
    one, other = ((folder / "model/model.safetensors").read_bytes() for folder in weights)
    assert one == other
