"""Meters of what a training takes: peak memory, time, CPU time, and bytes sent to and received from other processes."""

import importlib
import os
import resource
import socket
import sys
import time
from pathlib import Path

import torch

from partrain.device import is_cpu, peak_allocated_bytes, synchronize
from partrain.training.progress import Progress

_DESCRIPTORS = Path("/proc/self/fd")
_TCP_INFO_BYTES = 256
# Fields of Linux's struct tcp_info. Bytes sent again after a loss are in both of the last two.
_RECEIVED, _NOT_SENT, _SENT, _SENT_AGAIN = slice(128, 136), slice(144, 148), slice(200, 208), slice(208, 216)


class PeakMemory:
    """The peak memory of this process since the meter was made, which is right after its imports.

    It is host memory for a training on the CPU, and the allocator's memory for one on another device.
    """

    def __init__(self) -> None:
        # PyTorch puts off this import, of 80 MB, until the first optimiser is made. It is not the training's memory.
        importlib.import_module("torch._dynamo")
        self._start = _peak_resident_bytes()

    def bytes(self, device: torch.device) -> int | None:
        """Return the peak memory of a training on `device`, in bytes, or None if devices of its kind do not report it."""
        if is_cpu(device):
            return max(0, _peak_resident_bytes() - self._start)
        return peak_allocated_bytes(device)


def _peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would include what the parent held before it started this process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Usage:
    """A meter of the wall time, CPU time and traffic that training on `device` uses, and nothing else does.

    It counts from the first `skip_traffic` and `begin_epoch` on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.epoch_began = 0.0
        """The time at which the epoch began, in seconds since 1970."""
        self._seconds = self._cpu_seconds = 0.0
        self._sent = self._received = 0

    def begin_epoch(self) -> None:
        """Start an epoch's clock. Bytes that a process ahead has sent for it already still count."""
        self.epoch_began = time.time()
        self.skip_time()

    def skip_traffic(self) -> None:
        """Leave out what has been sent and received since the last reading."""
        self._sent, self._received = network_bytes() or (0, 0)

    def skip_time(self) -> None:
        """Leave out the time since the last reading."""
        self._seconds, self._cpu_seconds = time.perf_counter(), time.process_time()

    def add_to(self, progress: Progress, *, ends_epoch: bool, share: float = 1.0) -> None:
        """Add to `progress` what has been used since the last reading.

        Args:
            progress: The counts of the training.
            ends_epoch: Whether an epoch ends. Then queued work is waited for and traffic is read, which takes longer.
            share: The part of the process's CPU time that is this training's; the rest is that of trainings beside it.
        """
        if ends_epoch:
            synchronize(self._device)
        seconds, cpu_seconds = time.perf_counter(), time.process_time()
        progress.seconds += seconds - self._seconds
        progress.thread_seconds += share * (seconds - self._seconds) * torch.get_num_threads()
        progress.cpu_seconds += share * (cpu_seconds - self._cpu_seconds)
        self._seconds, self._cpu_seconds = seconds, cpu_seconds
        if ends_epoch:
            sent, received = network_bytes() or (0, 0)
            progress.sent_bytes += sent - self._sent
            progress.received_bytes += received - self._received
            self._sent, self._received = sent, received


def network_bytes() -> tuple[int, int] | None:
    """Return the bytes that this process's open TCP connections have sent and received so far, as Linux counts them.

    Traffic through shared memory or over a GPU's links is not counted.

    Returns:
        Bytes sent and bytes received, or None on a system that does not count them.
    """
    if not _DESCRIPTORS.is_dir():
        return None
    sent = received = 0
    for entry in _DESCRIPTORS.iterdir():
        try:
            if not os.readlink(entry).startswith("socket:"):
                continue
            with _duplicated_socket(int(entry.name)) as connection:
                if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # The connection was closed meanwhile, or is none that Python knows.
            continue
        sent += _number(info[_SENT]) + _number(info[_NOT_SENT]) - _number(info[_SENT_AGAIN])
        received += _number(info[_RECEIVED])
    return sent, received


def _duplicated_socket(descriptor: int) -> socket.socket:
    """Return a socket over a duplicate of a descriptor, so that closing it leaves the connection open.

    Raises:
        OSError: If the descriptor is closed by now, or of a socket that Python cannot wrap.
    """
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except BaseException:
        os.close(duplicate)
        raise


def _number(field: bytes) -> int:
    return int.from_bytes(field, sys.byteorder)
