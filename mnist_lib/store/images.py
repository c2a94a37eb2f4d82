"""Datasets with the corrections in the storage, and the images that a stored version was tested on."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mnist_lib.catalog import DATASETS
from mnist_lib.data.corrections import UsedLabels, labels_in_storage
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.datasets import begun_with, recorded_hashes
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.reference import with_reference_shape
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version

if TYPE_CHECKING:
    from mnist_lib.data.dataset import Dataset
    from mnist_lib.data.table import ImageHashes, Table


def dataset_request(version: Version, dataset: str | None, **arguments: Any) -> DataRequest:
    """Return the request for a version's dataset, with the image shape of the version.

    Args:
        dataset: where it is, if it is not in the catalog.
        arguments: other arguments of `DataRequest`.

    Raises:
        SpecError: the dataset is not in the catalog and is not named, or an argument does not apply to it.
    """
    tested_on = version.facts.dataset
    if dataset is None and tested_on.name not in DATASETS:
        where = "name it with --dataset DIR or tfds:NAME"
        raise SpecError(f"dataset: {version.name} was trained on {tested_on.name}; {where}")
    for name in ("group_by", "none"):
        arguments[name] = arguments.get(name) or getattr(tested_on, name)
    return DataRequest(dataset=dataset or tested_on.name, **arguments).shaped(tested_on.image_shape)


def tested_split(objects: Objects, version: Version, data: DataRequest) -> "Table":
    """Return the images that the version was tested on, with the labels that they had then.

    Raises DataError if the dataset here does not have them.
    """
    import numpy as np  # it takes time to load, and most commands do without

    from mnist_lib.data.table import Table, indices_of

    tested_on = version.facts.dataset.fingerprint
    dataset = load_dataset(data, objects, used=used_labels(objects, version))
    stored = Predictions.read(objects, version)
    if dataset.fingerprint == tested_on:
        return dataset.test
    # The dataset has grown, or images have gone; each image is found by its hash.
    test = dataset.test
    train = dataset.train
    in_test = indices_of(stored.hashes, test.hashes)
    in_train = indices_of(stored.hashes, train.hashes)
    missing = int(((in_test < 0) & (in_train < 0)).sum())
    if missing or test.images.shape[1:] != tuple(version.facts.dataset.image_shape):
        raise DataError(
            f"{version.name}: expected the {len(stored.labels):,} images of {dataset.name} on which it was tested, got"
            f" all but {missing:,}; name the same data with --dataset, --data-dir or --data-source"
        )
    rows = np.where(in_test < 0, in_train, len(train) + in_test)
    return Table.of(dataset.table.images[rows], stored.labels, stored.hashes)


def used_labels(objects: Objects, version: Version) -> UsedLabels:
    """Return the corrections that a version was trained with: none if it was stored before corrections existed."""
    begun = begun_with(RunFolder(objects, version.run))
    return begun.labels if begun else UsedLabels.of(b"")


def load_dataset(
    data: DataRequest,
    objects: Objects,
    progress: Callable[[str], object] = lambda text: None,
    used: UsedLabels | None = None,
    near_copies: bool = False,
    trained: Mapping[str, "ImageHashes"] = MappingProxyType({}),
    for_training: bool = True,
) -> "Dataset":
    """Return a dataset with corrected labels. What TFDS prints while preparing it goes to standard error.

    Args:
        objects: the storage, which contains the corrections of a dataset that is not a folder, and says which shape
            the images have if the request does not.
        used: the corrections to use; by default all.
        near_copies: whether to look for test images that resemble a training image.
        trained: hashes of images to leave out of the test split, see `without_trained`.
        for_training: as in `prepare`.
    """
    from mnist_lib.data.hold_out import without_trained
    from mnist_lib.data.prepare import prepare, with_near_copies

    data = with_reference_shape(data, objects)
    with contextlib.redirect_stdout(sys.stderr):
        labels = labels_in_storage(data, objects)
        records = recorded_hashes(objects, data)
        dataset = prepare(data, progress=progress, labels=labels, used=used, records=records, for_training=for_training)
    dataset = without_trained(dataset, trained)
    return with_near_copies(dataset, data, progress) if near_copies else dataset
