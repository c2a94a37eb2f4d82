"""Get a dataset as arrays, once per run: from a folder of pictures, here or in a bucket, or through TFDS.

TFDS takes no lock, so two concurrent preparations would fail, and it reads truncated files without an error.
"""

import dataclasses
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from mnist_lib.catalog import DATASETS, DatasetEntry
from mnist_lib.data.availability import (
    check_source,
    default_data_dir,
    describe_availability,
    missing_data,
    require_obtainable,
)
from mnist_lib.data.cache import cache_path, pictures_hash, read_cache, source_hash, write_cache
from mnist_lib.data.corrected import with_corrections
from mnist_lib.data.corrections import LABELS, LabelsFile, UsedLabels
from mnist_lib.data.listing import list_folder
from mnist_lib.data.mirror import with_local_files
from mnist_lib.data.request import DataRequest
from mnist_lib.data.split import Dataset, Split
from mnist_lib.environment import import_keras
from mnist_lib.errors import DataChecksumError, DataError, DataFolderError
from mnist_lib.objects.local import LocalObjects

LOCK_SECONDS = 1_800.0  # enough for a download of MNIST over a slow connection


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
        # Read after the pictures, which may take long, so that the newest corrections are used.
        file = LabelsFile(LocalObjects(request.folder))
        labels, where = file.content(), file.where
    else:
        dataset = _read_other(request, max_bytes)
    if used is not None:
        labels = used.part_of(labels, where)
    return with_corrections(dataset, labels, where, published=request.folder is None)


def _read_other(request: DataRequest, max_bytes: float) -> Dataset:
    """Return a dataset that is not a folder, without corrections."""
    if request.data_dir is not None:
        return _read_prepared(request, request.data_dir, max_bytes)
    try:
        return _read_prepared(request, default_data_dir(), max_bytes)
    except DataFolderError:
        with tempfile.TemporaryDirectory(prefix="tensorflow_datasets-") as temporary:
            return dataclasses.replace(_read_prepared(request, Path(temporary), max_bytes), reusable=False)


def _read_prepared(request: DataRequest, data_dir: Path, max_bytes: float) -> Dataset:
    return _read_catalog(request, data_dir) if request.tfds is None else _read_tfds(request, data_dir, max_bytes)


def _read_tfds(request: DataRequest, data_dir: Path, max_bytes: float) -> Dataset:
    import_keras()
    from mnist_lib.data.tfds_images import call_builder, find_builder, import_builder, read_prepared  # imports Pillow

    if request.tfds_import is not None:
        import_builder(request.tfds_import)
    builder = find_builder(request, data_dir)
    if not _is_prepared(builder):
        with _lock(request.name, data_dir / f".{request.name}.lock"):
            if not _is_prepared(builder):
                call_builder(request, lambda: _download_and_prepare(request.dataset, builder, None))
        builder = find_builder(request, data_dir)
    return read_prepared(request, builder, max_bytes)


def _read_folder(request: DataRequest, folder: Path, max_bytes: float, progress: Callable[[str], object]) -> Dataset:
    """Return the dataset in a folder of pictures, from the cache if no picture has changed."""
    from mnist_lib.data.folder import read_folder, require_memory  # imports Pillow

    listing = list_folder(folder)
    state = pictures_hash(listing, request)
    path = _cache_of_folder(request, folder)
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


def _cache_of_folder(request: DataRequest, folder: Path) -> Path | None:
    try:
        data_dir = request.data_dir or default_data_dir()
    except DataFolderError:
        return None
    return cache_path(data_dir, f"{request.name}-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}")


