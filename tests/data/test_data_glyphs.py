"""Drawn characters: their classes, fonts and images, which depend on nothing but the seed."""

from __future__ import annotations

import string

import pytest
import torch

from partrain.data import Dataset, prepare_data
from partrain.data.fonts import distance_fields, usable_fonts
from partrain.data.glyphs import CHARACTERS, CHUNK, CLASSES, NUM_IMAGES, GlyphSource, _class_characters
from partrain.data.settings import Glyphs
from partrain.errors import UserError

FONTS = {
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic"),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
}


def test_it_has_the_shape_of_emnist_balanced() -> None:
    source = GlyphSource(seed=0)
    train, test = source.open_part("train"), source.open_part("test")
    assert source.classes == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
    assert (len(train.labels), len(test.labels)) == (112_800, 18_800)
    assert torch.from_numpy(train.labels).bincount().tolist() == [2400] * 47
    assert torch.from_numpy(test.labels).bincount().tolist() == [400] * 47
    assert all(count % CHUNK == 0 for count in NUM_IMAGES.values())


def test_any_prefix_is_balanced(glyphs: Dataset) -> None:
    seen = torch.nn.functional.one_hot(glyphs.train.labels, 47).cumsum(0)
    assert int((seen.amax(1) - seen.amin(1)).max()) == 1


def test_merged_letters_are_drawn_in_both_cases_and_the_others_in_one() -> None:
    pairs = _class_characters().tolist()
    drawn = {name: {CHARACTERS[i] for i in pair} for name, pair in zip(CLASSES, pairs, strict=True)}
    merged = "CIJKLMOPSUVWXYZ"
    assert {name: pair for name, pair in drawn.items() if len(pair) == 2} == {c: {c, c.lower()} for c in merged}
    assert all(characters == {name} for name, characters in drawn.items() if name not in merged)


def test_fonts_without_the_letters_drop_out() -> None:
    assert {file.stem for file in usable_fonts(string.digits + string.ascii_letters)} == FONTS


def test_every_character_of_a_font_has_ink_and_a_shape_of_its_own() -> None:
    font = next(file for file in usable_fonts(CHARACTERS) if file.stem == "cmr10")
    fields, half_sizes = distance_fields([font], CHARACTERS)
    assert fields.shape == (1, 62, 48, 48)
    assert bool((fields.amax((2, 3)) > 0).all())
    assert len({field.numpy().tobytes() for field in fields[0]}) == 62
    assert half_sizes.amax(2).tolist() == [[1.0] * 62]


def test_images_are_legible_ones_that_nothing_cuts_off(glyphs: Dataset) -> None:
    images = glyphs.train.images
    assert images.dtype == torch.uint8
    assert images.shape == (3760, 28, 28)
    assert int(images.flatten(1).amax(1).min()) > 128
    edges = torch.stack([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert int(edges.max()) < 128
    assert len({image.numpy().tobytes() for image in images}) == 3760
    assert glyphs.mean == pytest.approx(float((images / 255).mean()), abs=1e-6)
    assert glyphs.std == pytest.approx(float((images / 255).std()), abs=1e-4)


def test_the_first_images_are_the_same_however_many_are_made(glyphs: Dataset) -> None:
    fewer = prepare_data(Glyphs(limit_train=2000, limit_test=1), show_progress=False)
    assert torch.equal(fewer.train.images, glyphs.train.images[:2000])
    assert torch.equal(fewer.train.labels, glyphs.train.labels[:2000])
    assert torch.equal(fewer.test.images, glyphs.test.images[:1])


def test_parts_and_seeds_have_images_of_their_own(glyphs: Dataset) -> None:
    other = prepare_data(Glyphs(seed=1, limit_train=1880, limit_test=1), show_progress=False)
    drawn = [glyphs.train.images[:1880], glyphs.train.images[1880:], glyphs.test.images, other.train.images]
    seen = {image.numpy().tobytes() for images in drawn for image in images}
    assert len(seen) == 4 * 1880


def test_the_number_of_threads_changes_no_byte_and_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made.append(next(iter(GlyphSource(seed=7).open_part("test").blocks)).tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1]


def test_provenance_has_nothing_to_verify(glyphs: Dataset) -> None:
    counts = {"train_images": 3760, "test_images": 1880}
    assert glyphs.provenance() == {"name": "glyphs", "split": None, **counts, "verified": None, "note": ""}


def test_a_limit_beyond_the_data_is_an_error() -> None:
    with pytest.raises(UserError) as raised:
        prepare_data(Glyphs(limit_train=112_801), show_progress=False)
    assert str(raised.value) == (
        "data.limit_train=112801 is larger than the data set of 112800 images. Leave it out to use them all."
    )
