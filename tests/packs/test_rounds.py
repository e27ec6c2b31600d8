"""Tests that a pack ends with the same bits wherever it is killed, and never takes a training back that went further."""

import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import make_pack, settings_of
from trainings import train, weights, write_tasks

from partrain.data import Dataset
from partrain.networks import MLP, CustomNetwork
from partrain.packs.pack import Pack
from partrain.packs.stack import Stack, UnstackedTraining
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.storage.run_folder import (
    CHECKPOINT,
    ERROR_FILE,
    JOB_FILE,
    METRICS,
    PREVIOUS_CHECKPOINT,
    PROGRESS,
    ROUND_FILE,
)
from partrain.training.context import LocalContext
from partrain.training.job import Job, Member
from partrain.training.loop import Step
from partrain.training.meters import PeakMemory
from partrain.training.optimization import TrainSettings
from partrain.training.segment import SegmentTraining

FP32 = TrainSettings(epochs=2, batch_size=128, lr=0.01, precision="fp32", early_stop=0)  # 5 steps per epoch


def own(builder: str, seed: int, **train_settings: Any) -> RunSettings:
    """Return the settings of a network in `own_networks`, which is stacked with all others whose shape it has."""
    network = CustomNetwork(name=f"own_networks:{builder}")
    return settings_of(network=network, train=replace(FP32, **train_settings), seed=seed)


