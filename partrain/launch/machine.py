"""The facts of this machine that a measurement is published with."""

import platform
from pathlib import Path
from typing import Any

from partrain.device import gpu_names, num_cores

_CPUINFO = Path("/proc/cpuinfo")


def machine_facts() -> dict[str, Any]:
    """Return the processor's name, the number of cores that this process may use, and the names of the GPUs."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor() or platform.machine()),
        "cores": num_cores(),
        "gpus": gpu_names(),
    }


def describe_machine(facts: dict[str, Any]) -> str:
    """Return the facts that `machine_facts` returned as one line, e.g. "Xeon, 2 cores, no GPU"."""
    gpus = ", ".join(facts["gpus"]) or "no GPU"
    return f"{facts['cpu']}, {facts['cores']} core{'s' * (facts['cores'] != 1)}, {gpus}"
