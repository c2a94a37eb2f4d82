"""Centring a digit: cropping the ink, scaling it to a box, and placing its centre of mass as in the dataset."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mnist_lib.pictures.ink import Levels

MIN_INK = 0.3  # share of full ink; less is blur or an artefact of compression
MIN_RUN = 0.05  # share of the largest run of ink; smaller runs are dirt
DETAIL = 4  # pixels of the crop per pixel of the result; more would not improve its lines
MIN_LINE, PEN = 0.08, 0.1  # shares of the longer side: lines narrower than the first are widened to the second


def centre(ink: Levels, shape: tuple[int, int], box: int) -> NDArray[np.uint8]:
    """Return an image of that shape (height, width), 0-255, with the ink centred as in MNIST.

    The longer side of the ink is `box` pixels, and its centre of mass is as near to the middle as the image allows.

    Args:
        ink: [height, width], from 0 on paper to 1 in full ink.
    """
    part = without_margins(ink)
    if max(part.shape) > DETAIL * box:
        part = resized(part, DETAIL * box)
    if max(part.shape) >= 2 * box:
        part = _with_wide_lines(part, max(part.shape))
    part = 255 * resized(part, box)
    height, width = part.shape
    top, left = (_begin(part.sum(axis=1 - axis), shape[axis], box) for axis in (0, 1))
    image = np.zeros(shape, np.uint8)
    image[top : top + height, left : left + width] = np.rint(part)
    return image


def without_margins(ink: Levels) -> Levels:
    """Crop to the ink, ignoring specks of dirt."""
    inked = ink > MIN_INK
    top, left = 0, 0
    for _ in range(2):  # rows may be empty once a speck's columns are cropped
        begin, end = _extent(inked.sum(axis=1))
        inked, top = inked[begin:end], top + begin
        begin, end = _extent(inked.sum(axis=0))
        inked, left = inked[:, begin:end], left + begin
    height, width = inked.shape
    return ink[top : top + height, left : left + width]


def _extent(profile: NDArray[np.integer]) -> tuple[int, int]:
    """Return where the first run of ink begins and the last one ends, ignoring specks."""
    filled = np.flatnonzero(profile)
    if filled[-1] - filled[0] >= len(filled):  # there are gaps
        runs = np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1)
        amounts = [profile[run].sum() for run in runs]
        minimum = MIN_RUN * max(amounts)
        filled = np.concatenate([run for run, amount in zip(runs, amounts, strict=True) if amount >= minimum])
    return int(filled[0]), int(filled[-1]) + 1


def _with_wide_lines(part: Levels, side: int) -> Levels:
    """Widen thin lines as in the datasets, because a ballpoint line on a large sheet would fade."""
    padded = np.pad(part, math.ceil(PEN * side))
    steps = sum(float(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1))
    edges = steps * math.pi / 4  # length of the edges, if lines run equally in all directions
    line = 2 * float(part.sum()) / edges  # mean width in pixels
    if line >= MIN_LINE * side:
        return part
    size = 2 * round((PEN * side - line) / 2) + 1
    return without_margins(np.asarray(Image.fromarray(padded).filter(ImageFilter.MaxFilter(size))))


def resized(part: Levels, longer_side: int) -> Levels:
    """Resize, and scale the values to a maximum of 1, since lines narrower than a pixel fade."""
    scale = longer_side / max(part.shape)
    height, width = (max(1, round(side * scale)) for side in part.shape)
    if (height, width) != part.shape:
        filter = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
        part = np.clip(np.asarray(Image.fromarray(part).resize((width, height), filter)), 0, None)
    resized: Levels = part / part.max()
    return resized


def _begin(mass: Levels, side: int, box: int) -> int:
    """Return where on an axis the ink begins. mass: ink at each position; side: length of the image."""
    length = len(mass)
    centre_of_mass = float(mass @ np.arange(length)) / float(mass.sum())
    middle = side / 2 if box < side else (side - 1) / 2  # MNIST's middle is pixel 14 of 0 to 27
    return min(max(round(middle - centre_of_mass), 0), side - length)
