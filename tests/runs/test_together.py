"""Tests of several runs in packs: each has the results that it has alone, and can be stopped and resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import TRAIN, settings_of

import partrain
from partrain.boundaries.labels import GaussianLabels, SimplexLabels
from partrain.data import Dataset
from partrain.errors import JobFailed, UserError
from partrain.launch import supervisor
from partrain.launch.processes import ProcessHandle
from partrain.launch.settings import GroupingSettings, Local
from partrain.networks import MLP, CustomNetwork
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.settings import Alone, Parallel, RunSettings, Sequential
from partrain.storage import checkpoint

ONE_THREAD = Local(device="cpu", threads=1)
ALONE = Alone()
PACKED = Pack(trial=False)


def cut(**changed: Any) -> RunSettings:
    """Return settings for four segments, the middle two of one shape."""
    defaults: dict[str, Any] = {
        "network": MLP(depth=4, width=32),
        "partition": PartitionSettings(segments=4),
        "train": replace(TRAIN, epochs=2),
        "launch": ONE_THREAD,
    }
    return settings_of(**{**defaults, **changed})


def difference(one: Path, other: Path) -> float:
    """Return the largest difference between the weights of two runs' stitched networks."""
    left, right = (checkpoint.load(run / "model/model.safetensors")[0] for run in (one, other))
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def trained(started: list[ProcessHandle]) -> list[str]:
    """Return the names of the jobs of all processes that were started to train."""
    return [handle.job.name for handle in started if handle.job.kind != "pack_trial"]


def test_equal_segments_of_one_run_are_a_pack(small: Dataset, tmp_path: Path, started: list[ProcessHandle]) -> None:
    settings = cut()
    alone = partrain.run(settings, tmp_path / "alone", small, show_progress=False)
    assert sorted(trained(started)) == ["segment 0", "segment 1", "segment 2", "segment 3"]
    started.clear()
    packed = partrain.run(replace(settings, grouping=PACKED), tmp_path / "packed", small, show_progress=False)
    assert sorted(trained(started)) == ["pack of 2", "segment 0", "segment 3"]
    assert difference(tmp_path / "alone", tmp_path / "packed") < 1e-10
    assert packed["test_accuracy"] == alone["test_accuracy"]
    assert [part["epochs"] for part in packed["segments"]] == [part["epochs"] for part in alone["segments"]]
    assert all(part["peak_memory_bytes"] > 0 for part in packed["segments"])


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_several_seeds_of_a_run_are_one_pack(
    small: Dataset, tmp_path: Path, schedule: str, started: list[ProcessHandle]
) -> None:
    settings = cut(
        partition=PartitionSettings(segments=2),
        schedule=(Parallel() if schedule == "parallel" else Sequential(last_input="stored")),
        grouping=PACKED,
    )
    runs: dict[str | Path, RunSettings] = {
        tmp_path / f"seed{seed}": replace(settings, seed=seed, labels=labels)
        for seed, labels in enumerate((SimplexLabels(), GaussianLabels(), SimplexLabels(scale=2.0)))
    }
    results = partrain.run_together(runs, tmp_path / "packs", small, show_progress=False)
    assert trained(started) == (["pack of 6"] if schedule == "parallel" else ["pack of 3", "pack of 3"])
    folder, own = list(runs.items())[1]
    expected = partrain.run(replace(own, grouping=ALONE), tmp_path / "alone", small, show_progress=False)
    assert difference(Path(folder), tmp_path / "alone") < 1e-10
    assert results[Path(folder)]["test_accuracy"] == expected["test_accuracy"]
    assert torch.equal(partrain.load(folder).state_dict()["linear0.weight"], _weight(Path(folder)))


def _weight(run: Path) -> torch.Tensor:
    return checkpoint.load(run / "segments/0/checkpoint.safetensors")[0]["model.linear0.weight"].float()


def test_one_run_that_fails_does_not_keep_the_others_from_finishing(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(partition=PartitionSettings(segments=1), launch=ONE_THREAD, grouping=PACKED)
    runs: dict[str | Path, RunSettings] = {
        tmp_path / "good": settings,
        tmp_path / "bad": replace(settings, train=replace(TRAIN, lr=1e200)),
        tmp_path / "too": replace(settings, seed=1),
    }
    with pytest.raises(JobFailed, match=r"^Run bad, segment 0: the loss is nan at epoch 1, step "):
        partrain.run_together(runs, tmp_path / "packs", small, show_progress=False)
    assert [(folder / "results.json").exists() for folder in map(Path, runs)] == [True, False, True]


def test_a_pack_that_is_killed_goes_on_with_the_same_pack(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[ProcessHandle]
) -> None:
    def runs(name: str, grouping: GroupingSettings) -> dict[str | Path, RunSettings]:
        return {
            tmp_path / name / str(seed): settings_of(seed=seed, launch=ONE_THREAD, grouping=grouping)
            for seed in range(2)
        }

    partrain.run_together(runs("undisturbed", PACKED), tmp_path / "packs", small, show_progress=False)

    poll = supervisor.Supervisor.poll

    def interrupted(supervising: supervisor.Supervisor) -> None:
        if supervising.running[0].jobs[0].kind == "pack":
            raise KeyboardInterrupt
        poll(supervising)

    packs = tmp_path / "packs of disturbed"
    with monkeypatch.context() as patch:
        patch.setattr(supervisor.Supervisor, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            partrain.run_together(runs("disturbed", PACKED), packs, small, show_progress=False)
    plan = checkpoint.read_json(packs / "0/packs.json")
    started.clear()
    partrain.run_together(runs("disturbed", PACKED), packs, small, show_progress=False)
    assert [handle.job.kind for handle in started] == ["pack"]  # Nothing is measured again.
    assert checkpoint.read_json(packs / "0/packs.json") == plan
    assert plan["packs"] == ["cpu"]
    for seed in "01":
        one, other = (tmp_path / name / seed / "model/model.safetensors" for name in ("undisturbed", "disturbed"))
        assert one.read_bytes() == other.read_bytes()


def test_what_cannot_be_packed_with_other_runs(small: Dataset, tmp_path: Path) -> None:
    group = replace(cut(), strategy=partrain.GPipe())
    with pytest.raises(UserError, match=r"a: strategy=gpipe cannot be packed with other runs$"):
        partrain.run_together({tmp_path / "a": group}, tmp_path / "packs", small, show_progress=False)
    assert not (tmp_path / "a").exists()


def test_a_budget_that_holds_not_even_one(small: Dataset, tmp_path: Path) -> None:
    grouping = Pack(memory_gib=1e-6)
    network = CustomNetwork(name="own_networks:plain")
    runs: dict[str | Path, RunSettings] = {
        tmp_path / str(n): settings_of(seed=n, network=network, grouping=grouping) for n in range(2)
    }
    with pytest.raises(
        UserError,
        match=r"^One training of the pack needs [\d,]+ bytes, but packs may take 1,073; raise grouping.memory_gib",
    ):
        partrain.run_together(runs, tmp_path / "packs", small, show_progress=False)
