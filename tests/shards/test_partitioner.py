"""Tests of where models are cut into shards: into as few as fit, and never between shared weights or within a block."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sharding import finish_on_cpu, make_preparer, settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.networks import MLP, CustomNetwork, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.partitioner import Piece, PieceChain
from partrain.shards.preparation import ModelPreparer, ShardPlan
from partrain.shards.settings import Shards
from partrain.shards.trials import Preparation
from partrain.training.context import LocalContext
from partrain.training.task import SegmentTask


def row(*sizes: int, state: int = 0, activations: int = 0) -> PieceChain:
    pieces = [Piece(f"layer{n}", f"cut{n}" if n else None, size, state, activations) for n, size in enumerate(sizes)]
    return PieceChain(tuple(pieces), None)


def pieces_of(small: Dataset, folder: Path, network: NetworkSettings) -> PieceChain:
    (task,) = write_tasks(folder, small, [settings_of(network=network)])
    return PieceChain.from_task(SegmentTask.read(task))


def plan_shards(small: Dataset, folder: Path, network: NetworkSettings, budget: int, settings: Shards) -> ShardPlan:
    (task,) = write_tasks(folder, small, [settings_of(network=network)])
    host_model = HostModel(task, "one", LocalContext())
    settings = replace(settings, budget_gib=budget / 2**30)
    with closing(HostMemory(folder, on_disk=True)) as host:
        preparer = make_preparer(settings, host)
        return finish_on_cpu(preparer.plan_shards(host_model, host_model.training.task), settings)


def test_as_few_shards_as_fit() -> None:
    """A shard takes its weights twice, once for their gradients; a second one beside it a third time."""
    assert row(10, 10, 10, 10).fewest_shards(80, 1.0, double_buffer=False) == [0]
    assert row(10, 10, 10, 10).fewest_shards(79, 1.0, double_buffer=False) == [0, 3]
    assert row(10, 10, 10, 10).fewest_shards(79, 1.0, double_buffer=True) == [0, 2]
    assert row(10, 10, 10, 10).fewest_shards(59, 1.0, double_buffer=True) == [0, 1, 2, 3]
    assert row(10, 30, 10, 10).fewest_shards(60, 1.0, double_buffer=False) == [0, 1, 2]
    assert row(10, 10, 10, 10).fewest_shards(60, 2.0, double_buffer=False) == [0, 2]
    assert row(10, 10, state=20, activations=5).fewest_shards(45, 1.0, double_buffer=False) == [0, 1]
    assert row(10, 31, 10).fewest_shards(60, 1.0, double_buffer=False) is None


def test_shards_are_between_cuts() -> None:
    assert row(1, 1, 1, 1).cuts([0, 2, 3]) == [(None, "cut2"), ("cut2", "cut3"), ("cut3", None)]


def test_pieces_are_layers_with_what_is_before_the_next(small: Dataset, tmp_path: Path) -> None:
    pieces = pieces_of(small, tmp_path, MLP(depth=3, width=32)).pieces
    assert [piece.name for piece in pieces] == ["linear0", "linear1", "linear2"]
    assert [piece.weight_bytes for piece in pieces] == [8 * (64 * 32 + 32), 8 * (32 * 32 + 32), 8 * (32 * 5 + 5)]
    assert [piece.state_bytes for piece in pieces] == [2 * piece.weight_bytes for piece in pieces]  # of AdamW


def test_no_cut_is_within_a_residual_block_nor_between_shared_weights(small: Dataset, tmp_path: Path) -> None:
    block = pieces_of(small, tmp_path / "block", CustomNetwork(name="own_networks:one_block")).pieces
    assert [piece.name for piece in block] == ["0.first", "1"]
    tied = pieces_of(small, tmp_path / "tied", CustomNetwork(name="own_networks:tied")).pieces
    assert [piece.name for piece in tied] == ["1", "3", "9", "11"]
    assert tied[1].weight_bytes == 8 * (2 * 32 * 32 + 3 * 32)  # what is shared is there once


def test_what_has_no_weights_is_no_piece(small: Dataset, tmp_path: Path) -> None:
    """A segment that begins with an activation."""
    settings = settings_of(
        network=MLP(depth=4, width=32), partition=PartitionSettings(segments=2, before_activation=True)
    )
    *_, task = write_tasks(tmp_path, small, [settings])
    pieces = PieceChain.from_task(SegmentTask.read(task)).pieces
    assert [piece.weight_bytes > 0 for piece in pieces] == [True, True]


@pytest.mark.parametrize("double_buffer", [False, True])
def test_a_cut_fits_by_trial_and_one_shard_fewer_would_not(small: Dataset, tmp_path: Path, double_buffer: bool) -> None:
    network, budget, settings = MLP(depth=8, width=32), 260_000, Shards(double_buffer=double_buffer)
    plan = plan_shards(small, tmp_path / "one", network, budget, settings)
    assert len(plan.shards) > 1
    assert max(plan.device_bytes(double_buffer=double_buffer)) <= budget
    assert len(plan_shards(small, tmp_path / "other", network, 10**9, settings).shards) == 1


def test_an_estimate_that_is_too_low_is_made_up_for(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations are taken to be nothing: the trial shows that they are not, and shards get smaller."""
    network, settings = MLP(depth=8, width=32), Shards()
    honest = plan_shards(small, tmp_path / "one", network, 260_000, settings)
    monkeypatch.setattr(
        PieceChain,
        "estimate_bytes",
        lambda self, first, last, factor, *, double_buffer: int(20_000 * factor * (last - first)),
    )
    misled = plan_shards(small, tmp_path / "other", network, 260_000, settings)
    assert len(misled.shards) >= len(honest.shards)
    assert max(misled.device_bytes(double_buffer=True)) <= 260_000


def test_a_block_that_does_not_fit_is_named(small: Dataset, tmp_path: Path) -> None:
    network = CustomNetwork(name="own_networks:one_block")
    with pytest.raises(UserError) as caught:
        plan_shards(small, tmp_path, network, 300_000, Shards(double_buffer=False))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/0/segments/0: layer 0.first needs ")
    assert " bytes of a device and cannot be cut; grouping.budget_gib=0.0002794 is too small, " in message
    smallest = float(message.rpartition(" ")[2])
    assert plan_shards(small, tmp_path / "again", network, int(smallest * 2**30), Shards(double_buffer=False))


def test_a_device_that_runs_out_of_memory_in_a_trial_gets_smaller_shards(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, settings, profile_cuts = MLP(depth=8, width=32), Shards(), ModelPreparer.profile_cuts
    tried = []

    def run_out(
        self: ModelPreparer, host_model: HostModel, task: SegmentTask, first_pieces: list[int]
    ) -> Preparation[ShardPlan]:
        tried.append(len(first_pieces))
        if len(first_pieces) < 4 or "never" in host_model.folder.parts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee documentation")
        return (yield from profile_cuts(self, host_model, task, first_pieces))

    monkeypatch.setattr(ModelPreparer, "profile_cuts", run_out)
    plan = plan_shards(small, tmp_path / "at last", network, 800_000, settings)
    assert tried == sorted(tried)
    assert len(plan.shards) == tried[-1] >= 4
    with pytest.raises(UserError) as caught:
        plan_shards(small, tmp_path / "never", network, 800_000, settings)
    assert str(caught.value) == (
        f"{tmp_path}/never/0/segments/0: a layer of the model does not fit on cpu and cannot be cut: "
        "CUDA out of memory. Tried to allocate 2 GiB."
    )
