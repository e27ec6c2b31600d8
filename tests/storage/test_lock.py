"""Locks: who may use a folder, who is refused and told by whom it is used, and who waits."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from partrain.errors import UserError
from partrain.storage.lock import hold_lock, hold_locks, wait_for_locks

HOST = os.uname().nodename

HOLDER = """
import sys
from pathlib import Path
from partrain.storage.lock import hold_lock

with hold_lock(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    input()
"""


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that holds the lock of `folder` until it reads a line."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def refusal(folder: Path) -> str:
    """Return the message of the error with which the lock of `folder` is refused."""
    with pytest.raises(UserError) as caught, hold_lock(folder, "run"):
        pass
    return str(caught.value)


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert refusal(tmp_path) == (
            f"{tmp_path} is being used by another launcher: process {process.pid} on host {HOST}. "
            "Wait for it or stop it."
        )
        process.communicate("\n")
    assert process.returncode == 0
    with hold_lock(tmp_path, "run"):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with hold_lock(tmp_path, "run"):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()


def test_another_thread_is_refused(tmp_path: Path) -> None:
    messages: list[str] = []
    with hold_lock(tmp_path, "search"):
        thread = threading.Thread(target=lambda: messages.append(refusal(tmp_path)))
        thread.start()
        thread.join()
    assert messages == [
        f"{tmp_path} is being used by another launcher: process {os.getpid()} on host {HOST}. Wait for it or stop it."
    ]


def test_the_file_says_who_holds_the_lock_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    before = time.time()
    with hold_lock(folder, "search"):
        said = json.loads((folder / "lock").read_text())
        assert before <= said.pop("time") <= time.time()
        assert said == {"work": "search", "host": HOST, "process": os.getpid()}
    file = (folder / "lock").stat()
    (folder / "lock").write_text("longer than what a holder writes " * 9)
    with hold_lock(folder, "search"):
        assert json.loads((folder / "lock").read_text())["process"] == os.getpid()
    assert (folder / "lock").stat().st_ino == file.st_ino


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff", b"[1]", b"null", b'{"host": "a"}', b'{"process": "many"}'])
def test_a_refusal_makes_sense_without_the_files_contents(contents: bytes, tmp_path: Path) -> None:
    with hold_lock(tmp_path, "run"):
        (tmp_path / "lock").write_bytes(contents)
        assert refusal(tmp_path) == f"{tmp_path} is being used by another launcher. Wait for it or stop it."


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    def fail() -> None:
        with hold_lock(tmp_path, "run"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with hold_lock(tmp_path, "run"):
        pass


def test_started_processes_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with hold_lock(tmp_path, "run"):
        code = "print('ready', flush=True); input()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        child = subprocess.Popen([sys.executable, "-c", code], **pipes, close_fds=False)  # type: ignore[call-overload]
    with child:
        assert child.stdout.readline() == b"ready\n"
        with hold_lock(tmp_path, "run"):
            assert child.poll() is None
        child.communicate(b"\n")


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_without_locks_work_goes_on_and_says_so_once(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    entered = []
    for folder in (tmp_path / "[a]", tmp_path / "[a]", tmp_path / "b"):
        with hold_lock(folder, "run"):
            entered.append(folder.name)
    with wait_for_locks([tmp_path / "b", tmp_path / "c"], lambda: False, entered.append) as are_held:
        assert are_held
        entered.append("c")
    assert entered == ["[a]", "[a]", "b", "c"]
    reason = f"is on a file system without locks ({os.strerror(code)}); let no other launcher use this"
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / '[a]'} {reason} run.",
        f"{tmp_path / 'b'} {reason} run.",
        f"{tmp_path / 'c'} {reason} training.",
    ]


def test_a_training_waits_until_the_folder_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partrain.storage.lock._SILENT_SECONDS", 0.0)
    waits, events, lines = threading.Event(), [], []

    def report(line: str) -> None:
        lines.append(line)
        waits.set()

    def train() -> None:
        with wait_for_locks([tmp_path], lambda: False, report) as are_held:
            assert are_held
            events.append("second trains")

    with hold_lock(tmp_path, "training"):
        thread = threading.Thread(target=train)
        thread.start()
        assert waits.wait(60)
        events.append("first ends")
    thread.join()
    assert events == ["first ends", "second trains"]
    holder = f"process {os.getpid()} on host {HOST}"
    assert lines == [f"{tmp_path} is being used by another launcher: {holder}; waiting for it."]


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) > 2

    with hold_lock(tmp_path / "b", "training"):
        with wait_for_locks([tmp_path / "a", tmp_path / "b", tmp_path / "c"], should_stop, print) as are_held:
            assert not are_held
        with hold_lock(tmp_path / "a", "run"):  # What was held is free again.
            pass
    assert len(asked) == 3


def test_more_locks_than_open_files_are_allowed(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from partrain.storage.lock import hold_locks, wait_for_locks
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
folders = [Path(sys.argv[1]) / str(number) for number in range(150)]
with wait_for_locks(folders[:75], lambda: False, print) as are_held, hold_locks(folders[75:], "run"):
    print(are_held)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_a_folder_in_which_a_training_runs_is_refused(tmp_path: Path) -> None:
    with wait_for_locks([tmp_path], lambda: False, print):
        assert re.search(rf": process {os.getpid()} on host {HOST}\. Wait", refusal(tmp_path))


def test_all_folders_or_none_are_held(tmp_path: Path) -> None:
    both, refused = (
        [tmp_path / "a", tmp_path / "b"],
        pytest.raises(UserError, match="is being used by another launcher"),
    )
    with hold_lock(both[1], "run"), refused, hold_locks(both, "run"):
        pass
    with hold_locks(both, "run"):
        pass
