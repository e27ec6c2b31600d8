"""Settings of the allocators of training processes: glibc's limits, and huge pages for torch's large tensors.

By default glibc returns memory to the system and fetches it again at every step, which can double a step's time, and keeps
large blocks that are no longer needed. Other allocators ignore these limits.
"""

import ctypes
import os
from dataclasses import dataclass

# Parameters of mallopt(3), by the environment variables that set them when a process starts.
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}


@dataclass(frozen=True)
class AllocatorLimits:
    """Limits of the allocator, in bytes. A variable in the environment of the launcher counts instead."""

    trim: int
    """Free memory at the end of the heap that is not returned to the system."""
    mmap: int
    """Size from which a block has a mapping of its own. glibc takes no more than 32 MiB."""

    @property
    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables, which glibc and torch read when they are loaded."""
        return {
            "MALLOC_TRIM_THRESHOLD_": str(self.trim),
            "MALLOC_MMAP_THRESHOLD_": str(self.mmap),
            "THP_MEM_ALLOC_ENABLE": "1",
        }

    def apply(self) -> None:
        """Set the limits in this process, which was forked, as far as they are those in its environment."""
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        for name, parameter in _MALLOPT.items():
            value = self.environment[name]
            if mallopt is not None and os.environ.get(name) == value:
                mallopt(parameter, int(value))


ONE_TRAINING = AllocatorLimits(trim=32_000_000, mmap=4_000_000)
"""The limits of a process with one training."""
MANY_TRAININGS = AllocatorLimits(trim=1_000_000_000, mmap=33_554_432)
"""The limits of a process that computes many trainings at once: a stack's temporary tensors are many times as large."""
