"""Tests of the zygote: forked processes are as fresh ones are, and nothing is lost where it ends or refuses."""

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from scripting import ROOT, model_bytes, small_settings, wait_until

import partrain
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.launch import fork_server, zygote
from partrain.launch.allocator import MANY_TRAININGS, ONE_TRAINING, AllocatorLimits
from partrain.launch.call import Call
from partrain.launch.child_process import ChildProcess, start_process
from partrain.launch.processes import ProcessHandle
from partrain.launch.zygote import LOST_WITH_ZYGOTE, ForkedProcess, ForkRefused, shared_zygote

pytestmark = pytest.mark.skipif(bool(zygote.why_not_here()), reason="no process is forked on this system")

PRELOAD = "partrain.training.segment"
THREAD = """
import os, sys, threading, time
if "partrain.launch.fork_server" in sys.orig_argv:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
BROKEN = """
import os, sys
if "partrain.launch.fork_server" in sys.orig_argv:
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write("one")
    raise SystemExit("it must not start")
"""


def start(
    folder: Path,
    *arguments: str,
    module: str = "process_facts",
    processes: str = "fork",
    limits: AllocatorLimits = ONE_TRAINING,
) -> ChildProcess:
    """Start a process whose standard input is an empty one."""
    call = Call(module=module, arguments=arguments, preload=PRELOAD, allocator=limits)
    with open(os.devnull) as nothing:
        return start_process(call, nothing.fileno(), folder / "log.txt", processes)


def facts(path: Path) -> dict[str, Any]:
    wait_until(path.exists)
    return dict(json.loads(path.read_text()))


def child_zygote_pid() -> int:
    process = shared_zygote().process
    assert process is not None
    return process.pid


def test_a_forked_process_is_as_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_AFTER_THE_ZYGOTE", "yes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = {}
    for processes in ("fresh", "fork"):
        file = tmp_path / f"{processes}.json"
        assert start(tmp_path, str(file), processes=processes).wait(60) == 0
        found[processes] = facts(file)
    arguments = {name: values["facts"].pop("arguments") for name, values in found.items()}
    assert found["fork"]["facts"] == found["fresh"]["facts"]
    assert {name: Path(words[-1]).name for name, words in arguments.items()} == {
        "fresh": "fresh.json",
        "fork": "fork.json",
    }
    assert found["fresh"]["own"]["parent"] == os.getpid() != found["fork"]["own"]["parent"]
    assert found["fork"]["facts"]["environment"]["SET_AFTER_THE_ZYGOTE"] == "yes"
    assert (tmp_path / "log.txt").read_text() == "printed\n" * 2


def test_forked_and_fresh_processes_come_to_the_same_bits(
    small: Dataset, tmp_path: Path, started: list[ProcessHandle]
) -> None:
    for processes in ("fork", "fresh"):
        launch = partrain.Local(device="cpu", threads=1, processes=processes)
        partrain.run(small_settings(launch=launch), tmp_path / processes, dataset=small, show_progress=False)
    assert [type(handle.process) for handle in started] == [ForkedProcess] * 2 + [subprocess.Popen] * 2
    assert model_bytes(tmp_path / "fork") == model_bytes(tmp_path / "fresh")


def test_an_engine_that_cannot_be_imported_is_the_processes_own_error(tmp_path: Path) -> None:
    """The zygote goes on, and the process reports what it meets itself."""
    call = Call(module="no_such_engine", arguments=[], preload="no_such_engine", allocator=ONE_TRAINING)
    with open(os.devnull) as nothing:
        assert start_process(call, nothing.fileno(), tmp_path / "log.txt", "fork").wait(60) == 1
    assert (tmp_path / "log.txt").read_text().endswith("ModuleNotFoundError: No module named 'no_such_engine'\n")
    assert start(tmp_path, str(tmp_path / "facts.json"), "3").wait(60) == 3


def test_generators_of_forked_processes_are_not_all_the_same(tmp_path: Path) -> None:
    drawn = []
    for index in range(2):
        start(tmp_path, str(tmp_path / f"{index}.json")).wait(60)
        drawn.append(facts(tmp_path / f"{index}.json")["own"]["drawn"])
    assert all(first != second for first, second in zip(*drawn, strict=True))


@pytest.mark.usefixtures("own_zygote")
def test_the_zygote_imports_what_every_training_needs_and_no_more(tmp_path: Path) -> None:
    start(tmp_path, str(tmp_path / "facts.json")).wait(60)
    modules = facts(tmp_path / "facts.json")["own"]["modules"]
    assert {"torch", "torch._dynamo", PRELOAD} <= set(modules)
    parts = {name.split(".")[1] for name in modules if name.startswith("partrain.")}
    assert not parts & {"report", "tuning", "comparison", "shards", "packs", "strategies", "runs", "cli"}
    assert not {"hydra", "omegaconf", "plotly", "matplotlib", "jinja2", "torchvision"} & set(modules)


def test_exit_codes_and_signals_come_back(tmp_path: Path) -> None:
    def started(*words: str) -> ChildProcess:
        return start(tmp_path, str(tmp_path / "facts.json"), *words)

    assert started("7").wait(60) == 7
    assert started("0", "fail").wait(60) == 1
    assert "RuntimeError: as was asked" in (tmp_path / "log.txt").read_text()
    for number, method in ((signal.SIGTERM, "terminate"), (signal.SIGKILL, "kill")):
        (tmp_path / "facts.json").unlink()
        waiting = started("0", "wait")
        facts(tmp_path / "facts.json")
        assert waiting.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.01)
        getattr(waiting, method)()
        assert waiting.wait(60) == waiting.poll() == -number
        getattr(waiting, method)()  # It does no harm, and reaches nobody else.


def test_a_forked_process_has_others_forked(tmp_path: Path) -> None:
    """As the process of a sharded training does. Both are the zygote's children."""
    (tmp_path / "forking.py").write_text(
        "import test_zygote\n"
        "from pathlib import Path\n"
        "def main(arguments):\n"
        "    return test_zygote.start(Path(arguments[0]), arguments[0] + '/facts.json', '5').wait(60)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.syspath_prepend(Path(__file__).parent)
        assert start(tmp_path, str(tmp_path), module="forking").wait(60) == 5
    assert facts(tmp_path / "facts.json")["own"]["parent"] == child_zygote_pid()


def test_modules_of_the_user_are_as_they_are_now(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[ProcessHandle]
) -> None:
    """A network's file is edited between two runs of one process, in which its own module is imported anew."""
    text = (
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.{name}(), nn.Linear(16, 5))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    settings = small_settings(
        network=partrain.CustomNetwork(name="edited_network:build"),
        train=partrain.TrainSettings(epochs=1, precision="fp32"),
        launch=partrain.Local(device="cpu", threads=1, processes="fork"),
    )
    weights = {}
    for name in ("ReLU", "Tanh", "ReLU "):
        (tmp_path / "edited_network.py").write_text(text.format(name=name.strip()))
        sys.modules.pop("edited_network", None)
        partrain.run(settings, tmp_path / name, dataset=small, show_progress=False)
        weights[name] = model_bytes(tmp_path / name)
    assert weights["ReLU"] == weights["ReLU "] != weights["Tanh"]
    assert all(isinstance(handle.process, ForkedProcess) for handle in started)


@pytest.mark.usefixtures("own_zygote")
def test_a_run_whose_zygote_is_killed_says_so_and_ends_with_the_same_weights(
    small: Dataset, tmp_path: Path, started: list[ProcessHandle], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_settings()
    partrain.run(settings, tmp_path / "undisturbed", dataset=small, show_progress=False)
    started.clear()
    victim = child_zygote_pid()

    def kill() -> None:
        wait_until(lambda: all((tmp_path / f"run/segments/{index}/progress.json").exists() for index in (0, 1)))
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    partrain.run(settings, tmp_path / "run", dataset=small)
    killer.join()
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "undisturbed")
    assert [handle.process.poll() for handle in started[:2]] == [LOST_WITH_ZYGOTE] * 2
    assert child_zygote_pid() != victim
    assert sorted(handle.job.name for handle in started) == ["segment 0"] * 2 + ["segment 1"] * 2
    said = capsys.readouterr().out
    for index in (0, 1):
        end = "ended, as the process that had forked it has ended; it restarts from its checkpoint."
        assert f"Segment {index} {end}" in said


@pytest.mark.usefixtures("own_zygote")
def test_a_zygote_with_a_thread_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library may start one when it is imported."""
    (tmp_path / "sitecustomize.py").write_text(THREAD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert start(tmp_path, str(tmp_path / "facts.json"), "4", processes="auto").wait(60) == 4
    assert facts(tmp_path / "facts.json")["own"]["parent"] == os.getpid()
    reason = "the process that forks runs 2 threads, which a forked one would lack"
    assert (tmp_path / "log.txt").read_text() == f"This process was started anew, not forked: {reason}.\nprinted\n"
    with pytest.raises(UserError) as refused:
        start(tmp_path, str(tmp_path / "facts.json"))
    assert str(refused.value) == f"launch.processes=fork: {reason}; set launch.processes=auto"


@pytest.mark.usefixtures("own_zygote")
def test_a_zygote_that_cannot_start_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ATTEMPTS", str(tmp_path / "attempts"))
    monkeypatch.syspath_prepend(tmp_path)
    assert start(tmp_path, str(tmp_path / "facts.json"), "4", processes="auto").wait(60) == 4
    reason = "the process that forks has ended with exit code 1 (SystemExit: it must not start)"
    assert (tmp_path / "log.txt").read_text() == f"This process was started anew, not forked: {reason}.\nprinted\n"
    with pytest.raises(UserError) as refused:
        start(tmp_path, str(tmp_path / "facts.json"))
    assert str(refused.value) == f"launch.processes=fork: {reason}; set launch.processes=auto"
    assert (tmp_path / "attempts").read_text() == "one"


def test_reasons_not_to_fork_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_num_threads", lambda: 1)
    assert fork_server.why_not_now() is None
    monkeypatch.setattr(fork_server, "_num_threads", lambda: 3)
    assert fork_server.why_not_now() == "the process that forks runs 3 threads, which a forked one would lack"
    monkeypatch.setattr(fork_server, "_num_threads", lambda: 1)
    monkeypatch.setattr(fork_server, "accelerator_in_use", lambda: "cuda")
    assert fork_server.why_not_now() == (
        "the process that forks has initialised cuda, which a forked one could not use"
    )


def test_a_system_that_refuses_to_fork_is_no_end_of_the_zygote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(fork_server, "_num_threads", lambda: 1)
    monkeypatch.setattr(zygote, "_shared", None)
    ours, servers = Pipe()
    zygote.share_zygote(zygote.Zygote(ours))
    server = fork_server.ForkServer(servers)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        refused = threading.Thread(target=lambda: server.answer(servers))
        refused.start()
        with pytest.raises(UserError) as caught:
            start(tmp_path, "facts.json")
        refused.join()
    reason = "the system refused to fork a process (Resource temporarily unavailable)"
    assert str(caught.value) == f"launch.processes=fork: {reason}; set launch.processes=auto"
    assert not shared_zygote().is_lost()


def test_reasons_not_to_fork_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert zygote.why_not_here() is None
    monkeypatch.delattr(os, "pidfd_open")
    assert zygote.why_not_here() == "this version of Linux or Python has no pidfd_open"
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ForkRefused, match=r"^forking is safe on Linux alone$"):
        shared_zygote()


@pytest.mark.usefixtures("own_zygote")
def test_variables_that_libraries_read_when_they_are_loaded_get_a_zygote_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shared_zygote()
    monkeypatch.setenv("ANY_OTHER", "1")
    assert shared_zygote() is first
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert shared_zygote() is not first


STARTED_EARLY = """
from partrain.launch import zygote
zygote.start_early([])
early = zygote._shared
import partrain.cli.train
from partrain.networks import Chain, MLP
Chain.build(MLP(), (1, 28, 28), 47)
print(zygote.shared_zygote() is early)
"""


def test_the_zygote_that_a_command_starts_early_is_the_one_that_forks() -> None:
    """Libraries set environment variables when they are imported, which must not make it a zygote of no use."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", STARTED_EARLY], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("words", [["--help"], ["seed=1", "launch=inline"], ["launch.processes=fresh"]])
