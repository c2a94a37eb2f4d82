"""Corrections are read back in order, and a damaged line is refused with its number."""

from pathlib import Path

import pytest

from mnist_lib.data.corrections import Correction, LabelsFile, labels_file, parse_corrections
from mnist_lib.data.request import DataRequest
from mnist_lib.documents import Moment
from mnist_lib.errors import DataError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from tests.support.memory import peak_bytes


def correction(image: int, label: str) -> Correction:
    return Correction(
        image=f"{image:032x}", label=label, at=Moment("2026-11-27T05:00:00Z"), by="ada", replaced="1", why="random"
    )


def test_corrections_are_read_back_in_their_order(objects: Objects) -> None:
    labels = LabelsFile(objects)
    assert labels.read() == []
    labels.add([correction(1, "7"), correction(2, "none")])
    labels.add([correction(1, "ampersand &, ä")])
    assert [(found.image[-1], found.label) for found in labels.read()] == [
        ("1", "7"),
        ("2", "none"),
        ("1", "ampersand &, ä"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"",
        b"[]",
        b'{"image": "%s\\n", "label": "7", "at": "2026-11-27T05:00:00Z", "by": "", "replaced": null, "why": "random"}'
        % (b"0" * 32),
        b'{"image": "12", "label": "7", "at": "2026-11-27T05:00:00Z", "by": "", "replaced": null, "why": "random"}',
        b'{"image": "%032d", "label": 7, "at": "2026-11-27T05:00:00Z", "by": "", "replaced": null, "why": "random"}'
        % 1,
        b'{"image": "%032d", "label": "7", "at": "yesterday", "by": "", "replaced": null, "why": "random"}' % 1,
        b'{"image": "%032d", "label": "7", "at": "2026-11-27T05:00:00Z", "by": "", "replaced": null, "why": "so"}' % 1,
    ],
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, line: bytes) -> None:
    labels = LabelsFile(LocalObjects(tmp_path))
    labels.add([correction(1, "7")])
    with (tmp_path / "labels.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError, match=r"labels\.jsonl: line 2: .*; correct or remove that line"):
        labels.read()


def test_the_file_is_in_the_folder_of_the_data_set_or_in_the_storage(tmp_path: Path) -> None:
    storage = LocalObjects(tmp_path / "results")
    of_folder = labels_file(DataRequest(dataset=f"{tmp_path}/digits"), storage)
    assert of_folder.objects.where(of_folder.name) == f"{tmp_path}/digits/labels.jsonl"
    of_catalog = labels_file(DataRequest(dataset="mnist"), storage)
    assert of_catalog.objects.where(of_catalog.name) == f"{tmp_path}/results/datasets/mnist/labels.jsonl"


def test_an_empty_file_has_no_corrections() -> None:
    assert parse_corrections(b"", "labels.jsonl") == []


def test_a_file_of_many_short_lines_is_refused_at_the_first_in_little_memory() -> None:
    setup = """
from mnist_lib.data.corrections import parse_corrections
from mnist_lib.errors import DataError
content = b"10\\n" * 2_000_000
"""
    code = """
try:
    raise AssertionError(parse_corrections(content, "x"))
except DataError as error:
    assert str(error).startswith("x: line 1: expected the correction of a label")
"""
    assert peak_bytes(setup, code) < 10_000_000
