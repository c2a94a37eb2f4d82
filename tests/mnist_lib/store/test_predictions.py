"""Predictions of many images: memory in proportion to their files."""

from tests.support.memory import peak_bytes

SETUP = """
import numpy as np
from mnist_lib.store.predictions import Predictions

def predictions(images, classes):
    labels = np.arange(images, dtype=np.uint16) % len(classes)
    hashes = np.arange(2 * images, dtype=np.uint64).reshape(-1, 2)
    probabilities = np.zeros((images, len(classes)), np.float32)
    return Predictions("x", images, probabilities, labels, classes, hashes)
"""


def test_a_champion_with_many_images_is_compared_in_little_memory() -> None:
    setup = SETUP + "one, many = predictions(10, ('a', 'b')), predictions(1_000_000, ('a', 'b'))"
    assert peak_bytes(setup, "assert many.rows_for(one).tolist() == [*range(10)]") < 80_000_000
