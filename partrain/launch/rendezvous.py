"""The rendezvous of a gang: the file in which its first process says where the others find it, anew at every start."""

import time
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

from partrain.errors import UserError
from partrain.storage import checkpoint
from partrain.storage.run_folder import RENDEZVOUS

HOST = "127.0.0.1"
"""The address of a gang. All of its processes are on one machine."""
_POLL_SECONDS = 0.02


def open_rendezvous(folder: Path, timeout: timedelta) -> TCPStore:
    """Open a store at a free port, and write to `folder` where it is.

    Raises:
        UserError: If no port can be opened.
    """
    try:
        store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timeout)
    except DistNetworkError as error:
        raise UserError(f"No port of {HOST} can be opened: {str(error).splitlines()[0]}") from None
    checkpoint.write_json(folder / RENDEZVOUS, {"host": HOST, "port": store.port}, sync=False)
    return store


def join_rendezvous(folder: Path, timeout: timedelta) -> TCPStore:
    """Connect to the store that the process in `folder` has opened, once it has.

    Raises:
        TimeoutError: If it has not opened one within `timeout`.
    """
    path = folder / RENDEZVOUS
    deadline = time.monotonic() + timeout.total_seconds()
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has not appeared within {timeout.total_seconds():g} s")
        time.sleep(_POLL_SECONDS)
    address = checkpoint.read_json(path)
    return TCPStore(address["host"], address["port"], is_master=False, timeout=timeout)


def forget_rendezvous(folder: Path) -> None:
    """Remove what an earlier attempt has written."""
    (folder / RENDEZVOUS).unlink(missing_ok=True)
