"""What can be set of how trainings are launched."""

from dataclasses import dataclass, field

from partrain import checks
from partrain.errors import UserError
from partrain.shards.settings import ShardSettings
from partrain.storage.run_folder import PACKS, SHARDS


@dataclass(kw_only=True)
class LaunchSettings:
    """`name`: local, a process for every segment, or shards, a worker for every device (`shards`: see `ShardSettings`).

    `device`: auto, cpu, cuda or cuda:<n>. `threads`: per process, or auto.

    With a number, results are the same bits on every run; auto hands the cores of segments that have ended to those
    that still train, which is faster, and the number of threads changes the order in which floating-point sums are made.
    `pack`: whether tasks of one shape train in one process as stacks (`partrain.packs`): never, always, or auto, where a
    trial of a few steps shows that it pays. `pack_memory_gib`: what packs may take of a device; None: what is free.
    """

    name: str = "local"
    device: str = "auto"
    threads: str | int = "auto"
    max_restarts: int = 3
    pack: str = "never"
    pack_memory_gib: float | None = None
    shards: ShardSettings = field(default_factory=ShardSettings)

    @property
    def subfolder(self) -> str:
        """The name of the folder for what processes of several trainings leave."""
        return SHARDS if self.name == "shards" else PACKS

    def __post_init__(self) -> None:
        checks.one_of("launch", self.name, ("local", "shards"))
        if self.name != "shards" and self.shards != ShardSettings():
            raise UserError(f"launch.shards: launch={self.name} has none; add launch=shards, or leave it out")
        if self.name == "shards" and self.pack == "always":
            raise UserError("launch.pack=always is not for launch=shards, which packs nothing; leave it out")
        if self.threads != "auto":
            if not str(self.threads).isdigit():
                raise UserError(f"launch.threads must be a number or auto, got {self.threads}")
            self.threads = int(self.threads)
            checks.at_least("launch.threads", self.threads, 1)
        checks.at_least("launch.max_restarts", self.max_restarts, 0)
        checks.one_of("launch.pack", self.pack, ("never", "auto", "always"))
        if self.pack_memory_gib is not None:
            checks.above("launch.pack_memory_gib", self.pack_memory_gib, 0)
