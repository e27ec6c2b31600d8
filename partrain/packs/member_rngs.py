"""Random numbers for layers that draw some while they compute: every training has a stream of its own.

A training alone seeds torch's own generator before every step (`Loop.step`). Where several train in one step, each has a
generator that is seeded the same, and draws from it, or from torch's own one standing in for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from partrain.device import default_generator


class MemberRngs:
    """`generators`, one for each of `count` trainings on `device`."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.generators = [torch.Generator(device) for _ in range(count)]
        self._default = default_generator(device)

    def seed(self, seeds: Sequence[int]) -> None:
        """Begin a step: each training's stream from its seed."""
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(seed)

    @contextmanager
    def standing_in(self, number: int) -> Iterator[None]:
        """Within it torch's own generator is that of training `number`."""
        generator = self.generators[number]
        self._default.set_state(generator.get_state())
        yield
        generator.set_state(self._default.get_state())
