"""Tests that an error of one member's step ends that member alone, and that a step without memory leaves no trace."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_networks
import pytest
import torch
from packing import TRAIN, make_pack, settings_of
from trainings import difference, train, weights, write_tasks

import partrain
from partrain.data import Dataset
from partrain.networks import MLP, CustomNetwork
from partrain.packs import pack as pack_module
from partrain.packs.pack import Pack
from partrain.packs.stack import Stack, UnstackedTraining
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, ERROR_FILE, ROUND_FILE
from partrain.training.context import LocalContext
from partrain.training.segment import SegmentTraining

SHORT = replace(TRAIN, epochs=2)


def own(builder: str, seed: int, **changed: Any) -> RunSettings:
    """Return the settings of a network in `own_networks`."""
    network = CustomNetwork(name=f"own_networks:{builder}")
    return settings_of(network=network, seed=seed, **{"train": SHORT, **changed})


def small_net(seed: int, **changed: Any) -> RunSettings:
    """Return the settings of a network of another shape."""
    return settings_of(network=MLP(depth=2, width=8), seed=seed, **{"train": SHORT, **changed})


def alone_and_packed(small: Dataset, folder: Path, settings: list[RunSettings]) -> tuple[list[Path], list[Path]]:
    """Write the tasks of `settings` twice, and train each that can be trained alone."""
    alone, packed = (write_tasks(folder / name, small, settings) for name in ("alone", "packed"))
    for path, one in zip(alone, settings, strict=True):
        if one.network != CustomNetwork(name="own_networks:limited_to_2"):
            assert train(path)
    return alone, packed


def metrics_of(folder: Path) -> list[float]:
    """Return the losses of all epochs of a training, and then its decode accuracies."""
    rows = checkpoint.load_metadata(folder / CHECKPOINT)["epochs"]
    return [row[name] for name in ("loss", "decode_accuracy") for row in rows]


def raise_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, is_due: Callable[..., bool]) -> None:
    """Let the method `name` of `owner` raise an error of full memory when it has returned, the first time `is_due`."""
    method, raised = getattr(owner, name), []

    def short_of_memory(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        if not raised and is_due(*arguments):
            raised.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return result

    monkeypatch.setattr(owner, name, short_of_memory)


# ---- Errors of a user's layer.


def test_a_layer_that_raises_ends_its_own_training_alone(small: Dataset, tmp_path: Path) -> None:
    settings = [own("unlimited", 0), own("limited_to_2", 1), own("unlimited", 2), small_net(3)]
    alone, packed = alone_and_packed(small, tmp_path, settings)
    pack = make_pack(tmp_path / "pack", packed)
    assert pack.run()
    assert pack.failures == {pack.name_of(pack.job.members[1]): "out of coffee"}
    report = checkpoint.read_json(packed[1] / ERROR_FILE)
    lines = Path(own_networks.__file__).read_text().splitlines()
    assert (report["type"], report["message"], report["clear"]) == ("RuntimeError", "out of coffee", False)
    assert report["file"] == own_networks.__file__
    assert lines[report["line"] - 1].strip() == 'raise RuntimeError("out of coffee")'
    assert report["traceback"].endswith("RuntimeError: out of coffee\n")
    others = [0, 2, 3]
    assert difference([packed[n] for n in others], [alone[n] for n in others]) < 1e-10
    for number in others:  # Metrics and calls are counted once, though the failed step was done in part.
        assert metrics_of(packed[number]) == pytest.approx(metrics_of(alone[number]), abs=1e-10)
    assert weights(packed[0])["model.5.calls"] == 20


def test_it_is_not_trained_again_by_a_pack_that_is_resumed(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_tasks(tmp_path, small, [own("unlimited", 0), own("limited_to_2", 1)])
    pack = make_pack(tmp_path / "pack", folders)

    def stop_at_failure() -> None:
        if any(member.failure for member in pack.members):
            pack.context.request_stop()

    pack.context.poll = stop_at_failure  # type: ignore[method-assign]
    assert not pack.run()
    assert checkpoint.read_json(tmp_path / "pack" / ROUND_FILE)["failed"] == {}  # Its report may be deleted now.
    started: list[Path] = []

    class Noted(SegmentTraining):
        def __init__(self, folder: Path, *arguments: Any, **options: Any) -> None:
            started.append(folder)
            super().__init__(folder, *arguments, **options)

    monkeypatch.setattr(pack_module, "SegmentTraining", Noted)
    pack = make_pack(tmp_path / "pack", folders)
    assert pack.run()
    assert list(pack.failures) == [pack.name_of(pack.job.members[1])]
    assert started == folders[:1]


def test_what_fails_in_a_stack_alone_is_not_stacked_again(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, packed = alone_and_packed(small, tmp_path, [own("unlimited", 0), own("unlimited", 1)])
    attempts, forward_backward = [], Stack.forward_backward

    def unstackable(stack: Stack, features: Any, targets: Any, steps: Any) -> Any:
        losses = forward_backward(stack, features, targets, steps)
        attempts.append(steps[0].batch.step)
        if len(attempts) == 10:  # The last step of an epoch, which is measured.
            raise RuntimeError("in a stack alone")
        return losses

    monkeypatch.setattr(Stack, "forward_backward", unstackable)
    pack = make_pack(tmp_path / "pack", packed)
    expected = r"^A step that failed for a stack succeeded for each member alone \(RuntimeError: in a stack alone\)$"
    with pytest.warns(UserWarning, match=expected):
        assert pack.run()
    assert attempts == list(range(10))
    assert not pack.failures
    assert difference(packed, alone) < 1e-10
    for ours, theirs in zip(packed, alone, strict=True):
        assert metrics_of(ours) == pytest.approx(metrics_of(theirs), abs=1e-10)


@pytest.mark.parametrize("moment", ["its start", "its log", "its end"])
def test_any_error_of_a_member_ends_it_alone(
    small: Dataset, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    method = {"its start": "default_decay", "its log": "report", "its end": "store_outputs"}[moment]
    original = getattr(SegmentTraining, method)

    def broken(training: SegmentTraining, *arguments: Any, **options: Any) -> Any:
        if training.folder == packed[0]:
            raise KeyError("coffee")
        return original(training, *arguments, **options)

    monkeypatch.setattr(SegmentTraining, method, broken)
    pack = make_pack(tmp_path / "pack", packed)
    assert pack.run()
    assert pack.failures == {pack.name_of(pack.job.members[0]): "'coffee'"}
    assert checkpoint.read_json(packed[0] / ERROR_FILE)["type"] == "KeyError"
    assert weights(packed[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_request_to_end_ends_the_pack(
    small: Dataset, tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = write_tasks(tmp_path, small, [small_net(0), small_net(1)])

    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(Stack, "forward_backward", interrupted)
    with pytest.raises(error):
        make_pack(tmp_path / "pack", packed).run()
    assert not any((folder / ERROR_FILE).exists() for folder in packed)


# ---- Steps without memory.


@pytest.mark.parametrize("step", [2, 9])
def test_memory_that_runs_out_in_a_training_alone_leaves_no_trace(
    small: Dataset, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the first training behind its forward pass. It waits for the second, and ends with the bits of alone."""
    alone, packed = alone_and_packed(small, tmp_path, [own("unlimited", 0), small_net(1)])
    raise_once(
        monkeypatch,
        SegmentTraining,
        "update_metrics",
        lambda training, outputs, targets, one: training.folder == packed[0] and one.batch.step == step,
    )
    pack = make_pack(tmp_path / "pack", packed)
    steps: list[int] = []

    def poll() -> None:
        steps.extend(m.training.progress.step for m in pack.members if m.entry.folder == packed[0])

    pack.context.poll = poll  # type: ignore[method-assign]
    assert pack.run()
    assert pack.capacity == 1
    assert steps == sorted([*range(1, 21), step])  # None is done twice. At the failed step there was none.
    assert difference(packed, alone) == 0
    assert [metrics_of(folder) for folder in packed] == [metrics_of(folder) for folder in alone]