def small_net(seed: int, **train_settings: Any) -> RunSettings:
    """Return the settings of a network of another shape."""
    return settings_of(network=MLP(depth=2, width=8), train=replace(FP32, **train_settings), seed=seed)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A pack whose members join and leave at several moments.

    Args:
        settings: The settings of its trainings.
        pauses: The epoch after which a training pauses, by its number.
        rooms: The room that a training requires, by its number.
        capacity: How many train at once at most.
        largest_stack: The size above which a stack does not fit into memory at its fourth step. There is room again as
            soon as a round says that fewer trainings train at once.
        num_joining: How many of the last trainings join once the second one has done four steps.
    """

    settings: list[RunSettings]
    pauses: dict[int, int] = field(default_factory=dict)
    rooms: dict[int, int] = field(default_factory=dict)
    capacity: int
    largest_stack: int = 99
    num_joining: int = 0

    def run(self, root: Path) -> Pack:
        """Run the pack below `root`, begun anew or resumed, to its end."""
        folder = root / "pack"
        if not (folder / JOB_FILE).exists():
            members = tuple(self.entry(root, number) for number in range(len(self.settings) - self.num_joining))
            options = {"capacity": self.capacity}
            Job(folder=folder, kind="pack", name="the pack", members=members, options=options).write()
        pack = Pack(Job.read(folder))
        pack.context = Joining(pack, self.join_due)
        self.join_due(pack)
        assert pack.run()
        return pack

    def entry(self, root: Path, number: int) -> Member:
        """Return the entry of a training below `root`."""
        return Member(
            folder=root / f"{number}/segments/0",
            name=str(number),
            pause_after=self.pauses.get(number),
            stack_size=4,
            required_room=self.rooms.get(number, 1),
        )

    def join_due(self, pack: Pack) -> None:
        """Let the last trainings join, unless it is too early or they are in the pack."""
        steps = [member.training.progress.step for member in pack.members if "/1/" in str(member.entry.folder)]
        if steps and steps[0] >= 4:
            for number in range(len(pack.job.members), len(self.settings)):
                pack.join(pack.folder / f"../{number}/segments/0")


class Joining(LocalContext):
    """A context that calls `action` with its pack after every step."""

    def __init__(self, pack: Pack, action: Callable[[Pack], None]) -> None:
        super().__init__()
        self.pack, self.action = pack, action

    def poll(self) -> None:
        """Call the action."""
        self.action(self.pack)


SCENARIOS = {
    # 0 requires all the room, as the first of its shape. Once it has ended, 4 must not wait for it in a resumed pack.
    "ends, pauses and takes their place": Scenario(
        settings=[
            own("unlimited", 0, epochs=1),
            own("unlimited", 1, epochs=3),
            own("unlimited", 2, optimizer="sgd"),
            own("unlimited", 3),
            own("unlimited", 4, epochs=1),
        ],
        pauses={1: 2},
        rooms={0: 3},
        capacity=3,
    ),
    # Each one that fails leaves another one behind, which is stacked no more.
    "fails": Scenario(
        settings=[
            own("unlimited", 0),
            own("limited_to_2", 1),
            small_net(2, lr=1e30, optimizer="sgd"),
            small_net(3),
        ],
        capacity=4,
    ),
    # 2 waits until 0 has ended.
    "is evicted": Scenario(
        settings=[own("unlimited", 0, epochs=1), own("unlimited", 1), own("unlimited", 2)],
        capacity=3,
        largest_stack=2,
    ),
    "joins": Scenario(
        settings=[own("unlimited", 0), own("unlimited", 1, epochs=1), own("unlimited", 2, epochs=1)],
        capacity=2,
        num_joining=1,
    ),
}


@dataclass
class Kills:
    """Copies of the files below `root`, as a kill before or after each write of a training or a pack would leave them.

    Files that are only for people, and change nothing, are passed over.
    """

    root: Path
    copies: dict[str, Path] = field(default_factory=dict)
    last: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def wrap(self, write_atomic: Callable[..., None]) -> Callable[..., None]:
        """Return `write_atomic` with a copy of all files made before it and after it."""

        def write(path: Path, *arguments: Any, **options: Any) -> None:
            name = os.path.relpath(path, self.root)
            self.copy(f"before {name}")
            write_atomic(path, *arguments, **options)
            self.copy(f"after {name}")

        return write

    def copy(self, moment: str) -> None:
        """Copy all files, unless they are as they were at the last copy."""
        files = [path for path in self.root.rglob("*") if path.is_file() and path.name not in (METRICS, PROGRESS)]
        state = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
        if state != self.last and (self.root / "pack" / JOB_FILE).exists():
            target = self.root.with_name(f"{self.root.name} killed {len(self.copies)}")
            shutil.copytree(self.root, target)
            self.copies[f"{len(self.copies)} {moment}"] = target
        self.last = state


def end_of(folder: Path) -> dict[str, Any]:
    """Return all that a training has left but for times: its tensors, its progress, its pauses, and its error."""
    if (folder / ERROR_FILE).exists():
        return {"error": checkpoint.read_json(folder / ERROR_FILE)["message"]}
    assert not (folder / PREVIOUS_CHECKPOINT).exists()
    files = [folder / CHECKPOINT, *sorted((folder / "epochs").glob("*"))]
    tensors = [
        [(name, tensor.numpy().tobytes()) for name, tensor in checkpoint.load(file)[0].items()] for file in files
    ]
    progress = checkpoint.load_metadata(folder / CHECKPOINT)
    rows = [{name: row[name] for name in ("epoch", "steps", "loss", "decode_accuracy")} for row in progress["epochs"]]
    return {"tensors": tensors, "rows": rows} | {name: progress[name] for name in ("step", "end", "finished", "round")}


def ends_of(root: Path, scenario: Scenario) -> list[dict[str, Any]]:
    """Return what each training of a scenario has left."""
    return [end_of(root / f"{number}/segments/0") for number in range(len(scenario.settings))]


def imprint_company(trainings: Sequence[SegmentTraining]) -> None:
    """Change a weight of each training by a number that is made from the seeds and steps of all in its stack.

    The last bits of a training always depend on its company, but not those of every small network at every step.
    """
    company = sorted((training.task.seed, training.progress.step) for training in trainings)
    number = zlib.crc32(repr(company).encode()) / 2**32
    for training in trainings:
        next(training.model.parameters()).detach().view(-1)[0] += 1e-3 * number


@pytest.fixture
def _sensitive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step imprint its company on all that take part in it."""
    stack_step, lone_step = Stack.train_step, UnstackedTraining.train_step

    def step_together(stack: Stack, steps: Sequence[Step]) -> None:
        stack_step(stack, steps)
        imprint_company(stack.trainings)

    def step_alone(alone: UnstackedTraining, steps: Sequence[Step]) -> None:
        lone_step(alone, steps)
        imprint_company([alone.training])

    monkeypatch.setattr(Stack, "train_step", step_together)
    monkeypatch.setattr(UnstackedTraining, "train_step", step_alone)


