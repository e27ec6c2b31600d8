"""Tests of what differs between kinds of devices, on a made-up accelerator, and that one file alone knows kinds."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_up_accelerator import KIND, MadeUpAccelerator, make_up_accelerator
from scripting import ROOT

from partrain import device as devices
from partrain.boundaries import boundary
from partrain.errors import UserError
from partrain.rng import seed_forward
from partrain.training.optimization import resolve_precision

CPU = torch.device("cpu")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUpAccelerator:
    return make_up_accelerator(monkeypatch)


ALL = [f"{KIND}:{index}" for index in range(4)]


def fake(index: int | None = None) -> torch.device:
    return torch.device(KIND if index is None else ALL[index])


def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


# ---- Names and kinds.


def test_the_kind_of_a_device_or_of_its_name(made_up: MadeUpAccelerator) -> None:
    assert [devices.kind_of(name) for name in ("cpu", "cuda", "cuda:1", "xpu:12")] == ["cpu", "cuda", "cuda", "xpu"]
    assert [devices.kind_of(device) for device in (CPU, fake(), fake(3))] == ["cpu", KIND, KIND]
    assert [devices.is_cpu(device) for device in ("cpu", "cuda:0", CPU, fake(0))] == [True, False, True, False]


def test_devices_and_their_products(made_up: MadeUpAccelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.device_names() == ["cpu", *ALL]
    assert devices.product_names() == ["Made-up 100", "Made-up 101", "Made-up 102", "Made-up 103"]
    monkeypatch.delattr(MadeUpAccelerator, "get_device_name")
    assert devices.product_names() == ALL
    no_accelerator(monkeypatch)
    assert (devices.device_names(), devices.product_names()) == (["cpu"], [])


def test_an_accelerator_that_is_not_available_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch names the kind that it is built for also where there is no such device."""
    made_up = make_up_accelerator(monkeypatch)
    built_for = torch.device(KIND)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else built_for
    )
    assert made_up.device_count() == 4
    assert devices.device_names() == ["cpu"]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [("auto", ALL), ("gpu", ALL), (KIND, ALL), ("cpu", ["cpu"]), (ALL[2], [ALL[2]])],
)
def test_devices_that_a_setting_names(wanted: str, named: list[str], made_up: MadeUpAccelerator) -> None:
    assert devices.devices_named(wanted) == named


@pytest.mark.parametrize("wanted", [f"{KIND}:4", "cuda", "cuda:0", "tpu", "", f"{KIND}:", "gpu:0", "cpu:0", ":0"])
def test_a_device_that_is_not_there(wanted: str, made_up: MadeUpAccelerator) -> None:
    with pytest.raises(UserError) as caught:
        devices.devices_named(wanted, "device")
    available = f"cpu, {', '.join(ALL)} or auto"
    assert str(caught.value) == f"device={wanted}: there is no such device here; available: {available}"


def test_devices_that_a_setting_names_where_there_is_only_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    no_accelerator(monkeypatch)
    assert devices.devices_named("auto") == devices.devices_named("cpu") == ["cpu"]
    for wanted in ("gpu", "cuda", "cuda:7"):
        with pytest.raises(UserError) as caught:
            devices.devices_named(wanted)
        assert str(caught.value) == f"launch.device={wanted}: there is no such device here; available: cpu or auto"


# ---- Number formats.


def test_bf16_of_the_device_asked_and_not_of_the_current_one(made_up: MadeUpAccelerator) -> None:
    assert [devices.computes_bf16(fake(index)) for index in range(3)] == [False, True, True]
    assert made_up.current == 0
    made_up.current = 1
    assert not devices.computes_bf16(fake(0))
    assert devices.computes_bf16(fake())  # Without an index it is the current one.
    assert [resolve_precision("auto", fake(index)) for index in range(2)] == ["fp32", "bf16"]


def test_bf16_of_a_kind_that_does_not_say(made_up: MadeUpAccelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MadeUpAccelerator, "is_bf16_supported")
    assert not devices.computes_bf16(fake(1))
    assert not devices.computes_bf16(torch.device("mps:0"))


def test_bf16_of_cuda_and_xpu_is_read_without_making_the_device_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """To make a device current takes memory there."""
    cards = [SimpleNamespace(major=7, has_bfloat16_conversions=False)]
    cards += [SimpleNamespace(major=major, has_bfloat16_conversions=True) for major in (8, 9)]
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        monkeypatch.setattr(module, "get_device_properties", lambda device: cards[device.index])
        asked = [devices.computes_bf16(torch.device(kind, index)) for index in range(3)]
        assert asked == [False, True, True]


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_of_a_cpu(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for is_there in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda there=is_there: {"avx2": True, feature: there})
        assert devices.computes_bf16(CPU) is is_there


