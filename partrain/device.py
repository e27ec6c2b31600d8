"""The kinds of devices and what differs between them. No other file names a kind or asks whether a kind can do a thing.

PyTorch knows one kind of accelerator at a time: CUDA, to which ROCm counts, XPU, MPS, or one that an extension
registers. `torch.accelerator` drives all of them. The rest is in the kind's own module, e.g. `torch.cuda`, which
`torch.get_device_module` returns. The module lacks a function where the kind cannot do it.
"""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from partrain.errors import UserError

_SAFE_FRACTION = 0.8
"""The fraction of free memory to use: allocators round up, and other processes need some."""

_CUDA_MAJOR_WITH_BF16 = 8
"""The first generation of CUDA devices that compute in bfloat16, Ampere, by its major version."""

_MEMORY_FACTS = Path("/proc/meminfo")
_CPU_FACTS = Path("/proc/cpuinfo")


# ---- Names and kinds.


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kind_of(device: torch.device | str) -> str:
    """Return the kind of a device, or of the device of that name: "cuda" for "cuda:1"."""
    return device.type if isinstance(device, torch.device) else device.partition(":")[0]


def is_cpu(device: torch.device | str) -> bool:
    """Return whether `device`, or the device of that name, is the CPU. All others have other memory than the host's."""
    return kind_of(device) == "cpu"


def device_names() -> list[str]:
    """Return the names of this machine's devices, the CPU's first: "cpu", "cuda:0", "cuda:1"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]


def devices_named(wanted: str, setting: str = "launch.device") -> list[str]:
    """Return the names of the devices that a setting's value allows.

    Args:
        wanted: "auto" for all accelerators, or the CPU if there are none; "gpu" for all accelerators; a kind, e.g.
            "cuda", for all devices of that kind; or the name of one device, e.g. "cuda:1".
        setting: The name of the setting that holds `wanted`, for the error.

    Raises:
        UserError: If there is no such device.
    """
    names = device_names()
    accelerators = names[1:]
    if wanted == "auto":
        return accelerators or names
    named = accelerators if wanted == "gpu" else [name for name in names if wanted in (name, kind_of(name))]
    if not named:
        raise UserError(f"{setting}={wanted}: there is no such device here; available: {', '.join(names)} or auto")
    return named


def product_names() -> list[str]:
    """Return the product name of each accelerator of this machine, or its device name if its kind tells no other."""
    return [processor_name(torch.device(name)) for name in device_names()[1:]]


def processor_name(device: torch.device) -> str:
    """Return the product name of `device`, such as "AMD EPYC 9R14", or its device name if its kind tells no other."""
    if is_cpu(device):
        return _cpu_name()
    module = _module(device)
    if hasattr(module, "get_device_name"):
        return module.get_device_name(device)
    return torch.backends.mps.get_name() if device.type == "mps" else str(device)


@cache
def _cpu_name() -> str:
    lines = _CPU_FACTS.read_text(encoding="utf-8").splitlines() if _CPU_FACTS.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _module(device: torch.device) -> Any:
    """Return the module of the device's kind. Modules of extensions are untyped."""
    return torch.get_device_module(device)


# ---- Number formats.


def computes_bf16(device: torch.device) -> bool:
    """Return whether `device` computes in bfloat16 in hardware."""
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    module = _module(device)
    # `is_bf16_supported` answers for the current device. Making another one current would take memory there.
    if device.type == "cuda":
        return module.get_device_properties(device).major >= _CUDA_MAJOR_WITH_BF16
    if device.type == "xpu":
        return module.get_device_properties(device).has_bfloat16_conversions
    if not hasattr(module, "is_bf16_supported"):
        return False
    with torch.accelerator.device_index(device.index):
        return module.is_bf16_supported(including_emulation=False)


def supports_fp64(device: torch.device | str) -> bool:
    """Return whether `device`, or the device or kind of that name, computes in fp64."""
    if kind_of(device) == "xpu" and torch.xpu.is_available():
        return torch.xpu.get_device_properties(torch.device(device)).has_fp64
    return kind_of(device) != "mps"


# ---- What a process that forks others must not do.


