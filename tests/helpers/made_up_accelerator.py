"""A made-up accelerator: devices `privateuseone:0` to `privateuseone:3`, which nothing computes on.

PyTorch keeps this kind for extensions. It can be given a better name, but for the rest of the process, in which PyTorch
would then find no other accelerator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any

import pytest
import torch

KIND = "privateuseone"


class MadeUpAccelerator:
    """The module of a made-up kind of devices, in place of e.g. `torch.cuda`, and what `torch.accelerator` does with it.

    A test that wants a kind that cannot do something deletes the function from the class (`monkeypatch.delattr`).
    """

    def __init__(self, count: int) -> None:
        self.count, self.current = count, 0
        self.calls: list[tuple[Any, ...]] = []
        """What was done with the devices, in order."""
        self.default_generators = tuple(torch.Generator() for _ in range(count))

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return self.count

    def get_device_name(self, device: torch.device) -> str:
        return f"Made-up {100 + device.index}"

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        """Answer for the current device, as CUDA's and XPU's modules do: all but the first have bfloat16."""
        return including_emulation or self.current > 0

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 1000 * (1 + device.index), 10_000

    def max_memory_allocated(self, device: torch.device) -> int:
        return 77 + device.index

    def empty_cache(self) -> None:
        self.calls.append(("empty_cache",))

    def current_stream(self, device: torch.device) -> None:
        raise AssertionError("only asked whether there is one")

    # ---- CUDA's runtime, as far as pinning takes it.

    def cudart(self) -> "MadeUpAccelerator":
        return self

    def check_error(self, code: int) -> None:
        if code:
            raise RuntimeError(f"error {code}")

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:
        self.calls.append(("register", pointer, size, flags))
        return 0

    def cudaHostUnregister(self, pointer: int) -> int:
        self.calls.append(("unregister", pointer))
        return 0

    # ---- `torch.accelerator`.

    def set_device_index(self, device: torch.device) -> None:
        self.current = device.index
        self.calls.append(("set_device_index", str(device)))

    def synchronize(self, device: torch.device) -> None:
        self.calls.append(("synchronize", str(device)))

    @contextmanager
    def device_index(self, index: int | None) -> Iterator[None]:
        before, self.current = self.current, self.current if index is None else index
        yield
        self.current = before


def make_up_accelerator(monkeypatch: pytest.MonkeyPatch, count: int = 4) -> MadeUpAccelerator:
    """Give this process `count` made-up devices, and no others but the CPU, until the test's end."""
    made_up = MadeUpAccelerator(count)
    monkeypatch.setattr(torch, KIND, made_up, raising=False)
    monkeypatch.setattr(torch, "get_device_module", unwrap(torch.get_device_module))  # Without its cache of modules.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device(KIND))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: made_up.current)
    for name in ("set_device_index", "synchronize", "device_index"):
        monkeypatch.setattr(torch.accelerator, name, getattr(made_up, name))
    return made_up
