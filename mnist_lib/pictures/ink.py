"""Finding the ink on a picture, whatever the colours of ink and paper and however the paper is lit, and centring it.

Pixels along the border count as paper, and pixels that differ from them as ink, so either may be darker. A digit is
cropped to its ink, scaled to a box, and placed with its centre of mass as in the dataset.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mnist_lib.errors import ImageError

BLANK = "expected a digit, got a picture with too little contrast; use another picture"

MIN_CONTRAST = 8.0  # of 255, between ink and paper
NOISE = 3.0  # standard deviations within which paper may vary
MAD = 1.4826  # standard deviation of a normal distribution divided by its median absolute deviation
MAX_SAMPLES = 2_000  # pixels of the border that are examined
SHADOW = 1.0  # of 255: if the median residual exceeds the noise by this, the light is not smooth
COARSE_SIDE, MEDIAN_SIDE = 64, 21  # pixels: the picture reduced to find shadows, and the median filter on it
# Of the ink when it is centred:
MIN_INK = 0.3  # share of full ink; less is blur or an artefact of compression
MIN_RUN = 0.05  # share of the largest run of ink; smaller runs are dirt
DETAIL = 4  # pixels of the crop per pixel of the result; more would not improve its lines
MIN_LINE, PEN = 0.08, 0.1  # shares of the longer side: lines narrower than the first are widened to the second

Levels = NDArray[np.float32]


class NoInkError(ImageError):
    """No ink stands out: an empty sheet with noise, or a photo without paper around what it shows."""


def find_ink(levels: Levels) -> Levels:
    """Return the ink at each pixel, [height, width], from 0 on paper to 1 in full ink.

    Args:
        levels: [height, width, channels], 0-255.

    Raises:
        NoInkError: nothing stands out from what is along the border.
        ImageError: the picture is of a single colour.
    """
    difference = levels - _paper(levels)
    distance = np.sqrt((difference * difference).mean(axis=2))
    if distance.max() == 0:
        raise ImageError(BLANK)
    if distance.max() < MIN_CONTRAST:
        raise NoInkError(BLANK)
    strong = distance >= _otsu(_without_paper_around(distance))
    direction = difference[strong].mean(axis=0)  # from the colour of the paper to that of the ink
    # Its length is near 0 if some ink is darker than the paper and some lighter.
    direction /= max(float(np.sqrt((direction * direction).mean())), 1.0)
    ink: Levels = (difference * direction).mean(axis=2)
    noise = NOISE * MAD * float(np.median(np.abs(_border(ink))))
    amounts = np.sort(ink[strong])
    full = float(amounts[int(0.9 * len(amounts))])
    if full < max(MIN_CONTRAST, 2 * noise):
        raise NoInkError(BLANK)
    amount: Levels = np.clip((ink - noise) / (full - noise), 0, 1, dtype=np.float32)
    return amount


def _paper(levels: Levels) -> Levels:
    """Return the levels of the paper, [height, width, channels], or [channels] if they are the same everywhere."""
    height, width = levels.shape[:2]
    border = _border(levels)
    middle: Levels = np.median(border, axis=0)
    off = np.abs(border - middle).max(axis=1)
    if np.median(off) == 0:  # a drawing or a scan, not a photo
        return middle
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    y, x = (axis[..., None] for axis in np.meshgrid(rows, columns, indexing="ij"))
    light = np.concatenate([np.ones_like(x), x, y, x * y, x * x, y * y], axis=2)  # light that varies smoothly
    light_at_border = _border(light)
    for _ in range(3):
        paper = off <= 1 + NOISE * MAD * np.median(off)  # excludes ink that crosses the border
        factors = np.linalg.lstsq(light_at_border[paper], border[paper], rcond=None)[0]
        off = np.abs(border - light_at_border @ factors).max(axis=1)
    if np.median(off) > SHADOW + 1.5 * np.median(_steps(levels)) or paper.mean() < 0.9:
        return _local_paper(levels)
    smooth: Levels = light @ factors
    return smooth


def _local_paper(levels: Levels) -> Levels:
    """Return the median around each pixel: it is paper even at the edge of a shadow, because lines are thin."""
    height, width = levels.shape[:2]
    scale = min(1, COARSE_SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    channels = []
    for channel in np.moveaxis(levels, 2, 0):
        coarse = Image.fromarray(np.ascontiguousarray(channel)).resize(small, Image.Resampling.BOX)
        around = coarse.filter(ImageFilter.MedianFilter(MEDIAN_SIDE))
        channels.append(np.asarray(around.resize((width, height), Image.Resampling.BILINEAR)))
    return np.stack(channels, axis=2)


def _border(values: Levels) -> Levels:
    """Return a sample of the pixels along the border, [pixels, ...]."""
    height, width = values.shape[:2]
    depth = max(1, min(height, width) // 25)
    sides = (values[:depth], values[-depth:], values[depth:-depth, :depth], values[depth:-depth, -depth:])
    pixels = np.concatenate([side.reshape(-1, *values.shape[2:]) for side in sides])
    return pixels[:: -(-len(pixels) // MAX_SAMPLES)]


def _steps(values: Levels) -> Levels:
    """Return the differences between neighbouring pixels along the border."""
    along = (np.diff(values[[0, -1]], axis=1), np.diff(values[:, [0, -1]], axis=0))
    return np.concatenate([np.abs(side).max(axis=2).ravel() for side in along])


def _without_paper_around(distance: Levels) -> Levels:
    """Crop to what stands out. With the paper around it, Otsu's level would depend on where the digit is."""
    rows, columns = (np.flatnonzero((distance >= MIN_CONTRAST).any(axis=axis)) for axis in (1, 0))
    return distance[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _otsu(distance: Levels) -> int:
    """Return the level that divides the pixels into the two groups that differ most (Otsu, 1979)."""
    counts = np.bincount(np.minimum(distance, 255).astype(np.uint8).ravel(), minlength=256)
    below, sums = counts.cumsum(), (counts * np.arange(256)).cumsum()
    pixels, total = below[-1], sums[-1]
    between = (total * below - sums * pixels).astype(np.float64) ** 2 / np.maximum(below * (pixels - below), 1)
    return int(between[:-1].argmax()) + 1


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
