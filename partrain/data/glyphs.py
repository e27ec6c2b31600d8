"""The source of `data=glyphs`: images like EMNIST's, drawn from fonts, so that nothing needs to be downloaded.

Each image is one character of one font. Its distance field is sampled through a random affine map and a smooth random
displacement, and its strokes have random width. Images are made in chunks with random numbers of their own, so the
first n images are the same for every limit.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from PIL import features
from torch import Tensor
from torch.nn import functional

from partrain.data.fonts import FIELD_EXTENT, distance_fields, font_identity, usable_fonts
from partrain.data.source import PartName, SourcePart, UInt8Array, Verification
from partrain.rng import generator

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""The classes of EMNIST Balanced. A lower-case letter that is not among them belongs to the class of its upper case."""
CHARACTERS = string.digits + string.ascii_letters
"""The characters that are drawn."""
NUM_IMAGES: dict[PartName, int] = {"train": 112_800, "test": 18_800}
"""Number of images in each part."""
PIXELS = 28
"""Height and width of an image."""
CHUNK = 40 * len(CLASSES)
"""Images made at a time. It divides the number of images in both parts."""
VERSION = 1
"""Version of the images. It is raised with every change here or in `fonts` that changes an image."""

# How far images differ from the fonts' own glyphs, with lengths in pixels. Chosen so that a linear classifier and a
# 6-layer network are about as accurate as on EMNIST.
ROTATION = 0.22  # radians, in either direction
SHEAR = 0.3  # in either direction
STRETCH = 0.3  # log of width over height, in either direction
HALF_SIZE = (8.5, 10.5)  # half the longer side of the ink
SHIFT = 1.0  # in either direction
BEND = 1.45  # standard deviation of the smooth displacement
BEND_GRID = 5  # random displacements along each side of the image, interpolated in between
STROKE = (0.2, 1.1)  # added to half the width of the strokes
UNEVENNESS = 0.35  # standard deviation of that along the strokes
EDGE = (1.2, 2.6)  # width of the soft edge
MARGIN = 2.5  # kept free for strokes and bends


