"""Tests of the meters of memory and of traffic; tests/strategies has what each strategy sends and holds."""

import os
import socket
import threading

import pytest
import torch
from made_up_accelerator import KIND, MadeUpAccelerator, make_up_accelerator

from partrain.packs.members import SharedPeakMemory
from partrain.training.meters import PeakMemory, network_bytes


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
