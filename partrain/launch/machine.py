"""The machine in a few facts: what something was measured on."""

import platform
from pathlib import Path
from typing import Any

from partrain.device import gpu_names, num_cores

_CPUINFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """The processor's name, the cores that may be used, and the GPUs' names."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor() or platform.machine()),
        "cores": num_cores(),
        "gpus": gpu_names(),
    }


def described(machine: dict[str, Any]) -> str:
    """In a few words."""
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return f"{machine['cpu']}, {machine['cores']} core{'s' * (machine['cores'] != 1)}, {gpus}"
