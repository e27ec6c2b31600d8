"""Tests that a run ends with the same weights, whichever of its processes are killed, and whenever."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from scripting import DATA, ROOT, model_bytes, run_script, small_settings, wait_until

import partrain
from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.launch.allocator import ONE_TRAINING
from partrain.launch.call import Call
from partrain.launch.child_process import ChildProcess, start_process
from partrain.launch.processes import ProcessHandle
from partrain.launch.settings import Local
from partrain.runs.command import local_command
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT

_PRELOAD = "partrain.training.segment"
LONG = [
    *DATA,
    *("network.depth=4", "network.width=32", "network.dropout=0.1", "train.epochs=3", "train.batch_size=6"),
    *("train.early_stop=0", "train.precision=fp32", "train.checkpoint_seconds=0.000001"),
    *("launch.device=cpu", "launch.threads=1"),
]


@pytest.fixture(scope="module")
def undisturbed(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of which no process was killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    partrain.run(small_settings(), folder, dataset=small, show_progress=False)
    return folder


def step_of(folder: Path) -> int:
    """Return the step of the checkpoint in `folder`, or 0 without one."""
    with suppress(FileNotFoundError):
        return int(checkpoint.load_metadata(folder / CHECKPOINT)["step"])
    return 0


def kill_when(happened: Callable[[], bool], handle: Callable[[], ProcessHandle]) -> None:
    wait_until(happened)
    killed = handle()
    killed.process.kill()
    wait_until(lambda: handle() is not killed)


def test_a_segment_killed_again_and_again_ends_with_the_same_weights(
    small: Dataset, undisturbed: Path, tmp_path: Path, started: list[ProcessHandle], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "segments/0"
    steps: list[int] = []

    def kill() -> None:
        def handle() -> ProcessHandle:
            return next(handle for handle in reversed(started) if handle.job.folder == folder)

        kill_when(lambda: any(handle.job.folder == folder for handle in started), handle)  # while it imports
        steps.append(step_of(folder))
        kill_when(lambda: step_of(folder) % 80 != 0, handle)  # a checkpoint within an epoch
        steps.append(step_of(folder))
        kill_when(lambda: step_of(folder) >= steps[1] + 80, handle)  # some epochs later, at any step
        steps.append(step_of(folder))

    killer = threading.Thread(target=kill)
    killer.start()
    partrain.run(small_settings(), tmp_path, dataset=small, show_progress=False)
    killer.join()
    assert steps[0] == 0 < steps[1] < steps[2] < 400
    assert [handle.job.folder.name for handle in started].count("0") == 4
    assert [handle.job.folder.name for handle in started].count("1") == 1
    assert capsys.readouterr().out.count("Segment 0 was killed by SIGKILL; it restarts from its checkpoint.") == 3
    assert model_bytes(tmp_path) == model_bytes(undisturbed)


def test_a_segment_killed_too_often_fails_and_the_others_finish(
    small: Dataset, undisturbed: Path, tmp_path: Path, started: list[ProcessHandle]
) -> None:
    settings = small_settings(launch=Local(device="cpu", threads=1, max_restarts=1))
    folder = tmp_path / "segments/1"

    def kill() -> None:
        for count in (1, 2):
            wait_until(lambda count=count: [one.job.folder for one in started].count(folder) == count)  # type: ignore[misc]
            next(handle for handle in reversed(started) if handle.job.folder == folder).process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(JobFailed) as caught:
        partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    killer.join()
    assert str(caught.value) == f"Segment 1 was killed by SIGKILL, after 1 restart; see {folder / 'log.txt'}"
    assert caught.value.is_user_error
    assert checkpoint.load_metadata(tmp_path / "segments/0" / CHECKPOINT)["finished"]

    started.clear()
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert [handle.job.name for handle in started] == ["segment 1"]
    assert model_bytes(tmp_path) == model_bytes(undisturbed)


def processes_of(run: Path) -> list[int]:
    """Return the ids of the processes that train for `run`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
        except OSError:
            continue
        if "partrain.launch.worker" in command and str(run) in command:
            found.append(int(entry.name))
    return found


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., ChildProcess]]:
    """Return a function that starts experiments/train.py, and returns it once both its processes have done some steps.

    Its output is in train.txt, and what it prints to standard errors in errors.txt.
    """
    run, launchers = tmp_path / "run", []

    def steps() -> list[int]:
        return [max(step_of(run / f"{kind}/{index}") for kind in ("segments", "ranks")) for index in (0, 1)]

    def start(*arguments: str, processes: str = "auto") -> ChildProcess:
        before = steps()
        words = [str(tmp_path / "errors.txt"), "train", *LONG, *arguments]
        call = Call(module="command", arguments=words, preload=_PRELOAD, allocator=ONE_TRAINING)
        with open(os.devnull) as stdin:
            launcher = start_process(call, stdin.fileno(), tmp_path / "train.txt", processes)
        launchers.append(launcher)
        wait_until(
            lambda: launcher.poll() is not None or all(now > then for now, then in zip(steps(), before, strict=True))
        )
        assert launcher.poll() is None, (tmp_path / "errors.txt").read_text()
        assert len(processes_of(run)) == 2
        return launcher

    yield start
    for launcher in launchers:
        launcher.kill()
    kill_all(processes_of(run))


