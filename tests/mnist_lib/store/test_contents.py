"""Reading the predictions of a version."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.publishing import publish
from tests.support.store.fake_versions import about, files
from tests.support.store.scenarios import published


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


LABELS = np.zeros(200, np.uint8)
OTHER_IMAGES = np.arange(1_000, 1_400, dtype=np.uint64).reshape(200, 2)
GOOD: dict[str, Any] = {
    "probabilities": np.eye(10, dtype=np.float32)[LABELS],
    "predictions": LABELS,
    "labels": LABELS,
    "hashes": OTHER_IMAGES,
}


def test_predictions_have_an_accuracy_and_may_be_disqualified(objects: LocalObjects) -> None:
    for run, finite in (("a", True), ("b", False)):
        version = publish(objects, "keras", run, files(150, finite=finite), about())
        read = Predictions.read(objects, version)
        assert (read.disqualification is None, len(read.correct)) == (finite, 200)
    version = publish(objects, "keras", "c", files(150), about())
    assert Predictions.read(objects, version).accuracy == 0.75
    version = publish(objects, "keras", "d", {**files(150), "predictions.npz": b"PK\3\4"}, about())
    with pytest.raises(IntegrityError, match=r"keras@4: predictions.npz"):
        Predictions.read(objects, version)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4",
        npz(**GOOD)[:-30],
        npz(**{**GOOD, "labels": np.array([print] * 200)}),
        npz(labels=LABELS),
    ],
)
def test_p11_malformed_predictions_are_an_integrity_error(objects: LocalObjects, content: bytes) -> None:
    version = publish(objects, "keras", "odd", {**files(150), "predictions.npz": content}, about())
    with pytest.raises(IntegrityError, match=r"^keras@1: predictions.npz: expected"):
        Predictions.read(objects, version)


def test_predictions_for_different_images_are_not_compared(objects: LocalObjects) -> None:
    promote(objects, published(objects, 150), Rule())
    version = publish(objects, "keras", "easy", {**files(150), "predictions.npz": npz(**GOOD)}, about())
    decision = promote(objects, version, Rule())
    assert not decision.promote
    assert "it was not tested on 200 images of them" in decision.why


def test_a_version_tested_on_no_images_is_not_promoted(objects: LocalObjects) -> None:
    nothing = npz(
        probabilities=GOOD["probabilities"][:0], predictions=LABELS[:0], labels=LABELS[:0], hashes=OTHER_IMAGES[:0]
    )
    empty = {**about(), "dataset": {**about()["dataset"], "test": 0}}
    version = publish(objects, "scratch", "r", {"predictions.npz": nothing, "model.keras": b""}, empty)
    assert not promote(objects, version, Rule()).promote
