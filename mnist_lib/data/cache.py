"""A dataset's arrays, kept beside what TFDS has prepared: a further run needs no TensorFlow to have them.

They are taken only if TFDS' files are, byte for byte, those that they were decoded from, by the same TFDS and builders.
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
from mnist_lib.data.embedded import FOLDER as EMBEDDED
from mnist_lib.data.split import Dataset, Split
from mnist_lib.errors import IntegrityError

CACHE_SCHEMA = 1
LARGEST_ARRAY = 1 << 30  # bytes; none of the catalog has a tenth of it
SPLITS = ("train_images", "train_labels", "test_images", "test_labels")
ABOUT = "about"  # JSON, as bytes

log = logging.getLogger(__name__)


def keep(dataset: Dataset, prepared: Path) -> None:
    """
    Args:
        prepared: TFDS' folder of this version, as in `~/tensorflow_datasets/mnist/3.0.1`. If what lies beside it cannot
            be written, nothing is kept, and nothing is lost.
    """
    about = {"version": prepared.name, "source": _source(prepared), "fingerprint": dataset.fingerprint}
    content = io.BytesIO()
    arrays = (dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels)
    np.savez(
        content,
        allow_pickle=False,
        **dict(zip(SPLITS, arrays, strict=True)),
        **{ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)},
    )
    place = _place(prepared.parent)
    with contextlib.suppress(OSError):
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            written = Path(folder, place.name)
            written.write_bytes(content.getbuffer())
            written.replace(place)


def kept(name: str, versions: Path) -> Dataset | None:
    """What `keep` has kept of the dataset of that name; None if there is nothing, or something else is prepared by now.

    Args:
        versions: TFDS' folder of all its versions, as in `~/tensorflow_datasets/mnist`.
    """
    place = _place(versions)
    try:
        arrays = read_npz(place.read_bytes(), str(place), dict.fromkeys((*SPLITS, ABOUT), LARGEST_ARRAY))
        about = json.loads(arrays[ABOUT].tobytes())
        train_images, train_labels, test_images, test_labels = (arrays[split] for split in SPLITS)
        if about["source"] != _source(versions / about["version"]):
            return None
        train, test = Split(train_images, train_labels), Split(test_images, test_labels)
        dataset = Dataset.of(name, about["version"], train, test)
        return dataset if dataset.fingerprint == about["fingerprint"] else None
    except (OSError, IntegrityError, ValueError, KeyError, TypeError) as error:
        log.debug("%s: %s", place, error)
        return None


def _place(versions: Path) -> Path:
    return versions.parent / ".decoded" / f"{versions.name}.npz"


def _source(prepared: Path) -> str:
    """sha256 of all that the arrays were made from: TFDS' files and version, the builders and sets in the package."""
    digest = hashlib.sha256(f"{CACHE_SCHEMA} {metadata.version('tensorflow-datasets')}\n".encode())
    for folder in (prepared, EMBEDDED):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                with path.open("rb") as file:
                    of_file = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{path.relative_to(folder).as_posix()} {of_file}\n".encode())
    return digest.hexdigest()
