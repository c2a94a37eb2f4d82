"""A digit of any size, anywhere on a sheet, is centred as in the dataset."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mnist_lib.pictures.reading import Layout, Shape, read_picture
from tests.support.digits import DIGITS, MAX_DIFFERENCE, any_digit, centred, difference, enlarged
from tests.support.drawing import png


@settings(max_examples=settings().max_examples // 2)
@given(any_digit, st.tuples(*[st.integers(1, 60)] * 4))
@example(DIGITS[371], (1, 35, 1, 55))
def test_the_position_of_a_digit_on_the_sheet_makes_no_difference(
    digit: NDArray[np.uint8], margins: tuple[int, int, int, int]
) -> None:
    top, bottom, left, right = margins
    np.testing.assert_array_equal(centred(np.pad(digit, ((top, bottom), (left, right)))), centred(np.pad(digit, 1)))


@settings(max_examples=settings().max_examples // 2)
@given(any_digit, st.integers(20, 300), st.sampled_from([28, 56]))
def test_the_ink_fits_the_box_and_its_centre_of_mass_is_in_the_middle(
    digit: NDArray[np.uint8], size: int, side: int
) -> None:
    image = (
        read_picture(png(enlarged(digit, size)), Layout.of("mnist", Shape(side, side, 1))).image[..., 0].astype(float)
    )
    assert image.max() == 255
    for axis in (0, 1):
        mass = image.sum(axis=axis)
        filled = np.flatnonzero(mass)
        assert np.ptp(filled) + 1 <= side * 20 // 28
        centre = float(mass @ np.arange(side)) / mass.sum()
        assert abs(centre - side / 2) <= 0.51 or filled[0] == 0 or filled[-1] == side - 1


def test_the_ink_fills_the_image_if_the_digits_of_the_dataset_do() -> None:
    for digit in DIGITS[:1000:50]:
        image = read_picture(png(enlarged(digit, 100)), Layout.of("sklearn-digits", Shape(8, 8, 1))).image[..., 0]
        assert max(np.ptp(np.flatnonzero(image.any(axis=axis))) + 1 for axis in (0, 1)) == 8


def test_a_digit_of_the_dataset_hardly_changes() -> None:
    differences = [difference(centred(digit), digit) for digit in DIGITS]
    assert np.mean(differences) < 1  # of 255


def test_a_digit_that_is_off_by_one_pixel_fails_the_comparison_of_these_tests() -> None:
    assert np.mean([difference(np.roll(digit, 1, axis=1), digit) for digit in DIGITS[:1000:50]]) > 1.5 * MAX_DIFFERENCE


def test_a_thin_line_on_a_large_sheet_becomes_as_wide_as_a_thick_one() -> None:
    thin = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(thin).ellipse((300, 250, 600, 700), outline=0, width=5)
    wide = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(wide).ellipse((290, 240, 610, 710), outline=0, width=45)
    inked = [np.count_nonzero(centred(np.asarray(sheet)) > 128) for sheet in (thin, wide)]
    assert inked[0] == pytest.approx(inked[1], rel=0.25)
