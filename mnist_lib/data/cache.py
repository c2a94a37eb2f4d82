"""A cache of decoded arrays beside the files that TFDS prepared, so that later runs read a dataset without TensorFlow.

A cache is used only as long as TFDS' files, TFDS' version and this package's builders have not changed.
"""

import contextlib
import hashlib
import io
import json
import logging
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from mnist_lib.archives import read_npz
from mnist_lib.data.availability import file_hashes
from mnist_lib.data.embedded import FOLDER as EMBEDDED
from mnist_lib.data.split import Dataset, Split
from mnist_lib.errors import IntegrityError

CACHE_SCHEMA = 1
MAX_ARRAY_BYTES = 1 << 30  # ten times the largest array of the catalog
SPLITS = ("train_images", "train_labels", "test_images", "test_labels")
ABOUT = "about"  # the array that holds JSON, as bytes

log = logging.getLogger(__name__)


def write_cache(dataset: Dataset, prepared: Path) -> None:
    """Write the arrays of a dataset beside its prepared files. Do nothing if the folder is not writable.

    Args:
        prepared: TFDS' folder of this version, such as `~/tensorflow_datasets/mnist/3.0.1`.
    """
    about = {"version": prepared.name, "source": _source_hash(prepared), "fingerprint": dataset.fingerprint}
    train, test, content = dataset.train, dataset.test, io.BytesIO()
    arrays = dict(zip(SPLITS, (train.images, train.labels, test.images, test.labels), strict=True))
    np.savez(content, allow_pickle=False, **arrays, **{ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})
    path = _cache_path(prepared.parent)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder, path.name)
            temporary.write_bytes(content.getbuffer())
            temporary.replace(path)


def read_cache(name: str, versions: Path) -> Dataset | None:
    """Return the cached dataset of that name, or None if there is no cache or it is damaged or stale.

    Args:
        versions: TFDS' folder of all versions of the dataset, such as `~/tensorflow_datasets/mnist`.
    """
    path = _cache_path(versions)
    try:
        arrays = read_npz(path.read_bytes(), str(path), dict.fromkeys((*SPLITS, ABOUT), MAX_ARRAY_BYTES))
        about = json.loads(arrays[ABOUT].tobytes())
        if about["source"] != _source_hash(versions / about["version"]):
            return None
        train, test = (Split(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
        dataset = Dataset.of(name, about["version"], train, test)
        return dataset if dataset.fingerprint == about["fingerprint"] else None
    except (OSError, IntegrityError, ValueError, KeyError, TypeError) as error:
        log.debug("%s: %s", path, error)
        return None


def _cache_path(versions: Path) -> Path:
    return versions.parent / ".decoded" / f"{versions.name}.npz"


def _source_hash(prepared: Path) -> str:
    """Return the sha256 of all sources of the arrays: TFDS' files and version, and the builders in this package."""
    digest = hashlib.sha256(f"{CACHE_SCHEMA} {metadata.version('tensorflow-datasets')}\n".encode())
    for folder in (prepared, EMBEDDED):
        for line in file_hashes(folder, ignored_suffix=".pyc"):
            digest.update(line)
    return digest.hexdigest()
