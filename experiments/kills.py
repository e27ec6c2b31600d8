"""Runs whose processes are killed at random moments, and whether they end with the weights of a run left alone.

    python experiments/kills.py
    python experiments/kills.py --runs 5 --seed 7

Every run draws a way to train, a grouping, and who is killed when: a job's process, the zygote that forks these, a worker
of shards, or the launcher, which is then started again. It must end with the quiet run's weights and promotions, bit for
bit, and leave no process, no shared memory and no half-written file.
"""

import argparse
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
_SHARED_MEMORY = Path("/dev/shm")
_POLL_SECONDS = 0.02
_COMMON = [
    *("data.limit_train=600", "data.limit_test=200", "network.depth=4", "network.width=32", "network.dropout=0.1"),
    *("train.batch_size=20", "train.early_stop=0", "train.precision=fp32", "train.checkpoint_seconds=0.2"),
    *("launch.device=cpu", "launch.threads=1", "launch.max_restarts=9", "report.page=false"),
]
_SEARCH = [
    *("search.method=successive_halving", "search.configurations=4", "search.min_epochs=10", "search.eta=2"),
    *("train.epochs=40", "train.lr=loguniform(1e-4,1e-2)", "partition.segments=1"),
]

WAYS: dict[str, list[str]] = {
    "parallel": ["train", "train.epochs=60", "partition.segments=3"],
    "sequential": ["train", "train.epochs=25", "partition.segments=3", "schedule=sequential"],
    "recovery": ["train", "train.epochs=25", "schedule.recovery_epochs=20"],
    "search": ["search", *_SEARCH],
    "data_parallel": ["train", "train.epochs=25", "strategy=data_parallel"],
    "1f1b": ["train", "train.epochs=15", "strategy=1f1b"],
}
"""The script and its words, by the name of the way to train."""
GROUPINGS: dict[str, list[str]] = {
    "alone": ["grouping=alone"],
    "pack": ["grouping=pack", "grouping.trial=false"],
    "shards": ["grouping=shards", "grouping.budget_gib=0.0011"],
}
"""The words of each grouping."""
GANGS = ("data_parallel", "1f1b")
"""The ways whose processes train as one, which take no grouping but alone."""
VICTIMS = ("job", "zygote", "launcher", "everything")
"""Who is killed: the process of a job (a segment, a pack, a rank, the scheduler of shards), the process that forks these,
the launcher, or all."""


@dataclass(frozen=True)
class Plan:
    """A run and what is done to it."""

    way: str
    grouping: str
    kills: tuple[tuple[str, float], ...]
    """Who is killed, and after which part of the quiet run's time since the kill before, from 0 to 1."""

    @classmethod
    def draw(cls, rng: random.Random) -> "Plan":
        """Return a random plan."""
        way = rng.choice(list(WAYS))
        grouping = "alone" if way in GANGS else rng.choice(list(GROUPINGS))
        victims = VICTIMS if grouping != "shards" else (*VICTIMS, "worker")
        count = rng.randint(1, 3)
        return cls(way, grouping, tuple((rng.choice(victims), rng.uniform(0.05, 0.95)) for _ in range(count)))

    def command(self, folder: Path) -> list[str]:
        """Return the command that does the run in `folder`, or continues it."""
        script, *words = WAYS[self.way]
        run = str(ROOT / "experiments" / f"{script}.py")
        return [sys.executable, run, *_COMMON, *words, *GROUPINGS[self.grouping], f"hydra.run.dir={folder}"]


@dataclass(frozen=True)
class Quiet:
    """A run of which no process was killed."""

    seconds: float
    results: str
    """The digest of its weights and promotions."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run whose processes were killed."""

    plan: Plan
    kills: int
    """How many processes were in fact killed."""
    faults: tuple[str, ...]
    """What is wrong with it, in words; nothing if it ended as the quiet run did."""


