"""The settings of how trainings are grouped into processes, and of where and how these processes run."""

from dataclasses import dataclass
from typing import ClassVar

from partrain import checks
from partrain.errors import UserError
from partrain.options import Option, Options
from partrain.storage.run_folder import PACKS

PROCESSES = ("auto", "fork", "fresh")
"""The values of `launch.processes`."""


@dataclass(kw_only=True)
class GroupingSettings(Option):
    """The settings of how trainings are grouped into processes."""

    group: ClassVar[str] = "grouping"

    @property
    def subfolder(self) -> str:
        """Return the name of the folder, in a run's, for the files of processes that train several trainings."""
        return PACKS


@dataclass(kw_only=True)
class LaunchSettings(Option):
    """The settings of where and how the processes of trainings run."""

    group: ClassVar[str] = "launch"

    device: str = "auto"
    """The devices to train on: cpu, gpu, one by its name in PyTorch, or auto, which takes all GPUs, or the CPU if there
    are none."""
    threads: str | int = "auto"
    """CPU threads of each process, 1 or more, or auto. With a number, results are the same to the bit in every run;
    auto divides all cores, which is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads != "auto":
            if not str(self.threads).isdigit():
                raise UserError(f"launch.threads={self.threads} is not a number. Give a number of 1 or more, or auto.")
            self.threads = int(self.threads)
            checks.at_least("launch.threads", self.threads, 1)

    @property
    def max_restarts(self) -> int:
        """Return how many times a job that is lost is started again."""
        return 0


@dataclass(kw_only=True)
class Inline(LaunchSettings):
    """The settings of trainings that run in this process, one after another."""

    name: str = "inline"
    """Where trainings run: inline runs one training after another in this process."""


@dataclass(kw_only=True)
class Local(LaunchSettings):
    """The settings of processes on this machine."""

    name: str = "local"
    """Where trainings run: local starts processes on this machine."""
    processes: str = "auto"
    """How processes start: fork takes each from one that has imported torch, fresh starts each anew, auto forks where
    that is safe."""
    max_restarts: int = 3
    """How many times a segment whose process is killed is restarted from its checkpoint, 0 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("launch.processes", self.processes, PROCESSES)
        checks.at_least("launch.max_restarts", self.max_restarts, 0)


LAUNCHERS: Options[LaunchSettings] = Options(LaunchSettings, {"local": Local, "inline": Inline})
"""The settings of each place to run."""