def _read_catalog(request: DataRequest, data_dir: Path) -> Dataset:
    name, source, entry = request.dataset, request.data_source, DATASETS[request.dataset]
    if source is not None:
        check_source(name, source)  # even if the dataset is prepared: it may have been prepared from other files
    cache = cache_path(data_dir, entry.tfds_name)
    dataset = read_cache(name, cache, lambda version: source_hash(data_dir / entry.tfds_name / version))
    if dataset is None:
        # This fails before the slow import, and before a folder is created.
        describe_availability(dataclasses.replace(request, data_dir=data_dir))
        builder, is_new = _builder(entry, data_dir), False
        if not _is_prepared(builder):  # a prepared folder is not locked, since it may be read-only
            with _lock(name, data_dir / f".{entry.tfds_name}.lock"):
                if not _is_prepared(builder):
                    require_obtainable(name, source, data_dir)
                    _download_and_prepare(name, builder, source)
                    is_new = True
            builder = _builder(entry, data_dir)  # a builder reads the disk only when it is made
        train, test = (_read(name, builder, split) for split in ("train", "test"))
        dataset = Dataset.of(name, str(builder.version), train, test, entry.classes)
        if is_new or cache.exists():  # a stale cache, such as that of an earlier release, is replaced
            write_cache(dataset, cache, source_hash(Path(builder.data_path)))
    dataset.check(entry.train, entry.test)
    return dataset


def _lock(name: str, path: Path) -> AbstractContextManager[Any]:
    """Acquire a lock among the processes of this machine. The kernel releases it if its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path).acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise DataError(f"{name}: another process has held {path} for {LOCK_SECONDS:.0f} s; stop it") from error
    except OSError as error:
        folder = f"{path.parent} cannot be written ({error.strerror})"
        raise DataFolderError(f"{name}: {folder}; name another folder with --data-dir") from error


def _is_prepared(builder: Any) -> bool:
    """Return whether the version of this builder is prepared; the folder may hold other versions."""
    return Path(builder.data_path, "dataset_info.json").exists()


def _builder(entry: DatasetEntry, data_dir: Path) -> Any:
    import_keras()
    import tensorflow_datasets as tfds

    from mnist_lib.data.embedded import builders  # noqa: F401  the import registers the embedded datasets

    tfds.disable_progress_bar()
    return tfds.builder(entry.tfds_name, data_dir=str(data_dir))


def _download_and_prepare(name: str, builder: Any, source: Path | None) -> None:
    import requests  # TFDS uses it and does not catch its exceptions
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    config = tfds.download.DownloadConfig(manual_dir=str(source) if source else None)
    try:
        builder.download_and_prepare(download_config=config)
    except (tfds.download.DownloadError, requests.RequestException) as error:
        raise missing_data(name, f"the download failed ({str(error).splitlines()[0]})") from error
    except NonMatchingChecksumError as error:
        raise DataChecksumError(f"{name}: the download differs from the published file: {error}; try again") from error
    except OSError as error:
        where = f"{builder.data_path} ({error.strerror or error})"
        raise DataError(f"{name}: cannot be prepared in {where}; name another folder with --data-dir") from error


def _read(name: str, builder: Any, split: str) -> Split:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    try:
        # [n, height, width, 1] uint8 and [n] int64, in the order of the files, which TFDS shuffled with a fixed key.
        images, labels = builder.as_dataset(
            split=split,
            batch_size=-1,
            as_supervised=True,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, assert_cardinality=True),
        )
    except tf.errors.OpError as error:
        where = _first_damage(builder.info.splits[split].filepaths) or f"a file in {builder.data_path}"
        damage = f"{where} is damaged ({error.message.splitlines()[0]})"
        raise DataError(f"{name}/{split}: {damage}; delete {builder.data_path} and run again") from error
    labels = labels.numpy()
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 255:
        raise DataError(f"{name}/{split}: expected labels 0 to 255, got {labels.min()} to {labels.max()}")
    return Split(images.numpy(), labels.astype(np.uint8))


def _first_damage(files: Iterable[Any]) -> str | None:
    """Return the first record that cannot be read, or None if all can be; the content of one may still be damaged."""
    import tensorflow as tf

    for file in files:
        number = 1
        try:
            for _ in tf.data.TFRecordDataset(str(file)):
                number += 1
        except tf.errors.OpError:
            return f"record {number} of {file}"
    return None
