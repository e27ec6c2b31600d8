"""Which device and how many threads each segment gets."""

from collections.abc import Sequence

import torch

from partrain.device import available_devices, num_cores, physical_free_bytes
from partrain.errors import UserError


def place(wanted: str, count: int, setting: str = "launch.device") -> list[str]:
    """A device for each of `count` segments: `wanted`, or for auto the GPUs in turn, or the CPU where there is none.

    Raises:
        ValueError: there is no such device; the message names `setting`.
    """
    devices = available_devices()
    gpus = devices[1:]
    if wanted in ("auto", "cuda"):
        if gpus:
            return [gpus[index % len(gpus)] for index in range(count)]
        if wanted == "auto":
            return ["cpu"] * count
    if wanted not in devices:
        raise UserError(f"{setting}={wanted}: there is no such device here; available: {', '.join(devices)} or auto")
    return [wanted] * count


def place_whole(wanted: str, parameters: int) -> str:
    """Where a network of so many `parameters` is evaluated: `wanted`, or the CPU where a GPU has not twice their room."""
    device = place(wanted, 1)[0]
    if device == "cpu" or 2 * 4 * parameters <= physical_free_bytes(torch.device(device)):
        return device
    return "cpu"


def divide(cores: int, costs: Sequence[float]) -> list[int]:
    """Threads for processes of these `costs` that run at once: at least one each, the rest where most is to be done."""
    threads = [1] * len(costs)
    for _ in range(cores - len(costs) if costs else 0):
        neediest = max(range(len(costs)), key=lambda index: costs[index] / threads[index])
        threads[neediest] += 1
    return threads


def worker_devices(wanted: str, threads: str | int, models: int) -> list[str]:
    """A device for each worker that `models` share: every GPU that `wanted` allows, or parts of the CPU.

    Raises:
        ValueError: there is no such device.
    """
    gpus = max(1, len(available_devices()) - 1)
    found = list(dict.fromkeys(place(wanted, gpus)))
    if found != ["cpu"]:
        return found
    return found * min(models, max(1, num_cores() // int(threads)) if threads != "auto" else num_cores())


def each_placed(devices: Sequence[str]) -> list[str]:
    """`devices` by their full names, alike: CPUs or GPUs.

    Raises:
        ValueError: there is none, one is not there, or they are not alike.
    """
    if not devices:
        raise UserError("devices: there is none; give at least one, e.g. cpu or cuda:0")
    found = [place(device, len(devices), "devices")[number] for number, device in enumerate(devices)]
    if len({torch.device(device).type for device in found}) > 1:
        raise UserError(f"devices: {', '.join(found)} are not alike; give CPUs or GPUs")
    return found
