"""The devices and the numbers of threads that training processes get."""

from collections.abc import Sequence

import torch

from partrain.device import available_devices, has_room, num_cores
from partrain.errors import UserError


def assign_devices(wanted: str, count: int, setting: str = "launch.device") -> list[str]:
    """Return a device for each of `count` segments.

    Args:
        wanted: "auto" for the GPUs in turn, or the CPU if there is none; "cuda" for the GPUs in turn; or one device.
        count: The number of segments.
        setting: The name of the setting that holds `wanted`, for the error.

    Raises:
        UserError: If there is no such device.
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


def choose_evaluation_device(wanted: str, num_parameters: int) -> str:
    """Return the device to evaluate a whole network on: the `wanted` one, or the CPU if a GPU is too full.

    A GPU needs twice the memory of the fp32 parameters free.
    """
    device = assign_devices(wanted, 1)[0]
    if device == "cpu" or has_room(torch.device(device), 2 * 4 * num_parameters):
        return device
    return "cpu"


def divide_cores(cores: int, costs: Sequence[float]) -> list[int]:
    """Return the number of threads for each of several processes that run at once.

    Every process has at least one thread. Each further core goes to the process with the highest cost per thread.
    """
    threads = [1] * len(costs)
    if not costs:
        return threads
    for _ in range(cores - len(costs)):
        neediest = max(range(len(costs)), key=lambda index: costs[index] / threads[index])
        threads[neediest] += 1
    return threads


def worker_devices(wanted: str, threads: str | int, num_models: int) -> list[str]:
    """Return a device for each worker that the models share: every GPU that `wanted` allows, or parts of the CPU.

    Args:
        wanted: The setting `launch.device`.
        threads: The threads of a worker on the CPU, or "auto" for one worker per core.
        num_models: The number of models, which is the highest number of workers on the CPU.

    Raises:
        UserError: If there is no such device.
    """
    num_gpus = len(available_devices()) - 1
    devices = list(dict.fromkeys(assign_devices(wanted, max(1, num_gpus))))
    if devices != ["cpu"]:
        return devices
    num_workers = num_cores() if threads == "auto" else max(1, num_cores() // int(threads))
    return ["cpu"] * min(num_models, num_workers)


def resolve_devices(devices: Sequence[str]) -> list[str]:
    """Return the full names of `devices`, which are all CPUs or all GPUs.

    Raises:
        UserError: If the list is empty, a device does not exist, or CPUs and GPUs are mixed.
    """
    if not devices:
        raise UserError("devices is empty; give at least one, e.g. cpu or cuda:0")
    names = [assign_devices(device, len(devices), "devices")[number] for number, device in enumerate(devices)]
    if len({torch.device(name).type for name in names}) > 1:
        raise UserError(f"devices: {', '.join(names)} are not of one kind; give either CPUs or GPUs")
    return names
