"""Tests of what launchers do with folders and devices: one works in a folder at a time, and trainings are spread."""

import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executors import ScriptedExecutor
from scripting import small_settings, wait_until
from trainings import write_tasks

import partrain
from partrain import RunSettings
from partrain.data import Dataset, Glyphs
from partrain.errors import UserError
from partrain.launch.end import Done, End
from partrain.launch.executor import Slot
from partrain.launch.launcher import Launcher
from partrain.launch.processes import ProcessHandle
from partrain.launch.settings import Inline, Local
from partrain.packs.settings import Pack
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.storage.lock import hold_lock
from partrain.storage.run_folder import CHECKPOINT, RESULTS, SEARCH_MANIFEST, TIMINGS
from partrain.training.completion import is_finished
from partrain.training.job import Job
from partrain.training.optimization import TrainSettings
from partrain.tuning.search import search
from partrain.tuning.settings import SearchSettings

TRAIN = TrainSettings(epochs=4, batch_size=64, early_stop=0, precision="fp32")
PACKED = Pack(trial=False)
SEARCH = SearchSettings(method="random", configurations=16, space=["train.lr=loguniform(1e-4,1e-1)"])

HELD_OUT = Glyphs(validation=0.1)


def settings_of(**changed: Any) -> RunSettings:
    """Return the settings of a run of one segment, with some of them changed."""
    defaults: dict[str, Any] = {
        "train": TRAIN,
        "partition": PartitionSettings(segments=1),
        "launch": Inline(device="cpu", threads=1),
    }
    return small_settings(**{**defaults, **changed})


# ---- One launcher in a folder.


def run_one(small: Dataset, folder: Path) -> object:
    return partrain.run(settings_of(), folder, small, show_progress=False)


def run_two(small: Dataset, folder: Path) -> object:
    return partrain.run_together({folder.parent / "0": settings_of()}, folder, small, show_progress=False)


def run_search(small: Dataset, folder: Path) -> object:
    return search(settings_of(data=HELD_OUT), SEARCH, folder, small, show_progress=False)


def run_pack(small: Dataset, folder: Path) -> object:
    return partrain.unify(write_tasks(folder.parent / "tasks", small, [settings_of()]), folder).run()


def run_in_shards(small: Dataset, folder: Path) -> object:
    tasks = write_tasks(folder.parent / "tasks", small, [settings_of()])
    return partrain.train_sharded(tasks, ["cpu"], folder, show_progress=False)