def test_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("cpu", "cuda", "cuda:1", "mps", "mps:0", "xpu")  # No XPU is here to be asked.
    assert [devices.supports_fp64(kind) for kind in kinds] == [True, True, True, False, False, True]
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    cards = [SimpleNamespace(has_fp64=False), SimpleNamespace(has_fp64=True)]
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: cards[device.index])
    assert [devices.supports_fp64(torch.device("xpu", index)) for index in range(2)] == [False, True]


def test_a_device_without_fp64_is_refused_for_it() -> None:
    with pytest.raises(UserError) as caught:
        resolve_precision("fp64", torch.device("mps:0"))
    assert str(caught.value) == "train.precision=fp64: mps:0 does not compute in fp64; set fp32, bf16 or auto"
    assert resolve_precision("fp64", CPU) == "fp64"


def test_codes_are_inverted_on_the_cpu_where_their_device_has_no_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    expected = boundary._pseudo_inverse(codes)
    moved: list[tuple[torch.Tensor, str]] = []

    class Codes:
        """Codes on a device without fp64, which refuses to make any."""

        device = torch.device("mps:0")

        def cpu(self) -> torch.Tensor:
            return codes

        def double(self) -> torch.Tensor:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append((tensor, str(device))))
    boundary._pseudo_inverse(Codes())  # type: ignore[arg-type]
    [(inverse, device)] = moved
    assert torch.equal(inverse, expected)
    assert device == "mps:0"


# ---- Work and random numbers.


def test_the_cpu_needs_neither_waiting_nor_choosing(made_up: MadeUpAccelerator) -> None:
    devices.make_current(CPU)
    devices.synchronize(CPU)
    devices.release_unused_memory(CPU)
    devices.pin(torch.zeros(4), CPU)
    devices.unpin(torch.zeros(4), CPU)
    assert made_up.calls == []
    assert not devices.can_pin(CPU)


def test_the_device_meant_is_chosen_and_waited_for(made_up: MadeUpAccelerator) -> None:
    devices.make_current(fake(2))
    devices.synchronize(fake(3))
    devices.release_unused_memory(fake(1))
    assert made_up.calls == [("set_device_index", ALL[2]), ("synchronize", ALL[3]), ("empty_cache",)]


