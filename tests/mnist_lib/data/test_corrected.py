"""Corrected labels of folders and of published datasets: which images they change, and which they leave alone."""

import time
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import obstore
import pytest
from hypothesis import strategies as st

from mnist_lib.data.corrected import with_corrections
from mnist_lib.data.corrections import NONE, CorrectionCounts, LabelsFile, UsedLabels
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import TEST_SHARE
from mnist_lib.documents import encode
from mnist_lib.errors import DataError, MnistError
from mnist_lib.objects import bucket
from mnist_lib.objects.bucket import BucketObjects
from tests.support.bounds import assert_at_most
from tests.support.corrections import correct, correction, hash_of
from tests.support.pictures import classes, images_of, noise, read, total, write_folder

DIGITS_TEST = 1_000


def share(image: object) -> float:
    """Return the number that decides whether a picture is for the test."""
    return int.from_bytes(bytes.fromhex(hash_of(image))[:8], "little") / 2**64


def lines(*corrections: object) -> bytes:
    return b"".join(encode(vars(each)) + b"\n" for each in corrections)


def test_a_corrected_picture_has_its_new_label_in_its_old_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    before = read(folder)
    chosen = {
        split: next(noise(n) for n in range(30) if (share(noise(n)) < TEST_SHARE) == (split == "test"))
        for split in ("train", "test")
    }
    for picture in chosen.values():
        correct(folder, correction(picture, NONE), correction(picture, "b"))
    after = read(folder)
    assert (len(after.train), len(after.test)) == (len(before.train), len(before.test))
    for split, picture in chosen.items():
        images, labels = getattr(after, split).images, getattr(after, split).labels
        (index,) = np.flatnonzero((np.asarray(images)[..., 0] == np.asarray(picture)).all(axis=(1, 2)))
        assert labels[index] == 1
    assert after.report.corrections == CorrectionCounts(applied=2, holdout=1)
    assert after.fingerprint != before.fingerprint
    assert after.version == after.fingerprint[:8]
    assert np.array_equal(after.table.published, after.table.labels)
    assert np.array_equal(after.table.ranks, before.table.ranks)


def test_a_correction_that_changes_nothing_leaves_the_fingerprint_as_it_was(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    before = read(folder)
    correct(folder, correction(noise(3), "b"), correction(noise(3), "a"), correction("0" * 32, "b"))
    after = read(folder)
    assert after.report.corrections == CorrectionCounts(confirmed=1, unknown=1)
    assert after.fingerprint == before.fingerprint
    assert after.report.notices == (
        f"{folder}/labels.jsonl: 1 correction of images that the dataset does not have: line 3",
    )


def test_the_label_none_removes_a_picture_and_its_copies(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "a/copy.bmp": noise(3)})
    correct(folder, correction(noise(3), NONE))
    dataset = read(folder)
    assert total(dataset) == 59
    assert noise(3).tobytes() not in images_of(dataset, "a")
    assert dataset.report.corrections is not None
    assert dataset.report.corrections.removed == 2
    assert len(dataset.table.ranks) == total(dataset)


def test_a_correction_does_not_read_pictures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    read(folder)
    monkeypatch.setattr("mnist_lib.data.reading.folder.decode_folder", None)
    correct(folder, correction(noise(3), "b"))
    assert noise(3).tobytes() in images_of(read(folder), "b")


