"""Tables survive spreadsheets: what is written is read back, and a bad row is named."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jobs.review.data import ReviewItem, read_data
from jobs.review.table import COLUMNS, NAMES, Row, class_in_row, read_table, write_table
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError
from mnist_lib.objects.local import LocalObjects
from tests.support.pictures import classes, write_folder
from tests.support.reviewing import data_of

HASH = "0123456789abcdef" * 2


def item(source: Path, label: str | None = "=1") -> ReviewItem:
    return ReviewItem(HASH, str(source), source, "training", label, probabilities=np.array([0.25, 0.75]))


def with_labels(path: Path, label: str) -> None:
    """Fill in the column `label`, which is before the last column."""
    text = path.read_bytes().decode(errors=NAMES)
    path.write_bytes(text.replace(",,", f",{label},").encode(errors=NAMES))


def test_a_table_has_a_row_for_each_picture_and_an_empty_column_for_the_label(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    write_table(path, [(item(Path("/x/five.png"), "5"), "uncertain")], "01", "/digits")
    assert path.read_text() == (f"{','.join(COLUMNS)}\n{HASH},/x/five.png,training,uncertain,1,0.7500,,5,,/digits\n")


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    write_table(path, [(item(Path("/x/five.png"), "5"), "uncertain")], "01", "/digits")
    assert read_table(path) == []


@given(st.text(st.characters(blacklist_characters="\0"), min_size=1))
def test_the_name_of_a_file_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("table") / "review.csv"
    source = Path("/") / name.encode(errors="replace").decode()
    write_table(path, [(ReviewItem(HASH, "", source, "training", "5"), "random")], "01", "/digits")
    text = path.read_bytes().decode(errors=NAMES)
    path.write_bytes(text.replace(",,,,5,,", ",,,,5,7,").replace("random,,,,", "random,,,,").encode(errors=NAMES))
    (row,) = read_table(path)
    assert (row.file, row.label) == (str(source), "7")


def test_a_text_that_begins_as_a_formula_is_marked_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    write_table(path, [(item(Path("/x.png")), "random")], ("=1", "=2"), "/digits")
    assert ",'=2,0.7500,,'=1,,/digits" in path.read_text()
    path.write_text(path.read_text().replace(",'=1,,", ",'=1,'=2,"))
    assert read_table(path)[0].label == "=2"


def round_trip(folder: Path, name: str) -> str:
    """Copy the current label of a row into its label, and return the class that is read."""
    path = folder / "review.csv"
    write_table(path, [(item(Path("/x.png"), name), "random")], "01", "/digits")
    (columns, row) = csv.reader(io.StringIO(path.read_text(), newline=""))
    cells = dict(zip(columns, row, strict=True))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, [*{**cells, "label": cells["current"]}.values()]])
    (found,) = read_table(path)
    return class_in_row(found, (name, name.strip(), name.lstrip("'"), name + ".0", "7"), path)


@pytest.mark.parametrize("name", ["7 ", " 7", "7.0", "'7", "=1+1", "'=1+1", "''=1+1", "'-'", "'", "-", "-1", "'-1"])
def test_w15_a_class_of_any_name_comes_back_from_a_table(tmp_path: Path, name: str) -> None:
    assert round_trip(tmp_path, name) == name


@given(st.text("'=-+@7 a\t\r\n", min_size=1).filter(lambda name: name.strip() and "\r" not in name))
def test_w15_a_class_of_any_marks_comes_back_from_a_table(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    assert round_trip(tmp_path_factory.mktemp("table"), name) == name


@pytest.mark.long
def test_w15_a_dataset_with_a_class_called_none_is_refused_before_a_label_is_stored(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", classes("a", "none"))
    request = DataRequest(dataset=f"{tmp_path}/f", data_dir=tmp_path)
    with pytest.raises(DataError, match=r'f: expected classes with other names than "none".*; rename it'):
        read_data(request, LocalObjects(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, encoding: str, separator: str) -> None:
    path = tmp_path / "review.csv"
    rows = ["hash,file,why,label,dataset", f"{HASH},a.png,random,7,/digits", f"{HASH},b.png,random, ,/digits"]
    path.write_bytes("\r\n".join(rows).replace(",", separator).encode(encoding))
    assert read_table(path) == [Row(2, HASH, "a.png", "random", "7", "/digits")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{HASH},a.png,since,7,/digits", "row 2: expected a reason and a hash"),
        ("1E+15,a.png,random,7,/digits", "row 2: expected a reason and a hash"),
    ],
)
def test_a_changed_reason_or_hash_is_refused_with_its_row(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "review.csv"
    path.write_text(f"hash,file,why,label,dataset\n{row}\n")
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"expected the columns hash, .* got none named hash"):
        read_table(path)


def test_a_label_must_be_a_class_or_none() -> None:
    def label(text: str) -> str:
        return class_in_row(Row(7, HASH, "a.png", "random", text, "/digits"), "0123456789", Path("t.csv"))

    assert [*map(label, ("7", "none", "7.0"))] == ["7", "none", "7"]
    with pytest.raises(DataError, match=r"t.csv: row 7: expected one of 0, .*, 9, or none, got seven; correct the row"):
        label("seven")


def test_a_disputed_picture_of_a_folder_is_named_by_its_file(folder: Path, tmp_path: Path) -> None:
    data = data_of(folder)
    items = [data.image_item("hold-out", index) for index in range(len(data.dataset.test))]
    assert len(items) > 5
    for item, image in zip(items, data.dataset.test.images, strict=True):
        assert isinstance(item.source, Path)
        assert np.array_equal(np.asarray(Image.open(item.source)), image[..., 0])
    write_table(tmp_path / "table.csv", [(items[0], "disputed")], data.classes, f"{folder}/")
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert row["file"] == items[0].name == str(items[0].source)
