"""The fonts matplotlib carries, and their characters as signed distance fields.

A distance field says for every point how far it lies inside (positive) or outside (negative) the ink. It is smooth, so
it can be sampled at any place and any size, and adding a constant makes the strokes wider or thinner.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

FIELD_PIXELS = 48
"""Height and width of a distance field."""
FIELD_EXTENT = 1.6
"""A field spans [-1.6, 1.6] in both directions; the longer side of the ink spans [-1, 1]."""

_FONT_PIXELS = 128  # size at which a character is drawn before its distances are taken
_OVERSAMPLING = 2  # distances are taken on a grid this much finer than the field


def font_files() -> list[Path]:
    """The TrueType files matplotlib carries, by name."""
    return sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))


def font_identity() -> dict[str, str]:
    """File name to SHA-256 of every font file: what tells one set of fonts from another."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in font_files()}


def usable_fonts(characters: str) -> list[Path]:
    """The fonts that hold a glyph for each of `characters` (ASCII letters and digits) under that character's own name.

    Symbol fonts either lack letters or keep symbols in their places, fonts of last resort one box for all of them, and
    both call their glyphs by other names.
    """
    return [file for file in font_files() if _names_match(file, characters)]


def distance_fields(fonts: list[Path], characters: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Every character of every font: float32 fields [fonts, characters, 48, 48], half ink sizes [fonts, characters, 2].

    A field's unit is half the longer side of the ink and its centre the centre of the ink; half ink sizes are
    (width, height) in the same unit.
    """
    drawn = [[_distance_field(_ink(font, character)) for character in characters] for font in fonts]
    fields = np.stack([[field for field, _ in row] for row in drawn])
    extents = np.array([[extent for _, extent in row] for row in drawn], dtype=np.float32)
    return torch.from_numpy(fields), torch.from_numpy(extents)


def _names_match(file: Path, characters: str) -> bool:
    font = FT2Font(str(file))
    glyphs = font.get_charmap()
    return all(
        ord(character) in glyphs and font.get_glyph_name(glyphs[ord(character)]) == _glyph_name(character)
        for character in characters
    )


def _glyph_name(character: str) -> str:
    """The PostScript name of a letter ("A") or a digit ("zero")."""
    return unicodedata.name(character).removeprefix("DIGIT ").lower() if character.isdigit() else character


def _ink(file: Path, character: str) -> Image.Image:
    """The character, white on black, cropped to its ink."""
    font = ImageFont.truetype(str(file), _FONT_PIXELS)
    image = Image.new("L", (2 * _FONT_PIXELS, 2 * _FONT_PIXELS))
    ImageDraw.Draw(image).text((_FONT_PIXELS // 2, _FONT_PIXELS // 4), character, fill=255, font=font)
    return image.crop(image.getbbox())


def _distance_field(ink: Image.Image) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    grid = FIELD_PIXELS * _OVERSAMPLING
    unit = max(ink.size) / 2
    scale = grid / (2 * FIELD_EXTENT * unit)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    canvas = Image.new("L", (grid, grid))
    canvas.paste(ink.resize((width, height), Image.Resampling.BILINEAR), ((grid - width) // 2, (grid - height) // 2))
    inside = np.asarray(canvas) >= 128
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    coarse = distance.reshape(FIELD_PIXELS, _OVERSAMPLING, FIELD_PIXELS, _OVERSAMPLING).mean(axis=(1, 3))
    field = (coarse * (2 * FIELD_EXTENT / grid)).astype(np.float32)
    return field, (ink.size[0] / 2 / unit, ink.size[1] / 2 / unit)
