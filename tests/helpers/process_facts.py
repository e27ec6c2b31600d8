"""A module whose `main` writes what its process is like, and ends or goes on as its arguments say."""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

OWN = ("SPT_", "_")
"""Beginnings of environment variables that a shell or a library sets anew in every process."""


def draw() -> list[float]:
    """Return a number from each of the global generators."""
    return [random.random(), np.random.random(), torch.rand(()).item()]


def main(arguments: Sequence[str]) -> int:
    file, *words = arguments
    facts = {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith(OWN)},
        "path": [folder for folder in dict.fromkeys(sys.path) if Path(folder).is_dir()],
        "folder": os.getcwd(),
        "arguments": sys.argv[1:],
        "cores": sorted(os.sched_getaffinity(0)),
        "stdin": sys.stdin.read(),
        "leads a session": os.getsid(0) == os.getpid(),
        "on Ctrl-C": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "on SIGTERM": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "threads": threading.active_count(),
        "dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
    }
    own = {"modules": sorted(sys.modules), "pid": os.getpid(), "parent": os.getppid(), "drawn": draw()}
    Path(f"{file}.partial").write_text(json.dumps({"facts": facts, "own": own}))
    Path(f"{file}.partial").replace(file)
    print("printed")
    if "fail" in words:
        raise RuntimeError("as was asked")
    if "wait" in words:
        time.sleep(600)
    return int(words[0]) if words else 0
