"""The facts of this machine that a measurement is published with."""

from typing import Any

import torch

from partrain.device import num_cores, processor_name, product_names


def machine_facts() -> dict[str, Any]:
    """Return the processor's name, the number of cores that this process may use, and the names of the GPUs."""
    return {"cpu": processor_name(torch.device("cpu")), "cores": num_cores(), "gpus": product_names()}


def describe_machine(facts: dict[str, Any]) -> str:
    """Return the facts that `machine_facts` returned as one line, e.g. "Xeon, 2 cores, no GPU"."""
    gpus = ", ".join(facts["gpus"]) or "no GPU"
    return f"{facts['cpu']}, {facts['cores']} core{'s' * (facts['cores'] != 1)}, {gpus}"
