"""Tests of packs whose trainings end, join, fail or wait for room, and that are stopped and resumed anywhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packing import TRAIN, make_pack, settings_of
from trainings import difference, train, weights, write_tasks

import partrain
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.launch.error_report import write_error_report
from partrain.networks import CNN, MLP, CustomNetwork
from partrain.packs.stack import Stack
from partrain.storage import checkpoint
from partrain.storage.lock import hold_lock
from partrain.storage.run_folder import CHECKPOINT, ERROR_FILE
from partrain.training.context import LocalContext
from partrain.training.optimization import TrainSettings

DROPOUT = MLP(depth=3, width=32, dropout=0.2, normalization="batch")
FP32 = TrainSettings(epochs=3, batch_size=64, lr=0.01, precision="fp32", early_stop=0)


class After(LocalContext):
    """A context that calls `action` once its pack has done `rounds` steps."""

    def __init__(self, rounds: int, action: Callable[["After"], None]) -> None:
        super().__init__()
        self.rounds_left, self.action = rounds, action

    def poll(self) -> None:
        """Count a step of the pack, and call the action after the last that was to be counted."""
        self.rounds_left -= 1
        if self.rounds_left == 0:
            self.action(self)


def files(folders: list[Path]) -> list[bytes]:
    """Return the tensors of each finished training as bytes."""
    return [b"".join(tensor.numpy().tobytes() for _, tensor in sorted(weights(f).items())) for f in folders]


def of_all_kinds() -> list[partrain.RunSettings]:
    """Return settings of trainings of two shapes and several lengths."""
    return [
        settings_of(network=DROPOUT, train=FP32, seed=0),
        settings_of(network=DROPOUT, train=replace(FP32, epochs=1), seed=1),
        settings_of(network=DROPOUT, train=replace(FP32, epochs=2, optimizer="sgd"), seed=2),
        settings_of(network=MLP(depth=2, width=16), train=replace(FP32, epochs=2)),
        settings_of(network=MLP(depth=2, width=16), train=FP32, seed=5),
    ]


@pytest.mark.parametrize("capacity", [5, 2])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(small: Dataset, tmp_path: Path, capacity: int) -> None:
    undisturbed, disturbed = (write_tasks(tmp_path / name, small, of_all_kinds()) for name in "ab")
    assert make_pack(tmp_path / "pack a", undisturbed, capacity=capacity).run()
    for rounds in (1, 3, 9, 4, 5):
        pack = make_pack(tmp_path / "pack b", disturbed, capacity=capacity)
        pack.context = After(rounds, LocalContext.request_stop)
        assert not pack.run()
    assert make_pack(tmp_path / "pack b", disturbed, capacity=capacity).run()
    assert files(disturbed) == files(undisturbed)
    metrics = [
        [(folder / "metrics.csv").read_text().count("\n") for folder in folders] for folders in (disturbed, undisturbed)
    ]
    assert metrics[0] == metrics[1] == [4, 2, 3, 3, 4]


def test_trainings_that_end_leave_and_those_that_wait_take_their_place(small: Dataset, tmp_path: Path) -> None:
    settings = [settings_of(seed=n, train=replace(TRAIN, epochs=1 + n % 3)) for n in range(7)]
    alone, packed = (write_tasks(tmp_path / name, small, settings) for name in ("alone", "packed"))
    for folder in alone:
        train(folder)
    pack = make_pack(tmp_path / "pack", packed, capacity=3)
    sizes: set[int] = set()
    pack.context = After(-1, lambda context: None)
    polled = pack.context.poll
    pack.context.poll = lambda: (sizes.add(len(pack.members)), polled())[1]  # type: ignore[method-assign]
    assert pack.run()
    assert max(sizes) == 3
    assert difference(packed, alone) < 1e-10


@pytest.mark.parametrize("rounds", [7, 30])
def test_a_new_one_can_join(small: Dataset, tmp_path: Path, rounds: int) -> None:
    """Let it join within the others' training, and when they have just done their last step."""
    settings = [settings_of(seed=n) for n in range(3)]
    alone, packed = (write_tasks(tmp_path / name, small, settings) for name in ("alone", "packed"))
    for folder in alone:
        train(folder)
    pack = make_pack(tmp_path / "pack", packed[:2])
    pack.context = After(rounds, lambda context: pack.join(packed[2]))
    assert pack.run()
    assert difference(packed, alone) < 1e-10


def test_a_pack_takes_up_what_was_begun_alone_and_the_other_way_round(small: Dataset, tmp_path: Path) -> None:
    alone, mixed = (write_tasks(tmp_path / name, small, [settings_of(seed=n) for n in range(2)]) for name in "ab")
    for folder in alone:
        train(folder)
    pack = make_pack(tmp_path / "pack", mixed, pauses=[1, 2])
    assert pack.run()
    assert [checkpoint.load_metadata(folder / CHECKPOINT)["step"] for folder in mixed] == [10, 20]
    assert (mixed[0] / "epochs/1.safetensors").exists()
    train(mixed[0])
    assert make_pack(tmp_path / "second", mixed[1:]).run()
    assert difference(mixed, alone) < 1e-10


