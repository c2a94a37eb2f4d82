"""Datasets of TFDS that are not in the catalog, from a builder in a user's file."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.data.images import PixelWriter
from mnist_lib.data.prepare import prepare
from mnist_lib.data.reading import tfds_images
from mnist_lib.data.reading.tfds_images import prepare_builder
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError, DataMissingError, ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.pictures.reading import Shape
from tests.support.builders import builder_file, trees

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


def test_a_builder_of_the_user_is_prepared_and_read_with_its_classes_and_splits(tmp_path: Path) -> None:
    request = DataRequest(
        dataset="tfds:leaf_images",
        data_dir=tmp_path,
        tfds_import=ModelFile.read(builder_file(tmp_path, "LeafImages", fixed=True)),
        splits=("training", "evaluation"),
    )
    dataset, again = prepare(request), prepare(request)
    assert (dataset.name, dataset.version, dataset.classes) == ("leaf_images", "2.1.0", ("oak", "beech", "ash"))
    assert dataset.image_shape == (6, 5, 3)
    assert (len(dataset.train), len(dataset.test)) == (30, 9)
    assert np.bincount(dataset.train.labels).tolist() == [10, 10, 10]
    assert dataset.fingerprint == again.fingerprint
    with pytest.raises(DataError, match="expected the split train, got training, evaluation; use --train-split"):
        prepare(DataRequest(dataset="tfds:leaf_images", data_dir=tmp_path))


def test_a_dataset_is_read_again_only_if_its_files_or_options_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, reads = trees(tmp_path / "tfds"), list[DataRequest]()

    def counted(request: DataRequest, data_dir: Path) -> Any:
        reads.append(request)
        return prepare_builder(request, data_dir)

    monkeypatch.setattr(tfds_images, "prepare_builder", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # another run may have left the same images in /tmp

    def reads_of(**changes: Any) -> int:
        reads.clear()
        dataset, again = (prepare(replace(request, **changes)) for _ in range(2))
        for column, values in vars(dataset.table).items():
            assert np.array_equal(np.asarray(values), np.asarray(getattr(again.table, column))), column
        assert replace(dataset, table=again.table) == again
        return len(reads)

    assert [reads_of(), reads_of(), reads_of(image_size=(5, 6)), reads_of()] == [1, 0, 1, 1]
    height, width, channels = prepare(request).image_shape  # a later run asks for it, as the dataset had it before
    assert [reads_of(image_size=(height, width), channels=channels), reads_of()] == [0, 0]
    version = tmp_path / "tfds/trees/2.1.0"
    shutil.copytree(version, version.with_name("2.2.0"))  # without code, TFDS would choose it
    assert [reads_of(), reads_of()] == [1, 0]
    shutil.rmtree(version)  # TFDS prepares it again
    assert reads_of() == 1


def test_images_of_several_sizes_are_resized_and_the_dataset_says_so(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "tfds_import": ModelFile.read(builder_file(tmp_path, "SizeImages", fixed=False))}
    splits = ("training", "evaluation")
    dataset = prepare(DataRequest(dataset="tfds:size_images:2.1.0", **given, splits=splits))  # type: ignore[arg-type]
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.report.notices == (
        "images are resized to 32 x 32 and cropped; choose another size with --image-size",
    )
    small = DataRequest(dataset="tfds:size_images", **given, splits=splits, image_size=(6, 5), channels=1)  # type: ignore[arg-type]
    assert prepare(small).image_shape == (6, 5, 1)


def test_an_unknown_name_or_an_error_in_the_file_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="tfds:no_such_images: expected a dataset of TFDS, got a name that it"):
        prepare(DataRequest(dataset="tfds:no_such_images", data_dir=tmp_path))
    wrong = tmp_path / "wrong.py"
    wrong.write_text("x = 1\ny = (\n")
    with pytest.raises(ModelError, match=r"^wrong\.py, line 2: expected valid Python"):
        ModelFile.read(wrong, "tfds_import")
    wrong.write_text("\nx = 1 / 0\n")
    with pytest.raises(DataError, match=r"wrong\.py, line 2: ZeroDiv"):
        prepare(DataRequest(dataset="tfds:x", data_dir=tmp_path, tfds_import=ModelFile.read(wrong)))


@pytest.mark.parametrize(
    ("labels", "expected", "message"),
    [
        ([0, 1], 3, "tfds:trees/training: expected 3 images, got 2; prepare it again"),
        ([0, 3], 2, "tfds:trees/training: expected labels 0 to 2, got labels 0 to 3; choose another split"),
        ([], 0, "tfds:trees/training: expected 1 image, got 0; prepare it again"),
    ],
    ids=["an image that is missing", "a label out of range", "an empty split"],
)
def test_d6_a_split_that_lacks_images_or_has_a_label_without_a_class_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int], expected: int, message: str
) -> None:
    import tensorflow as tf

    request = trees(tmp_path)
    builder = prepare_builder(request, tmp_path)
    images = tf.zeros((len(labels), 6, 5, 3), tf.uint8)
    examples = tf.data.Dataset.from_tensors((images, tf.constant(labels, tf.int64))).take(len(labels))
    monkeypatch.setattr(type(builder), "as_dataset", lambda *_, **__: examples)
    with PixelWriter(tmp_path, (6, 5, 3), 2) as writer, pytest.raises(DataError, match=message):
        tfds_images._read(request, builder, "training", writer, Shape(6, 5, 3), np.zeros(expected, np.int64))


def test_w10_the_builder_that_was_read_is_run_and_no_other_file(tmp_path: Path) -> None:
    path, canary = builder_file(tmp_path, "ReadOnce", fixed=True), tmp_path / "canary"
    file = ModelFile.read(path)
    path.write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()")
    request = DataRequest(dataset="tfds:read_once", data_dir=tmp_path, splits=("training", "evaluation"))
    assert len(prepare(replace(request, tfds_import=file)).train) == 30
    path.rename(tmp_path / "beside.py")
    path.write_text("from . import beside")
    with pytest.raises(DataError, match=r"readonce\.py, line 1: ImportError"):
        prepare(replace(request, tfds_import=ModelFile.read(path)))
    assert not canary.exists()