def test_default_generators(made_up: MadeUpAccelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.default_generator(CPU) is torch.default_generator
    assert devices.default_generator(fake(2)) is made_up.default_generators[2]
    made_up.current = 3
    assert devices.default_generator(fake()) is made_up.default_generators[3]
    generator = torch.Generator()
    monkeypatch.setattr(torch.mps, "_get_default_mps_generator", lambda: generator)
    assert devices.default_generator(torch.device("mps:0")) is generator


def test_default_generators_of_a_process_that_has_used_no_device_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = (torch.Generator(), torch.Generator())
    monkeypatch.setattr(torch.cuda, "default_generators", ())
    monkeypatch.setattr(torch.cuda, "init", lambda: setattr(torch.cuda, "default_generators", generators))
    assert devices.default_generator(torch.device("cuda:1")) is generators[1]


def test_a_step_seeds_its_device_and_the_cpu_alone(made_up: MadeUpAccelerator) -> None:
    before = [generator.initial_seed() for generator in made_up.default_generators]
    seed_forward(5, fake(1))
    assert torch.default_generator.initial_seed() == 5
    assert [generator.initial_seed() for generator in made_up.default_generators] == [before[0], 5, *before[2:]]


def test_communication_backends(made_up: MadeUpAccelerator) -> None:
    backends = {"cpu": "gloo", "cuda:1": "nccl", "xpu:0": "xccl"}
    assert {name: devices.communication_backend(torch.device(name)) for name in backends} == backends
    with pytest.raises(UserError) as caught:
        devices.communication_backend(fake(1))
    assert str(caught.value) == (
        f"strategy: PyTorch has no backend with which processes on {KIND} communicate; set strategy=synthetic or "
        "launch.device=cpu"
    )


# ---- Memory.


def test_free_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal:       16 kB\nMemFree:        2 kB\nMemAvailable:   10 kB\n")
    monkeypatch.setattr(devices, "_MEMORY_FACTS", facts)
    assert (devices.physical_free_bytes(CPU), devices.free_bytes(CPU)) == (10_240, 8_192)
    assert (devices.has_room(CPU, 10_240), devices.has_room(CPU, 10_241)) == (True, False)
    facts.unlink()
    assert devices.physical_free_bytes(CPU) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_memory_of_the_device_asked(made_up: MadeUpAccelerator) -> None:
    assert (devices.physical_free_bytes(fake(2)), devices.free_bytes(fake(2))) == (3000, 2400)
    assert (devices.has_room(fake(2), 3000), devices.has_room(fake(2), 3001)) == (True, False)
    assert devices.peak_allocated_bytes(fake(3)) == 80


def test_memory_of_a_kind_that_reports_none_is_unknown(
    made_up: MadeUpAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mem_get_info", "max_memory_allocated", "empty_cache"):
        monkeypatch.delattr(MadeUpAccelerator, name)
    assert devices.physical_free_bytes(fake(1)) is None
    assert devices.peak_allocated_bytes(fake(1)) is None
    assert devices.has_room(fake(1), 2**60)
    devices.release_unused_memory(fake(1))
    with pytest.raises(UserError) as caught:
        devices.free_bytes(fake(1), "grouping.budget_gib")
    assert str(caught.value) == f"{ALL[1]} does not report how much of its memory is free; set grouping.budget_gib"


def test_memory_that_a_device_shares_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS may take what the host has free, and of that no more than its own limit leaves."""
    mps = torch.device("mps:0")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 5000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1000)
    for free_on_host, free in ((10_000, 4000), (3000, 3000)):
        monkeypatch.setattr(devices, "_host_free_bytes", lambda size=free_on_host: size)
        assert devices.physical_free_bytes(mps) == free
    assert devices.peak_allocated_bytes(mps) is None


# ---- Copies.


def test_pinning(made_up: MadeUpAccelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    host = torch.zeros(3, dtype=torch.float64)
    assert devices.can_pin(fake(0))
    devices.pin(host, fake(0))
    devices.unpin(host, fake(0))
    assert made_up.calls == [("register", host.data_ptr(), 24, 0), ("unregister", host.data_ptr())]
    monkeypatch.setattr(MadeUpAccelerator, "cudaHostRegister", lambda *_: 1)
    with pytest.raises(RuntimeError, match="error 1"):
        devices.pin(host, fake(0))
    made_up.calls.clear()
    monkeypatch.delattr(MadeUpAccelerator, "cudart")
    devices.pin(host, fake(0))
    devices.unpin(host, fake(0))
    assert (devices.can_pin(fake(0)), made_up.calls) == (False, [])


def test_copies_on_a_stream_of_their_own(made_up: MadeUpAccelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            events.append(f"stream of {device}")

        def __enter__(self) -> None:
            events.append("enter")

        def __exit__(self, *_: object) -> None:
            events.append("exit")

        def synchronize(self) -> None:
            events.append("wait")

    def copy(source: SimpleNamespace, *, non_blocking: bool = False) -> None:
        events.append((str(source.device), non_blocking))

    monkeypatch.setattr(torch, "Stream", Stream)
    host, there = (SimpleNamespace(device=device, copy_=copy) for device in (CPU, fake(2)))
    devices.copy_on_own_stream(host, there)  # type: ignore[arg-type]
    devices.copy_on_own_stream(there, host)  # type: ignore[arg-type]
    begin, end = [f"stream of {ALL[2]}", "enter"], ["exit", "wait"]
    assert events == [*begin, ("cpu", True), *end, *begin, (ALL[2], True), *end]

    events.clear()
    monkeypatch.delattr(MadeUpAccelerator, "current_stream")  # A kind with one stream copies on it, and waits.
    devices.copy_on_own_stream(host, there)  # type: ignore[arg-type]
    assert events == [("cpu", False)]


# ---- One file knows kinds.

KINDS = re.compile(r"(?<![a-z])(cuda|hip|rocm|nccl|rccl|xpu|xccl|mps|privateuse(one|1))(?![a-z])", re.IGNORECASE)


def kinds_named(text: str) -> Iterator[str]:
    """Yield the lines of a source that name a kind of device, and those that compare a device with the CPU."""
    tree, lines = ast.parse(text), text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(is_cpus_name(part) for part in ast.walk(node)):
            yield f"{node.lineno}: {lines[node.lineno - 1].strip()}"
    for number, line in enumerate(lines, start=1):
        if KINDS.search(line):
            yield f"{number}: {line.strip()}"


def is_cpus_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == "cpu"


def test_no_other_file_names_a_kind() -> None:
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "partrain").rglob("*.py"))]
    naming = {str(path): list(kinds_named((ROOT / path).read_text(encoding="utf-8"))) for path in paths}
    assert naming.pop("partrain/device.py")
    assert {path: lines for path, lines in naming.items() if lines} == {}


def test_scripts_name_no_kind_beside_the_model_of_nccl() -> None:
    paths = [path for path in (ROOT / "experiments").rglob("*.py") if path.parent.name != "cost_model"]
    assert {str(path): list(kinds_named(path.read_text(encoding="utf-8"))) for path in paths} == {
        str(path): [] for path in paths
    }


PLANTED = '''"""Train, on CUDA."""


@dataclass
class DeviceSettings:
    device: str = "auto"
    """The device: cpu, or one by its name such as cuda:1."""


def train(device: torch.device, name: str = "cpu", damps: bool = False) -> None:
    """Wait for a name such as cuda:1."""
    if device.type == "cpu" or name in ("auto", "cpu"):
        return {"cpu": name}
    if tensor.is_cuda and is_aborted_by_nccl:
        torch.mps.synchronize()
    folder = "cuda0"
'''


def test_named_kinds_are_found() -> None:
    found = sorted(int(line.partition(":")[0]) for line in kinds_named(PLANTED))
    assert found == [1, 7, 11, 12, 12, 14, 15, 16]
