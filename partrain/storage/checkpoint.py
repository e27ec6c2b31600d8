"""Files that are written as a whole: tensors as safetensors with a digest, everything else as JSON.

A file is written under a temporary name, synced to disk and renamed. A process killed at any moment leaves either the
old file or the new one. The digest in a tensor file's header covers tensors and metadata; `load` checks it, which
`torch.save` has no counterpart for.
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
    """The error of a file that is cut short, changed or of another kind. Its message says what to do with the file."""


def write_atomic(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Write a file as a whole, making its folder if need be.

    Args:
        path: The file.
        write: Writes the contents to the temporary path that it is given.
        sync: Whether to wait until the contents are on the disk.

    Raises:
        OSError: If the disk is full or the folder not writable. The file is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # Neither error names the file.
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{path} could not be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write text to a file as a whole, in UTF-8; see `write_atomic`."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), sync=sync)


def write_json(path: Path, values: object, *, sync: bool = True) -> None:
    """Write `values` to a file as JSON, as a whole; see `write_atomic`."""
    write_text(path, json.dumps(values, indent=2) + "\n", sync=sync)


def read_json(path: Path) -> Any:
    """Return the values in a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFile: If it holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); delete it to have it made anew") from None


def read_json_or_empty(path: Path) -> Any:
    """Return the values in a JSON file for display; an empty dict if there is no file yet, or a damaged one."""
    try:
        return read_json(path)
    except (FileNotFoundError, DamagedFile):
        return {}


def save(path: Path, tensors: Mapping[str, Tensor], metadata: object) -> None:
    """Write tensors and metadata to a file as a whole. Tensors that are contiguous on the CPU are not copied.

    Args:
        path: The file.
        tensors: The tensors, by name.
        metadata: Anything that JSON can hold.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    header = {"metadata": text, "metadata_digest": _digest({}, text), "digest": _digest(plain, text)}
    # The header is one entry: safetensors writes several in any order, but equal contents must make equal files.
    write_atomic(path, lambda temporary: save_file(plain, temporary, metadata={_HEADER: json.dumps(header)}))


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """Return the tensors, on `device`, and the metadata that `save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFile: If it is cut short or a byte of it has changed.
    """
    with _opened(path) as (file, header):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        if header["digest"] != _digest(tensors, header["metadata"]):
            raise DamagedFile(f"{path} is damaged ({_MISMATCH}); delete it and resume the run")
        metadata = json.loads(header["metadata"])
    return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata


def load_metadata(path: Path) -> Any:
    """Return the metadata that `save` wrote, without reading the tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFile: If it has no metadata, or a byte of them has changed.
    """
    # With torch the file would be opened a second time, when another one may have replaced it.
    with _opened(path, "numpy") as (_, header):
        return json.loads(header["metadata"])


@contextmanager
def _opened(path: Path, framework: str = "pt") -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a tensor file and yield it with the header that `save` gave it.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFile: If it cannot be parsed, or its header has changed.
    """
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
