"""The marks in a picture: connected areas of ink, measured before the ink is scaled to the size of an image.

Two pixels that touch at a side or a corner belong to one mark.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_lib.pictures.centring import MIN_INK, resized, without_margins
from mnist_lib.pictures.ink import Levels

SIDE = 64  # pixels: the ink is reduced to this, so that the time does not depend on the size of the picture
MIN_SHARE = 0.05  # of the largest mark, in pixels; smaller marks are dirt
TALL = 0.5  # share of the height of all ink: digits in a row are as tall, the loose stroke of a 5 is not
MAX_OVERLAP = 0.5  # of the narrower mark's width, between two marks that are side by side
MAX_MARKS = 4  # a digit drawn with a dry pen may fall apart into so many
MAX_ASPECT = 2.0  # width / height of all ink; a slanted 1 reaches 1.8


class Mark(NamedTuple):
    pixels: int
    top: int
    bottom: int  # exclusive, as `right`
    left: int
    right: int


def several_digits(ink: Levels) -> bool:
    """Return whether the marks cannot be those of one digit: a long row, tall marks side by side, or many marks.

    Args:
        ink: [height, width], from 0 on paper to 1 in full ink, which is reached somewhere.
    """
    part = without_margins(ink)
    if max(part.shape) > SIDE:
        part = resized(part, SIDE)
    height, width = part.shape
    if width > MAX_ASPECT * height:
        return True
    marks = marks_of(part > MIN_INK)
    marks = [mark for mark in marks if mark.pixels >= MIN_SHARE * marks[0].pixels]
    tall = sorted((mark for mark in marks if mark.bottom - mark.top >= TALL * height), key=lambda mark: mark.left)
    return len(marks) > MAX_MARKS or any(map(_side_by_side, tall, tall[1:]))


def _side_by_side(one: Mark, other: Mark) -> bool:
    overlap = min(one.right, other.right) - max(one.left, other.left)
    return overlap <= MAX_OVERLAP * min(one.right - one.left, other.right - other.left)


def marks_of(inked: NDArray[np.bool]) -> list[Mark]:
    """Return the marks, those of most pixels first.

    Args:
        inked: [height, width], whether there is ink.
    """
    steps = np.diff(np.pad(inked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, lefts = (found.tolist() for found in np.nonzero(steps == 1))  # of each run of ink in a row
    rights = np.nonzero(steps == -1)[1].tolist()
    above = list(range(len(rows)))  # for each run, another run of its mark, or itself at the end of a chain

    def root(run: int) -> int:
        while above[run] != run:
            above[run] = run = above[above[run]]
        return run

    first = 0  # the first run in the row above that may touch this one
    for run, (row, left, right) in enumerate(zip(rows, lefts, rights, strict=True)):
        while rows[first] < row - 1 or (rows[first] == row - 1 and rights[first] < left):
            first += 1
        other = first
        while rows[other] == row - 1 and lefts[other] <= right:
            above[root(other)] = root(run)
            other += 1
    marks: dict[int, Mark] = {}
    for run, (row, left, right) in enumerate(zip(rows, lefts, rights, strict=True)):
        mark = marks.get(root(run), Mark(0, row, row, left, right))
        marks[root(run)] = Mark(
            mark.pixels + right - left, mark.top, row + 1, min(mark.left, left), max(mark.right, right)
        )
    return sorted(marks.values(), reverse=True)
