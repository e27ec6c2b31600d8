"""A call of a function of this package, as a process of its own does it."""

from collections.abc import Sequence
from dataclasses import dataclass

from partrain.launch.allocator import AllocatorLimits
from partrain.launch.environment import process_environment


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of `main(arguments)` of a module, which a process does and ends with the exit code that it returns."""

    module: str
    arguments: Sequence[str]
    preload: str
    """The module of this package that has most of its imports, so that a forked process has done them."""
    allocator: AllocatorLimits
    """The limits of the process's allocator."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the process."""
        return {**self.allocator.environment, **process_environment()}
