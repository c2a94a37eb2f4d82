"""Test images that resemble a training image: the same picture, saved again, shifted, brighter or with a little noise.

Marks, features that a shift does not change, select a few training images for each test image; the correlation at the
best shift decides. A copy that is turned, mirrored or very noisy is not found, nor is an object seen from another side.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset, NearCopies
from mnist_lib.data.images import MAX_HELD_BYTES, ImageArray
from mnist_lib.environment import usable_cpus
from mnist_lib.wording import reported

SIDE = 28  # pixels: larger images are reduced to this
WAVES = 5  # the highest frequency in the marks, in periods per image
CANDIDATES = 3  # training images that are compared with a test image
MAX_SHIFT = 4  # pixels of a reduced image
STEP = 0.25  # pixels between the shifts that are tried
MARGIN = 9  # 1/MARGIN of a side, at either end, is not compared, since a shift changes what is seen there
MIN_SIMILARITY = 0.98
MIN_CONTRAST = 6.0  # standard deviation of the pixels, 0-255; below, noise would decide
# Limits on what a thread holds in memory at a time.
BLOCK = 1_024  # images
MAX_NUMBERS = 1 << 22  # in images before they are reduced
MAX_COSINES = 1 << 23  # of the marks of pairs of images
MAX_THREADS = 4
MAX_PAIRS = 20_000_000_000  # compared by their marks, in about a minute; beyond, some test images are skipped

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


def near_copies(dataset: Dataset, progress: Callable[[str], object] = lambda text: None) -> NearCopies:
    """Compare the test images of a dataset with the training images. Of millions, some test images are skipped.

    Args:
        progress: called now and then with how many images are read, and then with how many are compared.
    """
    train = len(dataset.train)
    total = train + len(dataset.test)
    images = _ReducedImages(dataset.table.images[:total])
    with ThreadPoolExecutor(min(usable_cpus(), MAX_THREADS)) as threads:
        read = threads.map(images.marks, _blocks(total))
        read = reported(read, total, "images read for near-copies", progress, BLOCK)
        marks, rows = (np.concatenate(parts) for parts in zip(*read, strict=True))
        begin = int(np.searchsorted(rows, train))  # the first test image
        step = max(1, -(-(len(rows) - begin) * begin // MAX_PAIRS))
        train_marks = marks[:begin]
        train_rows = rows[:begin]
        test_marks = marks[begin::step]
        test_rows = rows[begin::step]
        if not len(train_rows) or not len(test_rows):
            return NearCopies(compared=len(test_rows), test=test_rows[:0], train=train_rows[:0])

        def compared(block: slice) -> tuple[Rows, Floats]:
            """Return the training image that each test image of a block resembles most, and how similar it is."""
            tested = images[test_rows[block]]
            nearest = np.zeros(len(tested), np.int64)
            similarity = np.full(len(tested), -1.0, np.float32)
            for candidate in _candidates(test_marks[block], train_marks):
                found = _similarity(tested, images[train_rows[candidate]])
                better = found > similarity
                nearest[better] = train_rows[candidate[better]]
                similarity[better] = found[better]
            return nearest, similarity

        size = max(1, min(BLOCK, MAX_COSINES // len(train_rows)))
        results = threads.map(compared, _blocks(len(test_rows), size))
        results = reported(results, len(test_rows), "test images compared for near-copies", progress, size)
        nearest, similarity = (np.concatenate(parts) for parts in zip(*results, strict=True))
    order = np.argsort(-similarity, kind="stable")
    order = order[: int((similarity >= MIN_SIMILARITY).sum())]
    return NearCopies(compared=len(test_rows), test=test_rows[order] - train, train=nearest[order])


def _blocks(count: int, size: int = 0) -> Iterator[slice]:
    """Return slices of `count` images; one empty slice if there are none."""
    size = size or BLOCK
    return (slice(first, min(first + size, count)) for first in range(0, max(count, 1), size))


class _ReducedImages:
    """Images with sides of at most SIDE. Up to MAX_HELD_BYTES of them stay in memory, to be read only once."""

    def __init__(self, images: ImageArray) -> None:
        height, width, channels = images.shape[1:]
        shape = min(height, SIDE), min(width, SIDE), channels
        held = min(len(images), MAX_HELD_BYTES // (4 * math.prod(shape)))
        self._images = images
        self._held = np.empty((held, *shape), np.float32)

    def marks(self, block: slice) -> tuple[Floats, Rows]:
        """Read images, and return what `_marks` returns for them."""
        reduced = self._read(self._images[block])
        held = self._held[block]
        held[:] = reduced[: len(held)]
        marks, compared = _marks(reduced)
        return marks, block.start + compared

    def __getitem__(self, rows: Rows) -> Floats:
        """Return reduced images, [n, height, width, channels], 0-255."""
        is_held = rows < len(self._held)
        reduced = np.empty((len(rows), *self._held.shape[1:]), np.float32)
        reduced[is_held] = self._held[rows[is_held]]
        reduced[~is_held] = self._read(self._images[rows[~is_held]])
        return reduced

    def _read(self, images: ImageArray) -> Floats:
        """Read and reduce images, a few at a time."""
        reduced = np.empty((len(images), *self._held.shape[1:]), np.float32)
        count = max(1, MAX_NUMBERS // math.prod(images.shape[1:]))
        for part in _blocks(len(images), count):
            reduced[part] = _means(np.asarray(images[part]), *reduced.shape[1:3])
        return reduced


def _means(images: NDArray[np.uint8], height: int, width: int) -> Floats:
    """Return the means over equal areas, which may cut pixels: [n, height, width, channels]."""
    count, down, across, channels = images.shape
    rows = _weights(down, height) @ images.reshape(count, down, across * channels).astype(np.float32)
    means: Floats = _weights(across, width) @ rows.reshape(count, height, across, channels)
    return means


def _weights(side: int, parts: int) -> Floats:
    """Return the matrix that takes the mean over each of equal parts of a side, [parts, side]."""
    edges = np.linspace(0, side, parts + 1)[:, None]
    pixels = np.arange(side)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights: Floats = (np.maximum(covered, 0) * parts / side).astype(np.float32)
    return weights


def _marks(reduced: Floats) -> tuple[Floats, Rows]:
    """Return the marks, [n, marks], of the reduced images with enough contrast, and their indices, [n].

    Marks are the magnitudes of low frequencies, which a shift does not change, scaled to length 1. Square roots are
    taken, since the lowest frequencies would outweigh all others.
    """
    numbers = np.arange(-WAVES, WAVES + 1)
    kept = (numbers[:, None] > 0) | (numbers[WAVES:] > 0)  # the other half is the same, since images are real
    grey = reduced.mean(axis=3)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    compared = np.flatnonzero(grey.std(axis=(1, 2)) >= MIN_CONTRAST)
    down, across = (_waves(side) for side in grey.shape[1:])
    roots = np.sqrt(np.abs(down.T @ (grey[compared] @ across[:, WAVES:])))[:, kept]
    return roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-6), compared


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


def _candidates(test: Floats, train: Floats) -> Iterator[Rows]:
    """Yield, for each test image, the row of the training image with the next most similar marks, [test]."""
    cosines = test @ train.T
    places = np.arange(len(cosines))
    for _ in range(min(CANDIDATES, len(train))):
        best = cosines.argmax(axis=1)
        cosines[places, best] = -np.inf
        yield best


def _similarity(one: Floats, other: Floats) -> Floats:
    """Return the correlation of the inner parts of reduced images at their best shift, [n].

    Args:
        one, other: [n, height, width, channels].
    """
    height, width = one.shape[1:3]
    # Spectra treat images as periodic, so the edges of a moved image are wrong, and are not compared.
    down = np.fft.fftfreq(height)  # periods per pixel
    across = np.fft.rfftfreq(width)
    shifts = _best_shifts(one, other, down, across)
    turns = down[:, None] * shifts[:, 0, None, None] + across * shifts[:, 1, None, None]
    spectra = np.fft.rfft2(other, axes=(1, 2)) * np.exp(-2j * np.pi * turns).astype(np.complex64)[..., None]
    moved = np.fft.irfft2(spectra, s=(height, width), axes=(1, 2))
    inner = tuple(slice(side // MARGIN, side - side // MARGIN) for side in (height, width))
    parts = [images[:, *inner] for images in (one, moved)]
    # The mean of each channel is subtracted; otherwise images of about the same colour would resemble each other.
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
    # Weighted by the frequency, so that edges decide; doubled for waves whose conjugates `rfft2` leaves out.
    weights = np.hypot(down[:, None], across) * np.where(across > 0, 2, 1)
    common = ((first * second.conj()).sum(axis=3) * weights).astype(np.complex64)
    steps = [np.arange(-(reach := min(MAX_SHIFT, side // 4)), reach + STEP, STEP) for side in (height, width)]
    waves = [np.exp(2j * np.pi * np.outer(*pair)) for pair in ((steps[0], down), (across, steps[1]))]
    fits = (waves[0].astype(np.complex64) @ common @ waves[1].astype(np.complex64)).real
    best = fits.reshape(len(fits), -1).argmax(axis=1)
    return np.stack([steps[0][best // len(steps[1])], steps[1][best % len(steps[1])]], axis=1)