def test_one_that_fails_is_dropped_and_named_and_the_others_go_on(small: Dataset, tmp_path: Path) -> None:
    settings = [settings_of(seed=0), settings_of(train=replace(TRAIN, lr=1e200)), settings_of(seed=2)]
    alone, packed = (write_tasks(tmp_path / name, small, settings) for name in ("alone", "packed"))
    for folder in (alone[0], alone[2]):
        train(folder)
    pack = make_pack(tmp_path / "pack", packed)
    assert pack.run()
    reason = checkpoint.read_json(packed[1] / "error.json")["message"]
    assert reason.startswith("segment 0: the loss is nan at epoch 1, step ")
    assert pack.failures == {pack.name_of(pack.job.members[1]): reason}
    assert difference([packed[0], packed[2]], [alone[0], alone[2]]) < 1e-10


def test_a_damaged_checkpoint_does_not_stop_the_others(small: Dataset, tmp_path: Path) -> None:
    packed = write_tasks(tmp_path, small, [settings_of(seed=n) for n in range(2)])
    (packed[0] / CHECKPOINT).write_bytes(b"nothing")
    pack = make_pack(tmp_path / "pack", packed)
    assert pack.run()
    assert list(pack.failures) == [pack.name_of(pack.job.members[0])]
    assert weights(packed[1])


@pytest.mark.parametrize("network", [MLP(depth=3, width=16), CNN(channels=[4], strides=[2], hidden=[8])])
def test_out_of_memory_splits_the_pack_and_nothing_is_lost(
    small: Dataset, tmp_path: Path, network: MLP | CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [settings_of(seed=n, network=network) for n in range(5)]
    alone, packed = (write_tasks(tmp_path / name, small, settings) for name in ("alone", "packed"))
    for folder in alone:
        train(folder)
    stack_sizes, update_metrics = [], Stack.update_metrics

    def short_of_memory(stack: Stack, *arguments: object) -> None:
        stack_sizes.append(len(stack.trainings))
        if stack_sizes[-1] > 2 and len(stack_sizes) > 3:  # Not in the first steps: they must not be lost.
            raise torch.OutOfMemoryError("out of memory")
        update_metrics(stack, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Stack, "update_metrics", short_of_memory)
    assert make_pack(tmp_path / "pack", packed).run()
    assert stack_sizes[:6] == [5, 5, 5, 5, 3, 2]
    assert max(stack_sizes[6:]) == 2
    assert difference(packed, alone) < 1e-10


def test_models_are_ordinary_modules_and_checkpoints(small: Dataset, tmp_path: Path) -> None:
    settings = [settings_of(network=CustomNetwork(name="own_networks:plain"), seed=n) for n in range(2)]
    folders = write_tasks(tmp_path, small, settings)
    assert partrain.unify(folders, tmp_path / "unified").run()
    images = partrain.normalise(small.test.images, small.mean, small.std)
    for folder in folders:
        model = partrain.load(folder)
        accuracy = (model(images).argmax(dim=1) == small.test.labels).float().mean().item()
        assert accuracy > 0.9
        assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
            "1.weight": (16, 64),
            "1.bias": (16,),
            "3.weight": (5, 16),
            "3.bias": (5,),
        }


def test_a_unified_model_goes_on_from_what_others_have_done_since_it_was_made(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [settings_of(seed=n) for n in range(2)])
    first, second = (partrain.unify(folders, tmp_path / "unified") for _ in range(2))
    assert second.run()
    before = [(folder / CHECKPOINT).stat().st_ino for folder in folders]
    assert first.run()
    assert [(folder / CHECKPOINT).stat().st_ino for folder in folders] == before
    write_error_report(folders[0], UserError("no coffee"))
    third = partrain.unify(folders, tmp_path / "unified")
    with hold_lock(folders[0], "training"), pytest.raises(UserError, match="is being used by another launcher"):
        third.run()
    assert (folders[0] / ERROR_FILE).exists()  # It is whose the task is.


def test_tasks_that_cannot_be_unified(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [settings_of()])
    with pytest.raises(UserError, match=r"^A pack needs at least one task, and none was given$"):
        partrain.unify([], tmp_path / "unified")
    with pytest.raises(UserError, match=r"is named twice; name each task of a pack once$"):
        partrain.unify([folders[0], folders[0]], tmp_path / "unified")
    with pytest.raises(UserError, match=r"is no segment's folder: it has no task.json$"):
        partrain.unify([folders[0], tmp_path], tmp_path / "unified")
    task = checkpoint.read_json(folders[0] / "task.json")
    checkpoint.write_json(tmp_path / "gpu/task.json", task | {"device": "cuda:0"})
    with pytest.raises(
        UserError, match=r"is on cpu, .*gpu on cuda:0: a pack trains on one device; make a pack for each device$"
    ):
        partrain.unify([folders[0], tmp_path / "gpu"], tmp_path / "unified")
    assert not (tmp_path / "unified").exists()
    partrain.unify(folders, tmp_path / "unified")
    other = write_tasks(tmp_path / "other", small, [settings_of()])
    refused = r"/unified/job\.json belongs to a pack of other tasks; give the same tasks, or choose a new folder$"
    with pytest.raises(UserError, match=refused):
        partrain.unify(other, tmp_path / "unified")
