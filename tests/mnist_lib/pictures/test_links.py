"""Links out of a folder of pictures: nothing outside is read, even if a link appears while a file is opened."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from jobs.predict import __main__ as predict
from jobs.predict.answers import picture_results
from jobs.predict.batches import predict_on_cluster
from jobs.predict.options import PredictOptions
from mnist_lib.data.prepare import dataset_of
from mnist_lib.data.prepared.recorded import NO_RECORDS
from mnist_lib.data.reading.folder import decode_folder
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.class_folders import list_folder
from mnist_lib.data.sources.scan import find_pictures, real_folders
from mnist_lib.errors import ImageError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.likeness import Answers
from mnist_lib.pictures.reading import Layout, Shape, read_content
from tests.support.pictures import classes, noise, write_folder

OUT = "expected a file in the folder that was named, got a link out of it; name the file itself"
SECRET = noise(77_777)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "private", {"b/3.png": SECRET})
    return write_folder(tmp_path / "scans", classes("a", "b", pictures=8))


def swap(path: Path, private: Path) -> None:
    """Put a link to something private in place of a file or folder."""
    path.rename(f"{path}-before")
    path.symlink_to(private)


@pytest.mark.parametrize("swapped", ["b", "b/3.png"])
def test_w11_a_link_that_appears_while_a_file_is_opened_is_not_read(folder: Path, swapped: str) -> None:
    opened, folders = os.open, real_folders([folder])

    def swap_and_open(path: Any, *arguments: Any, **options: Any) -> int:
        if not (folder / swapped).is_symlink():
            swap(folder / swapped, folder.parent / "private" / swapped)
        return opened(path, *arguments, **options)

    found = folder / "b/3.png"
    found.write_bytes(bytes((folder.parent / "private/b/3.png").stat().st_size))  # so that the size does not tell
    with mock.patch.object(os, "open", swap_and_open), pytest.raises(ImageError, match=OUT):
        read_content(found, folders)
    assert (folder / swapped).is_symlink()


def test_links_inside_of_a_folder_and_to_a_folder_that_was_named_are_read(folder: Path) -> None:
    content = (folder / "b/3.png").read_bytes()
    (folder / "a/link.png").symlink_to(Path("../b/3.png"))
    (folder.parent / "named").symlink_to(folder)
    folders = real_folders([folder, folder.parent / "named", folder / "b/3.png"])
    assert [*folders] == [folder, folder.parent / "named"]
    for path in (folder / "a/link.png", folder.parent / "named/a/link.png", folder.parent / "named/b/3.png"):
        assert read_content(path, folders) == content
    (folder.parent / "link.png").symlink_to(folder / "b/3.png")
    assert read_content(folder.parent / "link.png", folders) == content  # the user has named the link itself


def test_w11_training_leaves_out_a_picture_that_has_become_a_link_out(folder: Path) -> None:
    request, listing = DataRequest(dataset=f"{folder}/"), list_folder(folder)
    swap(folder / "b/3.png", folder.parent / "private/b/3.png")
    decoded = decode_folder(request, listing, folder.parent, None, NO_RECORDS, lambda text: None)
    dataset = dataset_of(request, listing, decoded)
    assert dataset.report.notices == (f"left out: b/3.png: {OUT}",)
    images = [image for split in (dataset.train, dataset.test) for image in np.asarray(split.images)[..., 0]]
    assert len(images) == 15
    assert not any(np.array_equal(image, np.asarray(SECRET)) for image in images)


def test_w11_a_review_shows_and_copies_no_picture_that_has_become_a_link_out(folder: Path, tmp_path: Path) -> None:
    review = pytest.importorskip("jobs.review.data")
    data = review.read_data(DataRequest(dataset=f"{folder}/", data_dir=tmp_path), LocalObjects(tmp_path))
    every = [data.image_item("training", index) for index in range(len(data.dataset.train))]
    every += [data.image_item("hold-out", index) for index in range(len(data.dataset.test))]
    items = {item.source: item for item in every}
    with contextlib.closing(review.Viewer(data, Layout(shape=Shape(8, 8, 1)), real_folders([folder]))) as viewer:
        swap(folder / "b/3.png", folder.parent / "private/b/3.png")
        for read in (viewer.read_again, functools.partial(viewer.view, zoomed=False)):
            read(items[folder / "b/4.png"])
            with pytest.raises(ImageError, match=OUT):
                read(items[folder / "b/3.png"])


@pytest.mark.parametrize("address", ["", "cluster"])
def test_w11_predict_reads_no_picture_that_has_become_a_link_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def find_and_swap(named: Any) -> list[Path]:
        found = find_pictures(named)
        swap(folder / "b", folder.parent / "private/b")
        (folder.parent / "private/b/0.png").write_bytes((folder.parent / "private/b/3.png").read_bytes())
        return [path for path in found if path.name in ("0.png", "3.png")]

    def in_order(task: Any, calls: Iterator[Any], *_: Any) -> Iterator[Any]:
        for call in calls:
            yield [each if isinstance(each, ImageError) else ImageError("sent") for each in call[-1]]

    options = PredictOptions(pictures=(folder,))
    if address:
        monkeypatch.setattr("cluster.tasks.results_in_order", in_order)
        found = find_and_swap(options.pictures)
        predictions = predict_on_cluster(found, real_folders(options.pictures), None, options)
        results = [*picture_results(found, predictions, ("a", "b"))]
    else:
        monkeypatch.setattr(predict, "find_pictures", find_and_swap)
        monkeypatch.setattr(
            predict,
            "_built",
            lambda stored: lambda images: Answers(np.full((len(images), 2), 0.5, np.float32), np.ones(len(images))),
        )
        stored = mock.Mock()
        stored.layout.return_value = Layout(shape=Shape(8, 8, 1))
        stored.manifest.dataset.classes = ("a", "b")
        results = predict._predict_files(options, stored, [])
    errors = {result.name: str(getattr(result, "error", "")) for result in results}
    was_read = "sent" if address else ""
    names = [f"{folder}/{name}.png" for name in ("a/0", "a/3", "b/0", "b/3")]
    assert errors == dict(zip(names, [was_read, was_read, OUT, OUT], strict=True))
