"""Test images that resemble a training image: the same picture, saved again, shifted, brighter or with a little noise.

Marks, which a shift does not change, propose a few training images for each test image; the correlation at the best
shift decides. A copy that is turned, mirrored or very noisy is not found, nor is an object seen from another side.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.shards import ImageArray
from mnist_lib.data.split import Dataset, NearCopies, Split

SIDE = 28  # pixels: larger images are reduced to this
WAVES = 5  # the highest frequency in the marks, in periods per image
CANDIDATES = 3  # training images that are compared with a test image
MAX_SHIFT = 4  # pixels of a reduced image
STEP = 0.25  # pixels between the shifts that are tried
MARGIN = 9  # the part of a side, at either end, that is not compared, since a shift changes what is seen there
MIN_SIMILARITY = 0.98
MIN_CONTRAST = 6.0  # standard deviation of the pixels, 0-255; below, noise would decide
# Bounds for the memory: images, numbers of images before they are reduced, and pairs of marks, at a time.
BLOCK, MAX_NUMBERS, MAX_COSINES = 1_024, 1 << 24, 1 << 25
MAX_PAIRS = 20_000_000_000  # that are compared by their marks: beyond, only as many test images as take a minute

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


def near_copies(dataset: Dataset) -> NearCopies:
    """Compare the test images of a dataset with the training images: each one or, of millions, one in a few."""
    train, test = dataset.train, dataset.test
    (train_marks, train_rows), (test_marks, test_rows) = _marks(train), _marks(test)
    step = -(-len(test_rows) * len(train_rows) // MAX_PAIRS)
    test_marks, test_rows = test_marks[:: max(1, step)], test_rows[:: max(1, step)]
    if not len(train_rows) or not len(test_rows):
        return NearCopies(compared=len(test_rows), test=test_rows[:0], train=train_rows[:0])
    nearest, similarity = np.zeros(len(test_rows), np.int64), np.full(len(test_rows), -1.0, np.float32)
    for block, candidates in _proposals(test_marks, train_marks):
        tested = _reduced(test.images[test_rows[block]])
        for candidate in candidates.T:
            found = _similarity(tested, _reduced(train.images[train_rows[candidate]]))
            better = found > similarity[block]
            nearest[block] = np.where(better, train_rows[candidate], nearest[block])
            similarity[block] = np.where(better, found, similarity[block])
    order = np.argsort(-similarity, kind="stable")
    order = order[: int((similarity >= MIN_SIMILARITY).sum())]
    return NearCopies(compared=len(test_rows), test=test_rows[order], train=nearest[order])


def _blocks(count: int, size: int = 0) -> Iterator[slice]:
    size = size or BLOCK
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _reduced(images: ImageArray) -> Floats:
    """Return images, [n, height, width, channels], with sides of at most SIDE: means over equal areas."""
    down, across = (_means(side, min(side, SIDE)) for side in images.shape[1:3])
    reduced = np.empty((len(images), len(down), len(across), images.shape[3]), np.float32)
    count = max(1, MAX_NUMBERS // math.prod(images.shape[1:]))
    for first in range(0, len(images), count):
        part = np.asarray(images[first : first + count])
        rows = down @ part.reshape(*part.shape[:2], -1).astype(np.float32)  # [n, rows, width * channels]
        reduced[first : first + count] = across @ rows.reshape(len(part), len(down), *part.shape[2:])
    return reduced


def _means(side: int, parts: int) -> Floats:
    """Return the matrix that takes the mean over each of equal parts of a side, [parts, side]."""
    edges, pixels = np.linspace(0, side, parts + 1)[:, None], np.arange(side)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    means: Floats = (np.maximum(covered, 0) * parts / side).astype(np.float32)
    return means


def _marks(split: Split) -> tuple[Floats, Rows]:
    """Return the marks, [n, marks], of the images with enough contrast, and their indices, [n].

    Marks are the magnitudes of low frequencies, which a shift does not change, with a length of 1. Square roots are
    taken, since the lowest frequencies would outweigh all others.
    """
    numbers = np.arange(-WAVES, WAVES + 1)
    kept = (numbers[:, None] > 0) | (numbers[WAVES:] > 0)  # the other half is the same, since images are real
    marks, rows = [np.empty((0, int(kept.sum())), np.float32)], [np.empty(0, np.int64)]
    for block in _blocks(len(split)):
        grey = _reduced(split.images[block]).mean(axis=3)
        grey -= grey.mean(axis=(1, 2), keepdims=True)
        compared = np.flatnonzero(grey.std(axis=(1, 2)) >= MIN_CONTRAST)
        down, across = (_waves(side) for side in grey.shape[1:])
        roots = np.sqrt(np.abs(down.T @ (grey[compared] @ across[:, WAVES:])))[:, kept]
        marks.append(roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-6))
        rows.append(block.start + compared)
    return np.concatenate(marks), np.concatenate(rows)


def _waves(side: int) -> NDArray[np.complex64]:
    """Return waves of -WAVES to WAVES periods over a side that fade near its ends, [side, 2 * WAVES + 1]."""
    places = np.arange(side)[:, None] / side
    waves: NDArray[np.complex64] = _fading(side)[:, None].astype(np.complex64) * np.exp(
        -2j * np.pi * places * np.arange(-WAVES, WAVES + 1)
    ).astype(np.complex64)
    return waves


def _fading(side: int) -> Floats:
    """Return weights that are 1 in the middle half of a side and fall to its ends, [side]."""
    places = (np.arange(side) + 0.5) / side
    fading: Floats = np.minimum(1, 2 * np.sin(np.pi * places) ** 2).astype(np.float32)
    return fading


def _proposals(test: Floats, train: Floats) -> Iterator[tuple[slice, Rows]]:
    """Yield the rows of a block of test images, and of the training images with the most similar marks, [block, n]."""
    for block in _blocks(len(test), max(1, min(BLOCK, MAX_COSINES // len(train)))):
        cosines = test[block] @ train.T
        places, best = np.arange(len(cosines)), []
        for _ in range(min(CANDIDATES, len(train))):
            best.append(cosines.argmax(axis=1))
            cosines[places, best[-1]] = -np.inf
        yield block, np.stack(best, axis=1)


def _similarity(one: Floats, other: Floats) -> Floats:
    """Return the correlation of the inner parts of reduced images at their best shift, [n].

    Args:
        one, other: [n, height, width, channels].
    """
    height, width = one.shape[1:3]
    # The spectra of what is repeated on all sides: the edges of a moved image are wrong, and are not compared.
    down, across = np.fft.fftfreq(height), np.fft.rfftfreq(width)  # periods per pixel
    shifts = _best_shifts(one, other, down, across)
    turns = down[:, None] * shifts[:, 0, None, None] + across * shifts[:, 1, None, None]
    spectra = np.fft.rfft2(other, axes=(1, 2)) * np.exp(-2j * np.pi * turns).astype(np.complex64)[..., None]
    moved = np.fft.irfft2(spectra, s=(height, width), axes=(1, 2))
    inner = tuple(slice(side // MARGIN, side - side // MARGIN) for side in (height, width))
    parts = [images[:, *inner] for images in (one, moved)]
    # Around the mean of each channel, since images in about the same colour would resemble each other.
    a, b = (part - part.mean(axis=(1, 2), keepdims=True) for part in parts)
    products, *squares = (np.einsum("nhwc,nhwc->n", *pair) for pair in ((a, b), (a, a), (b, b)))
    correlation: Floats = (products / np.maximum(np.sqrt(squares[0] * squares[1]), 1e-6)).astype(np.float32)
    return correlation


def _best_shifts(
    one: Floats, other: Floats, down: NDArray[np.floating[Any]], across: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the shift down and across, in pixels, at which `other` fits best on `one`, [n, 2].

    Args:
        down, across: the frequencies of a spectrum, in periods per pixel.
    """
    height, width = one.shape[1:3]
    fading = np.outer(_fading(height), _fading(width))[..., None]
    centred = (images - images.mean(axis=(1, 2), keepdims=True) for images in (one, other))
    first, second = (np.fft.rfft2(images * fading, axes=(1, 2)) for images in centred)
    # Weighted by the frequency, so that edges decide; twice, since a spectrum of real numbers has half of the waves.
    weights = np.hypot(down[:, None], across) * np.where(across > 0, 2, 1)
    common = ((first * second.conj()).sum(axis=3) * weights).astype(np.complex64)
    steps = [np.arange(-(reach := min(MAX_SHIFT, side // 4)), reach + STEP, STEP) for side in (height, width)]
    waves = [np.exp(2j * np.pi * np.outer(*pair)) for pair in ((steps[0], down), (across, steps[1]))]
    fits = (waves[0].astype(np.complex64) @ common @ waves[1].astype(np.complex64)).real
    best = fits.reshape(len(fits), -1).argmax(axis=1)
    return np.stack([steps[0][best // len(steps[1])], steps[1][best % len(steps[1])]], axis=1)
