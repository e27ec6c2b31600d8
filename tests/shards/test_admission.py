"""Tests of models that are to join: each is prepared in steps, and trained by the run that is under way, or refused."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from sharding import TIGHT, make_preparer, settings_of
from trainings import difference, train, write_tasks

from partrain.data import Dataset
from partrain.errors import UserError
from partrain.networks import MLP
from partrain.shards.admission import Admission, CandidateQueue
from partrain.shards.driver import ShardedTraining
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.profiler import profile_step
from partrain.shards.settings import Shards
from partrain.shards.trials import Trial
from partrain.shards.view import TrainingView
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import LocalContext

SHARD_SETTINGS = Shards(budget_gib=TIGHT)


def add_in_a_thread(training: ShardedTraining, task: Path) -> list[str]:
    """Add a task from another thread, and return the message of the error, if there is one."""
    messages = []

    def add() -> None:
        try:
            training.add(task)
        except UserError as error:
            messages.append(str(error))

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    return messages


def test_one_that_comes_just_before_the_end_is_trained_and_one_just_after_is_refused(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add a model just before the last look at the queue, one just after it, and one while the page is written."""
    settings = [settings_of(seed=n) for n in range(4)]
    alone = write_tasks(tmp_path / "alone", small, settings[:2])
    for task in alone:
        train(task)
    folders = write_tasks(tmp_path / "sharded", small, settings)
    training = ShardedTraining(["cpu"], tmp_path / "shards", SHARD_SETTINGS, show_progress=False)
    close_if_empty, write_page = CandidateQueue.close_if_empty, TrainingView.write_page
    before: list[list[str]] = []
    after: list[list[str]] = []

    def close_between(self: CandidateQueue) -> bool:
        if not before:
            before.append(add_in_a_thread(training, folders[1]))
        has_closed = close_if_empty(self)
        if has_closed:
            after.append(add_in_a_thread(training, folders[2]))
        return has_closed

    def write_between(self: TrainingView) -> None:
        after.append(add_in_a_thread(training, folders[3]))
        write_page(self)

    monkeypatch.setattr(CandidateQueue, "close_if_empty", close_between)
    monkeypatch.setattr(TrainingView, "write_page", write_between)
    training.add(folders[0])
    training.run()
    assert before == [[]]
    assert after == [[f"{folder}: this sharded training has ended; make a new one"] for folder in folders[2:]]
    assert difference(folders[:2], alone) == 0
    assert [(folder / CHECKPOINT).exists() for folder in folders] == [True, True, False, False]
    assert add_in_a_thread(training, folders[2]) == []  # It waits for another call of `run`.


