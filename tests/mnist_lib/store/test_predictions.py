"""Predictions that somebody forged: memory in proportion to their files, and the same names of hold-outs as ever."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.catalog import MAX_TEST_IMAGES
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import npz
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.log import counted_images, store_counted
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


@st.composite
def small_predictions(draw: st.DrawFn) -> Predictions:
    classes = tuple(draw(st.lists(st.text(max_size=3), min_size=2, max_size=4)))
    size = draw(st.integers(0, 6))
    labels = draw(st.lists(st.integers(0, len(classes) - 1), min_size=size, max_size=size))
    halves = draw(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 2), min_size=2 * size, max_size=2 * size))
    hashes = np.array(halves, np.uint64).reshape(-1, 2)
    probabilities = np.zeros((size, len(classes)), np.float32)
    return Predictions("x", size, probabilities, np.array(labels, np.uint8), classes, hashes)


@given(small_predictions())
def test_the_name_of_a_hold_out_is_the_hash_of_its_sorted_rows(found: Predictions) -> None:
    rows = zip(found.images, found.labels, strict=True)
    named = sorted(image + found.classes[label].encode(errors="replace") + b"\n" for image, label in rows)
    assert found.hold_out == hashlib.sha256(b"".join(named)).hexdigest()


def test_the_name_of_a_hold_out_takes_no_memory_for_each_image_and_name() -> None:
    setup = SETUP + "found = predictions(30_000, tuple(chr(0x1F600 + n) * 1_000 for n in range(5)))"
    assert peak_bytes(setup, "found.hold_out") < 20_000_000  # all rows have 120 MB


def test_a_champion_with_many_images_is_compared_in_little_memory() -> None:
    setup = SETUP + "one, many = predictions(10, ('a', 'b')), predictions(1_000_000, ('a', 'b'))"
    assert peak_bytes(setup, "assert many.rows_for(one).tolist() == [*range(10)]") < 80_000_000


def test_of_the_images_that_were_counted_only_those_of_the_dataset_are_held(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    images = np.arange(18, dtype=np.uint64).reshape(-1, 2)
    store_counted(objects, "keras", "a", images[:5])
    store_counted(objects, "keras", "a", images[5:])
    assert counted_images(objects, "keras", "a", images[4:6]) == {row.tobytes() for row in images[4:6]}
    content = npz({"hashes": np.arange(1 << 24, dtype=np.uint8).reshape(-1, 16)})
    (tmp_path / f"models/keras/counted/a/{hashlib.sha256(content).hexdigest()}.npz").write_bytes(content)
    setup = f"""
from pathlib import Path
import numpy as np
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.log import counted_images
objects = LocalObjects(Path({str(tmp_path)!r}))
"""
    code = "counted_images(objects, 'keras', 'a', np.zeros((1, 2), np.uint64))"
    assert peak_bytes(setup, code) < 4 * len(content)


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
