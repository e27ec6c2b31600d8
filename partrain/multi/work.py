"""Trainings that are to be done at once, whoever does them."""

from pathlib import Path

from partrain.task import SegmentTask


class Work:
    """Trainings to be done, by task folder: their tasks, `names` for people, `costs` in any unit, `pauses` if any."""

    def __init__(self) -> None:
        self.tasks: dict[Path, SegmentTask] = {}
        self.names: dict[Path, str] = {}
        self.costs: dict[Path, float] = {}
        self.pauses: dict[Path, int | None] = {}

    def add(self, folder: Path, task: SegmentTask, name: str, cost: float, pause: int | None = None) -> None:
        self.tasks[folder], self.names[folder], self.costs[folder] = task, name, cost
        self.pauses[folder] = pause
