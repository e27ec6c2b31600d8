"""Tests of the supervisor on an executor whose jobs end as a script says: no process is started."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from executors import ScriptedExecutor, ScriptedHandle
from rich.console import Console

from partrain.errors import JobFailed, UserError
from partrain.launch.display import Display
from partrain.launch.end import Done, End, Failed, Lost, Stopped, training_end
from partrain.launch.error_report import ErrorReport, read_error_report, write_error_report
from partrain.launch.supervisor import Supervisor
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, ERROR_FILE, JOB_FILE, TASK_FILE, epoch_weights
from partrain.training.job import Job, Member

KILLED = Lost("was killed by SIGKILL")


def job_of(folder: Path, name: str, cost: float = 1.0, gang: str | None = None, waits_for: Sequence[Path] = ()) -> Job:
    """Return a job of one training, in a folder of its name."""
    own = folder / name.replace(" ", "")
    return Job(
        folder=own,
        kind="segment",
        name=name,
        members=(Member(folder=own, name=name),),
        cost=cost,
        gang=gang,
        waits_for=tuple(waits_for),
    )


def finish(job: Job) -> End:
    """End a job as a training that has finished does."""
    for member in job.members:
        checkpoint.save(member.folder / CHECKPOINT, {}, {"finished": True})
    return Done()


def fail(job: Job) -> End:
    """End a job as a training that has failed does."""
    write_error_report(job.folder, UserError("the loss is nan"))
    report = read_error_report(job.folder)
    assert report is not None
    return Failed(report)


class Run:
    """A supervision that has ended: what was started, what was printed, and which trainings failed."""

    def __init__(self, jobs: Sequence[Job], executor: ScriptedExecutor, max_restarts: int = 3) -> None:
        output = io.StringIO()
        trainings = [(member.folder, member.name) for job in jobs for member in job.members]
        display = Display(trainings, show_progress=False, output=Console(file=output, width=200))
        supervisor = Supervisor(jobs, executor, display, max_restarts=max_restarts, poll_seconds=0)
        supervisor.run()
        self.failures = [str(failure) for failure in supervisor.failures]
        self.lines = output.getvalue().splitlines()
        self.starts = [event.removeprefix("start ") for event in executor.events if event.startswith("start")]


def test_jobs_start_by_cost_as_there_is_room_and_a_lost_one_first(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, name, cost) for name, cost in (("a", 1.0), ("b", 3.0), ("c", 2.0))]
    executor = ScriptedExecutor({"a": [finish], "b": [KILLED, finish], "c": [finish]}, room=1)
    run = Run(jobs, executor)
    assert run.starts == ["b", "b", "c", "a"]
    assert run.lines == ["B was killed by SIGKILL; it restarts from its checkpoint."]
    assert not run.failures
    shares = [event for event in executor.events if event.startswith("share")]
    assert shares == ["share b", "share ", "share b", "share ", "share c", "share ", "share a", "share "]


def test_a_job_lost_too_often_fails_and_the_others_finish(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, "segment 0"), job_of(tmp_path, "segment 1")]
    executor = ScriptedExecutor({"segment 0": [KILLED, KILLED], "segment 1": [finish]}, room=1)
    run = Run(jobs, executor, max_restarts=1)
    log = tmp_path / "segment0/log.txt"
    assert run.failures == [f"Segment 0 was killed by SIGKILL, after 1 restart; see {log}"]
    assert run.lines[-1] == "Segment 0 failed; the others continue."
    assert run.starts == ["segment 0", "segment 0", "segment 1"]


def test_a_lost_node_does_not_count_as_a_restart(tmp_path: Path) -> None:
    node = Lost("lost its node", counts=False)
    run = Run([job_of(tmp_path, "a")], ScriptedExecutor({"a": [node, node, KILLED, node, finish]}), max_restarts=1)
    assert run.starts == ["a"] * 5
    assert not run.failures


def test_a_job_that_nobody_asked_to_stop_is_lost(tmp_path: Path) -> None:
    run = Run([job_of(tmp_path, "a")], ScriptedExecutor({"a": [Stopped(), finish]}))
    assert run.starts == ["a", "a"]
    assert run.lines == ["A was stopped from outside; it restarts from its checkpoint."]
    run = Run([job_of(tmp_path, "b")], ScriptedExecutor({"b": [Stopped()]}), max_restarts=0)
    assert run.failures == [f"B was stopped from outside; see {tmp_path / 'b/log.txt'}"]


def test_a_job_lost_after_its_training_had_finished_is_done(tmp_path: Path) -> None:
    def finish_and_die(job: Job) -> End:
        finish(job)
        return KILLED

    run = Run([job_of(tmp_path, "a")], ScriptedExecutor({"a": [finish_and_die]}))
    assert (run.starts, run.failures, run.lines) == (["a"], [], [])


def test_a_pause_is_no_failure(tmp_path: Path) -> None:
    def pause(job: Job) -> End:
        checkpoint.save(job.folder / CHECKPOINT, {}, {"finished": False})
        checkpoint.save(epoch_weights(job.folder, 2), {}, {})
        return Stopped()

    jobs = [job_of(tmp_path, "a"), job_of(tmp_path, "b")]
    jobs[0] = replace(jobs[0], members=(replace(jobs[0].members[0], pause_after=2),))
    run = Run(jobs, ScriptedExecutor({"a": [pause], "b": [finish]}, room=1))
    assert (run.starts, run.failures, run.lines) == (["a", "b"], [], [])


def test_a_finished_training_whose_outputs_another_waits_for_is_not_done_without_them(tmp_path: Path) -> None:
    job = job_of(tmp_path, "segment 0")
    stored = tmp_path / "boundaries/0.safetensors"

    def finish_and_die(job: Job) -> End:
        checkpoint.write_json(job.folder / TASK_FILE, {"stored_output": "../boundaries/0.safetensors"})
        finish(job)
        return KILLED

    def store(job: Job) -> End:
        checkpoint.save(stored, {}, {})
        return Done()

    run = Run([job], ScriptedExecutor({"segment 0": [finish_and_die, store]}))
    assert run.starts == ["segment 0", "segment 0"]
    assert not run.failures
    stored.unlink()
    assert training_end(job.members[0]) is None


def test_a_job_that_ends_without_its_training_is_a_failure(tmp_path: Path) -> None:
    run = Run([job_of(tmp_path, "a")], ScriptedExecutor({"a": [Done()]}))
    assert run.failures == [f"A ended, but not its training; see {tmp_path / 'a/log.txt'}"]


def test_a_failure_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    run = Run([job_of(tmp_path, "segment 0")], ScriptedExecutor({"segment 0": [fail]}))
    assert run.starts == ["segment 0"]
    assert run.failures == ["Segment 0: the loss is nan"]
    assert run.lines == []  # There are no others.


def test_members_of_one_job_end_each_in_their_own_way(tmp_path: Path) -> None:
    members = tuple(
        Member(folder=tmp_path / str(number), name=f"training {number}", pause_after=pause)
        for number, pause in enumerate((None, 2, None, None))
    )
    pack = Job(folder=tmp_path / "pack", kind="pack", name="pack of 4", members=members)

    def end(job: Job) -> End:
        checkpoint.save(members[0].folder / CHECKPOINT, {}, {"finished": True})
        checkpoint.save(members[1].folder / CHECKPOINT, {}, {"finished": False})
        checkpoint.save(epoch_weights(members[1].folder, 2), {}, {})
        write_error_report(members[2].folder, UserError("no coffee"))
        return KILLED

    assert [training_end(member) for member in members] == [None] * 4
    run = Run([pack], ScriptedExecutor({"pack of 4": [end]}), max_restarts=0)
    assert run.failures == [
        "Training 2: no coffee",
        f"Pack of 4 was killed by SIGKILL; see {tmp_path / 'pack/log.txt'}",
    ]
    ends = [training_end(member) for member in members]
    assert ends[0] == ends[1] == Done()
    assert isinstance(ends[2], Failed)
    assert ends[3] is None


def test_reports_of_earlier_starts_are_gone_and_those_of_lost_attempts_stay(tmp_path: Path) -> None:
    members = tuple(Member(folder=tmp_path / str(number), name=f"training {number}") for number in range(2))
    pack = Job(folder=tmp_path / "pack", kind="pack", name="pack of 2", members=members)
    for folder in (pack.folder, members[0].folder):
        write_error_report(folder, UserError("the disk was full"))
    found: list[bool] = []

    def lose(job: Job) -> End:
        found.append(any((folder / ERROR_FILE).exists() for folder in (pack.folder, members[0].folder)))
        write_error_report(members[0].folder, UserError("no coffee"))
        (members[1].folder / ".checkpoint.safetensors.host-1-ab.partial").write_bytes(b"half")
        return KILLED

    def end(job: Job) -> End:
        found.append(bool(list(members[1].folder.glob(".*"))))
        checkpoint.save(members[1].folder / CHECKPOINT, {}, {"finished": True})
        return Done()

    members[1].folder.mkdir()
    run = Run([pack], ScriptedExecutor({"pack of 2": [lose, end]}))
    assert found == [False, False]
    assert run.failures == ["Training 0: no coffee"]


# ---- Gangs.


def peer_lost(job: Job) -> End:
    """End a rank as one that has lost a peer."""
    report = ErrorReport(type="PeerLost", message=f"{job.name} lost its peers", clear=True, traceback="")
    checkpoint.write_json(job.folder / ERROR_FILE, vars(report))
    return Failed(report)


def test_a_gang_is_started_again_when_one_of_it_is_lost_and_named_for_its_cause(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, f"process {rank}", gang="ranks") for rank in range(2)]
    scripts = {"process 0": [peer_lost, finish], "process 1": [KILLED, finish]}
    run = Run(jobs, ScriptedExecutor(scripts, room=1))
    assert run.starts == ["process 0", "process 1"] * 2
    assert run.lines == ["Process 1 was killed by SIGKILL; it restarts from its checkpoint."]
    assert not run.failures


def test_the_cause_of_a_gangs_failure_is_named_and_never_one_that_lost_a_peer(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, f"process {rank}", gang="ranks") for rank in range(3)]
    scripts = {"process 0": [peer_lost], "process 1": [peer_lost], "process 2": [fail]}
    run = Run(jobs, ScriptedExecutor(scripts))
    assert run.failures == ["Process 2: the loss is nan. The other processes of its group were stopped."]
    aborted = Lost("was killed by SIGABRT")
    scripts = {"process 0": [peer_lost], "process 1": [aborted], "process 2": [KILLED]}
    run = Run(jobs, ScriptedExecutor(scripts), max_restarts=0)
    log = tmp_path / "process2/log.txt"
    assert run.failures == [
        f"Process 2 was killed by SIGKILL; see {log}. The other processes of its group were stopped."
    ]


def test_a_gang_that_has_finished_is_done_however_its_processes_end(tmp_path: Path) -> None:
    def finish_and_abort(job: Job) -> End:
        finish(job)
        return Lost("was killed by SIGABRT")

    jobs = [job_of(tmp_path, f"process {rank}", gang="ranks") for rank in range(2)]
    run = Run(jobs, ScriptedExecutor({"process 0": [finish_and_abort], "process 1": [finish]}))
    assert (run.starts, run.failures, run.lines) == (["process 0", "process 1"], [], [])


def test_a_gang_that_failed_is_named_by_the_process_that_did(tmp_path: Path) -> None:
    gang = [job_of(tmp_path, f"process {rank}", gang="ranks", cost=9.0) for rank in range(2)]
    executor = ScriptedExecutor({"process 0": [peer_lost], "process 1": [fail], "segment": [finish]})
    run = Run([*gang, job_of(tmp_path, "segment")], executor)
    assert run.lines == ["Process 1 failed; the others continue."]


def test_a_group_in_which_all_have_lost_their_peers_names_none(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, f"process {rank}", gang="ranks") for rank in range(2)]
    run = Run(jobs, ScriptedExecutor({"process 0": [peer_lost], "process 1": [peer_lost]}))
    assert run.failures == ["The group: process 0 lost its peers. The other processes of its group were stopped."]


def test_an_exception_within_a_start_stops_what_has_started(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, f"process {rank}", gang="ranks") for rank in range(2)]
    executor = ScriptedExecutor({"process 0": []})
    start = executor.start

    def fail_at_the_second(job: Job) -> ScriptedHandle | None:
        if job.name == "process 1":
            raise OSError("no more processes")
        return start(job)

    executor.start = fail_at_the_second  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no more processes"):
        Run(jobs, executor)
    assert executor.events == ["start process 0", "stop process 0"]


def test_a_damaged_checkpoint_ends_its_own_training_alone(tmp_path: Path) -> None:
    def damage(job: Job) -> End:
        (job.folder / CHECKPOINT).write_bytes(b"no header")
        return fail(job)

    jobs = [job_of(tmp_path, "segment 0"), job_of(tmp_path, "segment 1")]
    run = Run(jobs, ScriptedExecutor({"segment 0": [damage], "segment 1": [finish]}))
    assert run.failures == ["Segment 0: the loss is nan"]


def test_a_process_that_waits_for_a_failed_peer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partrain.launch.launch._GRACE_SECONDS", 0.0)
    jobs = [job_of(tmp_path, f"process {rank}", gang="ranks") for rank in range(2)]
    executor = ScriptedExecutor({"process 0": [fail], "process 1": []})
    run = Run(jobs, executor)
    assert "kill process 1" in executor.events
    assert run.failures == ["Process 0: the loss is nan. The other processes of its group were stopped."]


# ---- Files, and the end from outside.


def test_files_are_sent_when_they_appear_or_change(tmp_path: Path) -> None:
    left = tmp_path / "left.safetensors"
    job = job_of(tmp_path, "a", waits_for=[left])
    executor = ScriptedExecutor({"a": [finish]})
    supervisor = Supervisor([job], executor, Display([], show_progress=False), poll_seconds=0)
    supervisor.start_waiting()
    launch, handle = supervisor.running[0], executor.handles[0]
    launch.follow_files()
    assert handle.sent == []
    left.write_bytes(b"weights")
    launch.follow_files()
    launch.follow_files()
    assert handle.sent == [left]
    joining = Member(folder=tmp_path / "b", name="b")
    replace(job, members=(*job.members, joining)).write()
    assert launch.follow_files() == [joining]
    assert handle.sent == [left, job.folder / JOB_FILE]
    assert launch.follow_files() == []


def test_a_training_that_joins_is_trained_even_if_the_job_ends_before_it_sees_it(tmp_path: Path) -> None:
    members = tuple(Member(folder=tmp_path / str(number), name=f"training {number}") for number in range(2))
    pack = Job(folder=tmp_path / "pack", kind="pack", name="pack", members=members[:1])

    def end_while_one_joins(job: Job) -> End:
        replace(job, members=members).write()
        checkpoint.save(members[0].folder / CHECKPOINT, {}, {"finished": True})
        return Done()

    def end(job: Job) -> End:
        assert job.members == members
        checkpoint.save(members[1].folder / CHECKPOINT, {}, {"finished": True})
        return Done()

    run = Run([pack], ScriptedExecutor({"pack": [end_while_one_joins, end]}), max_restarts=0)
    assert run.starts == ["pack", "pack"]
    assert run.failures == []
    assert run.lines == ["Pack ended before it saw a training that joined; it restarts from its checkpoint."]


def test_a_training_that_joins_between_two_attempts_is_not_overlooked(tmp_path: Path) -> None:
    members = tuple(Member(folder=tmp_path / str(number), name=f"training {number}") for number in range(2))
    pack = Job(folder=tmp_path / "pack", kind="pack", name="pack", members=members[:1])
    executor = ScriptedExecutor()
    start = executor.start

    def join_and_start(job: Job) -> ScriptedHandle | None:
        if "start pack" in executor.events:
            replace(pack, members=members).write()
        return start(job)

    def fail_the_second(job: Job) -> End:
        checkpoint.save(members[0].folder / CHECKPOINT, {}, {"finished": True})
        write_error_report(members[1].folder, UserError("no coffee"))
        return Done()

    executor.scripts = {"pack": [KILLED, fail_the_second]}
    executor.start = join_and_start  # type: ignore[method-assign]
    assert Run([pack], executor).failures == ["Training 1: no coffee"]


def test_a_second_interrupt_kills_what_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ScriptedExecutor({"a": []})

    def interrupt(handle: ScriptedHandle) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScriptedHandle, "stop", interrupt)
    supervisor = Supervisor([job_of(tmp_path, "a")], executor, Display([], show_progress=False), poll_seconds=0)
    supervisor.start_waiting()
    with pytest.raises(KeyboardInterrupt):
        supervisor.stop_all()
    assert executor.events[-1] == "kill a"


def test_an_interrupt_stops_what_runs_and_kills_what_does_not_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partrain.launch.supervisor._STOP_SECONDS", 0.0)
    jobs = [job_of(tmp_path, name) for name in ("a", "b", "c")]
    executor = ScriptedExecutor({"a": [finish], "b": [], "c": []}, room=2)

    class Interrupted(Display):
        def finish(self, folder: Path) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        handle_stop = type(executor.start(job_of(tmp_path, "unused"))).stop
        executor.handles.clear()
        executor.events.clear()
        patch.setattr(
            "executors.ScriptedHandle.stop", lambda handle: handle_stop(handle) if handle.job.name != "b" else None
        )
        with pytest.raises(KeyboardInterrupt):
            Supervisor(jobs, executor, Interrupted([(job.folder, job.name) for job in jobs]), poll_seconds=0).run()
    assert [event for event in executor.events if event.startswith(("stop", "kill"))] == ["kill b"]


def test_failures_are_one_error(tmp_path: Path) -> None:
    from partrain.launch.error_report import raise_failures

    with pytest.raises(JobFailed) as caught:
        raise_failures([JobFailed("b", is_user_error=True), JobFailed("a", is_user_error=True)])
    assert str(caught.value) == "a\nb"
