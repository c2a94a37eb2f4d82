import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_lib.catalog import DATASETS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest


def test_the_files_have_the_sha256_in_their_readme() -> None:
    named = dict(re.findall(r"`([\w-]+\.npz)`.*`([0-9a-f]{64})`", (FOLDER / "README.md").read_text()))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.npz")}
    assert files == named


@pytest.mark.parametrize("name", ["mnist-mini", "sklearn-digits"])
def test_a_class_has_the_promised_number_of_test_digits(name: str) -> None:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        train, test = (np.bincount(arrays[f"{split}_labels"], minlength=10) for split in ("train", "test"))
    assert (train.sum(), test.sum()) == (DATASETS[name].train, DATASETS[name].test)
    if name == "mnist-mini":
        assert set(train) == {400}
    assert set(test) == {DATASETS[name].test // 10}


def test_no_test_digit_is_trained_on(digits: Dataset) -> None:
    train = {image.tobytes() for image in digits.train.images}
    assert not any(image.tobytes() in train for image in digits.test.images)


@pytest.mark.mnist
def test_mnist_mini_is_a_part_of_mnists_training_set(digits: Dataset, mnist_source: Path) -> None:
    import gzip

    raw = gzip.decompress((mnist_source / "train-images-idx3-ubyte.gz").read_bytes())
    published = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28 * 28)
    raw = gzip.decompress((mnist_source / "train-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(raw, np.uint8, offset=8)
    known = {image.tobytes(): label for image, label in zip(published[:5_848], labels[:5_848], strict=True)}
    for split in (digits.train, digits.test):
        assert [known[image.tobytes()] for image in split.images] == split.labels.tolist()


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("mnist-mini", "b571ba86517d795179e29318d1568e68b3bc1b4ab14b12ada9d3d876f2620efb"),
        ("sklearn-digits", "6f74f10088ad5c089397c49917eaffcc7ae080e80e06fe5afd3540369a1ff1e2"),
    ],
)
def test_the_digits_have_the_order_and_the_fingerprint_of_earlier_releases(name: str, fingerprint: str) -> None:
    dataset = prepare(DataRequest(dataset=name))
    assert dataset.fingerprint == fingerprint
    assert (len(dataset.train), len(dataset.test)) == (DATASETS[name].train, DATASETS[name].test)


def test_the_digits_are_read_without_tensorflow_and_without_a_folder_to_write() -> None:
    code = (
        "import sys; from mnist_lib.data.prepare import prepare; from mnist_lib.data.request import DataRequest;"
        "assert prepare(DataRequest(dataset='mnist-mini')).report.reusable;"
        "assert not {'tensorflow', 'keras', 'tensorflow_datasets', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TFDS_DATA_DIR": "/proc/nowhere"})
