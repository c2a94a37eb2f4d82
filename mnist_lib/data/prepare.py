"""Get a dataset, once per run: from a folder of pictures, here or in a bucket, or through TFDS."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mnist_lib.data.availability import check_source, default_data_dir, describe_availability
from mnist_lib.data.corrected import with_corrections
from mnist_lib.data.corrections import LABELS, LabelsFile, UsedLabels
from mnist_lib.data.embedded import read_embedded
from mnist_lib.data.listing import MAX_NAMED, list_folder
from mnist_lib.data.mirror import with_local_files
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.prepared.folder import is_temporary, protect_images, remove_unused, shards_folder, shards_folders
from mnist_lib.data.prepared.index import (
    builder_hash,
    cached_near_copies,
    folder_index_path,
    index_path,
    lock_preparation,
    pictures_hash,
    read_index,
    source_hash,
    states_for,
    tfds_folder,
    tfds_index_path,
    write_index,
)
from mnist_lib.data.prepared.journal import JOURNAL_SUFFIX, Journal
from mnist_lib.data.request import DataRequest
from mnist_lib.data.split import Dataset
from mnist_lib.errors import DataFolderError
from mnist_lib.objects.local import LocalObjects


def prepare(
    request: DataRequest,
    progress: Callable[[str], object] = lambda text: None,
    *,
    labels: bytes = b"",
    used: UsedLabels | None = None,
    for_training: bool = True,
) -> Dataset:
    """Return the requested dataset, with corrected labels.

    What is not in `data_dir` is prepared there, or copied there from a bucket.

    Args:
        progress: called now and then with how much of a folder is read.
        labels: the content of `labels.jsonl` of a dataset that is not a folder; a folder contains its own.
        used: the part of `labels.jsonl` to use; by default all of it.
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
        dataset = _read_folder(request, request.folder, progress)
        dataset = dataclasses.replace(dataset, group_by=request.group_by)  # not in the index, which has the groups
        # Read after the pictures, which may take long, so that the newest corrections are used.
        file = LabelsFile(LocalObjects(request.folder))
        labels, where = file.content(), file.where
    else:
        dataset = _read_other(request)
    protect_images(dataset.images)
    dataset = dataclasses.replace(dataset, reusable=not is_temporary(dataset.images))
    if used is not None:
        labels = used.part_of(labels, where)
    return with_corrections(dataset, labels, where, published=request.folder is None, for_training=for_training)


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
        path = index_path(shards_folder(request.data_dir), f"{request.name}-copies")
        found = cached_near_copies(dataset, path, progress)
    except DataFolderError:  # no folder can be written
        found = near_copies(dataset, progress)
    first = zip(found.test[:MAX_NAMED], found.train[:MAX_NAMED], strict=True)
    files = ((dataset.test.file(test), dataset.train.file(train)) for test, train in first)
    named = tuple((test, train) for test, train in files if test and train)
    return dataclasses.replace(dataset, near_copies=found, near_copy_files=named)


def _read_other(request: DataRequest) -> Dataset:
    """Return a dataset that is not a folder, without corrections."""
    if request.entry is not None and request.entry.embedded:
        return read_embedded(request.dataset)
    if request.data_dir is not None:
        return _read_tfds(request, request.data_dir)
    try:
        return _read_tfds(request, default_data_dir())
    except DataFolderError:
        with tempfile.TemporaryDirectory(prefix="tensorflow_datasets-") as temporary:
            return _read_tfds(request, Path(temporary), is_temporary=True)


def _read_folder(request: DataRequest, folder: Path, progress: Callable[[str], object]) -> Dataset:
    """Return the dataset in a folder of pictures, from its index if no picture has changed."""
    from mnist_lib.data.folder import read_folder  # imports Pillow

    listing = list_folder(folder, group_by=request.group_by)
    path = folder_index_path(request, folder, shards_folder(request.data_dir))
    own = f"{path.with_suffix('')}.{os.getuid()}"  # files of this user, since others may not be able to write them

    def indexed() -> Dataset | None:
        dataset = _indexed(request, path.stem, lambda asked, version: pictures_hash(listing, asked))
        # With `strict`, reading the damaged ones again raises the error.
        return None if dataset is not None and request.strict and dataset.unreadable else dataset

    dataset = indexed()
    if dataset is None:
        with lock_preparation(request.name, Path(f"{own}.lock")):
            dataset = indexed()  # which another process may have written meanwhile
            if dataset is None:
                journal = Journal(Path(f"{own}{JOURNAL_SUFFIX}"))
                dataset = read_folder(request, listing, journal, progress)
                write_index(dataset, path, pictures_hash(listing, request), journal)
    return dataset


def _read_tfds(request: DataRequest, data_dir: Path, *, is_temporary: bool = False) -> Dataset:
    """Return a dataset of TFDS, from its index if neither the files of TFDS nor the user's builder have changed."""
    entry, folder = request.entry, tfds_folder(request, data_dir)

    def state(asked: DataRequest, version: str) -> str:
        return source_hash(folder / version) if entry else builder_hash(asked, folder)

    if request.data_source is not None:
        check_source(request, request.data_source)  # even if it is prepared: it may have been from other files
    dataset = _indexed(request, tfds_index_path(request, data_dir).stem, state)
    if dataset is not None:
        return dataset
    # This fails before the slow import, and before a folder is created.
    describe_availability(dataclasses.replace(request, data_dir=data_dir))
    from mnist_lib.data.tfds_images import prepare_builder, read_prepared  # imports TensorFlow and Pillow

    builder = prepare_builder(request, data_dir)
    shards = shards_folder(None if is_temporary else data_dir)
    dataset = read_prepared(request, builder, shards)
    if entry:
        dataset = dataclasses.replace(dataset, classes=entry.classes)
        dataset.check(entry.train, entry.test)
    if Path(builder.data_path).is_relative_to(folder):
        write_index(dataset, tfds_index_path(request, shards), state(request, dataset.version))
    else:  # in a namespace of TFDS, whose folders are elsewhere
        remove_unused(shards)
    return dataset


def _indexed(request: DataRequest, name: str, state: Callable[[DataRequest, str], str]) -> Dataset | None:
    """Return the dataset of an index, see `states_for`, also in a folder that this process may only read."""
    states = states_for(request, state)
    found = (read_index(request.name, index_path(folder, name), states) for folder in shards_folders(request.data_dir))
    return next(filter(None, found), None)
