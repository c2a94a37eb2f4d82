"""The hold-out of models that start from stored versions: images on which these were trained are not tested on."""

import hashlib
from collections.abc import Mapping

import numpy as np

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import ImageHashes, indices_of
from mnist_lib.errors import DataError
from mnist_lib.objects.archives import hash_arrays
from mnist_lib.wording import counted


def without_trained(dataset: Dataset, trained: Mapping[str, ImageHashes]) -> Dataset:
    """Return the dataset without the test images on which versions were trained; its notices say how many they are.

    Args:
        trained: the hashes of images, [n, 2], by the version that was trained on them.

    Raises:
        DataError: no test image is left.
    """
    test = dataset.test
    notices = [*dataset.report.notices]
    left_out = np.zeros(len(test), bool)
    for version, hashes in trained.items():
        new = ~left_out & (indices_of(test.hashes, hashes) >= 0)
        left_out |= new
        if new.any():
            images = counted(int(new.sum()), "test image")
            notices.append(f"left out: {images} on which {version}, from which a model starts, was trained")
    if not left_out.any():
        return dataset
    if left_out.all():
        raise DataError(
            f"{dataset.name}: expected test images on which {', '.join(trained)} was not trained, got none; start"
            " from another version, or add pictures"
        )
    changed = f"{dataset.fingerprint}{hash_arrays([test.hashes[left_out]])}"
    fingerprint = hashlib.sha256(changed.encode()).hexdigest()
    rows = np.delete(np.arange(len(dataset.table)), len(dataset.train) + np.flatnonzero(left_out))
    return dataset.changed(dataset.table.take(rows), fingerprint).reporting(notices=tuple(notices))


def require_untrained(dataset: Dataset, trained: Mapping[str, ImageHashes]) -> None:
    """Raise DataError if a version was trained on images of the folds, each of which is to be predicted without it.

    Args:
        trained: as in `without_trained`.
    """
    for version, hashes in trained.items():
        known = int((indices_of(dataset.train.hashes, hashes) >= 0).sum())
        if known:
            raise DataError(
                f"{dataset.name}: expected folds of images on which {version}, from which a model starts, was not"
                f" trained, got {known:,} of {len(dataset.train):,} on which it was; leave out --folds, or start from"
                " another version"
            )
