import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.errors import DataError
from tests.support.pixel_files import in_file


def random_split(n: int) -> Table:
    generator = np.random.default_rng(0)
    return Table.of(generator.integers(0, 256, (n, 4, 4, 1), np.uint8), generator.integers(0, 10, n).astype(np.uint8))


def of(train: Table, test: Table | None = None) -> Dataset:
    return Dataset.of("x", "1", train, random_split(2) if test is None else test)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_one_changed_value_changes_the_fingerprint(part: str) -> None:
    split, changed = random_split(5), random_split(5)
    assert split.fingerprint == changed.fingerprint
    getattr(changed, part).flat[0] ^= 1
    assert split.fingerprint != changed.fingerprint


@pytest.mark.parametrize(("percent", "validation"), [(0, 0), (1, 2), (10, 11), (50, 51)])
def test_train_and_validation_are_disjoint_and_complete(percent: int, validation: int) -> None:
    split = random_split(101)
    train, held_out = Dataset.of("x", "1", split, split).train_and_validation(percent)
    held_out_images = held_out.images if held_out else split.images[:0]
    assert len(held_out_images) == validation
    images = (*train.images, *held_out_images)
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in split.images)


def test_the_validation_split_is_always_the_same(digits: Dataset) -> None:
    first, second = (digits.train_and_validation(10)[1] for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("folds", [2, 3, 50])
def test_each_train_image_is_in_one_fold_and_on_the_other_side_of_it(folds: int) -> None:
    dataset = of(random_split(101))
    everything, held_out = sorted(map(bytes, dataset.train.images)), []
    for fold in range(folds):
        train, inside = dataset.train_and_fold(fold, folds)
        assert sorted(map(bytes, (*train.images, *inside.images))) == everything
        held_out += [*map(bytes, inside.images)]
    assert sorted(held_out) == everything
    dataset.check_use(0, folds)


@pytest.mark.parametrize("folds", [6, 1_000])
def test_more_folds_than_images_are_refused(folds: int) -> None:
    got = rf"expected images in each of {folds} folds, got 5 training images, none of them in fold \d+; use fewer"
    with pytest.raises(DataError, match=got):
        of(random_split(5)).check_use(0, folds)


def test_a_rank_that_was_rounded_up_to_1_is_in_a_fold() -> None:
    dataset = of(random_split(5))
    ranks = np.array([1.0, np.nextafter(np.float32(1), np.float32(0)), 0.0, 1.0, 0.0, 0.0, 0.0], np.float32)
    assert set(replace(dataset, table=replace(dataset.table, ranks=ranks)).folds(7)) == {0, 6}


def test_the_driver_gets_at_most_forty_bytes_for_each_image(tmp_path: Path) -> None:
    dataset = in_file(of(random_split(5_000)), tmp_path)
    named = replace(dataset, table=replace(dataset.table, files=np.zeros((len(dataset.table), 30), np.uint8)))
    assert len(pickle.dumps(named.without_images())) < 40 * len(named.table.images)
