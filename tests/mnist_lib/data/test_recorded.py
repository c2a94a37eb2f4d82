"""The hash of a picture that was recorded first stays, although a decoder of another release differs in a pixel."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib.data.corrections import CorrectionCounts
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.reading import folder as reading
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import NO_RECORDS, RECORD, lines_of, parse_records, with_records
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures import reading as pictures
from mnist_lib.pictures.reading import Layout, Shape, read_file
from mnist_lib.store.datasets import record_hashes, recorded_hashes
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, write_folder


@pytest.fixture
def another_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call the first pixel of each picture is decoded as another value."""

    def in_process(function: Any, items: Any) -> list[Any]:
        return [function(item) for item in items]

    monkeypatch.setattr(reading, "Sandboxes", lambda files: contextlib.nullcontext(SimpleNamespace(map=in_process)))
    decode = pictures.decode_picture

    def decode_otherwise(content: bytes, **options: Any) -> Any:
        decoded = decode(content, **options)
        first: Any = decoded.plain.getpixel((0, 0))
        decoded.plain.putpixel((0, 0), first ^ 1)
        return decoded

    return lambda: monkeypatch.setattr(pictures, "decode_picture", decode_otherwise)


def prepared(folder: Path, node: Path, records: NDArray[np.void] = NO_RECORDS) -> Dataset:
    return prepare(DataRequest(dataset=f"{folder}/", data_dir=node), records=records)


def places(dataset: Dataset) -> dict[str | None, tuple[bytes, int, int, float]]:
    """Return the hash, the label, the split and the rank of each picture, by its file."""
    table = dataset.table
    columns = (table.labels.tolist(), table.splits.tolist(), table.ranks.tolist())
    return {
        table.file(row): (table.hashes[row].tobytes(), *values) for row, values in enumerate(zip(*columns, strict=True))
    }


def test_splits_and_corrections_stay_on_a_node_whose_decoder_differs_in_one_pixel(
    tmp_path: Path, another_decoder: Callable[[], None]
) -> None:
    folder, objects = write_folder(tmp_path / "f", classes("a", "b")), LocalObjects(tmp_path / "results")
    correct(folder, correction(noise(3), "b"))
    request = DataRequest(dataset=f"{folder}/")
    first = prepared(folder, tmp_path / "one")
    assert first.report.new_records is not None
    assert len(first.report.new_records) == 60
    record_hashes(objects, "f", first.report.new_records)
    records = recorded_hashes(objects, request)
    again = prepared(folder, tmp_path / "one", records)
    assert again.report.new_records is not None
    assert len(again.report.new_records) == 0

    another_decoder()
    moved = prepared(folder, tmp_path / "other")
    assert moved.report.corrections == CorrectionCounts(unknown=1)
    assert places(moved) != places(first)
    for node in ("third", "other"):  # one that is new, and the one that has prepared the folder without the record
        again = prepared(folder, tmp_path / node, records)
        assert again.report.corrections == CorrectionCounts(applied=1)
        assert places(again) == places(first)

    write_folder(folder, {"a/new.png": noise(500)})
    grown = prepared(folder, tmp_path / "third", records)
    assert {file: place for file, place in places(grown).items() if file != "a/new.png"} == places(first)
    assert grown.report.new_records is not None
    record_hashes(objects, "f", grown.report.new_records)
    record_hashes(objects, "f", moved.report.new_records)  # of a run that did not know of the others: it comes too late
    assert len(recorded_hashes(objects, request)) == 60 + 1 + 60
    assert places(prepared(folder, tmp_path / "fourth", recorded_hashes(objects, request))) == places(grown)


def test_a_review_finds_a_picture_of_the_dataset_by_its_recorded_hash(
    tmp_path: Path, another_decoder: Callable[[], None]
) -> None:
    folder, objects = write_folder(tmp_path / "f", classes("a", "b")), LocalObjects(tmp_path / "results")
    record_hashes(objects, "f", prepared(folder, tmp_path / "node").report.new_records)
    another_decoder()
    read_data = pytest.importorskip("jobs.review.data").read_data
    data = read_data(DataRequest(dataset=f"{folder}/", data_dir=tmp_path / "node"), objects)
    layout = Layout(shape=Shape(8, 8, 1))
    for path in data.paths():
        picture = read_file(path, layout, for_people=True)
        assert data.hash_of(picture) != picture.sha256[:16].hex()
        assert data.file_item(path, data.hash_of(picture)).label == path.parent.name


def test_records_are_lines_of_which_the_first_of_a_file_counts() -> None:
    records = np.zeros(3, RECORD)
    records["content"] = [[1, 2], [3, 4], [1, 2]]
    records["hash"] = [[5, 6], [7, 8], [9, 9]]
    lines = lines_of(records)
    assert [len(line) for line in lines.splitlines()] == [64] * 3
    assert np.array_equal(parse_records(lines, "hashes"), records)
    assert lines_of(records[:0]) == b""
    asked = records[[1, 2]].copy()
    asked["hash"] = 0
    hashes, new = with_records(asked, records)
    assert (hashes.tolist(), len(new)) == ([[7, 8], [5, 6]], 0)
    for damaged in (lines[:-9], lines.replace(b"0", b"x", 1)):
        with pytest.raises(IntegrityError, match="results/hashes: expected two hashes of 32 digits a line, got"):
            parse_records(damaged, "results/hashes")
