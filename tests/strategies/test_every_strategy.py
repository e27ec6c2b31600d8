"""Tests of every strategy, trained once: it ends with end to end's weights, and sends and holds what it has to."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from scripting import small_settings, strategy_named

import partrain
from partrain.data import Dataset
from partrain.networks import CNN, MLP, NetworkSettings
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings

TOLERANCE = 1e-11  # The largest difference of any weight; sums are computed in another order.
EPOCHS, BATCH, STEPS = 4, 96, 24
FP64 = 8  # bytes of a number

WIDTH, CLASSES = 256, 5
MLP = MLP(depth=4, width=WIDTH)
MLP_WEIGHTS = 64 * WIDTH + 2 * WIDTH**2 + CLASSES * WIDTH + 3 * WIDTH + CLASSES
CNN = CNN(channels=[8, 8], strides=[2, 2], hidden=[16])  # It has batch normalisation.
CNN_WEIGHTS = (1 + 8) * 8 * 9 + 2 * 2 * 8 + (32 + 1) * 16 + (16 + 1) * CLASSES


class Task(NamedTuple):
    """A network and its optimizer, with the sizes that the bytes sent and held follow from."""

    network: NetworkSettings
    optimizer: str
    states: int  # numbers that the optimizer keeps for a weight
    weights: int
    widths: list[int]  # numbers that cross each cut for an image


TASKS = {
    "mlp": Task(MLP, "adamw", 2, MLP_WEIGHTS, [WIDTH, WIDTH]),
    "sgd": Task(MLP, "sgd", 1, MLP_WEIGHTS, [WIDTH, WIDTH]),
    "cnn": Task(CNN, "adamw", 2, CNN_WEIGHTS, [32, 16]),
}


def train(strategy: str, segments: int, task: Task, folder: Path, data: Dataset) -> Any:
    """Train by a strategy and return the results."""
    settings = small_settings(
        network=task.network,
        partition=PartitionSettings(segments=segments),
        strategy=strategy_named(strategy, microbatches=3),
        train=TrainSettings(
            epochs=EPOCHS,
            batch_size=BATCH,
            lr=1e-2,
            optimizer=task.optimizer,
            precision="fp64",
            early_stop=0,
            accuracy_curve=True,
        ),
    )
    return partrain.run(settings, folder, dataset=data, show_progress=False)


@pytest.fixture(scope="module")
def end_to_end(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Return a function that returns the folder and the results of a task trained end to end."""

    @cache
    def run(task: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(task)
        return folder, train("end_to_end", 1, TASKS[task], folder, small)

    return run


def payload(strategy: str, segments: int, task: Task) -> int:
    """Return the bytes that a step has to send."""
    weights, activations = FP64 * task.weights, FP64 * BATCH * sum(task.widths[: segments - 1])
    others = segments - 1
    return {
        "data_parallel": 2 * others * weights,  # shares of the gradients to be summed, then of the sum
        "fully_sharded": 4 * others * weights,  # and of the weights, for the forward and the backward pass
        "model_parallel": 2 * activations,
        "gpipe": 2 * activations,
        "1f1b": 2 * activations,
        "decoupled": activations,
    }.get(strategy, 0)


def check_weights(run: Path, reference: Path) -> None:
    """Check that the weights of two runs are the same, up to the order of sums."""
    ours, theirs = (checkpoint.load(folder / "model/model.safetensors")[0] for folder in (run, reference))
    assert ours.keys() == theirs.keys()
    assert torch.float64 in {tensor.dtype for tensor in ours.values()}
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < TOLERANCE


def check_progress(run: Path, reference: Path, strategy: str, segments: int) -> None:
    """Check that the last process took end to end's steps, and had its losses if it sees all labels."""
    folders = run / f"ranks/{segments - 1}", reference / "segments/0"
    ours, theirs = (checkpoint.load_metadata(folder / "checkpoint.safetensors") for folder in folders)
    assert ours["step"] == theirs["step"] == STEPS
    if strategy in ("model_parallel", "gpipe", "1f1b"):
        losses = [[row["loss"] for row in progress["epochs"]] for progress in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def check_traffic(results: Any, expected: int) -> None:
    """Check that a step sent what it had to, and that all that was sent was received."""
    assert expected <= results["traffic_bytes_per_step"] <= 1.05 * expected
    received = sum(part["received_bytes"] for part in results["segments"])
    assert received == pytest.approx(results["traffic_bytes"], rel=0.02)


def check_memory(results: Any, strategy: str, segments: int, task: Task) -> None:
    """Check the bytes of the weights and of the optimizer's state that all processes hold together."""
    copies = segments if strategy == "data_parallel" else 1
    own_classifier = (WIDTH + 1) * CLASSES if strategy == "decoupled" else 0  # that of the first segment
    weights = sum(part["parameter_bytes"] for part in results["segments"])
    states = sum(part["optimizer_state_bytes"] for part in results["segments"])
    assert weights == FP64 * (copies * task.weights + own_classifier)
    assert task.states * weights <= states <= task.states * weights + 400  # and the counts of steps


def check_curve(results: Any, strategy: str) -> None:
    """Check the points of the accuracy over time."""
    curve = results["accuracy_curve"]
    assert curve[-1]["test_accuracy"] == results["test_accuracy"]
    seconds = [point["seconds"] for point in curve]
    assert seconds == sorted(seconds)
    # A point per epoch, or, of two segments that end theirs at their own times, from when both have ended one.
    most = 2 * EPOCHS - 1 if strategy == "synthetic" else EPOCHS
    assert EPOCHS <= len(curve) <= most
    assert 0 < results["step_seconds"] <= results["train_seconds"]


@pytest.mark.parametrize(
    ("strategy", "segments", "name"),
    [
        ("end_to_end", 1, "mlp"),
        ("synthetic", 2, "mlp"),
        ("data_parallel", 2, "mlp"),
        ("data_parallel", 3, "sgd"),
        ("fully_sharded", 2, "mlp"),
        ("fully_sharded", 3, "sgd"),
        ("model_parallel", 3, "cnn"),
        ("gpipe", 2, "mlp"),
        ("1f1b", 3, "sgd"),
        ("decoupled", 2, "mlp"),
    ],
)
def test_its_weights_are_end_to_ends_and_it_sends_and_holds_what_it_has_to(
    strategy: str,
    segments: int,
    name: str,
    small: Dataset,
    tmp_path: Path,
    end_to_end: Callable[[str], tuple[Path, Any]],
) -> None:
    results = train(strategy, segments, TASKS[name], tmp_path, small)
    check_traffic(results, payload(strategy, segments, TASKS[name]))
    check_memory(results, strategy, segments, TASKS[name])
    check_curve(results, strategy)
    assert not list(tmp_path.rglob("epochs"))
    if strategy in ("end_to_end", "synthetic", "decoupled"):
        return
    reference, expected = end_to_end(name)
    check_weights(tmp_path, reference)
    check_progress(tmp_path, reference, strategy, segments)
    assert results["test_accuracy"] == expected["test_accuracy"]


@pytest.mark.parametrize("strategy", ["data_parallel", "fully_sharded", "gpipe"])
def test_feature_maps_cross_and_are_sharded(strategy: str, small: Dataset, tmp_path: Path) -> None:
    """Train without comparing with end to end, since batch normalisation sees a share of the batch."""
    results = train(strategy, 2, TASKS["cnn"], tmp_path, small)
    assert results["test_accuracy"] > 0.9


def test_decoupled_segments_learn_without_gradients_between_them(small: Dataset, tmp_path: Path) -> None:
    results = train("decoupled", 3, TASKS["cnn"], tmp_path, small)
    assert results["test_accuracy"] > 0.9
    assert [part["decode_accuracy"] for part in results["segments"]] == [None] * 3
    first = checkpoint.load(tmp_path / "ranks/0/checkpoint.safetensors")[0]
    assert not any("classifier" in name for name in first)
    assert torch.equal(partrain.load(tmp_path).state_dict()["conv0.weight"], first["model.conv0.weight"].float())