def test_one_that_does_not_fit_alone_fails_and_those_that_wait_go_on(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    train_step = UnstackedTraining.train_step

    def too_large(alone: UnstackedTraining, steps: Any) -> None:
        if alone.training.folder == packed[0]:
            raise torch.OutOfMemoryError("out of memory")
        train_step(alone, steps)

    monkeypatch.setattr(UnstackedTraining, "train_step", too_large)
    pack = make_pack(tmp_path / "pack", packed, capacity=1)
    assert pack.run()
    assert pack.failures == {
        pack.name_of(pack.job.members[0]): f"{packed[0]}: one training alone does not fit into the memory of cpu; "
        "choose a smaller train.batch_size or a smaller network"
    }
    assert weights(packed[1])


def test_one_without_memory_to_start_waits_for_others(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = write_tasks(tmp_path, small, [small_net(0), small_net(1), small_net(2, train=replace(SHORT, epochs=1))])
    active: list[int] = []

    class Large(SegmentTraining):
        def __init__(self, folder: Path, *arguments: Any, **options: Any) -> None:
            if folder == packed[1] and len(pack.members) > 1:
                raise torch.OutOfMemoryError("out of memory")
            super().__init__(folder, *arguments, **options)

    monkeypatch.setattr(pack_module, "SegmentTraining", Large)
    pack = make_pack(tmp_path / "pack", [packed[0], packed[2], packed[1]])
    pack.context.poll = lambda: active.append(len(pack.members))  # type: ignore[method-assign]
    assert pack.run()
    assert not pack.failures
    assert all(weights(folder) for folder in packed)
    assert max(active) == 2


# ---- A failure of an earlier attempt.


def leave_failure(folder: Path) -> None:
    """Write the error report of an earlier attempt."""
    report = {"type": "OSError", "message": "the disk is full", "clear": True, "traceback": ""}
    checkpoint.write_json(folder / ERROR_FILE, report)


def test_unify_tries_a_failed_task_again(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0), own("limited_to_2", 1)])
    leave_failure(folders[0])
    pack = partrain.unify(folders, tmp_path / "unified")
    assert pack.run()
    assert list(pack.failures.values()) == ["out of coffee"]
    assert weights(folders[0])
    tensors, progress = checkpoint.load(folders[1] / CHECKPOINT)
    tensors["model.5.limit"].fill_(99)  # As if the user had mended the layer.
    checkpoint.save(folders[1] / CHECKPOINT, tensors, progress)
    assert pack.run()
    assert pack.failures == {}
    assert weights(folders[1])
    assert not any((folder / ERROR_FILE).exists() for folder in folders)


def test_one_that_joins_is_tried_again(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    leave_failure(folders[1])
    pack: Pack = make_pack(tmp_path / "pack", folders[:1])
    pack.context = LocalContext()
    pack.join(folders[1])
    assert pack.run()
    assert pack.failures == {}
    assert weights(folders[1])
