"""The images that decisions about a model have used: `models/<model>/used/<dataset>/<n>/<sha256>.npz`.

The folder is named after the budget of significance ("<dataset>/<n>") that the decisions share, whatever the data set
was called when they were made. Each file holds the hashes of the images that one decision was the first to use.
"""

import hashlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnist_lib.archives import MAX_HEADER_BYTES, read_npz
from mnist_lib.catalog import MAX_TEST_IMAGES
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import Objects, concurrently

MAX_BYTES = 16 * MAX_TEST_IMAGES + MAX_HEADER_BYTES  # of a file


@dataclass(frozen=True)
class UsedImages:
    """The images that were used before, by the budget that paid for their use."""

    of: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    @classmethod
    def read(cls, objects: Objects, model: str, images: Collection[bytes]) -> "UsedImages":
        """Return which of some images a model has used. Raises IntegrityError if a file is damaged."""
        among = frozenset(images)

        def read(name: str) -> set[bytes]:
            return {image for row in _read(objects, name) if (image := row.tobytes()) in among}

        names = [name for name in objects.names(f"models/{model}/used") if name.endswith(".npz")]
        of: dict[str, set[bytes]] = {}
        for name, found in zip(names, concurrently(read, names), strict=True):
            of.setdefault(_period_of(name, model), set()).update(found)
        return cls({period: frozenset(images) for period, images in of.items()})

    def by_others(self, period: str) -> frozenset[bytes]:
        """Return the images that were used at the expense of any other budget."""
        return frozenset().union(*(images for other, images in self.of.items() if other != period))


def store_used(objects: Objects, model: str, period: str, images: Collection[bytes]) -> str | None:
    """Store hashes of images, 16 bytes each; return the name of the file without suffix, or None if there are none."""
    if not images:
        return None
    content = io.BytesIO()
    np.savez(content, hashes=np.frombuffer(b"".join(sorted({*images})), np.uint8).reshape(-1, 16))
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    objects.create(used_file(model, period, sha256), content.getvalue())
    return sha256


def used_file(model: str, period: str, sha256: str) -> str:
    return f"models/{model}/used/{period}/{sha256}.npz"


def check_used(objects: Objects, model: str, period: str, sha256: str) -> None:
    """Raise IntegrityError if a file is missing or damaged."""
    _read(objects, used_file(model, period, sha256))


def _period_of(name: str, model: str) -> str:
    return name.removeprefix(f"models/{model}/used/").rpartition("/")[0]


def _read(objects: Objects, name: str) -> NDArray[np.uint8]:
    content = objects.read(name, MAX_BYTES)
    if content is None or hashlib.sha256(content).hexdigest() != name.rpartition("/")[2].removesuffix(".npz"):
        got = "no file" if content is None else "another"
        raise IntegrityError(f"{name}: expected a file with this sha256, got {got}; restore it from a copy")
    hashes = read_npz(content, name, {"hashes": 16 * MAX_TEST_IMAGES})["hashes"]
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (16,):
        raise IntegrityError(f"{name}: expected uint8 [n, 16], got {hashes.dtype.name} {hashes.shape}")
    return hashes
