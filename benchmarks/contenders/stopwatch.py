"""How every contender is timed: the same images, the first epoch not counted, one JSON line of seconds on stdout.

A contender is a script with one function that trains an epoch, and one that counts the right test images; it runs in a
process of its own, in the environment of its own framework. Hence nothing but NumPy here.
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
    """From the file that is the first argument."""
    with np.load(Path(sys.argv[1])) as arrays:
        return Digits(*(arrays[name] for name in Digits._fields))


def measure(train_epoch: Callable[[int], None], correct: Callable[[], int]) -> None:
    """Trains as many epochs as the second argument says, the first as warm-up, and tells the seconds of each."""
    seconds = []
    for epoch in range(int(sys.argv[2])):
        begin = time.perf_counter()
        train_epoch(epoch)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds[1:], "correct": correct()}))
