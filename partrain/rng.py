"""Randomness from one seed: every consumer draws from a stream with a name of its own.

So no draw depends on what another consumer drew before it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from partrain.device import default_generator, is_cpu


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called `names`, e.g. `derive_seed(seed, "order", epoch)`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` for the stream called `names`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def seed_forward(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout and other random layers draw from on `device`.

    Unlike `torch.manual_seed`, it seeds no other device: called for every step, that would take as long as the step.
    """
    torch.default_generator.manual_seed(seed)
    if not is_cpu(device):
        default_generator(device).manual_seed(seed)


@contextmanager
def unchanged_torch(device: torch.device) -> Iterator[None]:
    """Restore the caller's random generators and number of threads at the end, which trainings in its process change.

    Args:
        device: The device that is trained on.
    """
    num_threads = torch.get_num_threads()
    used = [torch.default_generator] if is_cpu(device) else [torch.default_generator, default_generator(device)]
    states = [one.get_state() for one in used]
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        for one, state in zip(used, states, strict=True):
            one.set_state(state)
