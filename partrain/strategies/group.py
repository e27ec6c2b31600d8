"""Membership of a group of processes that train one network together, and the error when one of them is lost."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from partrain.device import communication_backend, is_cpu, make_current
from partrain.launch.rendezvous import join_rendezvous, open_rendezvous
from partrain.strategies.task import RankTask

_CONNECTION_ERRORS = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|Socket closed|Timed out waiting|pair closure|connectFullMesh failed"
    r"|remote process exited|communicator was aborted",
    re.IGNORECASE,
)


class PeerLost(ConnectionError):
    """An error that says that another process of the group has ended or does not answer."""


@contextmanager
def group_member(task: RankTask, folder: Path, device: torch.device) -> Iterator[None]:
    """Make this process rank `task.index` of its group for as long as the context is open.

    The group meets where its first process says in a file of its own folder, beside those of the others.

    Args:
        task: The task of the process.
        folder: The folder of the process.
        device: The device of the process.

    Raises:
        PeerLost: If another process ends, or does not answer for `task.timeout` seconds.
    """
    make_current(device)
    try:
        _join_group(task, folder, device)
        yield
    except (RuntimeError, TimeoutError) as error:
        if not _is_connection_error(error):
            raise
        # The message begins with the name that the launcher gives the process.
        raise PeerLost(
            f"process {task.index} of {task.num_ranks} lost its peers, or waited {task.timeout:g} s "
            f"(strategy.timeout) for one: {str(error).splitlines()[0]}"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join_group(task: RankTask, folder: Path, device: torch.device) -> None:
    """Meet the other processes of the task's group."""
    timeout = timedelta(seconds=task.timeout)
    if is_cpu(device):
        # gloo would look up the host's own name, which need not lead to an interface of this host.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    first = folder.parent / "0"
    store = open_rendezvous(first, timeout) if task.index == 0 else join_rendezvous(first, timeout)
    dist.init_process_group(
        communication_backend(device), store=store, rank=task.index, world_size=task.num_ranks, timeout=timeout
    )


def _is_connection_error(error: Exception) -> bool:
    """Return whether an error means that a peer was lost. Most backends raise plain errors, which differ in their text."""
    return isinstance(error, dist.DistError | TimeoutError) or _CONNECTION_ERRORS.search(str(error)) is not None
