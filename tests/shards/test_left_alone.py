"""Tests that a worker removes the models from shared memory if the scheduler's process is gone, and only then."""

import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from worker_with_word import FOLDER, wait_for

from partrain.launch.allocator import MANY_TRAININGS
from partrain.launch.call import Call
from partrain.launch.child_process import start_process
from partrain.shards import worker_process
from partrain.shards.host import HostMemory
from partrain.shards.messages import UnitRequest, WorkerSettings
from partrain.shards.scheduler import unit_at
from partrain.shards.worker_process import WorkerProcess


def start_worker(folder: Path, *, double_buffer: bool) -> tuple[HostMemory, WorkerProcess]:
    """Return host memory in `folder`, and a worker that removes it if it is left alone."""
    memory = HostMemory(folder, on_disk=True)
    memory.create_file(1000)
    settings = WorkerSettings(
        device="cpu",
        budget_bytes=1000,
        threads=1,
        uses_separate_buffers=False,
        double_buffer=double_buffer,
        scratch_folders=tuple(memory.folders),
    )
    return memory, WorkerProcess(0, settings, folder / "log.txt")


def start_busy_worker(folder: Path, *, double_buffer: bool) -> tuple[HostMemory, WorkerProcess]:
    """Return host memory in `folder`, and a worker that computes a unit until it has a word."""
    worker_process._MODULE = "worker_with_word"
    os.environ[FOLDER] = str(folder)
    memory, worker = start_worker(folder, double_buffer=double_buffer)
    worker.send(
        UnitRequest(
            unit=unit_at(0, 0, 0, 1),
            version=0,
            learning_rate=0.0,
            indices=np.zeros(1, dtype=np.int64),
            rng_state=0,
            targets=None,
            is_logged=False,
            ends_epoch=False,
            decode_counts=(0.0, 0.0),
        )
    )
    wait_for(folder / "begun")
    return memory, worker


def scratch_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("partrain-*"))


@pytest.mark.parametrize("double_buffer", [True, False])
def test_a_worker_that_waits_removes_the_memory(tmp_path: Path, double_buffer: bool) -> None:
    memory, worker = start_worker(tmp_path, double_buffer=double_buffer)
    worker.connection.close()
    assert worker.process.wait() == 0
    assert not scratch_of(tmp_path)
    memory.close()


def main(arguments: Sequence[str]) -> int:
    """Be the scheduler's process, with a busy worker, until it is killed."""
    folder, double_buffer = arguments
    memory, worker = start_busy_worker(Path(folder), double_buffer=double_buffer == "True")
    (Path(folder) / "worker").write_text(str(worker.process.pid))
    sys.stdin.read()
    assert memory
    return 0


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the end of another's process cannot be waited for here")
@pytest.mark.parametrize(("word", "double_buffer"), [("go", True), ("go", False), ("fail", True), ("fail", False)])
def test_a_busy_worker_whose_scheduler_is_killed_removes_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, double_buffer: bool
) -> None:
    """Kill the scheduler's process while a unit is computed: its end or its failure can be sent to nobody."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    call = Call(
        module="test_left_alone",
        arguments=[str(tmp_path), str(double_buffer)],
        preload="partrain.shards.device_worker",
        allocator=MANY_TRAININGS,
    )
    stdin, lifeline = os.pipe()
    scheduler = start_process(call, stdin, tmp_path / "scheduler.txt", "auto")
    os.close(stdin)
    worker = os.pidfd_open(int(wait_for(tmp_path / "worker")))
    scheduler.kill()
    scheduler.wait()
    os.close(lifeline)
    assert len(scratch_of(tmp_path)) == 1
    (tmp_path / "word").write_text(word)
    select.select([worker], [], [])
    os.close(worker)
    assert not scratch_of(tmp_path)


@pytest.mark.parametrize("double_buffer", [True, False])
def test_a_worker_that_fails_leaves_the_memory_to_a_scheduler_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, double_buffer: bool
) -> None:
    monkeypatch.setattr(worker_process, "_MODULE", "")  # It is set, and so put back.
    monkeypatch.setenv(FOLDER, "")
    memory, worker = start_busy_worker(tmp_path, double_buffer=double_buffer)
    (tmp_path / "word").write_text("fail")
    assert worker.process.wait() == 1
    assert scratch_of(tmp_path) == memory.folders
    worker.stop()
    memory.close()
    assert not scratch_of(tmp_path)
