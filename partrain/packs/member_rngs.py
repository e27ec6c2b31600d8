"""Random numbers for layers that draw some while they compute: every training of a stack has its own generator.

A training alone seeds PyTorch's default generator before every step (`Loop.train_step`). Where several train in one step,
each has a generator with the same seed. A layer draws from it, or from the default generator set to its state.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from partrain.device import default_generator


class MemberRngs:
    """A random generator on `device` for each of `count` trainings.

    Attributes:
        generators: The generators, in the order of the trainings.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.generators = [torch.Generator(device) for _ in range(count)]
        self._default = default_generator(device)

    def seed(self, seeds: Sequence[int]) -> None:
        """Seed each training's generator, at the beginning of a step."""
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(seed)

    @contextmanager
    def as_default(self, number: int) -> Iterator[None]:
        """Let PyTorch's default generator continue the random numbers of training `number` within the context."""
        generator = self.generators[number]
        self._default.set_state(generator.get_state())
        yield
        generator.set_state(self._default.get_state())
