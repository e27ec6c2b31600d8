"""Whether files are byte for byte the publisher's: comparison with the hashes in official_files.json.

The hashes of EMNIST's compressed files are NIST's, the others' those of torchvision. Where the hash of the content is
known as well (MNIST), an unpacked or recompressed file can be recognised by that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import partial
from importlib import resources
from typing import IO

from partrain.data.idx import IdxFile


def verify(name: str, files: Iterable[IdxFile]) -> tuple[bool, str]:
    """Whether all `files` of the data set `name` hold the publisher's bytes, and a sentence where not."""
    known = json.loads(resources.files("partrain.data").joinpath("official_files.json").read_text())[name]
    findings = [_finding(known, file) for file in files]
    publisher = "NIST's" if name == "emnist" else "the official ones"
    for finding, said in (("differs", "not byte for byte"), ("unknown", "unpacked, and cannot be compared with")):
        if count := findings.count(finding):
            return False, f"{count} of {len(findings)} files are {said} {publisher}"
    if "content" in findings:
        return True, "files are not compressed as published, but their contents are byte for byte the official ones"
    return True, ""


def _finding(known: dict[str, str], file: IdxFile) -> str:
    """What of the file is the publisher's: `stored`, or its `content`; or else `differs`; `unknown` without a hash."""
    if file.compressed:
        with file.stored() as stream:
            if _matches(known[file.name], stream):
                return "stored"
    content = known.get(file.name.removesuffix(".gz"))
    if content is None:
        return "differs" if file.compressed else "unknown"
    with file.unpacked() as stream:
        return "content" if _matches(content, stream) else "differs"


def _matches(expected: str, stream: IO[bytes]) -> bool:
    algorithm, digest = expected.split(":")
    state = hashlib.new(algorithm, usedforsecurity=False)
    for block in iter(partial(stream.read, 1 << 20), b""):
        state.update(block)
    return state.hexdigest() == digest
