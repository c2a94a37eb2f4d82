"""Get a dataset as arrays, once per run: from a folder of pictures, here or in a bucket, or through TFDS."""

import contextlib
import dataclasses
import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mnist_lib.data.availability import check_source, default_data_dir, describe_availability
from mnist_lib.data.cache import cache_path, cached_near_copies, pictures_hash, read_cache, source_hash, write_cache
from mnist_lib.data.corrected import with_corrections
from mnist_lib.data.corrections import LABELS, LabelsFile, UsedLabels
from mnist_lib.data.embedded import read_embedded
from mnist_lib.data.listing import MAX_NAMED, list_folder
from mnist_lib.data.mirror import with_local_files
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.request import DataRequest
from mnist_lib.data.split import Dataset
from mnist_lib.errors import DataFolderError
from mnist_lib.objects.local import LocalObjects


def prepare(
    request: DataRequest,
    max_bytes: float = math.inf,
    progress: Callable[[str], object] = lambda text: None,
    *,
    labels: bytes = b"",
    used: UsedLabels | None = None,
) -> Dataset:
    """Return the requested dataset, with corrected labels.

    What is not in `data_dir` is prepared there, or copied there from a bucket.

    Args:
        max_bytes: the memory that the images may take up.
        progress: called now and then with how much of a folder is read.
        labels: the content of `labels.jsonl` of a dataset that is not a folder; a folder contains its own.
        used: the part of `labels.jsonl` to use; by default all of it.

    Raises:
        DataMissingError: it does not exist, or it is not prepared and cannot be.
        DataChecksumError: a source file differs from the published one.
        DataError: the files are damaged, a folder has too few pictures, the images are too large for `max_bytes`, or
            the folder for prepared datasets cannot be written; or a correction is damaged or does not fit.
        StoreError: `labels.jsonl` or a picture in a bucket cannot be read, or cannot be written here.
    """
    where = f"the corrections of {request.name}: {LABELS}"
    request = with_local_files(request)
    if request.folder is not None:
        dataset = _read_folder(request, request.folder, max_bytes, progress)
        dataset = dataclasses.replace(dataset, group_by=request.group_by)  # not in the cache, which has the groups
        # Read after the pictures, which may take long, so that the newest corrections are used.
        file = LabelsFile(LocalObjects(request.folder))
        labels, where = file.content(), file.where
    else:
        dataset = _read_other(request, max_bytes)
    if used is not None:
        labels = used.part_of(labels, where)
    return with_corrections(dataset, labels, where, published=request.folder is None)


def with_near_copies(dataset: Dataset, request: DataRequest) -> Dataset:
    """Return a prepared dataset with its near-copies. Datasets of the catalog are published, so none are sought there.

    They are cached beside the prepared dataset, so that a resumed run does not compute them again.
    """
    if request.entry is not None:
        return dataset
    try:
        found = cached_near_copies(
            dataset, cache_path(request.data_dir or default_data_dir(), f"{request.name}-copies")
        )
    except DataFolderError:  # no folder can be written
        found = near_copies(dataset)
    first = zip(found.test[:MAX_NAMED], found.train[:MAX_NAMED], strict=True)
    files = ((dataset.test.file(test), dataset.train.file(train)) for test, train in first)
    named = tuple((test, train) for test, train in files if test and train)
    return dataclasses.replace(dataset, near_copies=found, near_copy_files=named)


def _read_other(request: DataRequest, max_bytes: float) -> Dataset:
    """Return a dataset that is not a folder, without corrections."""
    if request.entry is not None and request.entry.embedded:
        return read_embedded(request.dataset)
    if request.data_dir is not None:
        return _read_tfds(request, request.data_dir, max_bytes)
    try:
        return _read_tfds(request, default_data_dir(), max_bytes)
    except DataFolderError:
        with tempfile.TemporaryDirectory(prefix="tensorflow_datasets-") as temporary:
            return dataclasses.replace(_read_tfds(request, Path(temporary), max_bytes), reusable=False)


def _read_folder(request: DataRequest, folder: Path, max_bytes: float, progress: Callable[[str], object]) -> Dataset:
    """Return the dataset in a folder of pictures, from the cache if no picture has changed."""
    from mnist_lib.data.folder import read_folder, require_memory  # imports Pillow

    listing, path = list_folder(folder, group_by=request.group_by), None
    state = pictures_hash(listing, request)
    with contextlib.suppress(DataFolderError):
        number = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        path = cache_path(request.data_dir or default_data_dir(), f"{request.name}-{number}")
    dataset = read_cache(request.name, path, lambda about: state) if path else None
    if dataset is None:
        dataset = read_folder(request, listing, max_bytes, progress)
        if path:
            write_cache(dataset, path, state)
        return dataset
    if request.strict and dataset.damaged:
        return read_folder(request, listing, max_bytes, progress)  # raises the error
    require_memory(request.name, len(dataset.train) + len(dataset.test), dataset.image_shape, max_bytes)
    return dataset


def _read_tfds(request: DataRequest, data_dir: Path, max_bytes: float) -> Dataset:
    """Return a dataset of TFDS; one of the catalog from the cache if the files of TFDS have not changed."""
    name, entry = request.tfds_name, request.entry
    if request.data_source is not None:
        check_source(request, request.data_source)  # even if it is prepared: it may have been from other files
    cache = cache_path(data_dir, name)
    dataset = read_cache(request.name, cache, lambda version: source_hash(data_dir / name / version)) if entry else None
    if dataset is None:
        # This fails before the slow import, and before a folder is created.
        describe_availability(dataclasses.replace(request, data_dir=data_dir))
        from mnist_lib.data.tfds_images import prepare_builder, read_prepared  # imports TensorFlow and Pillow

        builder, is_new = prepare_builder(request, data_dir)
        dataset = read_prepared(request, builder, max_bytes)
        if entry:
            dataset = dataclasses.replace(dataset, classes=entry.classes)
            if is_new or cache.exists():  # a stale cache, such as that of an earlier release, is replaced
                write_cache(dataset, cache, source_hash(Path(builder.data_path)))
    if entry:
        dataset.check(entry.train, entry.test)
    return dataset
