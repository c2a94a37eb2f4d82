"""The shape that the images of a dataset have had in a storage."""

from pathlib import Path
from typing import Any

import pytest

from mnist_lib.data.request import DataRequest
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions import appointment
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.datasets import record_last_run
from mnist_lib.store.image_shapes import with_known_shape
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import RunFolder
from tests.support.store.fake_versions import about, files
from tests.support.store.summaries import small_summary, summary_of

REQUEST = DataRequest(dataset="./letters")


def complete_run(objects: Objects, run: str, shape: tuple[int, int, int], ended: str) -> None:
    """Complete a run on letters of this shape."""
    dataset = {**small_summary()["dataset"], "name": "letters", "image_shape": shape, "fingerprint": "0" * 64}
    folder, summary = RunFolder(objects, run), summary_of(small_summary(run=run, ended=ended, dataset=dataset))
    folder.complete(summary)
    record_last_run(folder, summary)


def appoint(objects: Objects, model: str, shape: tuple[int, int, int]) -> None:
    """Publish a version that was trained on letters of this shape, and make it the champion."""
    made: dict[str, Any] = about()
    made["dataset"] |= {"name": "letters", "image_shape": shape}
    promote(objects, publish(objects, model, f"run-of-{model}", files(100), made), Rule(promote="always"))


def test_a_dataset_has_the_shape_of_its_last_run(objects: Objects) -> None:
    assert with_known_shape(REQUEST, objects) == REQUEST
    complete_run(objects, "a", (64, 64, 3), "2026-11-25T03:00:00Z")
    complete_run(objects, "b", (48, 48, 1), "2026-11-26T03:00:00Z")
    asked = with_known_shape(REQUEST, objects)
    assert (asked.image_size, asked.channels) == ((48, 48), 1)
    assert with_known_shape(DataRequest(dataset="./others"), objects) == DataRequest(dataset="./others")
    assert with_known_shape(DataRequest(dataset="mnist"), objects) == DataRequest(dataset="mnist")


def test_the_shape_of_the_newest_champion_comes_first_and_that_of_the_request_before_it(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete_run(objects, "a", (96, 96, 1), "2199-11-25T03:00:00Z")
    for day, model, shape in ((25, "keras-cnn", (64, 64, 3)), (26, "keras", (32, 32, 3))):
        monkeypatch.setattr(appointment, "now_text", lambda day=day: f"2026-11-{day}T03:00:00Z")
        appoint(objects, model, shape)
    asked = with_known_shape(REQUEST, objects)
    assert (asked.image_size, asked.channels) == ((32, 32), 3)
    asked = with_known_shape(DataRequest(dataset="./letters", image_size=(20, 20)), objects)
    assert (asked.image_size, asked.channels) == ((20, 20), 3)


@pytest.mark.parametrize("damaged", ["datasets/letters/last.json", "runs/a/summary.json"])
def test_a_damaged_record_leaves_the_shape_to_the_pictures(objects: Objects, damaged: str) -> None:
    complete_run(objects, "a", (64, 64, 3), "2026-11-25T03:00:00Z")
    objects.replace(damaged, b"{")
    assert with_known_shape(REQUEST, objects) == REQUEST


def test_a_storage_that_does_not_exist_yet_knows_no_shape(tmp_path: Path) -> None:
    assert with_known_shape(REQUEST, LocalObjects(tmp_path / "results")) == REQUEST


def test_a_damaged_champion_of_one_model_does_not_hide_those_of_others(objects: Objects) -> None:
    complete_run(objects, "a", (96, 96, 1), "2026-11-25T03:00:00Z")
    appoint(objects, "keras", (32, 32, 3))
    appoint(objects, "scratch", (48, 48, 3))
    objects.replace("models/keras/champions/letters/00000001.json", b"{")
    assert with_known_shape(REQUEST, objects).image_size == (48, 48)