def test_a_command_that_forks_nothing_starts_no_zygote(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "shared_zygote", lambda: pytest.fail("a zygote was started"))
    zygote.start_early(words)
    with pytest.raises(pytest.fail.Exception):
        zygote.start_early(["seed=1"])


LEFT_ALONE = """
import sys, time
from partrain.launch.zygote import shared_zygote
print(shared_zygote().process.pid, flush=True)
if sys.argv[1] == "killed":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["returned", "killed"])
def test_no_zygote_outlives_its_launcher(end: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LEFT_ALONE, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        if end == "killed":
            launcher.kill()
        launcher.wait(60)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_process_that_the_user_forks_asks_a_zygote_of_its_own() -> None:
    first = shared_zygote()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if zygote._shared is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert shared_zygote() is first
    assert not first.is_lost()


def test_a_conversation_that_is_interrupted_is_not_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C an answer may still come, which must not be taken for that to another question."""

    class Interrupted:
        def __init__(self) -> None:
            self.is_closed = False

        def send(self, what: object) -> None:
            raise KeyboardInterrupt

        def poll(self) -> bool:
            if self.is_closed:
                raise OSError("handle is closed")
            return False

        def close(self) -> None:
            self.is_closed = True

    one = zygote.Zygote(Interrupted())  # type: ignore[arg-type]
    assert not one.is_lost()
    with pytest.raises(KeyboardInterrupt):
        one.exit_code(1)
    assert one.is_lost()


MAPPED_BLOCKS = """
import ctypes

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "uordblks fordblks keepcost".split()]

def main(arguments):
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Counts
    libc.malloc.restype = ctypes.c_void_p
    before = libc.mallinfo2().hblks
    assert libc.malloc(ctypes.c_size_t(int(arguments[0])))
    return libc.mallinfo2().hblks - before
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
@pytest.mark.parametrize(("limits", "is_mapped"), [(ONE_TRAINING, 1), (MANY_TRAININGS, 0)])
def test_limits_of_the_allocator_hold(tmp_path: Path, limits: AllocatorLimits, is_mapped: int) -> None:
    (tmp_path / "mapping.py").write_text(MAPPED_BLOCKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert start(tmp_path, "8000000", module="mapping", limits=limits).wait(60) == is_mapped
