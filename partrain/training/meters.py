"""What a training takes: peak memory, seconds, CPU time, and bytes that leave and enter the process."""

import importlib
import os
import resource
import socket
import sys
import time
from pathlib import Path

import torch

from partrain.device import is_gpu, peak_allocated_bytes, synchronize
from partrain.training.progress import Progress

_DESCRIPTORS = Path("/proc/self/fd")
_TCP_INFO_BYTES = 256
# in Linux's struct tcp_info; what is sent once more after a loss is in both of the last two
_RECEIVED, _NOT_SENT, _SENT, _SENT_AGAIN = slice(128, 136), slice(144, 148), slice(200, 208), slice(208, 216)


class PeakMemory:
    """What this process has taken at its peak since the meter was made, right after imports.

    Host memory for a CPU segment, the allocator's peak on a GPU. Bytes.
    """

    def __init__(self) -> None:
        importlib.import_module("torch._dynamo")  # 80 MB that torch puts off until the first optimiser is made
        self._start = _resident_peak()

    def bytes(self, device: torch.device) -> int:
        if is_gpu(device):
            return peak_allocated_bytes(device)
        return max(0, _resident_peak() - self._start)


def _resident_peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held before it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Usage:
    """Adds to `progress` what this process uses from now on, steps queued on its `device` included."""

    def __init__(self, progress: Progress, device: torch.device) -> None:
        self._progress, self._device = progress, device
        self.begin()
        self.skip_traffic()

    def begin(self) -> None:
        """An epoch begins; bytes that have come for it before, from a process that is ahead, are its own."""
        self.started = time.time()
        self.skip()

    def skip_traffic(self) -> None:
        """What has been sent and received since the last note was not training's."""
        self._sent, self._received = network_bytes() or (0, 0)

    def skip(self) -> None:
        """What time has passed since the last note was not training's."""
        self._seconds, self._cpu_seconds = time.perf_counter(), time.process_time()

    def note(self, whole: bool = False, fraction: float = 1.0) -> None:
        """Add what has been used since the last note; bytes, which take longer to read, once at the `whole`'s end.

        Of the process's CPU time a `fraction` counts; the rest is that of trainings beside it.
        """
        if whole:
            synchronize(self._device)
        progress, seconds, cpu_seconds = self._progress, time.perf_counter(), time.process_time()
        progress.seconds += seconds - self._seconds
        progress.thread_seconds += fraction * (seconds - self._seconds) * torch.get_num_threads()
        progress.cpu_seconds += fraction * (cpu_seconds - self._cpu_seconds)
        self._seconds, self._cpu_seconds = seconds, cpu_seconds
        if whole:
            sent, received = network_bytes() or (0, 0)
            progress.sent_bytes += sent - self._sent
            progress.received_bytes += received - self._received
            self._sent, self._received = sent, received


def network_bytes() -> tuple[int, int] | None:
    """Bytes that this process's open TCP connections have sent and received so far, as Linux's kernel counts them.

    None where the kernel does not say. What goes through shared memory or over a GPU's links is not seen here.
    """
    if not _DESCRIPTORS.is_dir():
        return None
    sent = received = 0
    for entry in _DESCRIPTORS.iterdir():
        try:
            if not os.readlink(entry).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # closed meanwhile
            continue
        sent += _number(info[_SENT]) + _number(info[_NOT_SENT]) - _number(info[_SENT_AGAIN])
        received += _number(info[_RECEIVED])
    return sent, received


def _number(field: bytes) -> int:
    return int.from_bytes(field, sys.byteorder)