@pytest.mark.parametrize("same", [99, 100, 101, 102, 103, 104, 105])  # some for training, some for the test
def test_a_correction_decides_about_a_picture_in_several_classes(tmp_path: Path, same: int) -> None:
    pictures = {**classes("a", "b"), "a/same.png": noise(same), "b/same.bmp": noise(same)}
    folder = write_folder(tmp_path / "f", {**pictures, "a/other.png": noise(500), "b/other.png": noise(500)})
    correct(folder, correction(noise(same), "b"))
    for _ in range(2):  # the second time from the cache
        dataset = read(folder)
        assert total(dataset) == 62
        assert noise(same).tobytes() in images_of(dataset, "b") - images_of(dataset, "a")
        assert dataset.report.notices == ("left out, the same picture in several classes: a/other.png, b/other.png",)
        split = dataset.test if share(noise(same)) < TEST_SHARE else dataset.train
        assert (np.asarray(split.images)[..., 0] == np.asarray(noise(same))).all(axis=(1, 2)).sum() == 2
        assert len(dataset.table.ranks) == total(dataset)
    correct(folder, correction(noise(same), NONE), correction(noise(500), NONE))
    assert (total(read(folder)), read(folder).report.notices) == (60, ())


def test_a_label_that_is_no_class_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    correct(folder, correction(noise(1), "a"), correction(noise(2), "c"))
    with pytest.raises(DataError, match=r"f/labels\.jsonl: line 2: expected a class of f \(a, b\) or none, got 'c'; "):
        read(folder)
    correct(folder, correction(noise(2), "b"))  # a later line about the same picture settles it
    assert noise(2).tobytes() in images_of(read(folder), "b")


