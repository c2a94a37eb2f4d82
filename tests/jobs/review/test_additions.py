"""New pictures become part of a dataset's folder, and no file is ever replaced."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import obstore
import pytest
from obstore.store import from_url
from PIL import Image

from jobs.review.data import Additions, ReviewedData, read_data
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError, IntegrityError, SpecError
from mnist_lib.objects.bucket import BucketObjects
from mnist_lib.objects.local import LocalObjects
from tests.support.pictures import classes, write_folder

HASH = "c" * 32


def data(folder: Path, dataset: str | None = None) -> ReviewedData:
    return read_data(DataRequest(dataset=dataset or f"{folder}/", data_dir=folder.parent), LocalObjects(folder.parent))


def add(additions: Additions, label: str, content: bytes = b"new", image: str = HASH) -> None:
    additions.create(content, image=image, suffix=".png", label=label, split="training")
    held_out = image[:-1] + "d"
    additions.create(content, image=held_out, suffix=".jpg", label=label, split="hold-out")


def found(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"{HASH[:-1]}?.*"))


def test_a_new_picture_is_in_the_folder_of_its_class(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "letters", classes("a", "b"))
    add(Additions.of(data(folder)), "b")
    assert found(folder) == [f"b/{HASH}.png", f"b/{HASH[:-1]}d.jpg"]


def test_counter_examples_are_not_reviewed_and_a_class_after_them_keeps_its_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "letters", classes("a", "b", "c"))
    request = DataRequest(dataset=f"{folder}/", data_dir=tmp_path, none="a")
    reviewed = read_data(request, LocalObjects(tmp_path))
    assert {path.parent.name for path in reviewed.paths()} == {"b", "c"}
    add(Additions.of(reviewed), "b")
    assert found(folder) == [f"b/{HASH}.png", f"b/{HASH[:-1]}d.jpg"]


def test_with_train_and_test_folders_it_is_in_the_one_of_its_split(tmp_path: Path) -> None:
    pictures = classes("a", "b", pictures=8)
    split = {f"{('Training', 'test')[number % 2]}/{path}": each for number, (path, each) in enumerate(pictures.items())}
    folder = write_folder(tmp_path / "letters", split)
    add(Additions.of(data(folder)), "b")
    assert found(folder) == [f"Training/b/{HASH}.png", f"test/b/{HASH[:-1]}d.jpg"]


def test_with_a_train_folder_alone_all_are_in_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "letters", {f"train/{path}": each for path, each in classes("a", "b").items()})
    add(Additions.of(data(folder)), "b")
    assert found(folder) == [f"train/b/{HASH}.png", f"train/b/{HASH[:-1]}d.jpg"]


@pytest.mark.parametrize("linked", ["test/b", "test"])
def test_w11_no_picture_is_written_through_a_link_in_place_of_a_folder(tmp_path: Path, linked: str) -> None:
    split = {f"{top}/{path}": each for path, each in classes("a", "b", pictures=8).items() for top in ("train", "test")}
    folder = write_folder(tmp_path / "letters", split)
    additions, outside = Additions.of(data(folder)), tmp_path / "outside"
    (folder / linked).rename(outside)
    (folder / linked).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(IntegrityError, match=rf"{folder}/test/b: expected a folder in {folder}, got a link out"):
        add(additions, "b")
    assert sorted(outside.rglob("*")) == before
    assert found(folder) == [f"train/b/{HASH}.png"]


def test_w11_a_class_folder_of_one_split_that_is_a_link_takes_no_picture(tmp_path: Path) -> None:
    split = {f"{top}/{path}": each for path, each in classes("a", "b", pictures=8).items() for top in ("train", "test")}
    folder = write_folder(tmp_path / "letters", split)
    (folder / "test/b").rename(tmp_path / "outside")
    (folder / "test/b").symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match=rf"{folder}/test/b: expected a folder in {folder}, got a link out"):
        add(Additions.of(data(folder)), "b")
    assert len([*(tmp_path / "outside").iterdir()]) == 8


def test_a_class_may_have_any_name_that_a_folder_can_have(tmp_path: Path) -> None:
    name = "ankle boot, é"
    folder = write_folder(tmp_path / "clothes", classes(name, "b"))
    add(Additions.of(data(folder)), name)
    assert found(folder) == [f"{name}/{HASH}.png", f"{name}/{HASH[:-1]}d.jpg"]


def test_the_folder_of_a_class_keeps_the_form_of_its_name(tmp_path: Path) -> None:
    decomposed = "e\u0301"
    folder = write_folder(tmp_path / "letters", classes(decomposed, "b"))
    add(Additions.of(data(folder)), "\u00e9")
    assert found(folder) == [f"{decomposed}/{HASH}.png", f"{decomposed}/{HASH[:-1]}d.jpg"]


def test_a_file_is_never_replaced_and_a_picture_is_added_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "letters", classes("a", "b"))
    first, second = Additions.of(data(folder)), Additions.of(data(folder))
    add(first, "b", b"first")
    add(first, "a", b"first")
    add(second, "b", b"second")
    assert found(folder) == [f"b/{HASH}.png", f"b/{HASH[:-1]}d.jpg"]
    assert (folder / f"b/{HASH}.png").read_bytes() == b"first"
    add(Additions.of(data(folder)), "a", b"third")
    assert found(folder) == [f"b/{HASH}.png", f"b/{HASH[:-1]}d.jpg"]


@pytest.mark.slow
def test_a_new_picture_is_in_the_bucket_of_its_dataset(tmp_path: Path, s3: str) -> None:
    bucket = BucketObjects(f"{s3}/letters")
    folder = write_folder(tmp_path / "letters", classes("a", "b"))
    for path in folder.rglob("*.png"):
        bucket.create(path.relative_to(folder).as_posix(), path.read_bytes())
    add(Additions.of(data(folder, f"{s3}/letters")), "b")
    assert bucket.read(f"b/{HASH}.png") == b"new"


@pytest.mark.slow
def test_a_class_whose_name_a_bucket_does_not_allow_is_refused_at_the_start(tmp_path: Path, s3: str) -> None:
    folder = write_folder(tmp_path / "letters", classes("a", "b b"))
    store = from_url(f"{s3}/letters", client_options={"allow_http": True})
    for path in folder.rglob("*.png"):
        obstore.put(store, path.relative_to(folder).as_posix(), path.read_bytes())
    with pytest.raises(SpecError, match="class: expected"):
        Additions.of(data(folder, f"{s3}/letters"))


def test_a_dataset_with_groups_takes_no_new_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "letters", classes("a/1", "b/2"))
    known = data(folder)
    grouped = replace(known, request=replace(known.request, group_by="folder"))
    with pytest.raises(SpecError, match="expected a dataset without groups, got letters with --group-by folder; copy"):
        Additions.of(grouped)


def test_a_table_of_labels_takes_no_new_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("*/*.png"))]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    data = read_data(DataRequest(dataset=str(folder), data_dir=tmp_path), LocalObjects(tmp_path))
    with pytest.raises(SpecError, match=r"got f with a table of labels; add rows for new pictures to it yourself"):
        Additions.of(data)


@pytest.mark.long
def test_w15_a_dataset_with_a_class_called_none_is_refused_before_a_label_is_stored(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", classes("a", "none"))
    request = DataRequest(dataset=f"{tmp_path}/f", data_dir=tmp_path)
    with pytest.raises(DataError, match=r'f: expected classes with other names than "none".*; rename it'):
        read_data(request, LocalObjects(tmp_path))


def test_a_picture_of_a_folder_is_named_by_its_file(folder: Path) -> None:
    known = data(folder)
    items = [known.image_item("hold-out", index) for index in range(len(known.dataset.test))]
    assert len(items) > 5
    for item, image in zip(items, known.dataset.test.images, strict=True):
        assert isinstance(item.source, Path)
        assert item.name == str(item.source)
        assert np.array_equal(np.asarray(Image.open(item.source)), image[..., 0])