def may_have_accelerator() -> bool:
    """Return whether this machine may have an accelerator. The question itself initialises none."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return False
    # For CUDA the driver's management library is asked, where there is one.
    return accelerator.type != "cuda" or torch.cuda.device_count() > 0


def accelerator_in_use() -> str | None:
    """Return the kind of the accelerator that this process has initialised, or None if it has none."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return None
    is_initialized = getattr(_module(accelerator), "is_initialized", None)
    return accelerator.type if is_initialized is not None and is_initialized() else None


# ---- Work and random numbers.


def make_current(device: torch.device) -> None:
    """Make `device` the one that this process uses where no device is named."""
    if not is_cpu(device):
        torch.accelerator.set_device_index(device)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all work queued on it."""
    if not is_cpu(device):
        torch.accelerator.synchronize(device)


def default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that dropout and other random layers draw from on `device`."""
    if is_cpu(device):
        return torch.default_generator
    module = _module(device)
    if device.type == "mps":
        return module._get_default_mps_generator()
    if not module.default_generators:  # They are made when the process first uses a device of this kind.
        module.init()
    index = torch.accelerator.current_device_index() if device.index is None else device.index
    return module.default_generators[index]


def communication_backend(device: torch.device) -> str:
    """Return the backend of torch.distributed for processes on devices of this kind.

    Raises:
        UserError: If PyTorch has none.
    """
    try:
        return dist.get_default_backend_for_device(device)
    except ValueError as error:
        raise UserError(
            f"strategy: PyTorch has no backend with which processes on {device.type} communicate; set "
            "strategy=synthetic or launch.device=cpu"
        ) from error


# ---- Memory.


def physical_free_bytes(device: torch.device) -> int | None:
    """Return how many bytes of memory are free on `device`, or None if devices of its kind do not report it."""
    if is_cpu(device):
        return _host_free_bytes()
    module = _module(device)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info(device)[0])
    if device.type == "mps":  # It shares the host's memory, up to a limit for each process.
        return min(_host_free_bytes(), module.recommended_max_memory() - module.driver_allocated_memory())
    return None


def _host_free_bytes() -> int:
    if _MEMORY_FACTS.exists():
        for line in _MEMORY_FACTS.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(device: torch.device, setting: str = "how much trainings may take") -> int:
    """Return how many bytes trainings may take on `device` where no budget is set.

    Args:
        device: The device.
        setting: The name of the setting that sets a budget, for the error.

    Raises:
        UserError: If devices of this kind do not report how much of their memory is free.
    """
    free = physical_free_bytes(device)
    if free is None:
        raise UserError(f"{device} does not report how much of its memory is free; set {setting}")
    return int(_SAFE_FRACTION * free)


def has_room(device: torch.device, num_bytes: int) -> bool:
    """Return whether `num_bytes` are free on `device`, as far as devices of its kind report it."""
    free = physical_free_bytes(device)
    return free is None or num_bytes <= free


def peak_allocated_bytes(device: torch.device) -> int | None:
    """Return the peak memory of this process's tensors on an accelerator, in bytes, or None if its kind has no count."""
    module = _module(device)
    return int(module.max_memory_allocated(device)) if hasattr(module, "max_memory_allocated") else None


def release_unused_memory(device: torch.device) -> None:
    """Return unused memory of PyTorch's caching allocator to the device, for other processes."""
    module = _module(device)
    if hasattr(module, "empty_cache"):
        module.empty_cache()


# ---- Copies between the host and a device.


def can_pin(device: torch.device) -> bool:
    """Return whether host memory can be page-locked after its allocation, for copies to and from `device`."""
    return hasattr(_module(device), "cudart")


def pin(host: Tensor, device: torch.device) -> None:
    """Page-lock the host tensor's memory, so that `device` copies to and from it directly, if its kind can do that."""
    if can_pin(device):
        module = _module(device)
        module.check_error(module.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0))


def unpin(host: Tensor, device: torch.device) -> None:
    """Undo `pin`."""
    if can_pin(device):
        module = _module(device)
        module.check_error(module.cudart().cudaHostUnregister(host.data_ptr()))


def copy_on_own_stream(source: Tensor, target: Tensor) -> None:
    """Copy between a device and the host, on a stream of its own if the device has several, and wait for the copy."""
    device = target.device if is_cpu(source.device) else source.device
    if not hasattr(_module(device), "current_stream"):
        target.copy_(source)
        return
    stream = torch.Stream(device)
    with stream:
        target.copy_(source, non_blocking=True)
    stream.synchronize()