def test_corrections_of_a_removed_class_do_not_stop_a_run(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b", "c"))
    correct(folder, correction(noise(2_000), "a"), correction(noise(2_001), "c"))
    for path in (folder / "c").iterdir():
        path.unlink()
    (folder / "c").rmdir()
    dataset = read(folder)
    assert dataset.classes == ("a", "b")
    assert dataset.report.corrections == CorrectionCounts(unknown=2)


def test_w15_the_label_none_removes_a_picture_also_if_a_class_is_called_none(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", NONE))
    correct(folder, correction(noise(1), NONE))
    dataset = read(folder)
    assert dataset.report.corrections is not None
    assert (total(dataset), dataset.report.corrections.removed) == (59, 1)
    assert dataset.report.notices == (
        f'{folder}/labels.jsonl: "none" removes an image, also where a class has this name',
    )


def test_a_forged_line_that_shares_half_a_hash_suppresses_no_correction(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    image = hash_of(noise(1))
    forged = [correction(image[:16] + rest * 16, "a") for rest in "0f"]
    correct(folder, correction(noise(1), "b"), *forged)
    assert noise(1).tobytes() in images_of(read(folder), "b")


def test_a_damaged_line_is_refused_and_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "labels.jsonl": b'{"image": \n'})
    with pytest.raises(DataError, match=r"f/labels\.jsonl: line 1: expected the correction of a label"):
        read(folder)
    (folder / "labels.jsonl").unlink()
    (folder / "labels.jsonl").mkdir()
    with pytest.raises(MnistError, match="expected a regular file"):
        read(folder)


def test_the_file_of_corrections_is_neither_a_picture_nor_a_class(tmp_path: Path) -> None:
    for name in ("flat", "split"):
        tops = ("train/", "test/") if name == "split" else ("",)
        files = {
            f"{top}{path}": noise(n + 100 * m) for m, top in enumerate(tops) for n, path in enumerate(classes("a", "b"))
        }
        folder = write_folder(tmp_path / name, {**files, "labels.jsonl": b""})
        assert (read(folder).report.notices, read(folder).classes, read(folder).report.corrections) == (
            (),
            ("a", "b"),
            None,
        )


def test_all_pictures_of_the_test_removed_is_an_error(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "f",
        {
            f"{top}/{path}": noise(n + 100 * m)
            for m, top in enumerate(("train", "test"))
            for n, path in enumerate(classes("a", "b", pictures=2))
        },
    )
    assert total(read(folder)) == 8
    correct(folder, *(correction(noise(100 + n), NONE) for n in range(4)))
    with pytest.raises(DataError, match="expected pictures to train and test on, got 4 and 0"):
        read(folder)


def test_a_run_keeps_the_labels_that_it_began_with(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    request = DataRequest(dataset=f"{folder}/", data_dir=tmp_path)
    correct(folder, correction(noise(1), "b"))
    begun = prepare(request)
    assert begun.report.used_labels == UsedLabels.of((folder / "labels.jsonl").read_bytes())
    correct(folder, correction(noise(2), "b"))
    assert prepare(request).fingerprint != begun.fingerprint
    assert prepare(request, used=begun.report.used_labels).fingerprint == begun.fingerprint
    (folder / "labels.jsonl").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"expected the \d+ bytes that the run began with, got others; .* start another"
    ):
        prepare(request, used=begun.report.used_labels)


def test_the_disputed_labels_of_the_test_are_counted_apart(digits: Dataset) -> None:
    names = digits.classes
    corrections = [
        correction(digits.test.images[0], names[(digits.test.labels[0] + 1) % 10], "disputed"),
        correction(digits.test.images[1], names[(digits.test.labels[1] + 1) % 10], "random"),
        correction(digits.test.images[2], NONE, "uncertain"),
        correction(digits.test.images[3], names[digits.test.labels[3]], "disputed"),  # it was right
        correction(digits.train.images[0], names[(digits.train.labels[0] + 1) % 10], "disputed"),
        correction(digits.train.images[1], NONE, "uncertain"),
    ]
    found = with_corrections(digits, lines(*corrections), "labels.jsonl", published=True)
    expected = CorrectionCounts(applied=3, confirmed=1, removed=2, holdout=3, disputed_holdout=2)
    assert found.report.corrections == expected
    assert (len(found.train), len(found.test)) == (len(digits.train) - 1, DIGITS_TEST - 1)
    assert np.array_equal(found.test.published, np.delete(digits.test.labels, 2))
    assert (found.test.published != found.test.labels).sum() == 2
    assert np.array_equal(found.test.hashes, np.delete(digits.test.hashes, 2, axis=0))


def test_a_test_image_counts_as_reviewed_at_random_until_the_decision_is_undone(digits: Dataset) -> None:
    images, names = digits.test.images, [digits.classes[label] for label in digits.test.labels[:6]]
    other = digits.classes[(digits.test.labels[2] + 1) % 10]
    corrections = [
        *(correction(images[index], names[index]) for index in (0, 1, 2)),
        replace(correction(images[1], names[1]), undone=True),
        correction(images[2], other, "disputed"),
        correction(images[3], names[3], "disputed"),
        replace(correction(images[4], names[4], "disputed"), undone=True),
        correction(images[5], NONE),
    ]
    found = with_corrections(digits, lines(*corrections), "labels.jsonl", published=True)
    assert (len(found.test), np.flatnonzero(found.test.reviewed).tolist()) == (DIGITS_TEST - 1, [0, 2])
    # The third was drawn at random before a model disputed it.
    assert found.report.corrections == CorrectionCounts(applied=1, confirmed=2, removed=1, holdout=2)
    removed = with_corrections(digits, lines(corrections[5]), "labels.jsonl", published=True)
    assert not removed.test.reviewed.any()


def test_the_other_images_stay_for_validation_when_one_is_removed(digits: Dataset) -> None:
    _, validation = digits.train_and_validation(10)
    assert validation is not None
    removed = next(
        image for image in digits.train.images if image.tobytes() not in {i.tobytes() for i in validation.images}
    )
    found = with_corrections(digits, lines(correction(removed, NONE)), "labels.jsonl", published=True)
    training, again = found.train_and_validation(10)
    assert again is not None
    assert np.array_equal(again.images, validation.images)
    before, _ = digits.train_and_validation(10)
    kept = (np.asarray(before.images) != removed).any(axis=(1, 2, 3))
    assert np.array_equal(training.images, before.images[kept])  # in the same order


@pytest.mark.usefixtures("tensorflow")
def test_corrections_of_the_catalog_are_those_in_the_storage(data_dir: Path) -> None:
    request = DataRequest(dataset="sklearn-digits", data_dir=data_dir)
    before = prepare(request)
    content = lines(correction(before.test.images[5], "3"), correction(before.train.images[7], NONE))
    after = prepare(request, labels=content)
    assert (after.test.labels[5], len(after.train)) == (3, len(before.train) - 1)
    assert after.version == before.version
    assert prepare(request).fingerprint == before.fingerprint  # the cache holds no corrections


@pytest.mark.slow
def test_corrections_in_a_bucket_are_mirrored_with_the_pictures(s3: str, tmp_path: Path) -> None:
    local, url = write_folder(tmp_path / "local", classes("a", "b")), f"{s3}/digits"
    store = bucket._open(url)
    for path in local.rglob("*.png"):
        obstore.put(store, path.relative_to(local).as_posix(), path.read_bytes())
    request = DataRequest(dataset=url, data_dir=tmp_path / "data")
    before = prepare(request)
    file = LabelsFile(BucketObjects(url))
    file.add([correction(noise(1), "b")])
    corrected = prepare(request)
    assert corrected.report.corrections is not None
    assert corrected.report.corrections.applied == 1
    file.add([correction(noise(1), "a")])
    assert prepare(request).fingerprint == before.fingerprint
    assert prepare(request, used=corrected.report.used_labels).fingerprint == corrected.fingerprint
    obstore.delete(store, "labels.jsonl")
    assert prepare(request).report.corrections is None
    for path in local.rglob("*.png"):
        obstore.delete(store, path.relative_to(local).as_posix())
    file.add([correction(noise(1), "b")])
    with pytest.raises(DataError, match="got none in s3://"):
        prepare(request)


def test_a_line_that_is_being_written_does_not_count_until_it_is_complete(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    content = lines(correction(noise(1), "b"))
    (folder / "labels.jsonl").write_bytes(content[:50])
    assert read(folder).report.corrections is None
    (folder / "labels.jsonl").write_bytes(content)
    assert read(folder).report.corrections == CorrectionCounts(applied=1, holdout=int(share(noise(1)) < TEST_SHARE))


VALID = st.builds(
    correction,
    st.integers(0, 59).map(lambda n: hash_of(noise(n if n < 30 else 970 + n)))
    | st.text("0123456789abcdef", min_size=32, max_size=32),
    st.sampled_from(["a", "b", "c", NONE, "\x1b[31m", "\ud83d"]) | st.text(max_size=20),
    st.sampled_from(["random", "uncertain", "disputed"]),
)


@pytest.mark.fuzz
@hypothesis.given(
    content=st.lists(
        VALID.map(lines) | st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace"))
    ).map(b"".join)
)
def test_whatever_the_file_contains_the_error_is_ours(content: bytes) -> None:
    begin = time.monotonic()
    try:
        found = with_corrections(FUZZED, content, "labels.jsonl", published=False)
        assert len(found.train.images) == len(found.train.labels) == len(found.train.hashes)
        assert max(found.train.labels.max(), found.test.labels.max()) < 2
    except DataError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    assert_at_most(5, since=begin)


def _fuzzed() -> Dataset:
    from mnist_lib.data.table import Table

    images = np.stack([np.asarray(noise(n))[..., None] for n in [*range(30), *range(1_000, 1_030)]])
    labels = np.repeat(np.array([0, 1], np.uint8), 30)
    return Dataset.of("f", "", Table.of(images[::2], labels[::2]), Table.of(images[1::2], labels[1::2]), ("a", "b"))


FUZZED = _fuzzed()


@pytest.mark.slow
def test_a_hundred_thousand_corrections_take_seconds(tmp_path: Path) -> None:
    content = lines(correction(noise(1), "b")) * 100_000
    begin = time.monotonic()
    assert with_corrections(FUZZED, content, "labels.jsonl", published=False).report.corrections == CorrectionCounts(
        applied=1, holdout=1
    )
    assert_at_most(10, since=begin)
