"""Get a dataset, once per run: from a folder of pictures, here or in a bucket, or through TFDS."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.corrected import with_corrections
from mnist_lib.data.corrections import LABELS, LabelsFile, UsedLabels
from mnist_lib.data.dataset import Dataset, Report
from mnist_lib.data.embedded import read_embedded
from mnist_lib.data.images import Images
from mnist_lib.data.made_up import kinds_unlike
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.prepared.folder import (
    LOCK_SUFFIX,
    prepared_folder,
    remove_unused,
)
from mnist_lib.data.prepared.index import (
    cached_near_copies,
    index_name,
    index_path,
    lock_preparation,
    pictures_hash,
    prepared_dataset,
    read_index,
    tfds_folder,
    tfds_hash,
    write_index,
)
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.availability import (
    check_source,
    default_data_dir,
    describe_availability,
    temporary_folder,
)
from mnist_lib.data.sources.listing import Listing, listing_of
from mnist_lib.data.sources.mirror import with_local_files
from mnist_lib.data.sources.scan import MAX_NAMED
from mnist_lib.data.table import (
    NO_RECORDS,
    Decoded,
    counter_example_notices,
    group_notices,
    in_order,
    keys_of,
    signed_ranks,
    table_of,
    with_conflicts,
    with_splits,
    without_copies,
)
from mnist_lib.errors import DataFolderError
from mnist_lib.objects.local import LocalObjects


def prepare(
    request: DataRequest,
    progress: Callable[[str], object] = lambda text: None,
    *,
    labels: bytes = b"",
    used: UsedLabels | None = None,
    records: NDArray[np.void] = NO_RECORDS,
    for_training: bool = True,
) -> Dataset:
    """Return the requested dataset, with corrected labels.

    What is not in `data_dir` is prepared there, or copied there from a bucket.

    Args:
        progress: called now and then with how much of a folder is read.
        labels: the content of `labels.jsonl` of a dataset that is not a folder; a folder contains its own.
        used: the part of `labels.jsonl` to use; by default all of it.
        records: the hashes that a storage has recorded for the pictures of a folder.
        for_training: whether images to train on and others to test on are needed, not just any.

    Raises:
        DataMissingError: it does not exist, or it is not prepared and cannot be.
        DataChecksumError: a source file differs from the published one.
        DataError: the files are damaged, a folder has too few pictures, or the folder for prepared datasets cannot be
            written or is full; or a correction is damaged or does not fit.
        StoreError: `labels.jsonl` or a picture in a bucket cannot be read, or cannot be written here.
    """
    where = f"the corrections of {request.name}: {LABELS}"
    request = with_local_files(request)
    if request.folder is not None:
        dataset = _read_folder(request, records, progress)
        # Read after the pictures, which may take long, so that the newest corrections are used.
        file = LabelsFile(LocalObjects(request.folder))
        labels, where = file.content(), file.where
    else:
        dataset = _read_other(request)
    images = dataset.table.images
    is_temporary = isinstance(images, Images) and images.file.folder.parent == temporary_folder()
    dataset = dataset.reporting(reusable=not is_temporary)
    if used is not None:
        labels = used.part_of(labels, where)
    dataset = with_corrections(dataset, labels, where, published=request.folder is None, for_training=for_training)
    if request.folder is None or not for_training:
        return dataset
    return replace(dataset, made_up=kinds_unlike(dataset.train.images, dataset.train.labels))


def with_near_copies(
    dataset: Dataset, request: DataRequest, progress: Callable[[str], object] = lambda text: None
) -> Dataset:
    """Return a prepared dataset with its near-copies. Datasets of the catalog are published, so none are sought there.

    They are stored beside the prepared dataset, so that a resumed run does not compute them again.

    Args:
        progress: called now and then with how much of the search is done.
    """
    if request.entry is not None:
        return dataset
    try:
        path = index_path(prepared_folder(request.data_dir), f"{request.name}-copies")
        found = cached_near_copies(dataset, path, progress)
    except DataFolderError:  # no folder can be written
        found = near_copies(dataset, progress)
    first = zip(found.test[:MAX_NAMED], found.train[:MAX_NAMED], strict=True)
    files = ((dataset.test.file(test), dataset.train.file(train)) for test, train in first)
    named = tuple((test, train) for test, train in files if test and train)
    return dataset.reporting(near_copies=found, near_copy_files=named)


def _read_other(request: DataRequest) -> Dataset:
    """Return a dataset that is not a folder, without corrections."""
    if request.entry is not None and request.entry.embedded:
        return read_embedded(request.dataset)
    try:
        return _read_tfds(request, request.data_dir or default_data_dir())
    except DataFolderError:
        if request.data_dir is not None:
            raise
        return _read_tfds(request, temporary_folder())


def _read_folder(request: DataRequest, records: NDArray[np.void], progress: Callable[[str], object]) -> Dataset:
    """Return the dataset in a folder of pictures, from its index if no picture has changed."""
    from mnist_lib.data.reading.folder import decode_folder  # imports Pillow

    listing = listing_of(request)
    state = pictures_hash(listing)
    dataset = prepared_dataset(request, state, records)
    if dataset is None:
        path = index_path(prepared_folder(request.data_dir), index_name(request))
        with lock_preparation(request.name, path.with_suffix(LOCK_SUFFIX)):
            dataset = prepared_dataset(request, state, records)  # another process may have prepared it meanwhile
            if dataset is None:
                index = read_index(request.name, path)
                decoded = decode_folder(request, listing, path.parent, index, records, progress)
                dataset = dataset_of(request, listing, decoded)
                write_index(dataset, path, request, state, decoded.pictures)
    # These are not in the index, which has what follows from them.
    return replace(dataset, group_by=listing.group_by, none=request.none)


def _read_tfds(request: DataRequest, data_dir: Path) -> Dataset:
    """Return a dataset of TFDS, from its index if neither the files of TFDS nor the user's builder have changed."""
    folder = tfds_folder(request, data_dir)
    if request.data_source is not None:
        check_source(request, request.data_source)  # even if it is prepared: it may have been from other files
    dataset = prepared_dataset(request, tfds_hash(request, folder))
    if dataset is not None:
        return dataset
    # This fails before the slow import, and before a folder is created.
    describe_availability(replace(request, data_dir=data_dir))
    from mnist_lib.data.reading.tfds_images import (  # imports TensorFlow and Pillow
        decode_prepared,
        list_prepared,
        prepare_builder,
    )

    builder = prepare_builder(request, data_dir)
    prepared = prepared_folder(request.data_dir)
    listing = list_prepared(request, builder)
    decoded = decode_prepared(request, listing, prepared, builder)
    dataset = dataset_of(request, listing, decoded)
    if Path(builder.data_path).is_relative_to(folder):
        write_index(dataset, index_path(prepared, index_name(request)), request, tfds_hash(request, folder))
    else:  # in a namespace of TFDS, whose folders are elsewhere
        remove_unused(prepared)
    return dataset


