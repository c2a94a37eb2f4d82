"""The reference of a dataset: the shape of its images, objections to another state, and accepting it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.data.changes import DatasetState
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import Table, as_labels
from mnist_lib.errors import SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.datasets import LastRun, last_run, store_state, write_last_run
from mnist_lib.store.reference import accept, objections, record_last_run, reference_of, with_reference_shape
from mnist_lib.store.runs import RunFolder
from tests.support.store.summaries import small_summary, summary_of

REQUEST = DataRequest(dataset="./letters")


def complete_run(objects: Objects, run: str, shape: tuple[int, int, int], ended: str, **fields: Any) -> None:
    """Complete a run on letters of this shape."""
    dataset = {**small_summary()["dataset"], "name": "letters", "image_shape": shape, "fingerprint": "0" * 64}
    dataset |= fields
    folder, summary = RunFolder(objects, run), summary_of(small_summary(run=run, ended=ended, dataset=dataset))
    folder.complete(summary)
    record_last_run(folder, summary)


def forget_reference(objects: Objects) -> None:
    """Write the record of the last run as earlier releases did."""
    last = last_run(objects, "letters")
    assert last is not None
    write_last_run(objects, "letters", replace(last, image_shape=None, has_test_folder=None))


def test_the_images_have_the_shape_of_the_reference(objects: Objects) -> None:
    assert with_reference_shape(REQUEST, objects) == REQUEST
    complete_run(objects, "a", (64, 64, 3), "2026-11-25T03:00:00Z")
    complete_run(objects, "b", (48, 48, 1), "2026-11-26T03:00:00Z")
    complete_run(objects, "c", (20, 20, 1), "2026-11-27T03:00:00Z", objections=["images are 20 x 20 x 1"])
    asked = with_reference_shape(REQUEST, objects)
    assert (asked.image_size, asked.channels) == ((48, 48), 1)
    asked = with_reference_shape(DataRequest(dataset="./letters", image_size=(20, 20)), objects)
    assert (asked.image_size, asked.channels) == ((20, 20), 1)
    assert with_reference_shape(DataRequest(dataset="./others"), objects) == DataRequest(dataset="./others")
    assert with_reference_shape(DataRequest(dataset="mnist"), objects) == DataRequest(dataset="mnist")


def test_the_record_of_an_earlier_release_has_the_shape_of_the_summary_of_its_run(objects: Objects) -> None:
    complete_run(objects, "a", (96, 96, 1), "2026-11-25T03:00:00Z")
    forget_reference(objects)
    assert with_reference_shape(REQUEST, objects).image_size == (96, 96)
    complete_run(objects, "b", (20, 20, 1), "2026-11-26T03:00:00Z", objections=["images are 20 x 20 x 1"])
    reference = reference_of(objects, "letters")
    assert reference is not None
    assert (reference.run, reference.image_shape) == ("a", (96, 96, 1))


@pytest.mark.parametrize("damaged", ["datasets/letters/last.json", "runs/a/summary.json"])
def test_a_damaged_record_leaves_the_shape_to_the_pictures(objects: Objects, damaged: str) -> None:
    complete_run(objects, "a", (64, 64, 3), "2026-11-25T03:00:00Z")
    forget_reference(objects)
    objects.replace(damaged, b"{")
    assert with_reference_shape(REQUEST, objects) == REQUEST


def test_a_storage_that_does_not_exist_yet_knows_no_shape(tmp_path: Path) -> None:
    assert with_reference_shape(REQUEST, LocalObjects(tmp_path / "results")) == REQUEST


def letters(rows: list[int], labels: list[int], classes: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    """Return a dataset of the pictures with these numbers and labels."""
    images = np.zeros((len(rows), 2, 2, 1), np.uint8)
    hashes = np.stack([np.array(rows, np.uint64)] * 2, axis=1)
    split = Table.of(images, as_labels(np.array(labels), 3), hashes)
    return Dataset.of("letters", "1", split.take(slice(-1)), split.take(slice(-1, None)), classes)


BEFORE = letters([*range(10)], [0] * 5 + [1] * 5)


def objections_to(dataset: Dataset, has_test_folder: bool | None = False) -> tuple[str, ...]:
    reference = LastRun("r", BEFORE.fingerprint, "2026-11-25T03:00:00Z", (2, 2, 1), has_test_folder)
    dataset = replace(dataset, fingerprint="another")
    return objections(reference, DatasetState.of(BEFORE), dataset)


def test_a_dataset_that_grows_or_loses_a_fifth_of_its_pictures_raises_no_objection() -> None:
    assert objections_to(BEFORE) == ()
    assert objections_to(letters([*range(20)], [0] * 5 + [1] * 5 + [2] * 10)) == ()
    assert objections_to(letters([0, 1, 2, 3, 5, 6, 7, 8], [0] * 4 + [1] * 4)) == ()


def test_classes_and_pictures_that_are_gone_are_objections() -> None:
    assert objections_to(letters([0, 1, 2, 3, 5, 6, 7], [0] * 4 + [1] * 3)) == ("3 of 10 pictures are gone",)
    # The pictures of b are in a folder c now.
    assert objections_to(letters([*range(10)], [0] * 5 + [2] * 5)) == ("1 of 2 classes is gone (b)",)
    many = objections_to(letters([20, 21], [2, 2]))
    assert many == (
        "2 of 2 classes are gone (a, b)",
        "all 10 pictures are gone; for another dataset, use --dataset-name",
    )


def test_what_a_person_has_corrected_is_not_gone() -> None:
    relabelled = letters([*range(10)], [0] * 10).reporting(corrected=BEFORE.table.hashes[5:])
    assert objections_to(relabelled) == ()
    removed = letters([*range(5)], [0] * 5).reporting(corrected=BEFORE.table.hashes[5:])
    assert objections_to(removed) == ()
    assert objections_to(removed.reporting(corrected=BEFORE.table.hashes[6:])) == ("1 of 2 classes is gone (b)",)
    every_label = letters([*range(10)], [2] * 10).reporting(corrected=BEFORE.table.hashes)
    assert objections_to(every_label) == ()


def test_another_layout_or_shape_is_an_objection() -> None:
    with_folders = BEFORE.reporting(has_test_folder=True)
    assert objections_to(with_folders) == ("folders train and test have appeared",)
    assert objections_to(BEFORE, has_test_folder=True) == ("folders train and test have disappeared",)
    assert objections_to(with_folders, has_test_folder=None) == ()
    coloured = BEFORE.with_images(np.zeros((10, 4, 4, 3), np.uint8))
    assert objections_to(coloured) == ("images are 4 x 4 x 3, not 2 x 2 x 1",)
    same = LastRun("r", BEFORE.fingerprint, "2026-11-25T03:00:00Z", (9, 9, 3))
    assert objections(same, None, BEFORE) == ()


def test_a_person_accepts_the_state_of_an_earlier_run(objects: Objects) -> None:
    with pytest.raises(
        SpecError, match="state: expected at least 8 digits of one of none, since letters has no run, got"
    ):
        accept(objects, "letters", "0" * 12)
    complete_run(objects, "a", (64, 64, 3), "2026-11-25T03:00:00Z")
    changed: dict[str, Any] = {"objections": ["8 classes are gone"], "fingerprint": "1" * 64}
    complete_run(objects, "b", (48, 48, 1), "2026-11-26T03:00:00Z", **changed)
    complete_run(objects, "c", (48, 48, 1), "2026-11-27T03:00:00Z", **changed | {"fingerprint": "2" * 64})
    reference = reference_of(objects, "letters")
    assert reference is not None
    assert reference.run == "a"
    for wrong in ("1", "7" * 12, "0" * 65):
        with pytest.raises(SpecError, match="state: expected at least 8 digits of one of 222222222222, 1111"):
            accept(objects, "letters", wrong)
    with pytest.raises(
        SpecError, match="state: expected one whose list of pictures is stored, got 111111111111, whose list gc"
    ):
        accept(objects, "letters", "1" * 12)
    store_state(objects, "letters", "1" * 64, DatasetState.of(BEFORE).content())
    accepted = accept(objects, "letters", "1" * 12)  # although pictures were added since
    assert accepted == reference_of(objects, "letters")
    assert accepted == LastRun("b", "1" * 64, "2026-11-26T03:00:00Z", (48, 48, 1), has_test_folder=False)
    complete_run(objects, "d", (48, 48, 1), "2026-11-28T03:00:00Z", fingerprint="2" * 64)
    reference = reference_of(objects, "letters")
    assert reference is not None
    assert reference.run == "d"
