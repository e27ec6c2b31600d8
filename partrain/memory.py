"""Peak memory of this process, per device."""

import importlib
import resource
import sys
from pathlib import Path

import torch


def _resident_peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held before it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class PeakMemory:
    """What this process has taken at its peak since the meter was made, right after imports.

    Host memory for a CPU segment, the allocator's peak on a GPU. Bytes.
    """

    def __init__(self) -> None:
        importlib.import_module("torch._dynamo")  # 80 MB that torch puts off until the first optimiser is made
        self._start = _resident_peak()

    def bytes(self, device: torch.device) -> int:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return max(0, _resident_peak() - self._start)
