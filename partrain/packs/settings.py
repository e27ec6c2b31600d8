"""The settings of packs: trainings of one shape that run as one computation in one process."""

from dataclasses import dataclass

from partrain import checks
from partrain.launch.settings import GroupingSettings


@dataclass(kw_only=True)
class Pack(GroupingSettings):
    """The settings of packs."""

    name: str = "pack"
    """How trainings are grouped into processes: pack trains those of one shape as one computation in one process."""
    trial: bool = True
    """Whether trainings are packed only where a trial of a few steps shows that it is faster, instead of always."""
    memory_gib: float | None = None
    """Device memory that packs may use, in GiB, above 0. By default 0.8 of what is free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_gib is not None:
            checks.above("grouping.memory_gib", self.memory_gib, 0)

    @property
    def memory_bytes(self) -> int | None:
        """Return the device memory that packs may use, in bytes, or None for what is free."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)