@pytest.mark.parametrize("call", [run_one, run_two, run_search, run_pack, run_in_shards])
def test_a_second_launcher_is_refused_with_the_first_ones_process(
    call: Callable[[Dataset, Path], object], small: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "used"
    with hold_lock(folder, "run"), pytest.raises(UserError) as caught:
        call(small, folder)
    holder = f"process {os.getpid()} on host {os.uname().nodename}"
    assert str(caught.value) == f"{folder} is being used by another launcher: {holder}. Wait for it or stop it."
    call(small, folder)


def test_a_task_that_another_launcher_trains_is_left_to_it(small: Dataset, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path, small, [settings_of(), settings_of(seed=1)])
    with hold_lock(tasks[0], "training"):
        failures = partrain.train_sharded(tasks, ["cpu"], tmp_path / "shards", show_progress=False)
    holder = f"process {os.getpid()} on host {os.uname().nodename}"
    assert failures == {tasks[0]: f"{tasks[0]} is being used by another launcher: {holder}. Wait for it or stop it."}
    assert [path.name for path in tasks[0].glob("*.json")] == ["task.json"]
    assert is_finished(tasks[1])
    with hold_lock(tasks[1], "training"):  # It is free again.
        pass


def test_two_launchers_at_once_leave_one_run(small: Dataset, tmp_path: Path) -> None:
    """Several commands that are started within a second share the folder that is named by the time."""
    ends: list[str] = []
    together = threading.Barrier(3)

    def launch() -> None:
        together.wait()
        try:
            partrain.run(settings_of(), tmp_path / "run", small, show_progress=False)
            ends.append("done")
        except UserError as error:
            ends.append(re.split(r"[:.] ", str(error))[0])  # The first one may not have written who it is.

    threads = [threading.Thread(target=launch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("done") >= 1
    assert set(ends) <= {"done", f"{tmp_path / 'run'} is being used by another launcher"}
    partrain.run(settings_of(), tmp_path / "quiet", small, show_progress=False)
    names = [tmp_path / name / "segments/0" / CHECKPOINT for name in ("run", "quiet")]
    assert all(map(is_finished, (path.parent for path in names)))


def test_a_trial_is_left_to_its_search_until_that_has_ended(small: Dataset, tmp_path: Path) -> None:
    trial = tmp_path / "search/configurations/3"
    checkpoint.write_json(tmp_path / "search" / SEARCH_MANIFEST, {})
    message = f"{trial} is a configuration of a search that has not ended; let {tmp_path / 'search'} end first"
    for call in (
        run_one,
        lambda small, folder: partrain.run_together({folder: settings_of()}, tmp_path / "packs", small),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            call(small, trial)
    assert not trial.exists()
    checkpoint.write_json(tmp_path / "search" / RESULTS, {})
    run_one(small, trial)


def test_packs_have_a_folder_of_their_own(small: Dataset, tmp_path: Path) -> None:
    message = f"packs={tmp_path} is the folder of a run too; choose another folder for the packs"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        partrain.run_together({tmp_path: settings_of()}, tmp_path, small)


def test_a_run_that_went_on_in_another_grouping_says_so(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(partition=PartitionSettings(segments=2), launch=Local(device="cpu", threads=1))
    results = partrain.run(replace(settings, grouping=PACKED), tmp_path, small, show_progress=False)
    assert not [warning for warning in results["warnings"] if "grouping" in warning]
    (tmp_path / "segments/1" / CHECKPOINT).unlink()  # As if it had not finished.
    results = partrain.run(settings, tmp_path, small, show_progress=False)
    assert results["warnings"][-1] == (
        "the run trained with grouping=pack, then alone: the last bits of its weights depend on when"
    )


# ---- Devices.


def test_what_follows_training_is_done_on_a_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partrain.launch.launcher.device_names", lambda: ["cpu", "cuda:0", "cuda:1"])
    places = {("auto", "cuda"): "cuda:0", ("cuda:1", "cuda"): "cuda:1", ("gpu", "xpu"): "cpu", ("cuda:1", "cpu"): "cpu"}
    for (device, kind), local in places.items():
        executor = ScriptedExecutor(slots=[Slot(kind=kind)])
        assert Launcher(Local(device=device), executor).local_device == local


FOUR = [Slot(kind="cuda")] * 4


class Enough(Exception):
    """All jobs have started."""


def packs_on_four(start: Callable[[ScriptedExecutor], object]) -> list[Job]:
    """Return the packs that `start` brings to an executor with four devices, on which nothing trains."""

    def measure(job: Job) -> End:
        checkpoint.write_json(job.folder / TIMINGS, [{"step_seconds": {}, "max_size": 99}])
        return Done()

    def enough(job: Job) -> End:
        raise Enough

    executor = ScriptedExecutor({"the trial of packs": [measure], "pack of 4": [enough] * 4}, slots=FOUR)
    with pytest.raises(Enough):
        start(executor)
    return [handle.job for handle in executor.handles if handle.job.kind == "pack"]


def test_seeds_that_run_together_are_a_pack_on_each_device(small: Dataset, tmp_path: Path) -> None:
    def start(executor: ScriptedExecutor) -> None:
        runs: dict[str | Path, RunSettings] = {
            tmp_path / str(seed): settings_of(seed=seed, grouping=PACKED) for seed in range(16)
        }
        partrain.run_together(runs, tmp_path / "packs", small, show_progress=False, executor=executor)

    packs = packs_on_four(start)
    assert [len(job.members) for job in packs] == [4, 4, 4, 4]
    assert len({member.folder for job in packs for member in job.members}) == 16
    assert all(checkpoint.read_json(tmp_path / str(seed) / "segments/0/task.json")["device"] == "cuda" for seed in "08")


def test_the_first_round_of_a_search_is_a_pack_on_each_device(small: Dataset, tmp_path: Path) -> None:
    def start(executor: ScriptedExecutor) -> None:
        search(
            settings_of(grouping=PACKED, data=HELD_OUT), SEARCH, tmp_path, small, show_progress=False, executor=executor
        )

    packs = packs_on_four(start)
    assert [len(job.members) for job in packs] == [4, 4, 4, 4]
    assert {job.resources.kind for job in packs} == {"cuda"}


def test_the_precision_is_the_one_that_all_devices_compute_in(small: Dataset, tmp_path: Path) -> None:
    def precision(*computes_bf16: bool) -> str:
        slots = [Slot(kind="cuda", computes_bf16=can) for can in computes_bf16]
        launcher = Launcher(Local(device="cpu"), ScriptedExecutor(slots=slots))
        settings = settings_of(train=replace(TRAIN, precision="auto"))
        prepared = partrain.prepare_run(settings, tmp_path / str(computes_bf16), small, launcher=launcher)
        return prepared.tasks["segments/0"].train.precision

    assert [precision(True, True), precision(True, False), precision(False)] == ["bf16", "fp32", "fp32"]


def test_a_run_that_goes_on_keeps_its_precision_and_says_where_it_moves(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(train=replace(TRAIN, precision="auto"))
    on_gpu = ScriptedExecutor(slots=[Slot(kind="cuda", computes_bf16=True)])
    launcher = Launcher(Local(device="cpu"), on_gpu)
    partrain.prepare_run(settings, tmp_path, small, launcher=launcher).write()
    on_cpu = ScriptedExecutor(slots=[Slot(kind="cpu")])
    launcher = Launcher(Local(device="cpu"), on_cpu)
    prepared = partrain.prepare_run(settings, tmp_path, small, launcher=launcher)
    assert prepared.tasks["segments/0"].train.precision == "bf16"
    prepared.write()
    prepared.report_move()
    assert capsys.readouterr().out == "This run began on cuda, and cpu trains the rest of it.\n"


def test_nothing_asks_for_free_memory_before_training_has_ended(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def has_room(device: object, num_bytes: int) -> bool:
        asked.append(is_finished(tmp_path / "segments/0"))
        return True

    monkeypatch.setattr("partrain.stitching.evaluate.has_room", has_room)
    run_one(small, tmp_path)
    assert asked == [True]


# ---- A worker that something outside stops.


def test_a_pack_of_a_search_that_is_stopped_from_outside_changes_no_promotion(
    small: Dataset, tmp_path: Path, started: list[ProcessHandle], capsys: pytest.CaptureFixture[str]
) -> None:
    """In the second round: the rung before has left checkpoints, which must not be taken for this round's."""
    settings = settings_of(
        data=HELD_OUT,
        grouping=PACKED,
        launch=Local(device="cpu", threads=1),
        train=replace(TRAIN, epochs=40, batch_size=8, checkpoint_seconds=0.05),
    )
    halving = replace(SEARCH, method="successive_halving", configurations=4, eta=2, min_epochs=10)

    def stop() -> None:
        def second_pack() -> ProcessHandle | None:
            packs = [handle for handle in started if handle.job.kind == "pack"]
            return packs[1] if len(packs) > 1 else None

        wait_until(lambda: (pack := second_pack()) is not None and (pack.job.folder / "round.json").exists(), 120)
        pack = second_pack()
        assert pack is not None
        os.kill(pack.process.pid, signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    stopped = search(settings, halving, tmp_path / "stopped", small, show_progress=False)
    thread.join()
    assert "was stopped from outside; it restarts from its checkpoint." in capsys.readouterr().out.replace("\n", " ")
    quiet = search(settings, halving, tmp_path / "quiet", small, show_progress=False)
    assert stopped["best"] == {**quiet["best"], "command": stopped["best"]["command"]}
    rungs = [sorted((tmp_path / name / "rungs").iterdir()) for name in ("stopped", "quiet")]
    scores = [[checkpoint.read_json(path)["scores"] for path in paths] for paths in rungs]
    assert scores[0] == scores[1]
