"""Datasets that earlier releases have stored stay as they are: fingerprint, splits, order, labels, folds.

The digests are those of the release of 2026-12-01, before a dataset became a table of columns.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_lib.data.corrections import NONE
from mnist_lib.data.dataset import Dataset
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, read, write_folder


def digest(dataset: Dataset) -> str:
    """Return a hash of the file, hash and label of each image in order, of folds and of the validation split."""
    parts: list[object] = [dataset.fingerprint, dataset.classes, dataset.folds(5).tolist()]
    train, validation = dataset.train_and_validation(30)
    for split in (dataset.train, dataset.test, train):
        parts += [(split.file(row), split.hashes[row].tobytes(), int(split.labels[row])) for row in range(len(split))]
    parts += sorted(map(bytes, validation.hashes)) if validation else []
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def plain(folder: Path) -> Dataset:
    write_folder(
        folder, {**classes("a", "b", "c"), "a/copy.bmp": noise(3), "a/same.png": noise(900), "b/same.png": noise(900)}
    )
    return read(folder)


def split_by_folders(folder: Path) -> Dataset:
    names = [(split, name) for split in ("train", "val", "test") for name in "ab"]
    files = {f"{s}/{c}/{n}.png": noise(100 * place + n) for place, (s, c) in enumerate(names) for n in range(40)}
    return read(write_folder(folder, files))


def grouped(folder: Path) -> Dataset:
    files = {f"{c}/g{n}/{n}.png": noise(900 * label + n) for label, c in enumerate("ab") for n in range(60)}
    copies = {f"a/g{n}/copy.png": noise(900 + n + 1) for n in range(9)}
    return read(write_folder(folder, {**files, **copies}), group_by="folder")


def corrected(folder: Path) -> Dataset:
    write_folder(folder, {**classes("a", "b"), "a/same.png": noise(900), "b/same.png": noise(900)})
    correct(folder, correction(noise(3), "b"), correction(noise(4), NONE), correction(noise(900), "b"))
    return read(folder)


def grown(folder: Path) -> Dataset:
    plain(folder)
    write_folder(folder, {f"b/new {number}.png": noise(5_000 + number) for number in range(20)})
    return read(folder)


def with_counter_examples(folder: Path) -> Dataset:
    files = {f"others/{number}.png": noise(7_000 + number) for number in range(40)}
    return read(write_folder(folder, {**classes("a", "b"), **files, "others/known.png": noise(2)}), none="others")


OPTIONS: dict[Callable[[Path], Dataset], dict[str, str]] = {
    grouped: {"group_by": "folder"},
    with_counter_examples: {"none": "others"},
}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (plain, "0b7e035476746cbe"),
        (split_by_folders, "6f039b4fb8d91d00"),
        (grouped, "c32a01606ce1c95b"),
        (corrected, "c16c94594d099cf1"),
        (grown, "248ad5f23b21c2f1"),
        (with_counter_examples, "2d7f05ab97b44442"),
    ],
)
def test_a_dataset_is_that_of_earlier_releases(make: Callable[[Path], Dataset], expected: str, tmp_path: Path) -> None:
    assert digest(make(tmp_path / "f")) == expected
    assert digest(read(tmp_path / "f", **OPTIONS.get(make, {}))) == expected  # from the index


def test_the_images_of_validation_are_those_of_their_folder(tmp_path: Path) -> None:
    dataset = split_by_folders(tmp_path / "f")
    _, validation = dataset.train_and_validation(1)
    assert validation is not None
    files = {validation.file(row) for row in range(len(validation))}
    assert files == {f"val/{name}/{number}.png" for name in "ab" for number in range(40)}
    assert np.bincount(validation.labels).tolist() == [40, 40]
