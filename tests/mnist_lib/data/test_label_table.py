"""A dataset whose labels are in a table: `metadata.csv` in a folder of pictures, or another CSV file beside them."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.data.corrections import NONE
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.prepared.index import fingerprint_of_files
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.listing import list_table
from mnist_lib.errors import DataError, IntegrityError
from tests.support.corrections import correct, correction
from tests.support.other_user import lines_as_nobody, visible_folder
from tests.support.pictures import classes, noise, read, total, write_folder

COLUMNS = ("file_name", "label")


def write_table(path: Path, rows: Sequence[Sequence[str]], columns: tuple[str, ...] = COLUMNS, **style: Any) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, **style).writerows([columns, *rows])
    return path


def tabled(folder: Path, pictures: int = 30) -> tuple[Path, list[tuple[str, ...]]]:
    """Write a folder of pictures without class folders, and return it with the rows of its table."""
    files = {f"scans/{number:03}.png": noise(number) for number in range(2 * pictures)}
    return write_folder(folder, files), [(path, "ab"[number % 2]) for number, path in enumerate(files)]


def by_picture(dataset: Dataset) -> dict[bytes, tuple[str, int, float]]:
    """Return the class, the split and the rank of each picture, by its hash."""
    table = dataset.table
    columns = (table.hashes, table.labels, table.splits, table.ranks)
    return {
        picture.tobytes(): (dataset.classes[label], split, rank)
        for picture, label, split, rank in zip(*columns, strict=True)
    }


def test_a_table_and_class_folders_of_the_same_pictures_are_the_same_dataset(tmp_path: Path) -> None:
    folders = write_folder(tmp_path / "f", classes("a", "b"))
    table = tmp_path / "g"
    table.mkdir()
    rows = [(f"{n}.png", path.parent.name) for n, path in enumerate(sorted(folders.glob("*/*")))]
    for (name, _), path in zip(rows, sorted(folders.glob("*/*")), strict=True):
        (table / name).write_bytes(path.read_bytes())
    write_table(table / "metadata.csv", rows)
    found, expected = read(table), read(folders)
    assert (found.classes, total(found), found.report.notices) == (("a", "b"), 60, ())
    assert by_picture(found) == by_picture(expected)
    named = read(write_table(table / "other names.csv", [(name, label * 2) for name, label in rows]))
    assert (named.name, named.classes, total(named)) == ("other-names", ("aa", "bb"), 60)


def test_columns_say_splits_and_groups_and_a_row_without_a_split_is_split_by_its_pixels(tmp_path: Path) -> None:
    folder, rows = tabled(tmp_path / "f")
    splits = ["Train"] * 30 + ["validation"] * 5 + ["test"] * 5 + [""] * 20
    write_table(
        folder / "metadata.csv", [(*row, split) for row, split in zip(rows, splits, strict=True)], (*COLUMNS, "split")
    )
    dataset = read(folder)
    held_out = dataset.train_and_validation(10)[1]
    assert held_out is not None
    assert {held_out.file(index) for index in range(len(held_out))} == {f"scans/{n:03}.png" for n in range(30, 35)}
    tested = {dataset.test.file(index) for index in range(len(dataset.test))}
    assert {f"scans/{n:03}.png" for n in range(35, 40)} < tested
    assert {f"scans/{n:03}.png" for n in range(35)}.isdisjoint(tested)
    grouped = [(*row, f"writer {number // 6}") for number, row in enumerate(rows)]
    write_table(folder / "metadata.csv", grouped, (*COLUMNS, "group"))
    dataset = read(folder)
    counts = dataset.group_counts
    assert counts is not None
    assert (counts.by, counts.train + counts.test) == ("column", 10)
    of = {path: group for path, _, group in grouped}
    sides = [{of[str(split.file(index))] for index in range(len(split))} for split in (dataset.train, dataset.test)]
    assert sides[0].isdisjoint(sides[1])


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    folder, rows = tabled(tmp_path / "f")
    written = [(path.replace("/", "\\"), f" {label} ", "", "8") for path, label in rows]
    path = write_table(folder / "metadata.csv", written, (*COLUMNS, "split", "age"), delimiter=";")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    dataset = read(folder)
    assert (dataset.classes, total(dataset)) == (("a", "b"), 60)
    assert dataset.train.file(0) == "scans/000.png"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("../x.png", "a"), r"line 3: expected the path of a picture in .*, relative to it, got '\.\./x\.png'"),
        (("/x.png", "a"), r"line 3: expected the path of a picture in .*, relative to it, got '/x\.png'"),
        (("", "a"), r"line 3: expected the path of a picture in .*, relative to it, got ''"),
        (("scans/001.png",), r"line 3: expected a label that can be printed, in UTF-8, got ''"),
        (("scans/001.png", "\t\x07"), r"line 3: expected a label that can be printed, in UTF-8, got .*"),
        (("scans/001.png", "a", "dev"), r"line 3: expected train, validation or test as split, got 'dev'"),
        (
            ("scans/000.png", "b", "test"),
            r"line 3: expected scans/000\.png with one split and one group, got others than in an earlier row",
        ),
        (("scans/001.png", "a", "train", ""), r"line 3: expected a group in the column group, got none"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, row: tuple[str, ...], expected: str) -> None:
    folder, _ = tabled(tmp_path / "f")
    rows = [("scans/000.png", "a", "train", "1"), row, ("scans/002.png", "b", "train", "1")]
    write_table(folder / "metadata.csv", rows, (*COLUMNS, "split", "group"))
    with pytest.raises(DataError, match=rf"metadata\.csv, {expected}; correct the row"):
        read(folder)


def test_rows_without_a_picture_are_left_out_and_named_and_rows_twice_count_once(tmp_path: Path) -> None:
    folder, rows = tabled(tmp_path / "f")
    (folder / "scans/007.png").unlink()
    (folder / "scans/008.txt").write_text("x")
    write_table(folder / "metadata.csv", [*rows, *rows[:3], ("scans/009.png", "a"), ("scans/008.txt", "a")])
    dataset = read(folder)
    assert total(dataset) == 58
    assert set(dataset.report.notices) == {
        "left out, cannot be read: 1 (scans/007.png)",
        "left out, not a picture that can be read (.txt): 1 (scans/008.txt)",
        "left out, the same picture in several classes: scans/009.png, scans/009.png",
    }
    assert dataset.report.unreadable == ("scans/007.png",)
    write_table(folder / "metadata.csv", [(f"images/{path}", label) for path, label in rows])
    with pytest.raises(DataError, match=r"line 2: expected the path of a picture, .*, got 'images/scans/000\.png'"):
        read(folder)
    write_table(folder / "metadata.csv", [(path, "a") for path, _ in rows])
    with pytest.raises(
        DataError, match=r"expected 2 to 1,000 classes with pictures, got 1 \(a\), and .*; add rows with other"
    ):
        read(folder)


def test_a_file_of_other_columns_is_no_table_and_one_that_is_named_must_be(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    write_table(folder / "metadata.csv", [("a/0.png", "Canon")], ("file_name", "camera"))
    assert total(read(folder)) == 60
    with pytest.raises(DataError, match=r"expected the columns file_name and label, got none named label; add it"):
        read(folder / "metadata.csv")
    with pytest.raises(DataError, match=r"none\.csv: expected a file with the columns file_name and label, got none"):
        read(folder / "none.csv")
    (folder / "metadata.csv").unlink()
    (folder / "metadata.csv").symlink_to(write_table(tmp_path / "private.csv", [("a/0.png", "a")]))
    with pytest.raises(IntegrityError, match="expected a regular file, got a link"):
        read(folder)


def test_rows_that_are_added_change_the_fingerprint_and_a_correction_is_applied_to_a_table(tmp_path: Path) -> None:
    folder, rows = tabled(tmp_path / "f")
    write_table(folder / "metadata.csv", rows[:50])
    request = DataRequest(dataset=str(folder), data_dir=tmp_path / "data")
    before, dataset = fingerprint_of_files(request), prepare(request)
    write_table(folder / "metadata.csv", rows)
    grown = prepare(request)
    assert fingerprint_of_files(request) != before
    assert (total(dataset), total(grown)) == (50, 60)
    kept = {picture: found for picture, found in by_picture(grown).items() if picture in by_picture(dataset)}
    assert kept == by_picture(dataset)
    correct(folder, correction(noise(0), "b"))
    correct(folder, correction(noise(1), NONE))
    corrections = prepare(request).report.corrections
    assert corrections is not None
    assert (corrections.applied, corrections.removed) == (1, 1)


def test_counter_examples_of_a_table_have_the_label_that_none_names(tmp_path: Path) -> None:
    folder, rows = tabled(tmp_path / "f")
    write_table(folder / "metadata.csv", [*rows[:40], *((path, "other") for path, _ in rows[40:])])
    dataset = prepare(DataRequest(dataset=str(folder), data_dir=tmp_path, none="other"))
    assert dataset.classes == ("a", "b")
    assert sum(len(dataset.counter_examples(part)) for part in (0, 1)) == 20


def test_a_hundred_thousand_rows_are_listed_within_seconds(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(100_000)]
    for name in names:
        (tmp_path / name).touch()
    write_table(tmp_path / "metadata.csv", [(name, str(n % 10)) for n, name in enumerate(names)])
    begin = time.monotonic()
    listing = list_table(tmp_path, "metadata.csv")
    assert time.monotonic() - begin < 10
    assert (len(listing.paths), listing.classes) == (100_000, tuple(map(str, range(10))))
    assert np.bincount(listing.labels).tolist() == [10_000] * 10


def test_a_table_without_permission_is_named() -> None:
    imports = "from mnist_lib.data.sources.listing import listing_of; from mnist_lib.data.request import DataRequest"
    code = """
try:
    listing_of(DataRequest(dataset=str(folder / "f")))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
    with visible_folder() as folder:
        write_folder(folder / "f", classes("a", "b", pictures=2))
        write_table(folder / "f/metadata.csv", [("a/0.png", "a")]).chmod(0)
        (line,) = lines_as_nobody(folder, imports, code)
    assert line.startswith("DataError: ")
    assert line.endswith("f/metadata.csv cannot be read (Permission denied); check its permissions")
