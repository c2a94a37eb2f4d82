"""Reject pictures that show none of the classes. This module judges digits: by their marks, and by a score calibrated
on held-out digits. Other pictures are judged by `mnist_lib.pictures.likeness`, with what their model computes for them.

A model of ten digits reads each picture as one of them: "314" as a 4, an A as a 4. Its probabilities do not show that.

Marks are connected areas of ink, measured before the ink is scaled to the size of an image. The score is that of a
small network, which is independent of the model that predicts: `benchmarks/detector.py` trains it and writes
`detector.npz`. NumPy computes it, since TensorFlow would take seconds to load in each process that reads pictures.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mnist_lib.pictures.ink import MIN_INK, Levels, centre, resized, without_margins
from mnist_lib.pictures.likeness import REJECT_SHARE

NOT_ONE_DIGIT: Final = "not one digit"
NONE_OF_THESE: Final = "none of these"
UNSURE: Final = "unsure"
Rejection = Literal["not one digit", "none of these", "unsure"]
NO_ANSWER: tuple[Rejection, ...] = (NOT_ONE_DIGIT, NONE_OF_THESE)  # these stand in place of a class

# Shares of held-out digits. Below the first likeness, a picture is rejected; below the second, its class is unsure.
MIN_LIKENESS = 0.003
MIN_SURE_LIKENESS = 0.006
MIN_PROBABILITY = 0.5  # a lower one means that all other classes together are more probable

# Of marks:
SIDE = 64  # pixels: the ink is reduced to this, so that the time does not depend on the size of the picture
MIN_SHARE = 0.05  # of the largest mark, in pixels; smaller marks are dirt
TALL = 0.5  # share of the height of all ink: digits in a row are as tall, the loose stroke of a 5 is not
MAX_OVERLAP = 0.5  # of the narrower mark's width, between two marks that are side by side
MAX_MARKS = 4  # a digit drawn with a dry pen may fall apart into so many
MAX_ASPECT = 2.0  # width / height of all ink; a slanted 1 reaches 1.8

# Of the network:
FILE = Path(__file__).parent / "detector.npz"
SHAPE, BOX = (28, 28), 20  # height and width of an image, and the longer side of its ink: the layout of MNIST
OTHER = 10  # the output for what is not one digit; those before it are for the digits

Array = NDArray[np.float32]


def likeness_of(ink: Levels, image: NDArray[np.uint8] | None = None) -> float:
    """Return how much a picture looks like one digit, as `likeness`; 0 if it shows several digits.

    Args:
        ink: [height, width], from 0 on paper to 1 in full ink, which is reached somewhere.
        image: the ink centred as in MNIST, [28, 28], if that is known.
    """
    if several_digits(ink):
        return 0.0
    return likeness(centre(ink, SHAPE, BOX) if image is None else image)


def rejection(
    likeness: float | None,
    probabilities: NDArray[np.float32],
    to_classes: float = 1.0,
    reject_share: float = REJECT_SHARE,
) -> Rejection | None:
    """Return why the model's answer is not to be relied on, or None.

    Args:
        likeness: of a `Picture`; None if the model's classes are not the digits.
        probabilities: of the classes.
        to_classes: the likeness that the model gives, see `mnist_lib.pictures.likeness`.
        reject_share: the share of real pictures that may be rejected by it.
    """
    if likeness is not None and likeness < MIN_LIKENESS:
        return NOT_ONE_DIGIT
    if to_classes <= reject_share:
        return NONE_OF_THESE
    if probabilities.max() < MIN_PROBABILITY or (likeness is not None and likeness < MIN_SURE_LIKENESS):
        return UNSURE
    return None


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


def likeness(image: NDArray[np.uint8]) -> float:
    """Return the share of held-out MNIST digits that look less like one digit than this image does.

    For any x, at most a share x of all digits like those of MNIST has a likeness of x or less.

    Args:
        image: [28, 28], 0-255, the ink light and centred as in MNIST.
    """
    weights = _weights()
    held_out = weights["held_out"]
    return float(np.searchsorted(held_out, score(image, weights)) / len(held_out))


def score(image: NDArray[np.uint8], weights: Mapping[str, Array]) -> float:
    """Return the logarithm of the odds that the image shows one digit."""
    hidden = np.asarray(image[..., None] / np.float32(255), np.float32)
    for layer in ("conv1", "conv2"):
        hidden = _convolved(hidden, weights[f"{layer}_kernel"], weights[f"{layer}_bias"])
    hidden = np.maximum(hidden.ravel() @ weights["dense_kernel"] + weights["dense_bias"], 0)
    outputs = hidden @ weights["output_kernel"] + weights["output_bias"]
    return float(np.logaddexp.reduce(outputs[:OTHER]) - outputs[OTHER])


def _convolved(values: Array, kernel: Array, bias: Array) -> Array:
    """Return the convolution without padding, reduced to the maximum of each 2 x 2 positions, then ReLU."""
    side = kernel.shape[0]
    windows = sliding_window_view(values, (side, side), axis=(0, 1))  # [height, width, channels, side, side]
    height, width = windows.shape[:2]
    columns = windows.transpose(0, 1, 3, 4, 2).reshape(height * width, -1)
    convolved = columns @ kernel.reshape(-1, kernel.shape[-1]) + bias
    pooled: Array = convolved.reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))
    return np.maximum(pooled, 0)


@functools.cache
def _weights() -> dict[str, Array]:
    """Return the arrays of the file, which holds them as float16."""
    with np.load(FILE) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}
