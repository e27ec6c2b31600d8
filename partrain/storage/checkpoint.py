"""Files that are written as a whole: tensors as safetensors with a digest, everything else as JSON.

A file is written under a temporary name, synced to disk and renamed. A process killed at any moment leaves either the
old file or the new one, and perhaps the temporary one, which `remove_partial_files` deletes. The digest in a tensor
file's header covers tensors and metadata; `load` checks it, which `torch.save` has no counterpart for.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from partrain.errors import UserError
from partrain.storage.formats import FORMAT, check_format

_HEADER = "partrain"
_MISMATCH = "its digest does not match its contents"
_PARTIAL = ".partial"
"""The end of temporary names. They begin with a dot."""


class DamagedFile(UserError):
    """The error of a file that is cut short, changed or of another kind. Its message says what to do with the file."""


def write_atomic(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Write a file as a whole, making its folder if need be. Its mode is that of any new file, as the umask has it.

    Args:
        path: The file.
        write: Writes the contents to the temporary path that it is given.
        sync: Whether to wait until the contents are on the disk.

    Raises:
        OSError: If the disk is full or the folder not writable. The file is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial_path(path)
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:  # safetensors writes a file of its own, which its owner alone may read.
            temporary.chmod(mode)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # Neither error names the file.
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{path} could not be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    """Return a new name beside `path` to write it under. It names the process, as machines may share the folder."""
    owner = f"{os.uname().nodename}-{os.getpid()}"
    return path.with_name(f".{path.name}.{owner}-{secrets.token_hex(4)}{_PARTIAL}")


def remove_partial_files(folder: Path, *, recursive: bool = False) -> None:
    """Delete the temporary files that killed processes have left in `folder`.

    The caller holds the folder's lock, and this process writes nothing there yet. Another process of this machine that is
    still alive keeps its files: a training whose launcher was killed may be writing its last checkpoint.

    Args:
        folder: The folder.
        recursive: Whether the folders in it are searched too.
    """
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if name.startswith(".") and name.endswith(_PARTIAL) and not _is_of_living_process(name):
                _delete(Path(parent, name))
        if not recursive:
            break


def _is_of_living_process(name: str) -> bool:
    """Return whether a temporary name is of a process of this machine that is alive, other than this one."""
    owner, _, process = name.removesuffix(_PARTIAL).rpartition("-")[0].rpartition("-")
    if not owner.endswith(f".{os.uname().nodename}") or not process.isdecimal() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # It is another user's.
        return True
    return True


def _delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it. Nothing depends on it, so that a failure does no harm."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


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


def file_version(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced by another, even within one tick of the file system's clock.

    It is empty if there is no such file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def save(path: Path, tensors: Mapping[str, Tensor], metadata: object) -> None:
    """Write tensors and metadata to a file as a whole. Tensors that are contiguous on the CPU are not copied.

    Args:
        path: The file.
        tensors: The tensors, by name.
        metadata: Anything that JSON can hold.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    header = {
        "format": FORMAT,
        "metadata": text,
        "metadata_digest": _digest({}, f"{FORMAT} {text}"),
        "digest": _digest(plain, text),
    }
    # The header is one entry: safetensors writes several in any order, but equal contents must make equal files.
    write_atomic(path, lambda temporary: _write_tensors(temporary, plain, {_HEADER: json.dumps(header)}))


def _write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a tensor file in a folder of its own, and move it to `path`.

    safetensors writes under a name that it makes up (.tmpAbC123), and then renames. In a folder with a temporary name
    that file is deleted with the folder, should the process be killed.
    """
    folder = _partial_path(path)
    folder.mkdir()
    try:
        save_file(tensors, folder / path.name, metadata=header)
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
            number = header.get("format")  # Format 1 had none, and no part in the digest.
            digested = header["metadata"] if number is None else f"{number} {header['metadata']}"
            if header["metadata_digest"] != _digest({}, digested):
                raise DamagedFile(f"{path} is damaged ({_MISMATCH}); delete it and resume the run")
            check_format(path, number)
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
