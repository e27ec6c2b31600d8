"""The share of the time that writing checkpoints takes at the default of `train.checkpoint_seconds`.

The default network trains whole, in its two segments, and as a pack of eight. Seconds are those of a checkpoint with the
optimiser's state, synced to the disk of `--folder`; of a pack, of one round.

    python experiments/benchmarks/checkpoint_share.py
    python experiments/benchmarks/checkpoint_share.py --repetitions 3 --folder /mnt/data
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import Report, machine_facts, make_parser, seconds_of

from partrain.data import Dataset, prepare_data
from partrain.data.settings import Glyphs
from partrain.packs.pack import Pack
from partrain.partition.plan import PartitionSettings, make_plan
from partrain.runs.tasks import make_tasks
from partrain.settings import RunSettings
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import LocalContext
from partrain.training.job import Job, Member
from partrain.training.meters import PeakMemory
from partrain.training.segment import SegmentTraining

PACK_SIZE = 8
STEPS = 2  # The optimiser has its state from the first step on.


class StopAfter(LocalContext):
    """A context that requests a stop after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps_left = steps

    def should_stop(self) -> bool:
        """Return whether the steps are done, and count one more."""
        self.steps_left -= 1
        return self.steps_left < 0


def main() -> None:
    """Measure all cases, and write the report."""
    options = parse_options()
    machine, dataset = machine_facts(), prepare_data(Glyphs())
    with tempfile.TemporaryDirectory(dir=options.folder.resolve()) as name:
        folder = Path(name)
        whole = write_tasks(folder / "whole", dataset, num_segments=1)
        segments = write_tasks(folder / "segments", dataset, num_segments=2)
        rows = [make_row("whole network", [whole[0]], train_alone(whole[0]), options)]
        rows += [make_row(f"segment {n} of 2", [task], train_alone(task), options) for n, task in enumerate(segments)]
        tasks = [write_tasks(folder / str(n), dataset, num_segments=1)[0] for n in range(PACK_SIZE)]
        rows.append(make_row(f"pack of {PACK_SIZE} whole networks", tasks, train_packed(folder, tasks), options))
    largest = max(float(row["share"]) for row in rows)
    notes = [f"Largest share {largest:.2%}; the aim is 1 % at most."]
    title = "Writing checkpoints at the default of train.checkpoint_seconds"
    raw = {str(row["case"]): row["s"] for row in rows}
    Report(name="checkpoint_share", title=title, rows=rows, machine=machine, notes=notes, raw=raw).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=9)
    parser.add_argument("--folder", type=Path, default=Path("."), help="folder on the disk to write to (%(default)s)")
    return parser.parse_args()


def write_tasks(folder: Path, dataset: Dataset, *, num_segments: int) -> list[Path]:
    """Write the tasks of the default network in as many segments, and return their folders."""
    settings = RunSettings(partition=PartitionSettings(segments=num_segments))
    plan = make_plan(settings.network, (1, 28, 28), dataset.num_classes, settings.partition, settings.train.batch_size)
    tasks = make_tasks(settings, plan, dataset, "cpu")
    for name, task in tasks.items():
        task.write(folder / name)
    return [folder / name for name in tasks]


def train_alone(task: Path) -> Callable[[], object]:
    """Train the task for some steps, and return the function that writes its checkpoint."""
    training = SegmentTraining(task, StopAfter(STEPS), PeakMemory())
    training.run()
    return training.save_checkpoint


def train_packed(folder: Path, tasks: Sequence[Path]) -> Callable[[], object]:
    """Train the tasks as a pack for some steps, and return a function that writes a round of all of them."""
    members = tuple(Member(folder=task, name=task.name, stack_size=len(tasks)) for task in tasks)
    job = Job(folder=folder, kind="pack", name="the pack", members=members, options={"capacity": len(tasks)})
    pack = Pack(job, StopAfter(STEPS))
    pack.run()

    def save_round() -> None:
        for member in pack.members:
            member.training.progress.step += 1  # As after a step, so that all are written.
        pack.save_round()

    return save_round


def make_row(
    name: str, tasks: Sequence[Path], save: Callable[[], object], options: argparse.Namespace
) -> dict[str, Any]:
    """Return the table's row for a case."""
    seconds = statistics.median(seconds_of(save) for _ in range(options.repetitions))
    interval = RunSettings().train.checkpoint_seconds
    return {
        "case": name,
        "MB": sum((task / CHECKPOINT).stat().st_size for task in tasks) / 1e6,
        "s": seconds,
        "checkpoint_seconds": interval,
        "share": seconds / (interval + seconds),
    }


if __name__ == "__main__":
    main()
