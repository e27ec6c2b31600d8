"""The settings of which processes train, on which devices, and how many threads each has."""

from dataclasses import dataclass, field

from partrain import checks
from partrain.errors import UserError
from partrain.shards.settings import ShardSettings
from partrain.storage.run_folder import PACKS, SHARDS


@dataclass(kw_only=True)
class LaunchSettings:
    """The settings of how trainings are launched."""

    name: str = "local"
    """How trainings share devices: local starts a process for each, shards lets shards of all take turns on the
    devices."""
    device: str = "auto"
    """The device to train on: cpu, cuda, cuda:<n>, or auto, which takes the GPUs in turn, or the CPU if there are none."""
    threads: str | int = "auto"
    """CPU threads of each process, 1 or more, or auto. With a number, results are the same to the bit in every run;
    auto divides all cores, which is faster."""
    max_restarts: int = 3
    """How many times a segment whose process is killed is restarted from its checkpoint, 0 or more."""
    pack: str = "never"
    """Whether trainings of one shape run as one computation in one process: never, always or auto. With auto they do
    where a trial of a few steps shows that it is faster."""
    pack_memory_gib: float | None = None
    """Device memory that packs may use, in GiB, above 0. By default 0.8 of what is free."""
    shards: ShardSettings = field(default_factory=ShardSettings)
    """The settings of launch=shards."""

    @property
    def subfolder(self) -> str:
        """Return the name of the folder, in a run's, for the files of packs or shards."""
        return SHARDS if self.name == "shards" else PACKS

    def __post_init__(self) -> None:
        checks.one_of("launch", self.name, ("local", "shards"))
        if self.name != "shards" and self.shards != ShardSettings():
            raise UserError(
                f"launch.shards is set, but launch={self.name} uses no shards. "
                "Add launch=shards, or leave launch.shards out."
            )
        if self.name == "shards" and self.pack == "always":
            raise UserError(
                "launch.pack=always cannot be used with launch=shards, which packs nothing. Leave launch.pack out."
            )
        if self.threads != "auto":
            if not str(self.threads).isdigit():
                raise UserError(f"launch.threads={self.threads} is not a number. Give a number of 1 or more, or auto.")
            self.threads = int(self.threads)
            checks.at_least("launch.threads", self.threads, 1)
        checks.at_least("launch.max_restarts", self.max_restarts, 0)
        checks.one_of("launch.pack", self.pack, ("never", "auto", "always"))
        if self.pack_memory_gib is not None:
            checks.above("launch.pack_memory_gib", self.pack_memory_gib, 0)
