"""A group of processes that train one network together: how they meet, and what is said when one of them is lost."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from partrain.device import communication_backend, is_gpu, make_current
from partrain.strategies.task import RankTask

ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"  # PyTorch's own names, so that its tools find the group too

_LOST = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|Socket closed|Timed out waiting|pair closure|connectFullMesh failed"
    r"|remote process exited|NCCL communicator was aborted",
    re.IGNORECASE,
)


class PeerLost(ConnectionError):
    """Another process of the group has ended or does not answer."""


@contextmanager
def joined(task: RankTask) -> Iterator[None]:
    """Within it this process is rank `task.index` of the group that meets at the address in the environment.

    Raises:
        PeerLost: another process ends, or does not answer for `task.timeout` seconds.
    """
    timeout = timedelta(seconds=task.timeout)
    device = torch.device(task.device)
    make_current(device)
    if not is_gpu(device) and os.environ[ADDRESS] == "127.0.0.1":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host's own name need not lead to it
    try:
        store = TCPStore(os.environ[ADDRESS], int(os.environ[PORT]), is_master=False, timeout=timeout)
        dist.init_process_group(
            communication_backend(device),
            store=store,
            rank=task.index,
            world_size=task.num_ranks,
            timeout=timeout,
        )
        yield
    except RuntimeError as error:
        if not _is_connection_error(error):
            raise
        raise PeerLost(
            f"process {task.index} of {task.num_ranks} lost its peers, or waited {task.timeout:g} s "
            f"(strategy.timeout) for one: {str(error).splitlines()[0]}"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_connection_error(error: RuntimeError) -> bool:
    """gloo and NCCL raise plain `RuntimeError`s, which only their texts tell apart."""
    return isinstance(error, dist.DistError) or _LOST.search(str(error)) is not None
