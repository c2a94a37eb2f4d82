"""Pictures of a folder that `--none` names are in no class, and are split, corrected and counted apart."""

from pathlib import Path

import numpy as np
import pytest

from mnist_lib.data.changes import DatasetState, changes_between
from mnist_lib.data.corrections import NONE
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.hold_out import without_trained
from mnist_lib.data.images import ImageArray
from mnist_lib.data.reading.folder import volume_of
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.listing import list_folder
from mnist_lib.data.table import TEST, TRAIN
from mnist_lib.errors import DataError, SpecError
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, read, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "f", classes("a", "b", "other"))


def pixels(images: ImageArray) -> set[bytes]:
    return {picture.tobytes() for picture in np.asarray(images)}


def shown(dataset: Dataset) -> list[set[bytes]]:
    """Return the counter-examples for training and for the test."""
    return [pixels(dataset.counter_examples(part)) for part in (TRAIN, TEST)]


def test_they_are_split_as_if_the_folder_were_a_class(folder: Path) -> None:
    as_class = read(folder)
    dataset = read(folder, none="other")
    assert dataset.classes == ("a", "b")
    for part, split in ((TRAIN, "train"), (TEST, "test")):
        of_class = getattr(as_class, split)
        expected = pixels(of_class.images[of_class.labels == 2])
        assert shown(dataset)[part] == expected
        assert pixels(getattr(dataset, split).images) == pixels(of_class.images) - expected
        assert getattr(dataset, split).labels.max() == 1
    assert all(shown(dataset))
    train, test = map(len, shown(dataset))
    assert f"counter-examples in other: {train} for training, {test} for the test" in dataset.report.notices
    assert len({dataset.fingerprint, as_class.fingerprint, read(folder, none="b").fingerprint}) == 3


def test_a_prepared_folder_has_them_and_is_prepared_anew_for_another_folder(folder: Path) -> None:
    first = read(folder, none="other")
    again = read(folder, none="other")
    assert shown(again) == shown(first)
    assert again.fingerprint == first.fingerprint
    assert read(folder, none="a").classes == ("b", "other")


def test_test_folders_and_groups_decide_about_them(tmp_path: Path) -> None:
    given = {f"{split}/{name}": image for split in ("train", "test") for name, image in classes("a", "b", "x").items()}
    dataset = read(write_folder(tmp_path / "given", given), none="x")
    assert [*map(len, shown(dataset))] == [30, 30]
    pictures = {
        f"{name}/{n}/{m}.png": noise(1_000 * ord(name) + 9 * n + m) for name in "abx" for n in range(20) for m in (0, 1)
    }
    grouped = read(write_folder(tmp_path / "groups", pictures), none="x", group_by="folder")
    assert grouped.classes == ("a", "b")
    assert sum(map(len, shown(grouped))) == 40


def test_a_picture_that_is_in_a_class_too_is_left_out(tmp_path: Path) -> None:
    pictures = classes("a", "b", "other") | {"a/same.png": noise(1_000), "other/same.png": noise(1_000)}
    dataset = read(write_folder(tmp_path / "f", pictures), none="other")
    same = np.asarray(noise(1_000))[..., None].tobytes()
    assert same not in set.union(*shown(dataset), pixels(dataset.train.images), pixels(dataset.test.images))
    assert any("same picture in several classes" in notice for notice in dataset.report.notices)


def test_corrections_and_images_that_are_left_out_change_nothing_about_them(folder: Path) -> None:
    before = read(folder, none="other")
    correct(folder, correction(noise(0), NONE), correction(noise(2_000), NONE))  # of class a, and a counter-example
    after = read(folder, none="other")
    assert shown(after) == shown(before)
    assert len(after.train) + len(after.test) == len(before.train) + len(before.test) - 1
    kept = without_trained(after, {"keras@1": after.test.hashes[:2]})
    assert shown(kept) == shown(before)
    assert len(kept.test) == len(after.test) - 2
    changes = changes_between(DatasetState.of(before), DatasetState.of(after))
    assert changes.removed["train"] | changes.removed["test"] == {"a": 1}
    assert not changes.added["train"] | changes.added["test"]


def test_they_do_not_count_as_training_images(folder: Path, tmp_path: Path) -> None:
    request = DataRequest(dataset=str(folder), none="other", data_dir=tmp_path / "data")
    volume = volume_of(request)
    assert volume is not None
    assert volume.train == 60 - 9


def test_a_folder_that_is_not_there_and_a_dataset_without_folders_are_errors(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none: expected a class of .* got others; known: a, b, other"):
        list_folder(folder, none="others")
    with pytest.raises(DataError, match="expected 2 to 1,000 class folders"):
        list_folder(write_folder(folder.with_name("g"), classes("a", "b")), none="b")
    with pytest.raises(SpecError, match="none: expected a folder of pictures as --dataset, got mnist"):
        DataRequest(dataset="mnist", none="7")
