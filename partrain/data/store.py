"""Prepared folders: four .npy arrays and data.json, made once and then mapped by every process that needs them.

A folder is written beside its place and renamed into it, so it is either whole or absent. data.json records the size of
every array's file, so that a file cut short later is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from partrain.console import ProgressDisplay, error_console
from partrain.data.source import PARTS, PartName, Source, SourcePart, UInt8Array
from partrain.errors import UserError

FORMAT = 1
"""Version of what a prepared folder contains."""
DESCRIPTION = "data.json"
"""Name of the file that describes the arrays."""
ARRAYS = tuple(f"{part}_{content}.npy" for part in PARTS for content in ("images", "labels"))
"""Names of the four arrays' files."""

Limits = dict[str, int | None]
"""The number of images to use at most, by part; None for all."""

PixelCounts = npt.NDArray[np.int64]
"""The number of times that each of the 256 pixel values occurs: [256]."""

_ANOTHER_CACHE = "set data.cache or $PARTRAIN_CACHE to another folder"

_log = logging.getLogger(__name__)


class UnusableFolder(UserError):
    """A folder that cannot be opened as a data set: it is damaged, of another format, or something else.

    Args:
        finding: Sentence that names the folder or file and what was found.
        remedy: Sentence that says what to do.
    """

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(f"{finding} {remedy}")
        self.finding = finding


def folder_name(source: Source, limits: Limits) -> str:
    """Return the name of a source's prepared folder: it differs wherever the arrays may differ."""
    identity = json.dumps([FORMAT, source.identity(), limits], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return "-".join(filter(None, (source.name, source.split, key)))


# ---- Reading.


def read_description(folder: Path) -> dict[str, Any]:
    """Read data.json of a prepared folder, and compare the sizes of the arrays' files with it.

    Raises:
        UnusableFolder: If this is no prepared folder or one of another format, or if a file is missing or cut short.
    """
    prepare_again = f"Delete {folder} and prepare it again."
    file = folder / DESCRIPTION
    try:
        description: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise UnusableFolder(
            f"{folder} is not a prepared data set: it has no {DESCRIPTION}.",
            "Prepare the data again, or name another folder.",
        ) from None
    except (OSError, ValueError) as error:
        raise UnusableFolder(f"{file} is damaged ({error}).", prepare_again) from None
    version = description.get("format") if isinstance(description, dict) else None
    if version != FORMAT:
        raise UnusableFolder(f"{folder} was prepared in format {version}, expected {FORMAT}.", prepare_again)
    for name in ARRAYS:
        size, expected = _num_bytes(folder / name), description["bytes"][name]
        if size != expected:
            finding = f"{folder / name} is damaged: it has {size} bytes, expected {expected}."
            raise UnusableFolder(finding, prepare_again)
    return description


def _num_bytes(file: Path) -> int:
    """Return the size of `file` in bytes, or 0 if it is missing."""
    return file.stat().st_size if file.exists() else 0


# ---- Preparing.


def ensure_prepared(source: Source, folder: Path, limits: Limits, *, show_progress: bool) -> None:
    """Prepare `folder` from `source` unless it is there. A damaged one is prepared again, with a warning.

    Raises:
        UserError: If `source` cannot be read, a limit exceeds it, or `folder` holds other files than a data set's.
    """
    if _is_prepared(folder):
        return
    try:
        with _temporary_sibling(folder) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            _write(source, made, limits, show_progress=show_progress)
            move_into_place(made, folder, Path(temporary) / "damaged")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder.parent} has no room for the prepared data ({error.strerror}). Free space, or {_ANOTHER_CACHE}."
        ) from None


