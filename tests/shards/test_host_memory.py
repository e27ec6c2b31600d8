"""Tests of the host memory of shards: files take their space at once, are shared, and are removed in the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from partrain.errors import UserError
from partrain.shards import host
from partrain.shards.host import HostMemory, allocate_file, map_file
from partrain.shards.messages import WorkerSettings
from partrain.shards.worker_process import WorkerProcess


@pytest.fixture
def shared_memory(tmp_path: Path) -> Path:
    """A folder in place of the system's shared memory."""
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


def test_who_maps_a_file_sees_what_others_write(tmp_path: Path, shared_memory: Path) -> None:
    memory = HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory)
    path = memory.create_file(1000)
    assert path.is_relative_to(shared_memory)
    assert path.stat().st_blocks * 512 >= 1000  # not a sparse file
    map_file(path)[7] = 42
    assert map_file(path)[7] == 42
    memory.delete_files([path])
    assert not path.exists()
    memory.close()
    assert not list(shared_memory.iterdir())


def test_on_disk_and_where_memory_has_no_room(tmp_path: Path, shared_memory: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    memory = HostMemory(disk, on_disk=True, shared_memory=shared_memory)
    assert memory.create_file(10).is_relative_to(disk)
    memory.close()

    def full(path: Path, num_bytes: int) -> None:
        allocate_file(path, num_bytes)
        if path.is_relative_to(shared_memory):
            raise OSError("No space left on device")

    memory = HostMemory(disk, on_disk=False, shared_memory=shared_memory, allocate=full)
    assert memory.create_file(10).is_relative_to(disk)
    assert not [path for path in shared_memory.rglob("*") if path.is_file()]
    memory.close()
    assert not list(disk.iterdir())


def test_more_than_there_is(tmp_path: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda device: 3 * 2**30)
    HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory).check_free(3 * 2**30)
    with pytest.raises(UserError) as caught:
        HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory).check_free(2**32)
    assert str(caught.value) == (
        "These models need 4.00 GiB of host memory, but 3.00 GiB are free; train fewer models at once, "
        "or set grouping.spill_to=disk"
    )
    with pytest.raises(UserError, match=r"^These models need 1073741824.00 GiB of disk, but .* are free; free some$"):
        HostMemory(tmp_path, on_disk=True, shared_memory=shared_memory).check_free(2**60)


def test_what_a_killed_process_left_is_removed_and_what_others_use_is_not(tmp_path: Path, shared_memory: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    left, used, foreign = (
        shared_memory / name for name in (f"partrain-{process.pid}-x", f"partrain-{os.getpid()}-y", "partrain-z")
    )
    for folder in (left, used, foreign):
        folder.mkdir()
        (folder / "1").touch()
    HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory)
    assert not left.exists()
    assert used.exists()
    assert foreign.exists()


def test_a_worker_that_is_left_alone_removes_the_memory(tmp_path: Path) -> None:
    """As when the scheduler's process is killed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = WorkerSettings(
        device="cpu",
        budget_bytes=1000,
        threads=1,
        uses_separate_buffers=False,
        double_buffer=True,
        scratch_folders=(scratch,),
    )
    worker = WorkerProcess(0, settings, tmp_path / "log.txt")
    worker.connection.close()
    assert worker.process.wait(60) == 0
    assert not scratch.exists()
