"""Test images that resemble a training image: what is named, what is not, and that it is computed once."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mnist_lib import wording
from mnist_lib.data import near_copies as module
from mnist_lib.data.dataset import Dataset, NearCopies
from mnist_lib.data.images import ImageArray
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.prepare import prepare, with_near_copies
from mnist_lib.data.prepared import index
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import Table
from tests.support.pictures import classes, noise, write_folder

Pixels = NDArray[np.uint8]
MIDDLE = np.arange(0, 4_000, 40)  # training digits of all classes


def dataset_of(train: ImageArray, test: ImageArray) -> Dataset:
    one, other = (Table.of(images, np.zeros(len(images), np.uint8)) for images in (train, test))
    return Dataset.of("images", "1", one, other)


def named(train: ImageArray, test: ImageArray) -> dict[int, int]:
    """Return the training image that each near-copy resembles, by index."""
    found = near_copies(dataset_of(train, test))
    return dict(zip(found.test.tolist(), found.train.tolist(), strict=True))


def saved_again(image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))[..., None]


def shifted(image: Pixels) -> Pixels:
    """Move an image by 1.3 pixels down and 0.6 to the left."""
    picture = Image.fromarray(image[..., 0])
    matrix = (1, 0, 0.6, 0, 1, -1.3)
    return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))[
        ..., None
    ]


def noisy(image: Pixels) -> Pixels:
    return np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def darker(image: Pixels) -> Pixels:
    return (image * 0.6).astype(np.uint8)


@pytest.mark.parametrize("change", [saved_again, shifted, noisy, darker], ids=lambda change: change.__name__)
def test_a_changed_copy_of_a_training_image_is_named_with_that_image(
    change: Callable[[Pixels], Pixels], digits: Dataset
) -> None:
    copies = np.stack([change(image) for image in digits.train.images[MIDDLE]])
    found = named(digits.train.images, copies)
    correct = sum(found.get(index) == original for index, original in enumerate(MIDDLE.tolist()))
    assert correct >= 97  # of 100


def test_a_copy_is_found_although_another_image_has_more_similar_marks(digits: Dataset) -> None:
    """The marks of an image that is turned upside down are the same, but it is no copy."""
    images = digits.train.images[MIDDLE]
    found = named(np.concatenate([images[:, ::-1, ::-1], images]), np.stack([noisy(image) for image in images]))
    correct = sum(found.get(index) == len(MIDDLE) + index for index in range(len(MIDDLE)))
    assert correct >= 97  # of 100


def test_hardly_any_distinct_digit_is_named(digits: Dataset) -> None:
    assert len(named(digits.train.images, digits.test.images)) <= 5  # of 1,000


def test_a_picture_without_contrast_is_not_compared(digits: Dataset) -> None:
    grey = np.full((2, 28, 28, 1), 128, np.uint8)
    grey[1, 14, 14] = 140
    test = np.concatenate([grey, digits.train.images[:3]])
    found = near_copies(dataset_of(digits.train.images, test))
    assert (found.compared, sorted(found.test.tolist())) == (3, [2, 3, 4])
    assert not len(near_copies(dataset_of(grey, test)).test)
    assert not len(near_copies(dataset_of(grey[:0], grey[:0])).test)
    assert found.distinct(5).tolist() == [True, True, False, False, False]


def test_the_same_shape_in_another_colour_is_no_copy() -> None:
    red, blue = np.full((2, 1, 32, 32, 3), 255, np.uint8)
    red[:, 8:20, 6:22, 1:] = 0
    blue[:, 8:20, 6:22, :2] = 0
    assert named(red, np.concatenate([blue, red])) == {1: 0}


@pytest.mark.parametrize("size", [(90, 61), (84, 56)], ids=["areas that cut pixels", "areas of whole pixels"])
def test_pictures_that_are_reduced_are_compared(size: tuple[int, int]) -> None:
    pictures = np.stack([np.asarray(noise(seed, (6, 5), "RGB").resize(size)) for seed in range(40)])
    assert named(pictures[:30], np.concatenate([pictures[25:40], pictures[:1, :, ::-1]])) == {
        n: 25 + n for n in range(5)
    }


def test_blocks_and_held_images_do_not_change_what_is_named(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = digits.train.images[:200], np.concatenate([digits.train.images[100:115], digits.test.images[:10]])
    whole = named(train, test)
    monkeypatch.setattr(module, "BLOCK", 24)
    monkeypatch.setattr(module, "MAX_NUMBERS", 28 * 28 * 5)
    monkeypatch.setattr(module, "MAX_COSINES", 200 * 7)
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 2 * 28 * 28 * 150)
    assert named(train, test) == whole != {}
    monkeypatch.setattr(module, "MAX_PAIRS", 200 * 13)
    assert named(train, test) == {index: copy for index, copy in whole.items() if index % 2 == 0} != {}


def test_a_search_reports_how_many_images_are_read_and_how_many_are_compared(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 100)
    monkeypatch.setattr(wording, "REPORT_SECONDS", 0)
    shown: list[str] = []
    near_copies(dataset_of(digits.train.images[:1_050], digits.test.images[:150]), shown.append)
    assert [text.partition(", 0 s")[0] for text in shown] == [
        *(f"{count:,} of 1,200 images read for near-copies" for count in range(0, 1_200, 100)),
        *(f"{count} of 150 test images compared for near-copies" for count in (0, 100)),
    ]


def test_near_copies_are_computed_once_and_again_when_a_picture_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {f"train/{path}": picture for path, picture in classes("a", "b").items()}
    copy = pictures["train/b/3.png"].point(lambda level: level * 0.8)
    folder = write_folder(tmp_path / "pictures", {**pictures, "test/a/1.png": noise(70_007), "test/b/copy.png": copy})
    request = DataRequest(dataset=f"{folder}/", data_dir=tmp_path / "prepared")
    computed: list[NearCopies] = []

    def counted(dataset: Dataset, progress: Callable[[str], object]) -> NearCopies:
        computed.append(near_copies(dataset, progress))
        return computed[-1]

    monkeypatch.setattr(index, "near_copies", counted)
    monkeypatch.setattr(wording, "REPORT_SECONDS", 0)
    shown: list[str] = []
    for _ in range(2):
        dataset = with_near_copies(prepare(request), request, shown.append)
        assert dataset.report.near_copy_files == (("test/b/copy.png", "train/b/3.png"),)
        assert dataset.report.near_copies is not None
        assert dataset.report.near_copies.compared == 2
    assert len(computed) == 1
    assert shown == ["0 of 62 images read for near-copies", "0 of 2 test images compared for near-copies"]
    write_folder(folder, {"train/a/another.png": noise(70_008)})
    assert with_near_copies(prepare(request), request).report.near_copy_files == dataset.report.near_copy_files
    assert len(computed) == 2


def test_published_datasets_are_not_searched() -> None:
    request = DataRequest(dataset="sklearn-digits")
    assert with_near_copies(prepare(request), request).report.near_copies is None
