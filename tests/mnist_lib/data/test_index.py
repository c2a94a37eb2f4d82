"""The images of an index are those that TFDS would return, or it is not used."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from mnist_lib.catalog import DATASETS, DatasetEntry
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.prepared import index
from mnist_lib.data.prepared.folder import prepared_folders
from mnist_lib.data.reading.tfds_images import import_builder
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataFolderError
from mnist_lib.model_file import ModelFile
from tests.support.builders import builder_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

LEAVES = DatasetEntry(train=30, test=9, about="leaves of trees", url="http://x", classes=("oak", "beech", "ash"))


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Dataset, Path]]:
    """A dataset of the catalog, and TFDS' folder of its versions."""
    import_builder(ModelFile.read(builder_file(tmp_path, "Leaves", fixed=True, splits=("train", "test"))))
    with socket.create_server(("127.0.0.1", 0)) as host:  # the host of a download, which must be reachable
        entry = replace(LEAVES, url=f"http://127.0.0.1:{host.getsockname()[1]}")
        monkeypatch.setitem(DATASETS, "leaves", entry)
        yield prepare(DataRequest(dataset="leaves", data_dir=tmp_path)), tmp_path / "leaves"


def path_of_index(versions: Path) -> Path:
    return versions.parent / ".prepared/leaves.index"


def indexed(versions: Path) -> Dataset | None:
    request = DataRequest(dataset="leaves", data_dir=versions.parent)
    return index.prepared_dataset(request, index.tfds_hash(request, versions))


def test_an_indexed_dataset_equals_the_prepared_one(prepared: tuple[Dataset, Path]) -> None:
    dataset, versions = prepared
    again = indexed(versions)
    assert again is not None
    assert (again.fingerprint, again.version, again.name) == (dataset.fingerprint, dataset.version, dataset.name)
    assert np.array_equal(again.train.images, dataset.train.images)
    assert np.array_equal(again.test.labels, dataset.test.labels)


def test_only_the_user_can_read_the_prepared_images(prepared: tuple[Dataset, Path]) -> None:
    folder = prepared[1].parent / ".prepared"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_run_reads_its_data_without_tensorflow(prepared: tuple[Dataset, Path]) -> None:
    dataset, versions = prepared
    script = (
        "import sys; from pathlib import Path; from mnist_lib.catalog import DATASETS, DatasetEntry;"
        "from mnist_lib.data.prepare import prepare; from mnist_lib.data.request import DataRequest as Request;"
        f"DATASETS['leaves'] = {LEAVES!r};"
        f"print(prepare(Request(dataset='leaves', data_dir=Path({str(versions.parent)!r}))).fingerprint);"
        "assert not {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == dataset.fingerprint


@pytest.mark.parametrize("change", ["a record", "the metadata", "an added file", "a removed file"])
def test_an_index_is_not_used_after_the_prepared_files_change(prepared: tuple[Dataset, Path], change: str) -> None:
    version = next(prepared[1].iterdir())
    record, info = next(version.glob("*train*")), version / "dataset_info.json"
    match change:
        case "a record":
            content = bytearray(record.read_bytes())
            content[len(content) // 2] ^= 1
            record.write_bytes(content)
        case "the metadata":
            info.write_text(info.read_text() + " ")
        case "an added file":
            (version / "another").touch()
        case "a removed file":
            record.unlink()
    assert indexed(prepared[1]) is None


def test_an_index_of_another_tfds_version_is_not_used(
    prepared: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "4.9.11")
    assert indexed(prepared[1]) is None


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "empty", "no archive"])
def test_a_damaged_index_is_not_used_and_the_dataset_is_decoded_again(
    prepared: tuple[Dataset, Path], damage: str
) -> None:
    dataset, versions = prepared
    path = path_of_index(versions)
    content = bytearray(path.read_bytes())
    match damage:
        case "a flipped bit":
            content[len(content) // 2] ^= 1
        case "cut short":
            del content[-1000:]
        case "empty":
            content.clear()
        case "no archive":
            content = bytearray(b"no archive" * 100)
    path.write_bytes(content)
    assert indexed(versions) is None
    assert prepare(DataRequest(dataset="leaves", data_dir=versions.parent)).fingerprint == dataset.fingerprint
    assert indexed(versions) is not None  # and is stored again


def test_without_the_right_to_write_the_images_are_among_the_temporary_files_of_the_user(
    prepared: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset, versions = prepared
    expected = np.asarray(dataset.train.images)
    shutil.rmtree(versions.parent / ".prepared")
    (versions.parent / ".prepared").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for _ in range(2):
        again = prepare(DataRequest(dataset="leaves", data_dir=versions.parent))
        assert again.fingerprint == dataset.fingerprint
    (folder,) = (tmp_path / "temporary").iterdir()
    assert (folder / ".prepared").stat().st_mode & 0o777 == 0o700
    assert np.array_equal(again.train.images, expected)
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(DataFolderError, match="expected a folder that can be written, got none; name another with"):
        prepare(DataRequest(dataset="leaves", data_dir=versions.parent))


def test_a_temporary_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert prepared_folders(tmp_path / "data")[1:]
    other = os.getuid() + 1
    (tmp_path / f"mnist_lib-{other}").mkdir()  # of this user, who is another one for the program
    monkeypatch.setattr(os, "getuid", lambda: other)
    assert prepared_folders(tmp_path / "data") == [tmp_path / "data/.prepared"]
