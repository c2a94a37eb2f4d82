"""Preparation of datasets with real files and processes. The download itself needs a network and is not tested."""

import dataclasses
import gzip
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from mnist_lib import catalog
from mnist_lib.data.prepare import prepare
from mnist_lib.data.reading.tfds_images import prepare_builder
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources import availability
from mnist_lib.errors import DataChecksumError, DataError, DataMissingError
from tests.support.bounds import assert_at_most
from tests.support.builders import trees

pytestmark = pytest.mark.usefixtures("tensorflow")  # TensorFlow has to be set up before its first use

ROOT = Path(__file__).parents[3]
SOURCES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the host of the download by a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(catalog.DATASETS, "mnist", dataclasses.replace(catalog.DATASETS["mnist"], url=url))


@pytest.fixture(scope="module")
def prepared_trees(tmp_path_factory: pytest.TempPathFactory, tensorflow: None) -> Path:
    """A folder in which TFDS has prepared the dataset, which has not been read."""
    folder = tmp_path_factory.mktemp("trees")
    prepare_builder(trees(folder / "tfds"), folder / "tfds")
    return folder


@pytest.fixture
def request_of_trees(tmp_path: Path, prepared_trees: Path) -> DataRequest:
    shutil.copytree(prepared_trees, tmp_path, dirs_exist_ok=True)
    return trees(tmp_path / "tfds")


@pytest.mark.long
@pytest.mark.slow
def test_d5_two_concurrent_preparations_both_succeed_but_only_one_does_the_work(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from mnist_lib.data.prepare import prepare;"
        " from tests.support.builders import trees; prepare(trees(pathlib.Path(sys.argv[1]) / 'tfds'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(outputs).count("Downloading and preparing dataset") == 1


@pytest.mark.usefixtures("no_network")
def test_d3_the_error_without_network_and_files_names_the_remedies_of_every_command(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as error:
        prepare(DataRequest(dataset="mnist", data_dir=tmp_path))
    assert all(remedy in str(error.value) for remedy in ("a network", "--data-source DIR"))
    assert "--dataset" not in str(error.value)  # jobs.models has no such option; jobs.train adds it


@pytest.mark.usefixtures("no_network")
def test_a_mistyped_data_dir_is_not_created_if_the_dataset_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError):
        prepare(DataRequest(dataset="mnist", data_dir=tmp_path / "mistyped"))
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variable", ["no_proxy", "http_proxy"])
def test_the_error_is_prompt_with_the_no_proxy_variable_and_with_a_dead_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "localhost" if variable == "no_proxy" else "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(DataMissingError, match="cannot be reached"):
        prepare(DataRequest(dataset="mnist", data_dir=tmp_path))
    assert_at_most(8, since=begin)


def test_a_host_that_never_answers_is_abandoned_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = threading.Event()

    def never_answer(*_: object, **__: object) -> None:
        abandoned.wait()
        raise TimeoutError

    monkeypatch.setattr(availability, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", never_answer)
    assert availability._unreachable(urllib.parse.urlsplit("http://example.org")) == "no answer within 0 s"
    abandoned.set()


@pytest.mark.slow
def test_another_version_on_disk_is_not_mistaken_for_the_requested_one(request_of_trees: DataRequest) -> None:
    prepare(request_of_trees)
    versions = Path(str(request_of_trees.data_dir), "trees")
    (versions / "2.1.0").rename(versions / "2.0.0")
    prepare(request_of_trees)
    assert (versions / "2.1.0/dataset_info.json").exists()


def test_the_files_of_tfds_are_neither_locked_nor_written_again(request_of_trees: DataRequest) -> None:
    """It may be read-only and shared by a cluster."""
    prepare(request_of_trees)
    folder = Path(str(request_of_trees.data_dir))
    (lock,) = folder.glob(".*.lock")
    lock.unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*") if ".prepared" not in path.parts)
    prepare(request_of_trees)
    after = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*") if ".prepared" not in path.parts)
    assert after == before


def test_the_error_names_a_source_that_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"--data-source .*nowhere is not a folder"):
        prepare(DataRequest(dataset="mnist", data_dir=tmp_path, data_source=tmp_path / "nowhere"))


def test_the_error_names_a_source_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"-ubyte\.gz does not exist"):
        prepare(DataRequest(dataset="mnist", data_dir=tmp_path / "tfds", data_source=tmp_path))


def test_d4_the_error_names_a_wrong_source_file_and_nothing_is_prepared(tmp_path: Path) -> None:
    for name in SOURCES:
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataChecksumError, match=r"-ubyte.gz: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        prepare(DataRequest(dataset="mnist", data_dir=tmp_path / "tfds", data_source=tmp_path))
    assert not list((tmp_path / "tfds").glob("mnist/*"))


def test_the_error_names_a_data_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be written .* --data-dir"):
        prepare(trees(tmp_path / "file"))


def record_ends(content: bytes) -> list[int]:
    """Return where each record ends. A TFRecord is 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    ends, end = [], 0
    while end < len(content):
        end += 8 + 4 + int.from_bytes(content[end : end + 8], "little") + 4
        ends.append(end)
    return ends


def prepared_file(request: DataRequest) -> Path:
    """Prepare the dataset and return the file of its test images."""
    prepare(request)
    return next(Path(str(request.data_dir)).glob("trees/*/*-evaluation.tfrecord*"))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_d1_the_error_names_the_folder_of_a_damaged_record_to_delete(
    request_of_trees: DataRequest, damage: str
) -> None:
    file = prepared_file(request_of_trees)
    content = file.read_bytes()
    inside = record_ends(content)[4] + 20
    rest = bytes([content[inside] ^ 1]) + content[inside + 1 :] if damage == "flip" else b""
    file.write_bytes(content[:inside] + rest)
    message = rf"tfds:trees/evaluation: a file in {file.parent} is damaged .*; delete that folder and run again"
    with pytest.raises(DataError, match=message):
        prepare(request_of_trees)


def test_the_error_names_the_folder_of_a_record_file_that_is_missing(request_of_trees: DataRequest) -> None:
    file = prepared_file(request_of_trees)
    file.unlink()
    with pytest.raises(DataError, match=rf"a file in {file.parent} is damaged"):
        prepare(request_of_trees)


def test_d2_a_record_file_cut_between_records_is_refused(request_of_trees: DataRequest) -> None:
    file = prepared_file(request_of_trees)
    content = file.read_bytes()
    file.write_bytes(content[: record_ends(content)[-2]])
    with pytest.raises(DataError, match="9"):
        prepare(request_of_trees)


def test_without_a_home_the_dataset_is_prepared_in_a_temporary_folder(
    request_of_trees: DataRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert not prepare(dataclasses.replace(request_of_trees, data_dir=None)).report.reusable


@pytest.mark.long
@pytest.mark.mnist
def test_the_original_files_are_prepared_offline_and_their_images_are_unchanged(
    data_dir: Path, mnist_source: Path
) -> None:
    dataset = prepare(DataRequest(dataset="mnist", data_dir=data_dir, data_source=mnist_source))
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    for split, name, offset in ((dataset.train, "train", 16), (dataset.test, "t10k", 16)):
        raw = gzip.decompress((mnist_source / f"{name}-images-idx3-ubyte.gz").read_bytes())
        published = np.frombuffer(raw, np.uint8, offset=offset).reshape(-1, 28 * 28)
        assert sorted(image.tobytes() for image in split.images) == sorted(image.tobytes() for image in published)