def _is_prepared(folder: Path) -> bool:
    """Return whether `folder` holds a whole data set, and log a warning if it is damaged.

    Raises:
        UserError: If `folder` is a file, or holds files of anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder. Name a new folder.")
    names = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if unknown := names - {DESCRIPTION, *ARRAYS}:
        raise UserError(f"{folder} holds {min(unknown)}, no part of a prepared data set. Name a new folder.")
    if not names:
        return False
    try:
        read_description(folder)
    except UnusableFolder as error:
        _log.warning("%s The data are prepared again.", error.finding)
        return False
    return True


def _temporary_sibling(folder: Path) -> TemporaryDirectory[str]:
    """Make a temporary folder beside `folder`: on the same disk, so that a rename leads from there to `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be written to ({error.strerror}). Make it a writable folder, or {_ANOTHER_CACHE}."
        ) from None


def move_into_place(made: Path, folder: Path, damaged: Path) -> None:
    """Rename `made` to `folder`. If another process was first and its folder is sound, that one stays.

    Args:
        made: Whole prepared folder.
        folder: Place of it.
        damaged: New name for a damaged folder in that place.
    """
    try:
        made.rename(folder)
        return
    except OSError:
        if not folder.exists():
            raise
    try:
        read_description(folder)
    except UnusableFolder:
        folder.rename(damaged)
        made.rename(folder)


# ---- Writing.


def _write(source: Source, folder: Path, limits: Limits, *, show_progress: bool) -> None:
    """Write the arrays and data.json into `folder`, which is there and empty."""
    parts = {part: source.open_part(part).take_first(limits[part], f"data.limit_{part}") for part in PARTS}
    pixel_counts = _write_arrays(source, folder, parts, show_progress=show_progress)
    verification = source.verify()
    mean, std = _mean_and_std(pixel_counts)
    description = {
        "format": FORMAT,
        "name": source.name,
        "split": source.split,
        "classes": list(source.classes),
        "images": {name: [len(part.labels), *part.image_shape] for name, part in parts.items()},
        "mean": mean,
        "std": std,
        "verified": verification.is_verified,
        "note": verification.note,
        "limits": limits,
        "made_from": source.identity(),
        "bytes": {name: (folder / name).stat().st_size for name in ARRAYS},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def _write_arrays(
    source: Source, folder: Path, parts: Mapping[PartName, SourcePart], *, show_progress: bool
) -> PixelCounts:
    """Write the four arrays, and return the pixel counts of the training images."""
    total = sum(len(part.labels) for part in parts.values())
    title = " ".join(filter(None, ("Preparing", source.name, source.split)))
    label_type = np.min_scalar_type(len(source.classes) - 1)
    pixel_counts = {}
    with ProgressDisplay(
        show_progress=show_progress, show_percentage=True, is_transient=True, output=error_console
    ) as progress:
        progress.add("images", title, total)
        progress.print_line(f"{title}: {total:,} images")
        for name, part in parts.items():
            pixel_counts[name] = _write_images(
                folder / f"{name}_images.npy", part, lambda count: progress.advance("images", count)
            )
            _write_array(folder / f"{name}_labels.npy", part.labels.shape, label_type, [part.labels])
    return pixel_counts["train"]


def _write_images(file: Path, part: SourcePart, advance: Callable[[int], None]) -> PixelCounts:
    """Write the images block by block, and count their pixel values.

    Args:
        file: File to write.
        part: Images to write.
        advance: Function that is called with the number of images of each block, once it is written.
    """
    counts = np.zeros(256, dtype=np.int64)

    def counted_blocks() -> Iterator[UInt8Array]:
        nonlocal counts
        for block in part.blocks:
            counts += np.bincount(block.reshape(-1), minlength=256)
            yield block
            advance(len(block))

    _write_array(file, (len(part.labels), *part.image_shape), np.dtype(np.uint8), counted_blocks())
    return counts


def _write_array(
    file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[np.integer[Any]]]
) -> None:
    """Write a .npy file block by block; a memory mapping would kill the process where the disk is full."""
    written = 0
    with file.open("wb") as target:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(target, header)
        for block in blocks:
            assert block.shape[1:] == shape[1:]
            target.write(np.ascontiguousarray(block, dtype=dtype).data)
            written += len(block)
    assert written == shape[0]


def _mean_and_std(counts: PixelCounts) -> tuple[float, float]:
    """Return mean and standard deviation of pixels divided by 255, given how often each value occurs."""
    values = np.arange(256) / 255
    mean = float(np.average(values, weights=counts))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
