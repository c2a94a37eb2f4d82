"""Predictions that somebody forged: memory in proportion to their files."""

from pathlib import Path

import numpy as np
import pytest

from mnist_lib.catalog import MAX_TEST_IMAGES
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import npz
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.publishing import publish
from tests.support.memory import peak_bytes
from tests.support.store.fake_versions import about, files

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


def test_predictions_for_more_images_than_a_dataset_may_have_are_refused(tmp_path: Path) -> None:
    labels = np.zeros(MAX_TEST_IMAGES + 1, np.uint8)
    predictions = {
        "probabilities": np.zeros((len(labels), 2), np.float32),
        "predictions": labels,
        "labels": labels,
        "hashes": np.zeros((len(labels), 2), np.uint64),
    }
    made = {**files(0), "predictions.npz": npz(predictions, compressed=True)}
    version = publish(LocalObjects(tmp_path), "keras", "r", made, about())
    with pytest.raises(IntegrityError, match=r"keras@1: predictions.npz: expected .* of up to 2,097,152 images, got "):
        Predictions.read(LocalObjects(tmp_path), version)
