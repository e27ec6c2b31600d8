"""Numbers, settings and names in the form that people read: on the console, in tables and on pages."""

from collections.abc import Mapping, Sequence
from typing import Any


def format_count(number: float) -> str:
    """Return a count with three digits or so: 1,476,655 becomes "1.48 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def format_quantity(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1: "1 shard", "2 shards", "1,024 shards"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def byte_unit(largest: float) -> tuple[str, int]:
    """Return the unit in which to show values up to `largest` bytes, and the unit's size in bytes."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if largest >= size:
            return unit, size
    return "bytes", 1


def format_bytes(number: float) -> str:
    """Return a number of bytes in a fitting unit: 151,000,000 becomes "144.0 MiB"."""
    unit, size = byte_unit(number)
    return f"{number:,.0f} bytes" if size == 1 else f"{number / size:,.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a duration: 16.2 seconds become "16.2 s", and 3,700 become "1 h 02 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def format_percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction as a percentage with `digits` decimals: 0.8629 becomes "86.29 %"."""
    return f"{100 * fraction:.{digits}f} %"


def format_shape(sizes: Sequence[int]) -> str:
    """Return a tensor's shape: [1, 28, 28] becomes "1×28×28"."""
    return "×".join(map(str, sizes))


def format_layer_names(names: Sequence[str]) -> str:
    """Return up to four names in full. Of more, return the first, the last and how many there are."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} … {names[-1]} ({len(names)})"


def format_setting(value: Any, digits: int = 4) -> str:
    """Return the value of a setting as one would type it. Floats have up to `digits` significant digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(format_setting(item, digits) for item in value)}]"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def dataset_name(data: Mapping[str, Any]) -> str:
    """Return the name and split of a data set, e.g. "emnist bymerge", given its provenance or its settings."""
    return " ".join(str(part) for part in (data.get("name"), data.get("split")) if part)
