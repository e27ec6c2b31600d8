"""Tests of the host memory of shards: files take their space at once, are shared, and are removed in the end."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partrain.errors import UserError
from partrain.shards import host
from partrain.shards.host import HostMemory, allocate_file, map_file
from partrain.shards.scratch import remove_left_behind


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
    assert [path.name for path in shared_memory.rglob("*") if path.is_file()] == ["lock"]
    memory.close()
    assert not list(disk.iterdir())


def test_more_than_there_is(tmp_path: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda device: 3 * 2**30)
    with contextlib.closing(HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory)) as memory:
        memory.check_free(3 * 2**30)
        with pytest.raises(UserError) as caught:
            memory.check_free(2**32)
    assert str(caught.value) == (
        "These models need 4.00 GiB of host memory, but 3.00 GiB are free; train fewer models at once, "
        "or set grouping.spill_to=disk"
    )
    message = r"^These models need 1073741824.00 GiB of disk, but .* are free; free some$"
    on_disk = contextlib.closing(HostMemory(tmp_path, on_disk=True, shared_memory=shared_memory))
    with on_disk as memory, pytest.raises(UserError, match=message):
        memory.check_free(2**60)


OWNER = """
import sys
import time
from pathlib import Path
from partrain.shards.host import HostMemory

base = Path(sys.argv[1])
memory = HostMemory(base / "disk", on_disk=False, shared_memory=base / "shm")
print(memory.create_file(1000), flush=True)
sys.stdin.read()
"""
"""A process that holds host memory until its input ends."""

SWEEP = """
import sys
import time
from pathlib import Path
from partrain.shards.scratch import remove_left_behind

remove_left_behind(Path(sys.argv[1]))
"""


@contextlib.contextmanager
def owner_of(base: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Yield a process that holds host memory in `base`, and its file there."""
    (base / "disk").mkdir()
    command = [sys.executable, "-c", OWNER, str(base)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(
    tmp_path: Path, shared_memory: Path
) -> None:
    foreign = shared_memory / "partrain-z"
    foreign.mkdir()
    with owner_of(tmp_path) as (process, file):
        remove_left_behind(shared_memory)
        assert file.stat().st_size == 1000
        process.kill()
        process.wait()
        assert file.exists()
        remove_left_behind(shared_memory)
        assert list(shared_memory.iterdir()) == [foreign]
    with contextlib.closing(HostMemory(tmp_path / "disk", on_disk=True)) as memory:
        assert list((tmp_path / "disk").iterdir()) == memory.folders


def can_unshare() -> bool:
    """Return whether this process may start another one in a process namespace of its own."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "--pid", "--fork", "true"], check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_unshare(), reason="`unshare --pid` is not there or needs root")
def test_a_process_in_another_process_namespace_leaves_it_too(tmp_path: Path, shared_memory: Path) -> None:
    """As in a container that shares /dev/shm, in which the process's number says nothing."""
    with owner_of(tmp_path) as (process, file):
        command = ["unshare", "--pid", "--fork", sys.executable, "-c", SWEEP, str(shared_memory)]
        subprocess.run(command, check=True)
        assert process.poll() is None
        assert file.exists()


def test_a_folder_that_is_being_made_is_left_alone(
    tmp_path: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let another process start in the moment between a folder's making and its lock."""
    flock, swept = fcntl.flock, []

    def sweep_first(file: Any, operation: int) -> None:
        if not swept:
            swept.append(True)
            subprocess.run([sys.executable, "-c", SWEEP, str(shared_memory)], check=True)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with contextlib.closing(HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory)) as memory:
        assert memory.create_file(10).is_relative_to(shared_memory)
        assert swept
    assert not list(shared_memory.iterdir())


def test_a_folder_that_was_being_made_long_ago_is_removed(shared_memory: Path) -> None:
    """Its process was killed before the folder had its lock."""
    recent, old = shared_memory / ".partrain-shards-recent", shared_memory / ".partrain-shards-old"
    for folder in (recent, old):
        folder.mkdir()
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    remove_left_behind(shared_memory)
    assert list(shared_memory.iterdir()) == [recent]


def test_where_there_are_no_locks_nothing_of_others_is_removed(
    tmp_path: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner_of(tmp_path) as (process, file):
        process.kill()
        process.wait()
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", raise_no_locks)
            memory = HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory)
        assert file.exists()
    remove_left_behind(shared_memory)
    assert not file.exists()
    assert memory.create_file(10).is_relative_to(shared_memory)  # What was made without a lock stays.
    memory.close()
    assert not list(shared_memory.iterdir())


def raise_no_locks(file: object, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_removal_that_was_killed_is_finished_by_the_next_start(
    tmp_path: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = HostMemory(tmp_path, on_disk=False, shared_memory=shared_memory)
    for _ in range(20):
        memory.create_file(10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda folder, ignore_errors: None)
        memory.close()
    assert [path.name for path in shared_memory.rglob("*") if path.is_file()] == ["lock"]
    remove_left_behind(shared_memory)
    assert not list(shared_memory.iterdir())


def test_a_folder_that_cannot_be_made_leaves_none_of_the_others(tmp_path: Path, shared_memory: Path) -> None:
    with pytest.raises(FileNotFoundError):
        HostMemory(tmp_path / "gone", on_disk=False, shared_memory=shared_memory)
    assert not list(shared_memory.iterdir())