def dataset_of(request: DataRequest, listing: Listing, decoded: Decoded) -> Dataset:
    """Return the dataset of pictures that were listed and decoded, without corrections."""
    table = table_of(listing, decoded)
    table = with_splits(table, listing)
    table = table.take(decoded.images.rows >= 0)
    notices = [*listing.notices, *decoded.notices_and_errors(listing), *group_notices(table, listing)]
    table = with_conflicts(table, listing)
    table, of_copies = without_copies(table, listing)
    table = in_order(table, listing)
    report = Report(
        notices=(*notices, *of_copies, *counter_example_notices(table, listing, request.none)),
        unreadable=decoded.unreadable(listing),
        has_test_folder=not listing.version and "test" in listing.splits,
        new_records=decoded.new_records,
    )
    dataset = Dataset(
        table=table, name=request.name, version="", classes=listing.classes, fingerprint="", report=report
    )
    return _with_fingerprint(dataset, listing)


def _with_fingerprint(dataset: Dataset, listing: Listing) -> Dataset:
    """Return the dataset with a fingerprint of its splits. For one's own pictures, which have no published version, it
    also covers ranks, classes and counter-examples.
    """
    fingerprint = dataset.fingerprint_of_splits()
    if listing.version:
        return replace(dataset, version=listing.version, fingerprint=fingerprint)
    train = dataset.train
    parts = dataset.table.parts(len(listing.classes))
    digest = hashlib.sha256(fingerprint.encode() + "\0".join(listing.classes).encode())
    digest.update(signed_ranks(keys_of(train, listing), train.validation).tobytes())
    digest.update(dataset.table.hashes[(parts == 2) | (parts == 3)].tobytes())
    return replace(dataset, version=digest.hexdigest()[:8], fingerprint=digest.hexdigest())
