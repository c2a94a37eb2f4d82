"""Preparation, with real files and real processes; the download itself needs a network and is not tested."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib import catalog
from mnist_lib.data.prepare import prepare
from mnist_lib.data.split import Dataset
from mnist_lib.errors import DataChecksumError, DataError, DataMissingError

SOURCES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host refuses: a port of this machine that nobody listens on stands for the download's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("urllib.request.getproxies", dict)
    entry = catalog.DatasetEntry(tfds_name="mnist", train=60_000, test=10_000, about="", hosts=(host,))
    monkeypatch.setitem(catalog.DATASETS, "mnist", entry)


def test_mnist_mini_through_tfds_is_the_embedded_file_in_another_order(data_dir: Path, digits: Dataset) -> None:
    prepared = prepare("mnist-mini", data_dir, source=None)
    for split in ("train", "test"):
        through, embedded = getattr(prepared, split), getattr(digits, split)
        pairs = [
            sorted((i.tobytes(), int(n)) for i, n in zip(s.images, s.labels, strict=True)) for s in (through, embedded)
        ]
        assert pairs[0] == pairs[1]


def test_a_second_preparation_reads_the_same(data_dir: Path) -> None:
    first, second = (prepare("sklearn-digits", data_dir, source=None) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.image_shape == (8, 8, 1)


@pytest.mark.slow
def test_two_preparations_at_once_both_end_well_and_prepare_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from mnist_lib.data.prepare import prepare;"
        "prepare('mnist-mini', pathlib.Path(sys.argv[1]), None)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(outputs).count("Downloading and preparing dataset") == 1


@pytest.mark.usefixtures("no_network")
def test_without_network_and_files_the_error_names_three_ways_out(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as error:
        prepare("mnist", tmp_path, source=None)
    for way in ("a network", "--data-source DIR", "--dataset mnist-mini"):
        assert way in str(error.value)


def test_a_source_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"--data-source .*nowhere is not a folder"):
        prepare("mnist", tmp_path, source=tmp_path / "nowhere")


def test_a_source_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"-ubyte\.gz is not there"):
        prepare("mnist", tmp_path / "tfds", source=tmp_path)


def test_a_source_file_that_is_not_the_published_one_is_named_and_nothing_is_prepared(tmp_path: Path) -> None:
    for name in SOURCES:
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataChecksumError, match=r"-ubyte.gz: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        prepare("mnist", tmp_path / "tfds", source=tmp_path)
    assert not list((tmp_path / "tfds").glob("mnist/*"))


def test_a_data_dir_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be used .* --data-dir"):
        prepare("mnist-mini", tmp_path / "file", source=None)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_record_is_refused_with_the_folder_to_delete(tmp_path: Path, damage: str) -> None:
    prepare("sklearn-digits", tmp_path, source=None)
    record = next(tmp_path.glob("sklearn_digits/*/*-test.tfrecord*"))
    content = bytearray(record.read_bytes())
    if damage == "cut":
        content = content[:-100]
    else:
        content[len(content) // 2] ^= 1
    record.write_bytes(content)
    with pytest.raises(DataError, match=r"sklearn_digits.* is damaged .*; delete it and run again"):
        prepare("sklearn-digits", tmp_path, source=None)


def test_a_record_file_cut_between_records_is_refused_for_its_count(tmp_path: Path) -> None:
    prepare("sklearn-digits", tmp_path, source=None)
    record = next(tmp_path.glob("sklearn_digits/*/*-test.tfrecord*"))
    content = record.read_bytes()
    ends, end = [], 0
    while end < len(content):  # a record: its length in 8 bytes, 4 of checksum, the record, 4 of checksum
        end += 8 + 4 + int.from_bytes(content[end : end + 8], "little") + 4
        ends.append(end)
    record.write_bytes(content[: ends[-2]])
    with pytest.raises(DataError, match="360"):
        prepare("sklearn-digits", tmp_path, source=None)


@pytest.mark.mnist
@pytest.mark.slow
def test_the_original_files_prepare_offline_to_the_known_fingerprint(data_dir: Path, mnist_source: Path) -> None:
    dataset = prepare("mnist", data_dir, source=mnist_source)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert dataset.test.labels[dataset.test.labels == 7].size == 1_028  # sevens in MNIST's test set, as published