@pytest.fixture
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("_fast_disk", "_sensitive")
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_any_write_it_goes_on_to_the_same_bits(
    small: Dataset, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, root = SCENARIOS[name], tmp_path / "quiet"
    update_metrics = Stack.update_metrics

    def short_of_memory(stack: Stack, outputs: Any, targets: Any, steps: Any) -> None:
        capacity = checkpoint.read_json(stack.trainings[0].folder / "../../../pack" / ROUND_FILE)["capacity"]
        is_large = len(stack.trainings) > scenario.largest_stack and capacity == scenario.capacity
        if is_large and steps[0].batch.step >= 3:
            raise torch.OutOfMemoryError("out of memory")
        update_metrics(stack, outputs, targets, steps)

    monkeypatch.setattr(Stack, "update_metrics", short_of_memory)
    write_tasks(root, small, scenario.settings)
    kills = Kills(root)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", kills.wrap(checkpoint.write_atomic))
        quiet = scenario.run(root)
    expected = ends_of(root, scenario)

    different = []
    for moment, folder in kills.copies.items():
        pack = scenario.run(folder)
        if ends_of(folder, scenario) != expected or pack.failures != quiet.failures:
            different.append(moment)
    assert different == []
    moments = {(moment.split()[1], Path(moment).name) for moment in kills.copies}
    assert moments > {("before", CHECKPOINT), ("after", CHECKPOINT), ("after", ROUND_FILE)}


# ---- Trainings that went further elsewhere.


class StopAfter(LocalContext):
    """A context that requests a stop once it has been polled `steps` times."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps_left = steps

    def poll(self) -> None:
        """Count a poll."""
        self.steps_left -= 1
        if self.steps_left == 0:
            self.request_stop()


def run_pack(folder: Path, members: list[Path], steps: int) -> Pack:
    """Return the pack of `members` in `folder` after it has done as many more steps."""
    pack = make_pack(folder, members)
    pack.context = StopAfter(steps)
    assert not pack.run()
    return pack


def step_of(folder: Path) -> int:
    """Return the step of the checkpoint in a training's folder."""
    return int(checkpoint.load_metadata(folder / CHECKPOINT)["step"])


class OrphanedAfter(StopAfter):
    """A context whose launcher is gone once it has been polled `steps` times."""

    def request_stop(self, *_: object) -> None:
        self.stop_seconds = 1.0
        super().request_stop()


@pytest.mark.parametrize(("bytes_per_second", "step"), [(1e8, 5), (1.0, 2)])
def test_an_orphaned_pack_that_had_resumed_writes_a_round_if_that_is_quick(
    bytes_per_second: float, step: int, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partrain.training.loop._WRITTEN_BYTES_PER_SECOND", bytes_per_second)
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    run_pack(tmp_path / "pack", folders, steps=2)
    pack = make_pack(tmp_path / "pack", folders)
    pack.context = OrphanedAfter(3)
    assert not pack.run()
    assert [member.training.progress.step for member in pack.members] == [5, 5]
    assert [step_of(folder) for folder in folders] == [step, step]


def test_rounds_are_in_the_folders_of_the_members(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    run_pack(tmp_path / "pack", folders, steps=3)
    record = checkpoint.read_json(tmp_path / "pack" / ROUND_FILE)
    assert record["members"] == {f"../{number}/segments/0": record["round"] for number in range(len(folders))}
    assert [checkpoint.load_metadata(folder / CHECKPOINT)["round"] for folder in folders] == [record["round"]] * 2
    assert [checkpoint.load_metadata(folder / PREVIOUS_CHECKPOINT)["step"] for folder in folders] == [0, 0]
    assert [path.name for path in sorted((tmp_path / "pack").iterdir())] == [JOB_FILE, ROUND_FILE]
    train(folders[0])
    assert checkpoint.load_metadata(folders[0] / CHECKPOINT)["round"] is None
    assert not (folders[0] / PREVIOUS_CHECKPOINT).exists()


def test_one_that_was_finished_alone_is_left_alone(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    run_pack(tmp_path / "pack", folders, steps=3)
    assert train(folders[0])
    before = (folders[0] / CHECKPOINT).stat()
    pack = make_pack(tmp_path / "pack", folders)
    assert [member.entry.folder for member in pack.members] == [folders[1]]
    assert pack.run()
    after = (folders[0] / CHECKPOINT).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert weights(folders[1])


def test_one_that_was_trained_alone_goes_on_from_there(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    run_pack(tmp_path / "pack", folders, steps=3)
    training = SegmentTraining(folders[0], StopAfter(1), PeakMemory())
    assert not training.run()
    assert step_of(folders[0]) == 5
    pack = make_pack(tmp_path / "pack", folders)
    assert [member.training.progress.step for member in pack.members] == [5, 3]
    assert pack.run()


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_one_that_was_trained_in_another_pack_goes_on_from_there(
    small: Dataset, tmp_path: Path, num_rounds: int
) -> None:
    """Leave the checkpoint of the first pack's round before the second's, or a number of it that the first might use."""
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1), small_net(2)])
    run_pack(tmp_path / "first", folders[:2], steps=3)
    for _ in range(num_rounds):
        run_pack(tmp_path / "second", folders[1:], steps=2)
    assert checkpoint.load_metadata(folders[1] / PREVIOUS_CHECKPOINT)["step"] == 1 + 2 * num_rounds
    pack = make_pack(tmp_path / "first", folders[:2])
    assert [member.training.progress.step for member in pack.members] == [3, 3 + 2 * num_rounds]
    assert make_pack(tmp_path / "second", folders[1:]).run()
    assert make_pack(tmp_path / "first", folders[:2]).run()


def test_one_whose_pack_was_killed_while_it_wrote_goes_on_alone(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0), small_net(1)])
    run_pack(tmp_path / "pack", folders, steps=3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run_pack(tmp_path / "pack", folders, steps=2)
    assert not (folders[0] / CHECKPOINT).exists()
    assert SegmentTraining(folders[0], LocalContext(), PeakMemory()).progress.step == 3
    assert step_of(folders[0]) == 3


# ---- When rounds are written.


def test_the_smallest_checkpoint_seconds_of_the_members_hold(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes one second here, so that a round follows every fourth step, whatever the epochs are."""
    settings = [small_net(0, checkpoint_seconds=60), small_net(1, checkpoint_seconds=3.5)]
    pack = make_pack(tmp_path / "pack", write_tasks(tmp_path, small, settings))
    now, steps = [0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def poll() -> None:
        now[0] += 1

    commit_round = Pack.commit_round

    def noted(self: Pack, failed: dict[str, Any]) -> None:
        steps.append([member.training.progress.step for member in self.members])
        commit_round(self, failed)

    pack.context.poll = poll  # type: ignore[method-assign]
    monkeypatch.setattr(Pack, "commit_round", noted)
    assert pack.run()
    written = [counts for number, counts in enumerate(steps) if counts and counts not in steps[:number]]
    assert written == [[0, 0], [4, 4], [8, 8], [10, 10]]


def test_a_damaged_record_is_named(small: Dataset, tmp_path: Path) -> None:
    folders = write_tasks(tmp_path, small, [small_net(0)])
    path = tmp_path / "pack" / ROUND_FILE
    for text in ("nothing", "{}", "[]"):
        checkpoint.write_text(path, text)
        with pytest.raises(checkpoint.DamagedFile, match=rf"^{path} is damaged \(.*; delete it to have it made anew$"):
            make_pack(tmp_path / "pack", folders)
