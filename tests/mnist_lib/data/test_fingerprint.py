"""The hash of a dataset's files changes with a picture or a correction, here and in a bucket, and with nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest

from mnist_lib.data.corrections import LabelsFile
from mnist_lib.data.prepared.index import fingerprint_of_files, tfds_hash
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError, StoreError
from mnist_lib.model_file import ModelFile
from mnist_lib.objects import bucket
from mnist_lib.objects.bucket import BucketObjects
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, write_folder


def test_a_folder_has_another_fingerprint_after_a_new_picture_or_a_correction(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=2))
    request, found = DataRequest(dataset=f"{folder}/"), []
    found.append(fingerprint_of_files(request))
    assert fingerprint_of_files(request) == found[0]
    noise(9).save(folder / "a/new.png")
    found.append(fingerprint_of_files(request))
    for label in ("b", "a"):
        correct(folder, correction(noise(9), label))
        found.append(fingerprint_of_files(request))
    assert len({*found}) == 4
    with pytest.raises(DataError):
        fingerprint_of_files(DataRequest(dataset=f"{tmp_path}/none"))


@pytest.mark.slow
def test_a_bucket_has_another_fingerprint_after_a_new_picture_or_a_correction(s3: str) -> None:
    store, request, found = bucket._open(s3), DataRequest(dataset=s3), []
    for name in ("a/1.png", "b/2.png", "a/3.png"):
        obstore.put(store, name, name.encode())
        found.append(fingerprint_of_files(request))
    obstore.put(store, "notes.txt", b"not a picture")
    assert fingerprint_of_files(request) == found[-1]
    for label in ("b", "a"):
        LabelsFile(BucketObjects(s3)).add([correction("0" * 32, label)])
        found.append(fingerprint_of_files(request))
    assert len({*found}) == 5
    with pytest.raises(StoreError):
        fingerprint_of_files(DataRequest(dataset="s3://no-such-bucket/folder"))


def test_an_embedded_dataset_has_another_fingerprint_after_a_correction() -> None:
    first, again, corrected = (fingerprint_of_files(DataRequest(), labels) for labels in (b"", b"", b"a correction\n"))
    assert first is not None
    assert first == again != corrected


def test_an_index_of_a_users_builder_depends_on_all_its_files_its_code_and_the_splits(tmp_path: Path) -> None:
    request, folder, (one, other) = (
        DataRequest(dataset="tfds:leaves"),
        tmp_path / "leaves",
        [tmp_path / n for n in "ab"],
    )
    assert tfds_hash(request, folder) == ""
    (folder / "small/1.0.0").mkdir(parents=True)
    one.write_text("x = 1")
    other.write_text("x = 2")
    changes: list[dict[str, Any]] = [
        {},
        {"dataset": "tfds:leaves/small"},
        {"dataset": "tfds:leaves:1.0.0"},
        {"tfds_import": ModelFile.read(one)},
        {"tfds_import": ModelFile.read(other)},
        {"splits": ("training", "test")},
    ]
    hashes = set[str]()
    for name in ("small/1.0.0/dataset_info.json", "small/1.1.0/dataset_info.json", "large/1.0.0/dataset_info.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
        hashes |= {tfds_hash(replace(request, **change), folder) for change in changes}
    (folder / name).write_text("{ }")
    hashes.add(tfds_hash(request, folder))
    assert len(hashes) == 3 * len(changes) + 1


@pytest.mark.parametrize(("dataset", "name"), [("mnist", "mnist"), ("tfds:leaves/small:1.0.0", "leaves")])
def test_a_prepared_dataset_has_the_fingerprint_of_its_files_and_of_the_corrections(
    tmp_path: Path, dataset: str, name: str
) -> None:
    request = DataRequest(dataset=dataset, data_dir=tmp_path)
    assert fingerprint_of_files(request) is None
    prepared = tmp_path / name / "3.0.1"
    prepared.mkdir(parents=True)
    (prepared / "train.tfrecord").write_bytes(b"1")
    first = fingerprint_of_files(request)
    assert first is not None
    assert fingerprint_of_files(request, b"a correction\n") != first
    (prepared / "train.tfrecord").write_bytes(b"2")
    assert fingerprint_of_files(request) != first
