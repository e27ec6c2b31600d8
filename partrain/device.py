"""Devices: what CPUs and GPUs answer differently is asked here, and nowhere else is `torch.cuda` called."""

import os
from pathlib import Path

import torch
from torch import Tensor

_SAFE = 0.8  # of what is free: allocators round up, and others want some


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_devices() -> list[str]:
    """What `launch.device` may name here, the CPU first."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus]


def gpu_names() -> list[str]:
    """The product names of the GPUs that `available_devices` lists."""
    return [torch.cuda.get_device_name(device) for device in available_devices()[1:]]


def is_gpu(device: torch.device) -> bool:
    """Whether `device` has a memory of its own and computes beside the host."""
    return device.type == "cuda"


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16 in hardware."""
    if is_gpu(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16"))
    return False


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what is queued on it."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def release_unused_memory(device: torch.device) -> None:
    """Give memory that torch's allocator holds on to, and nobody uses, back to other processes."""
    if is_gpu(device):
        torch.cuda.empty_cache()


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout and the like draw from on `device`."""
    if not is_gpu(device):
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def physical_free_bytes(device: torch.device) -> int:
    """Bytes that nobody uses on `device`."""
    if is_gpu(device):
        return int(torch.cuda.mem_get_info(device)[0])
    memory = Path("/proc/meminfo")
    if memory.exists():
        for line in memory.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(device: torch.device) -> int:
    """Bytes that trainings may take on `device`, where no budget is set."""
    return int(_SAFE * physical_free_bytes(device))


def peak_allocated_bytes(device: torch.device) -> int:
    """The most bytes that this process's tensors have taken of a GPU at once."""
    return torch.cuda.max_memory_allocated(device)


def make_current(device: torch.device) -> None:
    """Let GPU work of this process that names no device be done on `device`."""
    if is_gpu(device):
        torch.cuda.set_device(device)


def communication_backend(device: torch.device) -> str:
    """The backend of torch.distributed for processes on devices like `device`."""
    return "nccl" if is_gpu(device) else "gloo"


def pin(host: Tensor) -> None:
    """Let a GPU copy from and to the bytes of `host` without a detour."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), len(host), 0))


def unpin(host: Tensor) -> None:
    """Undo `pin`."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(host.data_ptr()))


def copy_aside(source: Tensor, target: Tensor) -> None:
    """Copy between a GPU and the host on a stream of its own; return when it is done."""
    stream = torch.cuda.Stream(source.device if source.is_cuda else target.device)
    with torch.cuda.stream(stream):
        target.copy_(source, non_blocking=True)
    stream.synchronize()
