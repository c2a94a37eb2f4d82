"""Digits of mnist-mini: a small dataset, pictures, and the difference between two images."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.pictures.ink import centre, find_ink

with np.load(FOLDER / "mnist-mini.npz") as arrays:
    DIGITS: NDArray[np.uint8] = arrays["test_images"][..., 0]

MAX_DIFFERENCE = 10.0  # for images of the same digit: mean over pixels and digits, 0-255

ORDER = np.random.default_rng(0).permutation(4_000)  # of the training images, which are sorted by class

any_digit = st.integers(0, len(DIGITS) - 1).map(lambda index: DIGITS[index])


def few_digits(digits: Dataset) -> Dataset:
    """Return a dataset of 120 digits to train on and 110 to test on."""
    train, test = digits.train.take(np.arange(0, 4_000, 33)[:120]), digits.test.take(np.arange(0, 1_000, 9)[:110])
    return Dataset.of("few", "1", train, test)


def add_digits(folder: Path, digits: Dataset, first: int, last: int) -> Path:
    """Write training images as pictures, CLASS/NUMBER.png: those from `first` to before `last` in `ORDER`."""
    for index in ORDER[first:last]:
        path = folder / str(digits.train.labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.train.images[index, ..., 0]).save(path)
    return folder


def centred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture, [height, width] or [height, width, channels], as a centred digit, [28, 28]."""
    return centre(find_ink(pixels.astype(np.float32).reshape(*pixels.shape[:2], -1)), (28, 28), 20)


def enlarged(digit: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two images over their pixels, 0-255."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())
