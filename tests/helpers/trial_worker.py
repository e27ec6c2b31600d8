"""A worker process whose trials go as `TRIAL` says.

- `little_memory`: trials of fewer than four shards run out of the device's memory;
- `bug`: trials of the model in `LATER` raise an error;
- `die`: the first process to try a model is killed within a step;
- `hang`: the first process to try a model hangs within a step;
- `wait`: a trial of the model in `LATER` waits until the file `word` is in `FOLDER`.
"""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from worker_with_word import FOLDER, wait_for

from partrain.shards import device_worker
from partrain.shards.messages import ModelSpec, StepProfile

TRIAL = "PARTRAIN_TEST_TRIAL"
LATER = "PARTRAIN_TEST_LATER"
_profile_step = device_worker.profile_step


def profile_step(spec: ModelSpec, *arguments: Any, report_progress: Callable[[], None], **keywords: Any) -> StepProfile:
    """Compute the steps of a trial, or what stands for them."""
    how, folder = os.environ[TRIAL], Path(os.environ[FOLDER])
    if how == "little_memory" and len(spec.shards) < 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    if str(spec.folder) == os.environ[LATER] and how == "bug":
        raise IndexError("list index out of range")
    if str(spec.folder) == os.environ[LATER] and how == "wait":
        (folder / "begun").write_text("begun")
        wait_for(folder / "word")

    def report() -> None:
        report_progress()
        if how in ("die", "hang") and not (folder / how).exists():
            (folder / how).touch()
            os.kill(os.getpid(), signal.SIGKILL) if how == "die" else wait_for(folder / "never")

    return _profile_step(spec, *arguments, report_progress=report, **keywords)


def main(arguments: Sequence[str]) -> int:
    device_worker.profile_step = profile_step  # type: ignore[assignment]
    return device_worker.main(arguments)
