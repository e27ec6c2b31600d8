"""Files that are whole or not there: tensors as safetensors with a digest, everything else as JSON.

A file is written beside its place, synced to disk and renamed into it, so a process killed at any moment leaves either
the old file or the new one. The digest in a tensor file's header covers tensors and metadata; `load` checks it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from partrain.errors import UserError

_HEADER = "partrain"
_MISMATCH = "its digest does not match its contents"


class DamagedFile(UserError):
    """A file of a run is cut short, changed or of another kind; the message names it and says what to do."""


def write_atomic(path: Path, write: Callable[[Path], object], sync: bool = True) -> None:
    """Let `write` fill a file beside `path`, sync it (waiting for the disk) and rename it to `path`.

    Raises:
        OSError: the disk is full or the folder not writable; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        if sync:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:  # neither names the file
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{path} could not be written: {reason}") from error
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    write_atomic(path, lambda beside: beside.write_text(text, encoding="utf-8"), sync)


def write_json(path: Path, values: object, sync: bool = True) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n", sync)


def read_json(path: Path) -> Any:
    """Raises `DamagedFile` where `path` holds no JSON, `FileNotFoundError` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); delete it to have it made anew") from None


def read_json_or_empty(path: Path) -> Any:
    """What a JSON file says, for those who only look; empty where there is none yet, or a damaged one."""
    try:
        return read_json(path)
    except (FileNotFoundError, DamagedFile):
        return {}


def save(path: Path, tensors: Mapping[str, Tensor], metadata: object) -> None:
    """Write `tensors` and `metadata` (JSON-able) to `path`, without a copy of tensors that are contiguous on the CPU."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    header = {"metadata": text, "metadata_digest": _digest({}, text), "digest": _digest(plain, text)}
    # one entry, since safetensors writes several in any order, and equal contents shall make equal files
    write_atomic(path, lambda beside: save_file(plain, beside, metadata={_HEADER: json.dumps(header)}))


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """The tensors, on `device`, and the metadata that `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is cut short or a byte of it has changed.
    """
    with _opened(path) as (file, header):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if header["digest"] != _digest(tensors, header["metadata"]):
            raise DamagedFile(f"{path} is damaged ({_MISMATCH}); delete it and resume the run")
        metadata = json.loads(header["metadata"])
    return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata


def load_metadata(path: Path) -> Any:
    """The metadata that `save` wrote, without reading the tensors.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: there is none in it, or a byte of it has changed.
    """
    with _opened(path, "numpy") as (_, header):  # torch would open it once more, and find another one that replaced it
        return json.loads(header["metadata"])


@contextmanager
def _opened(path: Path, framework: str = "pt") -> Iterator[tuple[Any, dict[str, str]]]:
    """The file and the header that `save` gave it; whatever does not parse is `DamagedFile`."""
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework=framework) as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            if header["metadata_digest"] != _digest({}, header["metadata"]):
                raise DamagedFile(f"{path} is damaged ({_MISMATCH}); delete it and resume the run")
            yield file, header
    except (SafetensorError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); delete it and resume the run") from None


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