@dataclass(frozen=True)
class GlyphSource:
    """The source of `data=glyphs`: the 47 classes of EMNIST Balanced, 112,800 training and 18,800 test images."""

    seed: int
    name: str = field(default="glyphs", init=False)
    split: None = field(default=None, init=False)
    classes: tuple[str, ...] = field(default=tuple(CLASSES), init=False)

    def identity(self) -> dict[str, Any]:
        """Return the seed, the version, the fonts and the versions of the libraries that images depend on."""
        libraries = {name: version(name) for name in ("numpy", "pillow", "scipy", "torch")}
        libraries["freetype"] = str(features.version("freetype2"))
        return {"seed": self.seed, "version": VERSION, "fonts": font_identity(), "libraries": libraries}

    def open_part(self, part: PartName) -> SourcePart:
        """Return the training or the test images. In the first n of them all classes are equally frequent, within 1."""
        labels = [_chunk_labels(self.seed, part, chunk) for chunk in range(NUM_IMAGES[part] // CHUNK)]
        return SourcePart(torch.cat(labels).numpy(), (PIXELS, PIXELS), self._blocks(part, labels))

    def verify(self) -> Verification:
        """Return an empty result, since there are no published files."""
        return Verification(is_verified=None, note="")

    def _blocks(self, part: PartName, chunks: list[Tensor]) -> Iterator[UInt8Array]:
        """Yield the images [CHUNK, 28, 28] of each chunk, given the chunks' labels [CHUNK]."""
        fields, half_sizes = _character_fields()
        for number, labels in enumerate(chunks):
            rng = generator(self.seed, "glyphs", part, number, "images")
            font = torch.randint(len(fields), (len(labels),), generator=rng)
            character = _class_characters()[labels, torch.randint(2, (len(labels),), generator=rng)]
            with _single_thread():
                images = _render_images(fields[font, character], half_sizes[font, character], rng)
            yield images.numpy()


def _chunk_labels(seed: int, part: PartName, chunk: int) -> Tensor:
    """Return the labels of a chunk, int64 [CHUNK]: one random order of all classes after another."""
    rng = generator(seed, "glyphs", part, chunk, "labels")
    return torch.cat([torch.randperm(len(CLASSES), generator=rng) for _ in range(CHUNK // len(CLASSES))])


@cache
def _character_fields() -> tuple[Tensor, Tensor]:
    """Return distance fields and half sizes of all characters in all usable fonts, measured once per process."""
    return distance_fields(usable_fonts(CHARACTERS), CHARACTERS)


def _class_characters() -> Tensor:
    """Return the two characters of each class as positions in `CHARACTERS`: int64 [classes, 2].

    They are the upper and the lower case of a letter whose cases share a class, and otherwise one character twice.
    """
    pairs = [(name, name if name.lower() in CLASSES else name.lower()) for name in CLASSES]
    return torch.tensor([[CHARACTERS.index(first), CHARACTERS.index(second)] for first, second in pairs])


# ---- Rendering. All random numbers come from `rng`, always in the same order.


def _render_images(fields: Tensor, half_sizes: Tensor, rng: torch.Generator) -> Tensor:
    """Return images, uint8 [n, 28, 28], of characters with random position, shape and strokes.

    Args:
        fields: Distance fields [n, 48, 48].
        half_sizes: Half the ink's width and height [n, 2], in the fields' unit.
        rng: Generator on the CPU.
    """
    matrix, scale = _random_affine_maps(half_sizes, rng)
    room = (PIXELS / 2 - MARGIN - _mapped_half_sizes(matrix, half_sizes)).clamp(0, SHIFT)
    shift = room * (2 * torch.rand(half_sizes.shape, generator=rng) - 1)
    noise = torch.randn(len(fields), 3, BEND_GRID, BEND_GRID, generator=rng)
    noise = functional.interpolate(noise, size=(PIXELS, PIXELS), mode="bicubic", align_corners=True)

    grid = _sampling_grid(matrix, shift, noise[:, :2])
    depth = functional.grid_sample(fields[:, None], grid, padding_mode="border", align_corners=False)[:, 0]

    stroke, edge = _uniform(*STROKE, rng, len(fields)), _uniform(*EDGE, rng, len(fields))
    depth = depth * scale[:, None, None] + UNEVENNESS * noise[:, 2] + stroke[:, None, None]
    ink = (0.5 + depth / edge[:, None, None]).clamp(0, 1)
    return (255 * ink).round().to(torch.uint8)


def _random_affine_maps(half_sizes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random maps from the fields' unit to pixels, float32 [n, 2, 2], and pixels per unit [n].

    A map is rotation, shear and stretch, scaled so that half the longer side of the mapped ink is within `HALF_SIZE`.
    """
    count = len(half_sizes)
    angle, shear = _uniform(-ROTATION, ROTATION, rng, count), _uniform(-SHEAR, SHEAR, rng, count)
    stretch = (_uniform(-STRETCH, STRETCH, rng, count) / 2).exp()
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * stretch, (cos * shear - sin) / stretch, sin * stretch, (sin * shear + cos) / stretch]
    matrix = torch.stack(rows, dim=1).view(count, 2, 2)
    scale = _uniform(*HALF_SIZE, rng, count) / _mapped_half_sizes(matrix, half_sizes).amax(dim=1)
    return matrix * scale[:, None, None], scale


def _mapped_half_sizes(matrix: Tensor, half_sizes: Tensor) -> Tensor:
    """Return half the width and height of the box around the mapped ink: float32 [n, 2]."""
    return (matrix.abs() * half_sizes[:, None, :]).sum(dim=2)


def _sampling_grid(matrix: Tensor, shift: Tensor, displacement: Tensor) -> Tensor:
    """Return, for each pixel, the place in the distance field that it shows: float32 [n, 28, 28, 2], x before y.

    Args:
        matrix: Maps from the fields' unit to pixels [n, 2, 2].
        shift: Shift of the character in pixels [n, 2].
        displacement: Smooth random displacements [n, 2, 28, 28], before `BEND` scales them.
    """
    centred = torch.arange(PIXELS) - (PIXELS - 1) / 2
    inner = 1 - (2 * centred / PIXELS) ** 4  # no displacement at the edges of the image, so that none cuts the ink off
    bend = BEND * displacement * (inner[:, None] * inner)
    x = centred[None, None, :] + bend[:, 0] - shift[:, 0, None, None]
    y = centred[None, :, None] + bend[:, 1] - shift[:, 1, None, None]
    inverse = (torch.linalg.inv(matrix) / FIELD_EXTENT)[..., None, None]
    return torch.stack(
        [inverse[:, 0, 0] * x + inverse[:, 0, 1] * y, inverse[:, 1, 0] * x + inverse[:, 1, 1] * y], dim=-1
    )


def _uniform(low: float, high: float, rng: torch.Generator, count: int) -> Tensor:
    """Return `count` random numbers between `low` and `high`."""
    return torch.rand(count, generator=rng) * (high - low) + low


@contextmanager
def _single_thread() -> Iterator[None]:
    """Limit torch to one thread: several split the work in ways that may round differently on other machines."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
