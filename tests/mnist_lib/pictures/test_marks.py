"""Marks are connected areas of ink; some arrangements of them cannot be one digit."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mnist_lib.pictures.rejecting import Mark, marks_of, several_digits
from tests.support.digits import DIGITS, enlarged


def flooded(inked: NDArray[np.bool]) -> list[Mark]:
    """Return the marks, found pixel by pixel."""
    left, marks = set(zip(*map(np.ndarray.tolist, np.nonzero(inked)), strict=True)), []
    while left:
        edge, mark = [left.pop()], []
        while edge:
            y, x = edge.pop()
            mark.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        rows, columns = zip(*mark, strict=True)
        marks.append(Mark(len(mark), min(rows), max(rows) + 1, min(columns), max(columns) + 1))
    return sorted(marks, reverse=True)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans()))
def test_marks_are_the_areas_that_a_flood_reaches(inked: NDArray[np.bool]) -> None:
    assert marks_of(inked) == flooded(inked)


def ink_of(*digits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return digits of the same height in a row, cropped to their columns of ink, two pixels of MNIST apart."""
    gap = len(digits[0]) // 28
    parts = [digit[:, (digit > 80).any(axis=0)] for digit in digits]
    row = np.concatenate([np.pad(part, ((0, 0), (gap, gap))) for part in parts], axis=1)
    return row.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("side", [28, 400])
def test_two_digits_side_by_side_are_several_and_one_is_not(side: int) -> None:
    digits = [enlarged(DIGITS[number], side) for number in range(0, 1_000, 50)]
    assert not any(several_digits(ink_of(digit)) for digit in digits)
    pairs = itertools.pairwise(digits)
    assert np.mean([several_digits(ink_of(*pair)) for pair in pairs]) > 0.8


def test_dirt_and_a_loose_stroke_do_not_make_several_digits() -> None:
    digit = enlarged(DIGITS[0], 112).astype(np.float32) / np.float32(255)
    assert digit[60:64, 54:58].max() < 0.3  # the middle of a 0
    digit[60:62, 54:56] = 1
    assert not several_digits(digit)
    five = np.zeros((100, 70), np.float32)
    five[30:, 25:35] = 1  # the stem
    five[5:12, 40:65] = 1  # its upper stroke, which does not touch it
    assert not several_digits(five)


def test_a_long_row_and_many_marks_are_several_digits() -> None:
    assert several_digits(np.ones((10, 21), np.float32))
    assert not several_digits(np.ones((10, 19), np.float32))
    dots = np.zeros((60, 60), np.float32)
    dots[5::20, 5::20] = 1
    assert several_digits(dots)
