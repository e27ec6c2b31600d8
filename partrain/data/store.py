"""Prepared folders: four .npy arrays and data.json, made once, then shared by every process through memory mapping.

A folder is written aside and moved in place, so it is either whole or not there. data.json records the size of every
array's file, so that one cut short later is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from partrain.console import ProgressDisplay, error_console
from partrain.data.source import PARTS, Part, Source
from partrain.errors import UserError

FORMAT = 1
DESCRIPTION = "data.json"
ARRAYS = tuple(f"{part}_{content}.npy" for part in PARTS for content in ("images", "labels"))

_log = logging.getLogger(__name__)

Limits = dict[str, int | None]


def folder_name(source: Source, limits: Limits) -> str:
    """A name that differs wherever the arrays may differ."""
    identity = json.dumps([FORMAT, source.identity(), limits], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return "-".join(filter(None, (source.name, source.split, key)))


def describe(folder: Path) -> dict[str, Any]:
    """What data.json of a prepared folder says, after a look at the sizes of its files.

    Raises:
        ValueError: it is no prepared folder, one of another format, or one with a file missing or cut short.
    """
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a prepared data set: it holds no {DESCRIPTION}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / DESCRIPTION}: damaged ({error}); remove {folder} and prepare it again") from None
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise UserError(f"{folder}: prepared in format {found}, expected {FORMAT}; remove it and prepare it again")
    for name in ARRAYS:
        expected = description["bytes"][name]
        size = (folder / name).stat().st_size if (folder / name).exists() else 0
        if size != expected:
            raise UserError(
                f"{folder / name}: damaged: {size} bytes, expected {expected}; remove {folder} and prepare it again"
            )
    return description


def ensure(source: Source, folder: Path, limits: Limits, show_progress: bool) -> None:
    """Make the prepared folder of `source` unless it is there; make it again, and say so, where it is damaged.

    Raises:
        ValueError: `source` cannot be read, a limit exceeds it, or `folder` holds other files than a data set's.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a new folder")
    present = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if strangers := present - {DESCRIPTION, *ARRAYS}:
        raise UserError(f"{folder}: holds {min(strangers)}, no part of a prepared data set; name a new folder")
    if present:
        try:
            describe(folder)
            return
        except ValueError as error:
            _log.warning("%s; making it again", str(error).partition(";")[0])
    try:
        with _aside(folder) as aside:
            made = Path(aside) / "made"
            made.mkdir()
            _write(source, made, limits, show_progress)
            move_in_place(made, folder, Path(aside) / "damaged")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder.parent}: no room for the prepared data ({error.strerror}); "
            "make room, or set data.cache or $PARTRAIN_CACHE to another folder"
        ) from None


def _aside(folder: Path) -> TemporaryDirectory[str]:
    """A temporary folder beside `folder`, from which a rename leads there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot be written to ({error.strerror}); "
            "set data.cache or $PARTRAIN_CACHE to another folder"
        ) from None


def _write(source: Source, folder: Path, limits: Limits, show_progress: bool) -> None:
    parts = {part: source.part(part).first(limits[part], f"data.limit_{part}") for part in PARTS}
    total = sum(len(part.labels) for part in parts.values())
    counts = {}
    title = " ".join(filter(None, ("preparing", source.name, source.split)))
    with ProgressDisplay(show=show_progress, percentage=True, transient=True, to=error_console) as progress:
        progress.add("images", title, total)
        progress.print_line(f"{title}: {total:,} images")
        for name, part in parts.items():
            counts[name] = _write_images(
                folder / f"{name}_images.npy", part, lambda count: progress.advance("images", count)
            )
            largest = len(source.classes) - 1
            _write_array(folder / f"{name}_labels.npy", part.labels.shape, np.min_scalar_type(largest), [part.labels])
    verified, note = source.verification()
    mean, std = _mean_and_std(counts["train"])
    description = {
        "format": FORMAT,
        "name": source.name,
        "split": source.split,
        "classes": list(source.classes),
        "images": {name: [len(part.labels), *part.image_shape] for name, part in parts.items()},
        "mean": mean,
        "std": std,
        "verified": verified,
        "note": note,
        "limits": limits,
        "made_from": source.identity(),
        "bytes": {name: (folder / name).stat().st_size for name in ARRAYS},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def _write_images(file: Path, part: Part, advance: Callable[[int], None]) -> npt.NDArray[np.int64]:
    """Write the images block by block; how often each of the 256 pixel values occurs."""
    counts = np.zeros(256, dtype=np.int64)

    def counted() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal counts
        for block in part.blocks:
            counts += np.bincount(block.reshape(-1), minlength=256)
            yield block
            advance(len(block))

    _write_array(file, (len(part.labels), *part.image_shape), np.dtype(np.uint8), counted())
    return counts


def _write_array(
    file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[np.integer[Any]]]
) -> None:
    """Write a .npy file block by block; not through a mapping, which kills the process where the disk is full."""
    written = 0
    with file.open("wb") as target:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(target, header)
        for block in blocks:
            assert block.shape[1:] == shape[1:]
            target.write(np.ascontiguousarray(block, dtype=dtype).data)
            written += len(block)
    assert written == shape[0]


def _mean_and_std(counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    values = np.arange(256) / 255
    mean = float(np.average(values, weights=counts))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))


def move_in_place(made: Path, folder: Path, damaged: Path) -> None:
    """Rename `made` to `folder`; where another process was first and its folder is sound, that one stays."""
    try:
        made.rename(folder)
        return
    except OSError:
        if not folder.exists():
            raise
    try:
        describe(folder)
    except ValueError:
        folder.rename(damaged)
        made.rename(folder)
