"""The differences between CPUs and GPUs. No other file calls `torch.cuda`."""

import os
from pathlib import Path

import torch
from torch import Tensor

_SAFE_FRACTION = 0.8
"""The fraction of free memory to use: allocators round up, and other processes need some."""


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_devices() -> list[str]:
    """Return the devices of this machine as `launch.device` names them, the CPU first."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus]


def gpu_names() -> list[str]:
    """Return the product name of each GPU of this machine."""
    return [torch.cuda.get_device_name(device) for device in available_devices()[1:]]


def is_gpu(device: torch.device) -> bool:
    """Return whether `device` has memory of its own and computes asynchronously to the host."""
    return device.type == "cuda"


def computes_bf16(device: torch.device) -> bool:
    """Return whether `device` computes in bfloat16 in hardware."""
    if is_gpu(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    return False


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all work queued on it."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def release_unused_memory(device: torch.device) -> None:
    """Return unused memory of PyTorch's caching allocator to the device, for other processes."""
    if is_gpu(device):
        torch.cuda.empty_cache()


def default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that dropout and other random layers draw from on `device`."""
    if not is_gpu(device):
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def physical_free_bytes(device: torch.device) -> int:
    """Return how many bytes of memory are free on `device`."""
    if is_gpu(device):
        return int(torch.cuda.mem_get_info(device)[0])
    memory = Path("/proc/meminfo")
    if memory.exists():
        for line in memory.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(device: torch.device) -> int:
    """Return how many bytes trainings may take on `device` where no budget is set."""
    return int(_SAFE_FRACTION * physical_free_bytes(device))


def peak_allocated_bytes(device: torch.device) -> int:
    """Return the peak memory of this process's tensors on a GPU, in bytes."""
    return torch.cuda.max_memory_allocated(device)


def make_current(device: torch.device) -> None:
    """Make `device` the one that this process uses where no device is named."""
    if is_gpu(device):
        torch.cuda.set_device(device)


def communication_backend(device: torch.device) -> str:
    """Return the backend of torch.distributed for processes on devices of this kind."""
    return "nccl" if is_gpu(device) else "gloo"


def pin(host: Tensor) -> None:
    """Page-lock the host tensor's memory, so that a GPU copies to and from it directly."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), len(host), 0))


def unpin(host: Tensor) -> None:
    """Undo `pin`."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(host.data_ptr()))


def copy_on_own_stream(source: Tensor, target: Tensor) -> None:
    """Copy between a GPU and the host on a stream of its own, and wait for the copy."""
    stream = torch.cuda.Stream(source.device if source.is_cuda else target.device)
    with torch.cuda.stream(stream):
        target.copy_(source, non_blocking=True)
    stream.synchronize()