class _MeetingSet(set[Path]):
    """A set in which two threads that look something up wait for one another, for as long as they may be two."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)

    def __contains__(self, folder: object) -> bool:
        is_in = super().__contains__(folder)
        with suppress(threading.BrokenBarrierError):
            self._barrier.wait(1.0)
        return is_in


def test_of_two_threads_that_add_the_same_folder_one_is_refused(small: Dataset, tmp_path: Path) -> None:
    (task,) = write_tasks(tmp_path, small, [settings_of()])
    candidates = CandidateQueue(tmp_path / "shards", {})
    candidates._admitted = _MeetingSet()
    messages = []

    def add() -> None:
        try:
            candidates.add(task, None, None)
        except UserError as error:
            messages.append(str(error))

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages == [f"{task} is being trained already; give every task once"]
    assert [candidate.folder for candidate in candidates.take_all()] == [task]


def test_a_model_that_failed_and_is_added_again_is_no_failure_from_then_on(small: Dataset, tmp_path: Path) -> None:
    (task,) = write_tasks(tmp_path, small, [settings_of()])
    failures = {task: "the loss is nan"}
    candidates = CandidateQueue(tmp_path / "shards", failures)
    candidates.add(task, None, None)
    assert failures == {}


def test_a_model_that_could_not_be_prepared_may_be_added_again(small: Dataset, tmp_path: Path) -> None:
    (task,) = write_tasks(tmp_path / "tasks", small, [settings_of()])
    training = ShardedTraining(["cpu"], tmp_path / "shards", Shards(budget_gib=1e-4), show_progress=False)
    for _ in range(2):
        training.add(task)
        with pytest.raises(UserError, match=r"layer linear0 needs "):
            training.run()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostMemory]:
    with closing(HostMemory(tmp_path, on_disk=True)) as memory:
        yield memory


def files_in(host: HostMemory) -> set[Path]:
    """Return the shards and crossings in host memory."""
    return {path for folder in host.folders for path in folder.iterdir() if path.name != "lock"}


def begin_two(small: Dataset, folder: Path, host: HostMemory) -> Admission:
    """Return the admission of two models of different shapes, whose preparation may begin."""
    settings = [settings_of(network=MLP(depth=depth, width=32)) for depth in (4, 5)]
    candidates = CandidateQueue(folder / "shards", {})
    for task in write_tasks(folder / "tasks", small, settings):
        candidates.add(task, None, None)
    admission = Admission(candidates, LocalContext(), make_preparer(SHARD_SETTINGS, host))
    admission.begin_added()
    return admission


def compute(trial: Trial) -> None:
    """Compute a trial in this process."""
    trial.outcome = profile_step(trial.spec, device=torch.device("cpu"), uses_separate_buffers=False)


def begin_trial(admission: Admission, host: HostMemory) -> Trial:
    """Go on until a trial is needed, and return it. Nothing goes on without its outcome, nor is its model's copy lost."""
    assert admission.next_prepared() is None
    trial = admission.trial
    assert trial is not None
    assert not admission.can_continue
    assert admission.next_prepared() is None
    assert admission.trial is trial
    assert {shard.file for shard in trial.spec.shards} == files_in(host)
    assert not admission.close_if_idle()
    return trial


def test_a_model_is_prepared_in_steps_between_which_it_waits_for_its_trials(
    small: Dataset, tmp_path: Path, host: HostMemory
) -> None:
    """Let a device run out of memory, so that a second trial follows of other cuts, which fit."""
    admission = begin_two(small, tmp_path, host)
    trial = begin_trial(admission, host)
    trial.outcome = torch.OutOfMemoryError("CUDA out of memory")
    assert admission.can_continue
    second = begin_trial(admission, host)
    assert second.spec.shards[0].layout.num_bytes < trial.spec.shards[0].layout.num_bytes
    compute(second)
    ended = admission.next_prepared()
    assert ended is not None
    candidate, model = ended
    assert isinstance(model, HostModel)
    assert (candidate.folder, len(model.spec.shards)) == (second.spec.folder, len(second.spec.shards))
    assert set(model.files()) == files_in(host)
    assert admission.is_busy  # The next one's turn has come.


def test_a_preparation_that_fails_or_is_abandoned_leaves_nothing(
    small: Dataset, tmp_path: Path, host: HostMemory
) -> None:
    """Let the first model's trial fail, and end the training during the second one's."""
    admission = begin_two(small, tmp_path, host)
    trial = begin_trial(admission, host)
    trial.outcome = error = RuntimeError("no coffee")
    ended = admission.next_prepared()
    assert ended is not None
    assert (ended[0].folder, ended[1]) == (trial.spec.folder, error)
    assert files_in(host) == set()
    assert begin_trial(admission, host).spec.folder != trial.spec.folder
    admission.close()
    assert files_in(host) == set()
    assert not admission.is_busy
    assert admission.trial is None


def test_a_trial_is_sent_until_it_is_answered(small: Dataset, tmp_path: Path, host: HostMemory) -> None:
    admission = begin_two(small, tmp_path, host)
    trial = begin_trial(admission, host)
    assert trial.is_to_be_sent
    trial.is_sent = True
    assert not trial.is_to_be_sent
    trial.is_sent = False  # The worker is lost.
    assert trial.is_to_be_sent
    compute(trial)
    assert not trial.is_to_be_sent
