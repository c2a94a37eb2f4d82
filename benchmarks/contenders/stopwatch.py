"""Time a contender on the same images as the others, the first epoch as a warm-up. Print the seconds as a line of JSON.

A contender is a script that trains an epoch in one function and counts correct test images in another. It runs in a
process and an environment of its own, so this module imports only NumPy.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH_SIZE, HIDDEN_UNITS, CLASSES = 128, 512, 10


class Digits(NamedTuple):
    """images: [n, 28, 28, 1] uint8; labels: [n] uint8."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def digits() -> Digits:
    """Read the digits from the file that the first argument names."""
    with np.load(Path(sys.argv[1])) as arrays:
        return Digits(*(arrays[name] for name in Digits._fields))


def measure(train_epoch: Callable[[int], None], correct: Callable[[], int]) -> None:
    """Train as many epochs as the second argument says, and print the seconds of each but the first, a warm-up."""
    seconds = []
    for epoch in range(int(sys.argv[2])):
        begin = time.perf_counter()
        train_epoch(epoch)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds[1:], "correct": correct()}))
