"""Comparison of a data set's files with the publisher's, by the hashes in official_files.json.

The hashes of EMNIST's compressed files are NIST's; the other data sets' are torchvision's. For MNIST the hash of the
content is known as well, so an unpacked or recompressed file is recognised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from enum import Enum, auto
from functools import partial
from importlib import resources
from typing import IO

from partrain.data.idx import IdxFile
from partrain.data.source import Verification

_CHUNK_BYTES = 1 << 20  # bytes that are hashed at a time


class _Match(Enum):
    """The result of comparing one file with the publisher's."""

    FILE = auto()  # the file itself has the published hash
    CONTENT = auto()  # what it unpacks to has the published hash
    NONE = auto()
    UNKNOWN = auto()  # the file is unpacked, and only the compressed file's hash is published


def verify(name: str, files: Iterable[IdxFile]) -> Verification:
    """Return whether all `files` of the data set `name` hold the publisher's bytes, with a note where they do not."""
    hashes = json.loads(resources.files("partrain.data").joinpath("official_files.json").read_text())[name]
    matches = [_compare(file, hashes) for file in files]
    publisher = "NIST's" if name == "emnist" else "the official ones"
    for match, difference in (
        (_Match.NONE, "not byte for byte"),
        (_Match.UNKNOWN, "unpacked, and cannot be compared with"),
    ):
        if count := matches.count(match):
            note = f"{count} of {len(matches)} files are {difference} {publisher}"
            return Verification(is_verified=False, note=note)
    if _Match.CONTENT in matches:
        note = "files are not compressed as published, but their contents are byte for byte the official ones"
        return Verification(is_verified=True, note=note)
    return Verification(is_verified=True, note="")


def _compare(file: IdxFile, hashes: dict[str, str]) -> _Match:
    """Compare the stored bytes with the publisher's; if they differ, compare what they unpack to."""
    if file.is_compressed:
        with file.open_stored() as stream:
            if _has_hash(stream, hashes[file.name]):
                return _Match.FILE
    content_hash = hashes.get(file.name.removesuffix(".gz"))
    if content_hash is None:
        return _Match.NONE if file.is_compressed else _Match.UNKNOWN
    with file.open_unpacked() as stream:
        return _Match.CONTENT if _has_hash(stream, content_hash) else _Match.NONE


def _has_hash(stream: IO[bytes], expected: str) -> bool:
    """Return whether the rest of `stream` has the `expected` hash, such as "sha256:0123…"."""
    algorithm, digest = expected.split(":")
    state = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in iter(partial(stream.read, _CHUNK_BYTES), b""):
        state.update(chunk)
    return state.hexdigest() == digest
