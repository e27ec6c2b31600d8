"""Numbers and lists as people read them: counts, bytes, seconds, shares, layers."""

from collections.abc import Mapping, Sequence
from typing import Any


def count(number: float) -> str:
    """1,476,655 -> "1.48 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def byte_unit(largest: float) -> tuple[str, int]:
    """The unit in which values up to `largest` bytes are shown, and its size."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if largest >= size:
            return unit, size
    return "bytes", 1


def size(number: float) -> str:
    """Bytes: 151,000,000 -> "144.0 MiB"."""
    unit, one = byte_unit(number)
    return f"{number:,.0f} bytes" if one == 1 else f"{number / one:,.1f} {unit}"


def duration(seconds: float) -> str:
    """16.2 -> "16.2 s", 3700 -> "1 h 02 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def share(fraction: float, digits: int = 2) -> str:
    """0.8629 -> "86.29 %"."""
    return f"{100 * fraction:.{digits}f} %"


def layer_names(names: Sequence[str]) -> str:
    """All of a few, the ends of many."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} … {names[-1]} ({len(names)})"


def setting(value: Any, digits: int = 4) -> str:
    """The value of a setting as one would set it, floats to so many digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(setting(each, digits) for each in value)}]"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def data_name(data: Mapping[str, Any]) -> str:
    """Name and split of a data set, of its provenance or its settings."""
    return " ".join(str(part) for part in (data.get("name"), data.get("split")) if part)
