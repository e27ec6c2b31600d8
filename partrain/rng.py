"""Randomness from one seed: every consumer names its stream, so that none depends on what another drew before it."""

import hashlib

import torch

from partrain.device import default_generator, is_gpu


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, e.g. `derive(seed, "shuffle", epoch)`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for the stream called `names`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def seed_forward(seed: int, device: torch.device) -> None:
    """Seed what dropout and the like draw from on `device`: `torch.manual_seed` for each step would take as long as it."""
    torch.default_generator.manual_seed(seed)
    if is_gpu(device):
        default_generator(device).manual_seed(seed)
