"""The images of a folder of pictures: how each is read, and which split it goes to."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_lib.data.corrections import NONE
from mnist_lib.errors import DataError
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, images_of, noise, read, total, write_folder


def test_a_folder_whose_pictures_are_all_for_validation_is_refused(tmp_path: Path) -> None:
    broken: dict[str, Image.Image | bytes] = {"train/a/1.png": b"x", "train/b/1.png": b"x"}
    files = {**classes("val/a", "val/b", "test/a", "test/b"), **broken}
    dataset = read(write_folder(tmp_path / "f", files))
    with pytest.raises(DataError, match="expected images to train on, got 60 of 60 for validation; add pictures"):
        dataset.check_use(10)
    dataset.check_use(0)


def test_p18_a_picture_and_its_copies_stay_in_one_split_when_others_are_added(tmp_path: Path) -> None:
    files = classes("a", "b", pictures=40)
    before = read(write_folder(tmp_path / "f", files))
    write_folder(tmp_path / "f", classes("a", "b", "c", pictures=60))
    noise(0).save(tmp_path / "f/a/copy.bmp")  # the pixels of a/0.png
    after = read(tmp_path / "f")
    for split in ("train", "test"):
        old, new = ({i.tobytes() for i in getattr(dataset, split).images} for dataset in (before, after))
        assert old < new
    copies = [
        np.all(np.asarray(split.images)[..., 0] == np.asarray(noise(0)), axis=(1, 2)).sum()
        for split in (after.train, after.test)
    ]
    assert sorted(copies) == [0, 2]
    assert 0.05 < len(after.test) / total(after) < 0.3
    for percent in (10, 30):  # the same holds for validation, if its share does not change
        old, new = ({i.tobytes() for i in d.train_and_validation(percent)[1].images} for d in (before, after))  # type: ignore[union-attr]
        assert old < new
    for fold in range(3):
        old, new = ({i.tobytes() for i in d.train_and_fold(fold, 3)[1].images} for d in (before, after))
        assert old < new


def test_folds_divide_the_pictures_of_the_folders_for_training_and_for_validation(tmp_path: Path) -> None:
    dataset = read(write_folder(tmp_path / "f", classes("train/a", "val/a", "train/b", "val/b", "test/a", "test/b")))
    train, validation = dataset.train_and_validation(10)
    assert validation is not None
    of_validation = {image.tobytes() for image in validation.images}
    assert (len(train), len(of_validation), dataset.validation_size(0)) == (60, 60, 0)
    for fold in range(3):
        inside = {image.tobytes() for image in dataset.train_and_fold(fold, 3)[1].images}
        assert 10 < len(inside & of_validation) < 30
        assert 10 < len(inside - of_validation) < 30


def test_d8_empty_classes_are_left_out_and_classes_without_test_pictures_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "single/1.png": noise(5_000)})
    (folder / "empty").mkdir()
    dataset = read(folder)
    assert dataset.classes == ("a", "b", "single")
    assert len(images_of(dataset, "single")) == 1
    side = "to test on" if (dataset.train.labels == 2).any() else "to train on"
    assert dataset.report.notices == (
        "left out, without pictures: 1 class (empty)",
        f"1 class without pictures {side}: single",
    )


def test_d8_a_class_that_exists_only_in_test_is_refused(tmp_path: Path) -> None:
    train = {f"train/{name}": picture for name, picture in classes("a", "b").items()}
    folder = write_folder(tmp_path / "f", {**train, "test/a/1.png": noise(1), "test/c/2.png": noise(2)})
    with pytest.raises(DataError, match="expected pictures to train on for each class, got none for c; add some"):
        read(folder)


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "1", "I;16"], 1), (["RGBA", "LA"], 4), (["L", "RGB", "RGBA", "P", "CMYK"], 3)],
)
def test_d8_the_channels_are_what_the_pictures_need(tmp_path: Path, modes: list[str], channels: int) -> None:
    files: dict[str, Image.Image | bytes] = {}
    for number, mode in enumerate(modes * 8):
        picture = noise(number, mode="RGBA" if mode == "LA" else "L" if mode in ("1", "I;16", "P") else mode)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        elif mode in ("1", "LA"):
            picture = picture.convert(mode)
        files[f"{'ab'[number % 2]}/{number}.{'tif' if mode == 'CMYK' else 'png'}"] = picture
    dataset = read(write_folder(tmp_path / "f", files))
    assert (dataset.image_shape, dataset.report.notices) == ((8, 8, channels), ())
    assert read(tmp_path / "f", channels=1).image_shape == (8, 8, 1)


def test_d8_16_bits_transparency_and_rotation_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "deep/1.png": deep, "clear/2.png": clear})
    dataset = read(folder, channels=3)
    (found,) = images_of(dataset, "deep")
    assert np.array_equal(np.frombuffer(found, np.uint8)[::3], np.rint(np.arange(64) * 1000 / 257))
    assert images_of(dataset, "clear") == {b"\xff" * 192}  # on white
    lying = noise(5, (6, 4), "RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.png", exif=exif)
    turned = write_folder(tmp_path / "g", {**classes("a", "b", size=(4, 6), mode="RGB")})
    shutil.copy(tmp_path / "lying.png", turned / "a/lying.png")
    assert (read(turned).image_shape, read(turned).report.notices) == ((6, 4, 3), ())
    assert lying.transpose(Image.Transpose.ROTATE_270).tobytes() in images_of(read(turned), "a")


def test_d8_pictures_of_several_sizes_are_resized_and_cropped_and_a_notice_says_so(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b", size=(300, 200)), **classes("c", size=(20, 30))})
    dataset = read(folder)
    assert dataset.image_shape == (32, 32, 1)
    assert dataset.report.notices == (
        "pictures of 2 sizes are resized to 32 x 32 and cropped; choose another size with --image-size",
    )
    assert read(folder, image_size=(10, 12)).image_shape == (10, 12, 1)
    wide = Image.new("L", (30, 10), 0)
    wide.paste(255, (10, 0, 20, 10))  # the middle third, which is all that is left, is white
    write_folder(folder, {"c/wide.png": wide})
    assert b"\xff" * 100 in images_of(read(folder, image_size=(10, 10)), "c")


def test_d8_the_same_picture_in_two_classes_is_left_out_of_both_and_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "a/same.png": noise(99), "b/same.bmp": noise(99)})
    dataset = read(folder)
    assert total(dataset) == 60
    assert dataset.report.notices == ("left out, the same picture in several classes: a/same.png, b/same.bmp",)


def test_d8_every_class_with_the_same_picture_is_named_even_if_one_has_many_copies(tmp_path: Path) -> None:
    copies = {f"a/{number}.bmp": noise(99) for number in range(6)}
    folder = write_folder(tmp_path / "f", {**classes("a", "b", "c"), **copies, "b/x.bmp": noise(99)})
    (notice,) = read(folder).report.notices
    assert notice == "left out, the same picture in several classes: a/0.bmp, b/x.bmp"


def test_d8_a_damaged_picture_is_named_and_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "b/broken.png": b"\x89PNG broken", "a/zero.jpg": b""})
    for _ in range(2):  # the second time from the cache
        dataset = read(folder)
        assert (total(dataset), len(dataset.report.unreadable)) == (60, 2)
        assert dataset.report.notices[0] == "left out: a/zero.jpg: expected a picture, got an empty file; copy it again"
        assert dataset.report.notices[1].startswith("left out: b/broken.png: expected a ")


def test_one_changed_picture_or_label_changes_the_fingerprint_and_nothing_else_does(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    first = read(folder)
    assert read(folder).fingerprint == first.fingerprint
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere").fingerprint == first.fingerprint
    noise(5_000).save(folder / "a/3.png")
    second = read(folder)
    (folder / "b/4.png").rename(folder / "a/4b.png")
    third = read(folder)
    (folder / "a").rename(folder / "c")
    assert len({first.fingerprint, second.fingerprint, third.fingerprint, read(folder).fingerprint}) == 4


def test_each_image_of_a_folder_knows_its_file_whatever_is_corrected(tmp_path: Path) -> None:
    unusual = os.fsdecode(b"b/\xff \xc3\xa9.png")
    same = {"a/same.png": noise(99_991), "b/same.png": noise(99_991)}
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), unusual: noise(99_990), **same})
    for n in range(3):  # read, from the cache, and with corrections
        dataset = read(folder)
        named = [
            (split.file(index), image)
            for split in (dataset.train, dataset.test)
            for index, image in enumerate(split.images)
        ]
        assert len(named) == 61 + n // 2
        for file, image in named:
            assert file is not None
            assert np.array_equal(np.asarray(Image.open(folder / file)), image[..., 0])
        assert n == 2 or unusual in dict(named)
        if n == 1:
            correct(folder, correction(noise(99_990), NONE), correction(noise(99_991), "b"))


def test_unchanged_pictures_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    first = read(folder)
    monkeypatch.setattr("mnist_lib.data.reading.folder.decode_folder", None)
    again = read(folder)
    assert np.array_equal(again.train.images, first.train.images)
    assert (again.table.ranks == first.table.ranks).all()
    with pytest.raises(TypeError):
        read(folder, image_size=(4, 4))
    (folder / "note.pdf").touch()
    (folder / "a/note.pdf").touch()
    with pytest.raises(TypeError):  # read again, since the stored notices are out of date
        read(folder)


def test_a_stray_picture_is_converted_to_what_most_are_and_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    noise(99, (30, 40)).convert("RGB").save(folder / "a/stray.png")
    dataset = read(folder)
    assert dataset.image_shape == (8, 8, 1)
    stray = (
        "resized and cropped to 8 x 8, the size of most pictures: 1 (a/stray.png)",
        "converted to grey, as most pictures are: 1 (a/stray.png)",
    )
    assert dataset.report.notices == stray
    assert read(folder, image_size=(8, 8), channels=1).report.notices == stray
    asked = read(folder, image_size=(40, 30), channels=3)
    assert (asked.image_shape, asked.report.notices) == ((40, 30, 3), ())


def test_without_a_majority_the_size_is_the_default_one_and_colours_are_kept(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a"), **classes("b", size=(40, 50))})
    for path in (folder / "b").iterdir():
        with Image.open(path) as picture:
            picture.convert("RGB").save(path)
    dataset = read(folder)
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.report.notices == (
        "pictures of 2 sizes are resized to 32 x 32 and cropped; choose another size with --image-size",
    )
