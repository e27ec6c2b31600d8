"""The fonts that matplotlib contains, and their characters as signed distance fields.

A distance field holds, for every point, its distance to the edge of the ink: positive inside, negative outside. It is
smooth, so it can be sampled at any place and any size, and adding a constant makes the strokes wider or thinner.
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

FIELD_PIXELS = 48
"""Height and width of a distance field."""
FIELD_EXTENT = 1.6
"""A field spans [-1.6, 1.6] in both directions; the longer side of the ink spans [-1, 1]."""

_FONT_PIXELS = 128  # font size at which a character is drawn before its distances are measured
_OVERSAMPLING = 2  # distances are measured on a grid this much finer than the field


# ---- Fonts.


def font_files() -> list[Path]:
    """Return the TrueType files that matplotlib contains, sorted by name."""
    return sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))


def font_identity() -> dict[str, str]:
    """Return the SHA-256 of every font file by its name, which tells one set of fonts from another."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in font_files()}


def usable_fonts(characters: str) -> list[Path]:
    """Return the fonts that have a glyph for each of `characters`, ASCII letters and digits.

    Symbol fonts lack letters or have symbols in their places. Fonts of last resort show one box for all of them. Both
    give their glyphs other names than the characters', and are left out by that.
    """
    return [file for file in font_files() if _has_glyphs(file, characters)]


def _has_glyphs(file: Path, characters: str) -> bool:
    """Return whether the font has a glyph for each character, under that character's own name."""
    font = FT2Font(str(file))
    glyphs = font.get_charmap()
    return all(
        ord(character) in glyphs and font.get_glyph_name(glyphs[ord(character)]) == _glyph_name(character)
        for character in characters
    )


def _glyph_name(character: str) -> str:
    """Return the PostScript name of a letter ("A") or a digit ("zero")."""
    return unicodedata.name(character).removeprefix("DIGIT ").lower() if character.isdigit() else character


# ---- Distance fields.


def distance_fields(fonts: list[Path], characters: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distance field and the size of every character in every font.

    A field's unit is half the longer side of the ink, and its centre is the centre of the ink.

    Returns:
        Fields, float32 [fonts, characters, 48, 48], and half the ink's (width, height) in the same unit, float32
        [fonts, characters, 2].
    """
    measured = [[_distance_field(_draw_character(font, character)) for character in characters] for font in fonts]
    fields = np.stack([[field for field, _ in row] for row in measured])
    half_sizes = np.array([[half_size for _, half_size in row] for row in measured], dtype=np.float32)
    return torch.from_numpy(fields), torch.from_numpy(half_sizes)


def _draw_character(file: Path, character: str) -> Image.Image:
    """Return the character, white on black, cropped to its ink."""
    font = ImageFont.truetype(str(file), _FONT_PIXELS)
    image = Image.new("L", (2 * _FONT_PIXELS, 2 * _FONT_PIXELS))
    ImageDraw.Draw(image).text((_FONT_PIXELS // 2, _FONT_PIXELS // 4), character, fill=255, font=font)
    return image.crop(image.getbbox())


def _distance_field(ink: Image.Image) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Return the distance field [48, 48] of a cropped character, and half the ink's (width, height)."""
    grid = FIELD_PIXELS * _OVERSAMPLING
    unit = max(ink.size) / 2
    scale = grid / (2 * FIELD_EXTENT * unit)
    width, height = (max(1, round(side * scale)) for side in ink.size)

    canvas = Image.new("L", (grid, grid))
    canvas.paste(ink.resize((width, height), Image.Resampling.BILINEAR), ((grid - width) // 2, (grid - height) // 2))
    inside = np.asarray(canvas) >= 128

    # Imported here, since nothing is drawn where the images are in the cache.
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    coarse = distance.reshape(FIELD_PIXELS, _OVERSAMPLING, FIELD_PIXELS, _OVERSAMPLING).mean(axis=(1, 3))
    field = (coarse * (2 * FIELD_EXTENT / grid)).astype(np.float32)
    return field, (ink.size[0] / 2 / unit, ink.size[1] / 2 / unit)