def kill_all(ids: list[int]) -> None:
    for id_ in ids:
        with suppress(ProcessLookupError):
            os.kill(id_, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize(("strategy", "processes"), [("synthetic", "fresh"), ("1f1b", "auto")])
def test_a_run_stopped_in_every_way_ends_with_the_same_weights(
    strategy: str, processes: str, command: Callable[..., ChildProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    how = [f"strategy={strategy}", *(["strategy.microbatches=2"] if strategy == "1f1b" else [])]

    # Ctrl-C: it prints how to continue and nothing else, and no process remains.
    with monkeypatch.context() as patch:
        if processes == "fresh":
            patch.setenv("PYTHONWARNINGS", "error")
        pressed = command(*how, f"hydra.run.dir={run}", processes=processes)
    os.kill(pressed.pid, signal.SIGINT)
    assert pressed.wait(60) == 130
    launched = [word for word in LONG if word.startswith("launch.")]  # No run keeps them: it may be resumed elsewhere.
    again = local_command("train", [f"resume={run}", *launched])
    said = (tmp_path / "train.txt").read_text().splitlines()
    assert said[-2:] == [f"Progress is saved. To continue: {again}", "Stopped."]
    errors = (tmp_path / "errors.txt").read_text().splitlines()
    assert not [line for line in errors if not line.startswith("Preparing ")]
    assert not processes_of(run)

    abandoned = command(f"resume={run}")  # the launcher is killed: its processes end by themselves
    abandoned.kill()
    wait_until(lambda: not processes_of(run))
    assert not any(checkpoint.load_metadata(path)["finished"] for path in run.glob(f"*/*/{CHECKPOINT}"))

    killed = command(f"resume={run}")  # everything is killed at once
    kill_all([killed.pid, *processes_of(run)])
    wait_until(lambda: not processes_of(run))
    assert not (run / "results.json").exists()

    assert run_script("train", f"resume={run}", *launched).code == 0
    undisturbed = tmp_path / "undisturbed"
    assert run_script("train", *LONG, *how, f"hydra.run.dir={undisturbed}").code == 0
    assert model_bytes(run) == model_bytes(undisturbed)


def test_a_segment_whose_launcher_is_gone_before_it_begins_does_not_train(undisturbed: Path, tmp_path: Path) -> None:
    """Its standard input, of which the launcher holds the other end, is at its end."""
    shutil.copytree(undisturbed, tmp_path / "run")
    folder = tmp_path / "run/segments/1"
    (folder / CHECKPOINT).unlink()
    command = [sys.executable, "-m", "partrain.launch", "partrain.launch.worker", str(folder), "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    process = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (75, "", "")
    assert step_of(folder) == 0


def test_a_damaged_checkpoint_of_a_segment_under_way(
    small: Dataset, undisturbed: Path, tmp_path: Path, started: list[ProcessHandle]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    path = run / "segments/1" / CHECKPOINT
    tensors, progress = checkpoint.load(path)
    checkpoint.save(path, tensors, progress | {"finished": False})
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(JobFailed) as caught:
        partrain.run(small_settings(), run, dataset=small, show_progress=False)
    assert str(caught.value) == (
        f"Segment 1: {path} is damaged (its digest does not match its contents); delete it and resume the run"
    )
    path.unlink()
    partrain.run(small_settings(), run, dataset=small, show_progress=False)
    assert [handle.job.name for handle in started] == ["segment 1", "segment 1"]
    assert model_bytes(run) == model_bytes(undisturbed)
