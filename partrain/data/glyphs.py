"""EMNIST-like images drawn from fonts: the data set that needs no download.

Every image is one character of one font, sampled from its distance field through a random affine map and a smooth
random displacement, with strokes of random width. Images come in chunks, each with random streams of its own, so the
first n images are the same however many are asked for.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import features
from torch import Tensor
from torch.nn import functional

from partrain.data.fonts import FIELD_EXTENT, distance_fields, font_identity, usable_fonts
from partrain.data.source import Part, PartName
from partrain.rng import generator

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""The classes of EMNIST Balanced. A lower-case letter that is not among them belongs to the class of its upper case."""
CHARACTERS = string.digits + string.ascii_letters
NUM_IMAGES: dict[PartName, int] = {"train": 112_800, "test": 18_800}
PIXELS = 28
CHUNK = 40 * len(CLASSES)
"""Images made at a time; divides both parts."""
VERSION = 1
"""Raised with every change here or in `fonts` that changes an image."""

# How far images stray from the fonts' own glyphs; lengths in pixels. Chosen so that a linear classifier and a 6-layer
# network do about as well as on EMNIST.
ROTATION = 0.22  # radians, either way
SHEAR = 0.3  # either way
STRETCH = 0.3  # log of width against height, either way
HALF_SIZE = (8.5, 10.5)  # half the longer side of the ink
SHIFT = 1.0  # either way
BEND = 1.45  # deviation of the smooth displacement
BEND_GRID = 5  # random displacements per side of the image, interpolated in between
STROKE = (0.2, 1.1)  # added to half the width of the strokes
UNEVENNESS = 0.35  # deviation of that along the strokes
EDGE = (1.2, 2.6)  # width of the soft edge
MARGIN = 2.5  # kept free for strokes and bends


@dataclass(frozen=True)
class Glyphs:
    """The source of `data=glyphs`: the 47 classes of EMNIST Balanced, 112,800 training and 18,800 test images."""

    seed: int
    name: str = field(default="glyphs", init=False)
    split: None = field(default=None, init=False)
    classes: tuple[str, ...] = field(default=tuple(CLASSES), init=False)

    def identity(self) -> dict[str, Any]:
        """Seed, version of the recipe, fonts, and the libraries that draw, measure, sample and draw lots."""
        libraries = {name: version(name) for name in ("numpy", "pillow", "scipy", "torch")}
        libraries["freetype"] = str(features.version("freetype2"))
        return {"seed": self.seed, "version": VERSION, "fonts": font_identity(), "libraries": libraries}

    def part(self, part: PartName) -> Part:
        """The training or the test images; every class as often as any other in any prefix, give or take one."""
        labels = [_labels(self.seed, part, chunk) for chunk in range(NUM_IMAGES[part] // CHUNK)]
        return Part(torch.cat(labels).numpy(), (PIXELS, PIXELS), self._blocks(part, labels))

    def verification(self) -> tuple[bool | None, str]:
        """Not applicable: there are no files."""
        return None, ""

    def _blocks(self, part: PartName, labels: list[Tensor]) -> Iterator[npt.NDArray[np.uint8]]:
        fields, extents = _characters()
        for chunk, wanted in enumerate(labels):
            stream = generator(self.seed, "glyphs", part, chunk, "images")
            font = torch.randint(len(fields), (len(wanted),), generator=stream)
            character = _forms()[wanted, torch.randint(2, (len(wanted),), generator=stream)]
            with _one_thread():
                images = _draw(fields[font, character], extents[font, character], stream)
            yield images.numpy()


@cache
def _characters() -> tuple[Tensor, Tensor]:
    """Distance fields and half ink sizes, measured once per process."""
    return distance_fields(usable_fonts(CHARACTERS), CHARACTERS)


def _labels(seed: int, part: PartName, chunk: int) -> Tensor:
    """One random order of all classes after another: int64 [CHUNK]."""
    stream = generator(seed, "glyphs", part, chunk, "labels")
    return torch.cat([torch.randperm(len(CLASSES), generator=stream) for _ in range(CHUNK // len(CLASSES))])


def _forms() -> Tensor:
    """The two characters that stand for each class, as indices: int64 [classes, 2]; equal where there is but one."""
    forms = [(c, c if c.lower() in CLASSES else c.lower()) for c in CLASSES]
    return torch.tensor([[CHARACTERS.index(one), CHARACTERS.index(other)] for one, other in forms])


def _draw(fields: Tensor, extents: Tensor, stream: torch.Generator) -> Tensor:
    """Images uint8 [n, 28, 28] of the distance fields [n, 48, 48] of characters with half ink sizes [n, 2]."""
    matrix, size = _affine_maps(extents, stream)
    room = (PIXELS / 2 - MARGIN - _reach(matrix, extents)).clamp(0, SHIFT)
    shift = room * (2 * torch.rand(extents.shape, generator=stream) - 1)
    noise = torch.randn(len(fields), 3, BEND_GRID, BEND_GRID, generator=stream)
    noise = functional.interpolate(noise, size=(PIXELS, PIXELS), mode="bicubic", align_corners=True)

    centred = torch.arange(PIXELS) - (PIXELS - 1) / 2
    inner = 1 - (2 * centred / PIXELS) ** 4  # no displacement at the edges of the image, so that none cuts the ink off
    bend = BEND * noise[:, :2] * (inner[:, None] * inner)
    x = centred[None, None, :] + bend[:, 0] - shift[:, 0, None, None]
    y = centred[None, :, None] + bend[:, 1] - shift[:, 1, None, None]
    back = (torch.linalg.inv(matrix) / FIELD_EXTENT)[..., None, None]
    grid = torch.stack([back[:, 0, 0] * x + back[:, 0, 1] * y, back[:, 1, 0] * x + back[:, 1, 1] * y], dim=-1)
    depth = functional.grid_sample(fields[:, None], grid, padding_mode="border", align_corners=False)[:, 0]

    stroke, edge = _uniform(*STROKE, stream, len(fields)), _uniform(*EDGE, stream, len(fields))
    depth = depth * size[:, None, None] + UNEVENNESS * noise[:, 2] + stroke[:, None, None]
    ink = (0.5 + depth / edge[:, None, None]).clamp(0, 1)
    return (255 * ink).round().to(torch.uint8)


def _affine_maps(extents: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random maps from the field's units to pixels, float32 [n, 2, 2], and pixels per unit [n].

    A map is rotation, shear and stretch, scaled so that the mapped ink has the size wanted.
    """
    count = len(extents)
    angle, shear = _uniform(-ROTATION, ROTATION, stream, count), _uniform(-SHEAR, SHEAR, stream, count)
    stretch = (_uniform(-STRETCH, STRETCH, stream, count) / 2).exp()
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * stretch, (cos * shear - sin) / stretch, sin * stretch, (sin * shear + cos) / stretch]
    matrix = torch.stack(rows, dim=1).view(count, 2, 2)
    size = _uniform(*HALF_SIZE, stream, count) / _reach(matrix, extents).amax(dim=1)
    return matrix * size[:, None, None], size


def _reach(matrix: Tensor, extents: Tensor) -> Tensor:
    """Half the width and height that the mapped ink's box takes, in pixels: float32 [n, 2]."""
    return (matrix.abs() * extents[:, None, :]).sum(dim=2)


def _uniform(low: float, high: float, stream: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, generator=stream) * (high - low) + low


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work is split among threads in ways that may round differently; one thread gives the same bytes everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
