"""No model is tested on images on which a version that it starts from was trained."""

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from mnist_lib.data.changes import DatasetState
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.hold_out import require_untrained, without_trained
from mnist_lib.data.table import indices_of
from mnist_lib.errors import DataError
from mnist_lib.store.contents import origins
from mnist_lib.store.datasets import store_state, trained_images
from mnist_lib.store.publishing import publish
from tests.support.digits import few_digits
from tests.support.simulation.memory import MemoryObjects
from tests.support.store.fake_versions import about, files, small_manifest
from tests.support.store.scenarios import published

OWN = {"model": "own", "source_sha256": "0" * 64}


def test_test_images_that_a_version_was_trained_on_are_left_out_and_counted(digits: Dataset) -> None:
    few = few_digits(digits)
    reviewed = np.concatenate([np.zeros(120, bool), np.arange(110) % 2 == 0])
    marked = replace(few, table=replace(few.table, reviewed=reviewed))
    one, other = few.test.hashes[[3, 70, 5]], np.concatenate([few.train.hashes, few.test.hashes[[5, 6]]])
    left = without_trained(marked, {"keras@3": one, "keras@1": other})
    assert [f"{len(left.train)}", f"{len(left.test)}"] == ["120", "106"]
    assert left.report.notices == (
        "left out: 3 test images on which keras@3, from which a model starts, was trained",
        "left out: 1 test image on which keras@1, from which a model starts, was trained",
    )
    rows = np.delete(np.arange(110), [3, 5, 6, 70])
    assert np.array_equal(left.test.images, few.test.images[rows])
    assert np.array_equal(left.test.reviewed, rows % 2 == 0)
    assert left.fingerprint not in (few.fingerprint, without_trained(few, {"keras@3": one}).fingerprint)
    assert without_trained(few, {"keras@3": few.train.hashes}) is few
    require_untrained(few, {"keras@3": few.test.hashes})
    with pytest.raises(
        DataError, match=r"few: expected folds of images on which keras@3, .* got 120 of 120 on which it was; leave"
    ):
        require_untrained(few, {"keras@3": few.train.hashes})
    with pytest.raises(DataError, match="few: expected test images on which keras@3 was not trained, got none"):
        without_trained(few, {"keras@3": few.test.hashes})


def test_the_images_of_a_version_are_those_of_the_state_of_its_dataset(
    digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    objects, few = MemoryObjects(), few_digits(digits)
    version = published(objects, 150)
    assert trained_images(objects, [version]) == {}
    assert "it is not known whether test images are new to keras@1: the images of keras@1: expected" in caplog.text
    store_state(objects, "mnist", version.facts.dataset.fingerprint, DatasetState.of(few).content())
    found = trained_images(objects, [version])["keras@1"]
    assert [len(hashes) for hashes in trained_images(objects, [version, published(objects, 160)]).values()] == [120, 0]
    assert (indices_of(few.train.hashes, found) >= 0).all()
    assert (indices_of(few.test.hashes, found) < 0).all()


def test_a_damaged_version_far_back_in_the_chain_does_not_end_a_night(caplog: pytest.LogCaptureFixture) -> None:
    objects = MemoryObjects()
    for number in range(1, 5):
        starts = {"init_from": f"keras@{number - 1}"} if number > 1 else {}
        publish(objects, "keras", f"r{number}", files(number), {**about(), **starts})
    objects.replace("models/keras/versions/3/manifest.json", b"damaged")
    objects.replace("models/keras/commits/00000001.json", b"damaged")
    assert [version.name for version in origins(objects, ["keras@4"], [])] == ["keras@4", "keras@3", "keras@2"]
    assert "it is not known what else keras@3 starts from: keras@3: manifest.json: expected" in caplog.text
    assert "it is not known what else keras@1 starts from: keras@1: expected" in caplog.text


def test_each_record_is_read_once_in_a_long_chain_of_versions_that_share_a_file() -> None:
    objects, count = MemoryObjects(), 20
    first = publish(objects, "keras", "r0", files(0), about())
    shared = small_manifest(spec={**OWN, "weights": {"body": first.files["model.keras"].sha256}})
    for number in range(1, count):
        of_version = {**files(number), "manifest.json": json.dumps(shared).encode()}
        publish(objects, "keras", f"r{number}", of_version, {**about(), "init_from": f"keras@{number}"})
    with mock.patch.object(objects, "read", wraps=objects.read) as read:
        assert len(origins(objects, [f"keras@{count}"], [])) == count
    assert read.call_count <= 3 * count + 10  # a record, a manifest, and the list of all files


def test_a_weights_file_that_is_one_of_a_version_brings_all_that_this_version_starts_from() -> None:
    objects = MemoryObjects()
    first = publish(objects, "keras", "r1", files(1), about())
    second = publish(objects, "keras", "r2", files(2), {**about(), "init_from": "keras@1"})
    manifest = small_manifest(spec={**OWN, "weights": {"backbone": second.files["model.keras"].sha256}})
    of_third = {**files(3), "manifest.json": json.dumps(manifest).encode()}
    third = publish(objects, "letters", "r3", of_third, about())
    published(objects, 150)
    assert origins(objects, ["letters@1"], []) == [third, second, first]
    assert origins(objects, [], [third.files["model.keras"].sha256]) == [third, second, first]
    assert origins(objects, ["keras@1"], ["0" * 64]) == [first]