def run_quietly(plan: Plan, folder: Path) -> Quiet:
    """Do the run of `plan` without killing anything."""
    began = time.monotonic()
    outcome = subprocess.run(plan.command(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if outcome.returncode != 0:
        sys.exit(f"A run of which no process was killed failed:\n{outcome.stdout}")
    return Quiet(time.monotonic() - began, results_digest(folder))


def run_with_kills(plan: Plan, quiet: Quiet, folder: Path) -> Outcome:
    """Do the run of `plan`, kill processes as it says, start the launcher again where it was killed, and check the end."""
    log = folder.with_suffix(".txt")
    scratch_before = set(scratch_folders(folder))
    kills = 0
    launcher = _start(plan, folder, log)
    for victim, moment in plan.kills:
        if not _wait(launcher, moment * quiet.seconds):
            break
        kills += _kill(victim, launcher, folder)
        if victim in ("launcher", "everything"):
            launcher.wait()
            launcher = _start(plan, folder, log)
    code = launcher.wait()
    faults = list(_faults(code, quiet, folder, log))
    if left := sorted(set(scratch_folders(folder)) - scratch_before):
        faults.append(f"left {', '.join(left)}")
    return Outcome(plan, kills, tuple(faults))


def _start(plan: Plan, folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        command = plan.command(folder)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def _wait(launcher: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait for `seconds`, and return whether the launcher still runs then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and launcher.poll() is None:
        time.sleep(_POLL_SECONDS)
    return launcher.poll() is None


def _kill(victim: str, launcher: "subprocess.Popen[bytes]", folder: Path) -> int:
    """Kill the victim, and return how many processes that were."""
    jobs, workers = processes_of(folder)
    zygotes = zygotes_of(launcher.pid)
    chosen = {
        "job": jobs[:1],
        "zygote": zygotes,
        "worker": workers[:1],
        "launcher": [launcher.pid],
        "everything": [launcher.pid, *zygotes, *jobs, *workers],
    }[victim]
    killed = 0
    for process in chosen:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            killed += 1
    return killed


def processes_of(folder: Path) -> tuple[list[int], list[int]]:
    """Return the ids of the processes that run jobs below `folder`, and of shards' workers: each has its log there."""
    jobs, workers = [], []
    for process, command in _commands():
        if not _log_of(process).startswith(f"{folder}/"):
            continue
        if "partrain.launch.worker" in command:
            jobs.append(process)
        elif "partrain.shards.device_worker" in command:
            workers.append(process)
    return jobs, workers


def zygotes_of(launcher: int) -> list[int]:
    """Return the ids of the processes from which a launcher has others forked."""
    return [
        process
        for process, command in _commands()
        if "partrain.launch.fork_server" in command and _parent_of(process) == launcher
    ]


def _commands() -> Iterator[tuple[int, str]]:
    """Yield the id and the command line of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                yield int(entry.name), command.replace("\0", " ")


def _parent_of(process: int) -> int | None:
    """Return the id of a process's parent, or None if the process has gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _log_of(process: int) -> str:
    """Return the path of a process's standard output, or an empty text if it has gone."""
    try:
        return os.readlink(f"/proc/{process}/fd/1")
    except OSError:
        return ""


def scratch_folders(folder: Path) -> list[str]:
    """Return the scratch folders of shards, in shared memory and below `folder`, whose lock no process holds."""
    left = []
    for scratch in (*_SHARED_MEMORY.glob("*partrain*"), *folder.rglob("partrain-shards-*")):
        with suppress(OSError), (scratch / "lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.append(str(scratch))
    return left


def results_digest(folder: Path) -> str:
    """Return a digest of the weights that a run or a search has left, those of every training, and of its promotions."""
    digest = sha256()
    for path in sorted(folder.rglob("model.safetensors")):
        digest.update(path.read_bytes())
    for path in sorted(folder.rglob(CHECKPOINT)):
        tensors, progress = checkpoint.load(path)
        digest.update(f"{path.relative_to(folder)} {progress['step']}".encode())
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    for path in sorted(folder.glob("rungs/*.json")):
        rung = checkpoint.read_json(path)
        del rung["seconds"]
        digest.update(json.dumps(rung, sort_keys=True).encode())
    return digest.hexdigest()


def _faults(code: int, quiet: Quiet, folder: Path, log: Path) -> Iterator[str]:
    """Yield what is wrong with a run that has ended with exit code `code`."""
    if code != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        yield f"ended with exit code {code}: {' '.join(last)}"
    elif results_digest(folder) != quiet.results:
        yield "ended with other weights or promotions"
    deadline = time.monotonic() + 10
    while (jobs := processes_of(folder)) != ([], []) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if jobs != ([], []):
        yield f"left processes {jobs}"
    hidden = [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.parent.name != ".hydra"]
    hidden = [name for name in hidden if not name.startswith(".hydra")]
    if hidden:
        yield f"left {', '.join(hidden[:3])}"


def kill_runs(seeds: Sequence[int], folder: Path) -> Iterator[Outcome]:
    """Yield the outcome of one run for each seed, with a quiet run beside the first of each kind."""
    quiet: dict[tuple[str, str], Quiet] = {}
    for seed in seeds:
        plan = Plan.draw(random.Random(seed))
        kind = plan.way, plan.grouping
        if kind not in quiet:
            quiet[kind] = run_quietly(plan, folder / f"quiet-{'-'.join(kind)}")
        yield run_with_kills(plan, quiet[kind], folder / str(seed))


def main() -> None:
    """Do the runs, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30, help="number of runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run; each one takes the next")
    parser.add_argument("--folder", type=Path, help="folder of the runs; by default one that is removed at the end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        print("| seed | way | grouping | who was killed, after which part of the time | killed | end |")
        print("| --- | --- | --- | --- | --- | --- |")
        failed = 0
        seeds = range(arguments.seed, arguments.seed + arguments.runs)
        for seed, outcome in zip(seeds, kill_runs(seeds, folder), strict=True):
            plan = outcome.plan
            kills = ", ".join(f"{victim} {moment:.2f}" for victim, moment in plan.kills)
            end = "; ".join(outcome.faults) or "same weights, nothing left"
            failed += bool(outcome.faults)
            print(f"| {seed} | {plan.way} | {plan.grouping} | {kills} | {outcome.kills} | {end} |", flush=True)
    print(f"\n{arguments.runs - failed} of {arguments.runs} runs ended as the quiet run did.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
