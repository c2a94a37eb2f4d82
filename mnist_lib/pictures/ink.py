"""Where on a picture the ink is, whatever the paper's colour and light; and the ink, laid out as in a dataset.

Ink is what differs from the paper, and the paper is what is along the border: dark on light and light on dark are one.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mnist_lib.errors import ImageError

LEAST_CONTRAST = 8.0  # of 255, between ink and paper
NOISE = 3.0  # standard deviations by which paper may differ from paper
MAD = 1.4826  # standard deviations of a normal distribution in one median of absolute deviations
SAMPLES = 2_000  # pixels that tell what the paper is like
SHADOW = 1.0  # of 255, beyond noise: light that falls smoothly leaves less unexplained
COARSE, AROUND = 64, 21  # pixels of a picture that is as coarse as shadows are; of those, around each
EDGE = 0.3  # of full ink: less is blur, or a trace of compression
SPECK = 0.05  # of the largest run of ink: less is dirt
DETAIL = 4  # pixels of the part with the ink for one of the result: more make its lines no better
THIN, PEN = 0.08, 0.1  # of the box: lines narrower than the one are made as wide as the other

Levels = NDArray[np.float32]

_LEVELS = np.arange(256)


def ink_of(levels: Levels) -> Levels:
    """
    Args:
        levels: [height, width, channels], 0-255.

    Returns:
        [height, width]: 0 where there is paper, 1 where there is as much ink as anywhere.

    Raises:
        ImageError: nothing stands out.
    """
    difference = levels - _paper(levels)
    distance = np.sqrt((difference * difference).mean(axis=2))
    if distance.max() < LEAST_CONTRAST:
        raise ImageError("expected a digit, got a picture on which nothing stands out")
    strong = distance >= _otsu(distance)
    direction = difference[strong].mean(axis=0)  # from the paper's colour to the ink's
    direction /= max(float(np.sqrt((direction * direction).mean())), 1.0)  # 1: of what goes to both sides
    ink: Levels = (difference * direction).mean(axis=2)
    noise = NOISE * MAD * float(np.median(np.abs(_border(ink))))
    amounts = np.sort(ink[strong])
    full = float(amounts[int(0.9 * len(amounts))])
    if full < max(LEAST_CONTRAST, 2 * noise):
        raise ImageError("expected a digit, got a picture on which nothing stands out")
    clear: Levels = np.clip((ink - noise) / (full - noise), 0, 1, dtype=np.float32)
    return clear


def laid_out(ink: Levels, shape: tuple[int, int], box: int) -> NDArray[np.uint8]:
    """The ink alone, in a box whose longer side is `box` pixels, with its centre of mass in the middle of the picture,
    as MNIST's authors did it, or as near to that as the picture lets it be.

    Returns:
        [height, width] of that shape, 0-255.
    """
    part = _without_margins(ink)
    if max(part.shape) > DETAIL * box:
        part = _resized(part, DETAIL * box)
    if max(part.shape) >= 2 * box:
        part = _with_a_pen(part, max(part.shape))
    part = 255 * _resized(part, box)
    height, width = part.shape
    top, left = (_begin(part.sum(axis=1 - axis), shape[axis], box) for axis in (0, 1))
    picture = np.zeros(shape, np.uint8)
    picture[top : top + height, left : left + width] = np.rint(part)
    return picture


def _paper(levels: Levels) -> Levels:
    """The picture without ink: [height, width, channels], or [channels] if it is the same everywhere."""
    height, width = levels.shape[:2]
    border = _border(levels)
    middle: Levels = np.median(border, axis=0)
    off = np.abs(border - middle).max(axis=1)
    if np.median(off) == 0:  # not of a camera
        return middle
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    y, x = (axis[..., None] for axis in np.meshgrid(rows, columns, indexing="ij"))
    light = np.concatenate([np.ones_like(x), x, y, x * y, x * x, y * y], axis=2)  # that falls unevenly, but smoothly
    places = _border(light)
    for _ in range(3):
        paper = off <= 1 + NOISE * MAD * np.median(off)  # and not ink that goes over the border
        of_light = np.linalg.lstsq(places[paper], border[paper], rcond=None)[0]
        off = np.abs(border - places @ of_light).max(axis=1)
    if np.median(off) > SHADOW + 1.5 * np.median(_steps(levels)) or paper.mean() < 0.9:
        return _local_paper(levels)
    found: Levels = light @ of_light
    return found


def _local_paper(levels: Levels) -> Levels:
    """Where a shadow has an edge: the middle value around each pixel, which no line of a pen is."""
    height, width = levels.shape[:2]
    scale = min(1, COARSE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    channels = []
    for channel in np.moveaxis(levels, 2, 0):
        coarse = Image.fromarray(np.ascontiguousarray(channel)).resize(small, Image.Resampling.BOX)
        around = coarse.filter(ImageFilter.MedianFilter(AROUND))
        channels.append(np.asarray(around.resize((width, height), Image.Resampling.BILINEAR)))
    return np.stack(channels, axis=2)


def _border(values: Levels) -> Levels:
    """[pixels, ...] along the border, as many as tell enough."""
    height, width = values.shape[:2]
    depth = max(1, min(height, width) // 25)
    sides = (values[:depth], values[-depth:], values[depth:-depth, :depth], values[depth:-depth, -depth:])
    pixels = np.concatenate([side.reshape(-1, *values.shape[2:]) for side in sides])
    return pixels[:: -(-len(pixels) // SAMPLES)]


def _steps(values: Levels) -> Levels:
    """From one pixel at the border to the next."""
    along = (np.diff(values[[0, -1]], axis=1), np.diff(values[:, [0, -1]], axis=0))
    return np.concatenate([np.abs(side).max(axis=2).ravel() for side in along])


def _otsu(distance: Levels) -> int:
    """What parts the pixels into two groups that differ most; Otsu (1979)."""
    counts = np.bincount(np.minimum(distance, 255).astype(np.uint8).ravel(), minlength=256)
    below, sums = counts.cumsum(), (counts * _LEVELS).cumsum()
    pixels, total = below[-1], sums[-1]
    between = (total * below - sums * pixels).astype(np.float64) ** 2 / np.maximum(below * (pixels - below), 1)
    return int(between[:-1].argmax()) + 1


def _without_margins(ink: Levels) -> Levels:
    """The part of it with ink, but for specks."""
    inked = ink > EDGE
    top, left = 0, 0
    for _ in range(2):  # what was beside a speck may be empty without it
        begin, end = _extent(inked.sum(axis=1))
        inked, top = inked[begin:end], top + begin
        begin, end = _extent(inked.sum(axis=0))
        inked, left = inked[:, begin:end], left + begin
    height, width = inked.shape
    return ink[top : top + height, left : left + width]


def _extent(profile: NDArray[np.integer]) -> tuple[int, int]:
    """From the first to behind the last run of it that is no speck."""
    filled = np.flatnonzero(profile)
    if filled[-1] - filled[0] >= len(filled):  # there are gaps
        runs = np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1)
        amounts = [profile[run].sum() for run in runs]
        least = SPECK * max(amounts)
        filled = np.concatenate([run for run, amount in zip(runs, amounts, strict=True) if amount >= least])
    return int(filled[0]), int(filled[-1]) + 1


def _with_a_pen(part: Levels, side: int) -> Levels:
    """Lines as wide as in the datasets: those of a ballpoint on a large sheet would fade."""
    padded = np.pad(part, math.ceil(PEN * side))
    edges = sum(float(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1)) * math.pi / 4  # of any direction
    line = 2 * float(part.sum()) / edges
    if line >= THIN * side:
        return part
    size = 2 * round((PEN * side - line) / 2) + 1
    return _without_margins(np.asarray(Image.fromarray(padded).filter(ImageFilter.MaxFilter(size))))


def _resized(part: Levels, longer_side: int) -> Levels:
    """With as much ink somewhere as there can be: lines that are narrower than a pixel fade."""
    scale = longer_side / max(part.shape)
    height, width = (max(1, round(side * scale)) for side in part.shape)
    if (height, width) != part.shape:
        filter = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
        part = np.clip(np.asarray(Image.fromarray(part).resize((width, height), filter)), 0, None)
    resized: Levels = part / part.max()
    return resized


def _begin(mass: Levels, side: int, box: int) -> int:
    """Where on an axis the ink has to begin."""
    length = len(mass)
    centre = float(mass @ np.arange(length)) / float(mass.sum())
    middle = side / 2 if box < side else (side - 1) / 2  # MNIST's is at 14 of 0 to 27
    return min(max(round(middle - centre), 0), side - length)
