"""What strategies send, hold and take, as measured."""

import os
import socket
import threading
from pathlib import Path

import pytest
import torch
from made_up_accelerator import KIND, MadeUpAccelerator, make_up_accelerator
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.networks import MLPSettings
from partrain.packs.members import SharedPeakMemory
from partrain.partition.plan import PartitionSettings
from partrain.strategies.settings import StrategySettings
from partrain.training.meters import PeakMemory, network_bytes
from partrain.training.optimization import TrainSettings

WIDTH, BATCH, STEPS = 256, 64, 20
NETWORK = MLPSettings(depth=4, width=WIDTH)
WEIGHTS = 64 * WIDTH + 2 * WIDTH**2 + 5 * WIDTH + 3 * WIDTH + 5
ACTIVATIONS = BATCH * WIDTH * 4  # bytes that cross the cut in a step, one way, in fp32


def test_peak_memory_is_the_devices_own_count_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    make_up_accelerator(monkeypatch)
    process = PeakMemory()
    shared = SharedPeakMemory(process)
    shared.share_among(3)
    third = torch.device(KIND, 3)
    assert (process.bytes(third), shared.bytes(third)) == (80, 26)
    monkeypatch.delattr(MadeUpAccelerator, "max_memory_allocated")
    assert process.bytes(third) is shared.bytes(third) is None


def test_bytes_are_counted_as_they_leave_and_come() -> None:
    before = network_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        writer = threading.Thread(target=lambda: sender.sendall(bytes(1_000_000)))
        writer.start()
        received = 0
        while received < 1_000_000:
            received += len(receiver.recv(100_000))
        writer.join()
        after = network_bytes()
        assert before is not None
        assert after == (before[0] + 1_000_000, before[1] + 1_000_000)
        sender.close()
        receiver.close()


def test_a_socket_that_cannot_be_wrapped_is_left_out_and_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fileno: int) -> None:
        raise OSError(97, "Address family not supported by protocol")

    with socket.create_server(("127.0.0.1", 0)):
        before = os.listdir("/proc/self/fd")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", refuse)
            assert network_bytes() == (0, 0)
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("strategy", "payload"),
    [
        ("end_to_end", 0),
        ("synthetic", 0),
        ("data_parallel", 2 * 4 * WEIGHTS),  # half of the gradients from each to be summed, then half of the sum
        ("fully_sharded", 4 * 4 * WEIGHTS),  # and half of the weights from each, for the forward and the backward pass
        ("model_parallel", 2 * ACTIVATIONS),
        ("1f1b", 2 * ACTIVATIONS),
        ("decoupled", ACTIVATIONS),
    ],
)
def test_traffic_is_what_the_strategy_has_to_send(strategy: str, payload: int, small: Dataset, tmp_path: Path) -> None:
    settings = small_settings(
        network=NETWORK,
        partition=PartitionSettings(segments=2),
        strategy=StrategySettings(name=strategy, microbatches=2),
        train=TrainSettings(epochs=2, batch_size=BATCH, precision="fp32", early_stop=0, accuracy_curve=True),
    )
    results = partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    per_step = results["traffic_bytes_per_step"]
    assert payload <= per_step <= 1.05 * payload
    assert sum(part["received_bytes"] for part in results["segments"]) == pytest.approx(
        results["traffic_bytes"], rel=0.02
    )
    states = [part["optimizer_state_bytes"] for part in results["segments"]]
    weights = [part["parameter_bytes"] for part in results["segments"]]
    whole = 4 * WEIGHTS
    copies = 2 if strategy == "data_parallel" else 1
    extra = 4 * (WIDTH + 1) * 5 if strategy == "decoupled" else 0  # the first segment's own classifier
    assert sum(weights) == copies * whole + extra
    assert 2 * sum(weights) <= sum(states) <= 2 * sum(weights) + 400  # and the counts of steps
    curve = results["accuracy_curve"]
    assert curve[-1]["test_accuracy"] == results["test_accuracy"]
    assert [point["seconds"] for point in curve] == sorted(point["seconds"] for point in curve)
    # a point per epoch, or, of segments that end theirs at their own times, from when all have ended one
    assert len(curve) in ((2, 3) if strategy == "synthetic" else (2,))
    assert 0 < results["step_seconds"] <= results["train_seconds"]
    assert not list(tmp_path.rglob("epochs"))
