"""The settings of how trainings are grouped into processes, and of where and how these processes run."""

from dataclasses import dataclass, fields

from partrain import checks
from partrain.errors import UserError
from partrain.storage.run_folder import PACKS

LAUNCHERS = ("inline", "local")
"""The names of the options of `launch`."""
PROCESSES = ("auto", "fork", "fresh")
"""The values of `launch.processes`."""


@dataclass(kw_only=True)
class GroupingSettings:
    """The settings of how trainings are grouped into processes: the base of the classes of the options."""

    name: str
    """How trainings are grouped into processes: alone, pack or shards."""

    def __post_init__(self) -> None:
        own_name = next(field.default for field in fields(self) if field.name == "name")
        if self.name != own_name:
            raise UserError(
                f"grouping.name={self.name} does not fit {type(self).__name__}, whose name is {own_name}; "
                f"choose another option as grouping={self.name}"
            )

    @property
    def subfolder(self) -> str:
        """Return the name of the folder, in a run's, for the files of processes that train several trainings."""
        return PACKS


@dataclass(kw_only=True)
class LaunchSettings:
    """The settings of where and how the processes of trainings run."""

    name: str = "local"
    """Where trainings run: local starts processes on this machine, inline runs one training after another in this
    process."""
    device: str = "auto"
    """The devices to train on: cpu, gpu, one by its name in PyTorch, or auto, which takes all GPUs, or the CPU if there
    are none."""
    threads: str | int = "auto"
    """CPU threads of each process, 1 or more, or auto. With a number, results are the same to the bit in every run;
    auto divides all cores, which is faster."""
    processes: str = "auto"
    """How processes start: fork takes each from one that has imported torch, fresh starts each anew, auto forks where
    that is safe."""
    max_restarts: int = 3
    """How many times a segment whose process is killed is restarted from its checkpoint, 0 or more."""

    def __post_init__(self) -> None:
        checks.one_of("launch", self.name, LAUNCHERS)
        if self.threads != "auto":
            if not str(self.threads).isdigit():
                raise UserError(f"launch.threads={self.threads} is not a number. Give a number of 1 or more, or auto.")
            self.threads = int(self.threads)
            checks.at_least("launch.threads", self.threads, 1)
        checks.one_of("launch.processes", self.processes, PROCESSES)
        checks.at_least("launch.max_restarts", self.max_restarts, 0)
