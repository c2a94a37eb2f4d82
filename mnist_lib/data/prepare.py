"""TensorFlow Datasets -> dense arrays, once per run: fetch or read the sources, prepare under a lock, decode, check.

TFDS itself has no lock (two preparations at once fail) and reads a shortened file silently (hence the counts).
"""

import contextlib
import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from mnist_lib.catalog import DATASETS, DatasetEntry
from mnist_lib.data.availability import default_data_dir, missing, require_obtainable
from mnist_lib.data.cache import keep, kept
from mnist_lib.data.split import Dataset, Split
from mnist_lib.environment import import_keras
from mnist_lib.errors import DataChecksumError, DataError, DataFolderError

LOCK_SECONDS = 1_800.0  # a download of MNIST over a slow line

log = logging.getLogger(__name__)


def prepare(name: str, data_dir: Path | None, source: Path | None) -> Dataset:
    """The dataset of that name, prepared in `data_dir` if it is not there yet.

    Args:
        name: one of `catalog.DATASETS`.
        data_dir: TFDS' folder, shared with whatever else uses TFDS; None for its own choice, or for a temporary one
            where that cannot be written, as in a container without a home.
        source: a folder with the original files, read instead of a download.

    Raises:
        DataMissingError: not prepared, and neither source files nor a network to prepare it from.
        DataChecksumError: a source file is not the published one.
        DataError: what is there is damaged, or the folder cannot be used.
    """
    if data_dir is not None:
        return _prepare(name, data_dir, source)
    try:
        return _prepare(name, default_data_dir(), source)
    except DataFolderError:
        with tempfile.TemporaryDirectory(prefix="tensorflow_datasets-") as temporary:
            return dataclasses.replace(_prepare(name, Path(temporary), source), kept=False)


def _prepare(name: str, data_dir: Path, source: Path | None) -> Dataset:
    entry = DATASETS[name]
    dataset = kept(name, data_dir / entry.tfds_name)
    if dataset is None:
        builder, is_new = _builder(entry, data_dir), False
        if not _prepared(builder):  # a prepared folder may be read-only, and is not locked
            with _lock(name, data_dir / f".{entry.tfds_name}.lock"):
                if not _prepared(builder):
                    require_obtainable(name, source, data_dir)
                    _download_and_prepare(name, builder, source)
                    is_new = True
            builder = _builder(entry, data_dir)  # anew: one reads what is on disk when it is made
        train, test = (_read(name, builder, split) for split in ("train", "test"))
        dataset = Dataset.of(name, str(builder.version), train, test)
        if is_new:
            keep(dataset, Path(builder.data_path))
    dataset.train.check(f"{name}/train", entry.train)
    dataset.test.check(f"{name}/test", entry.test)
    return dataset


@contextlib.contextmanager
def _lock(name: str, path: Path) -> Iterator[None]:
    """Held by one process of this machine at a time; the kernel takes it back from a dead one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise DataError(f"{name}: another process has held {path} for {LOCK_SECONDS:.0f} s; end it") from error
    except OSError as error:
        raise DataFolderError(
            f"{name}: {path.parent} cannot be used ({error.strerror}); name another with --data-dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _prepared(builder: Any) -> bool:
    """In this very version; TFDS keeps others beside it."""
    return Path(builder.data_path, "dataset_info.json").exists()


def _builder(entry: DatasetEntry, data_dir: Path) -> Any:
    import_keras()
    import tensorflow_datasets as tfds

    from mnist_lib.data.embedded import builders  # noqa: F401  importing registers the embedded sets

    tfds.disable_progress_bar()
    return tfds.builder(entry.tfds_name, data_dir=str(data_dir))


def _download_and_prepare(name: str, builder: Any, source: Path | None) -> None:
    import requests  # what TFDS downloads with, and depends on
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    if source is not None:
        _check_source(name, builder.url_infos.values(), source)
    config = tfds.download.DownloadConfig(manual_dir=str(source) if source else None)
    try:
        builder.download_and_prepare(download_config=config)
    except (tfds.download.DownloadError, requests.RequestException) as error:
        raise missing(name, f"the download failed ({str(error).splitlines()[0]})") from error
    except NonMatchingChecksumError as error:
        raise DataChecksumError(f"{name}: what was downloaded is not the published file: {error}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be prepared in {builder.data_path} ({error.strerror or error})") from error


def _check_source(name: str, url_infos: Any, source: Path) -> None:
    """TFDS checks too, but would download what is missing and name a file by its URL."""
    for expected in url_infos:
        path = source / expected.filename
        if not path.is_file():
            raise missing(name, f"{path} is not there")
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != expected.checksum:
            raise DataChecksumError(f"{name}: {path}: expected sha256 {expected.checksum}, got {got}; fetch it again")


def _read(name: str, builder: Any, split: str) -> Split:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    try:
        # [n, height, width, 1] uint8 and [n] int64, in the order of the files (TFDS shuffled once, with a fixed key).
        images, labels = builder.as_dataset(
            split=split,
            batch_size=-1,
            as_supervised=True,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, assert_cardinality=True),
        )
    except tf.errors.OpError as error:
        where = _first_damage(builder.info.splits[split].filepaths) or f"a file in {builder.data_path}"
        raise DataError(
            f"{name}/{split}: {where} is damaged ({error.message.splitlines()[0]}); delete {builder.data_path}"
            " and run again"
        ) from error
    labels = labels.numpy()
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 255:
        raise DataError(f"{name}/{split}: expected labels 0 to 9, got {labels.min()} to {labels.max()}")
    return Split(images.numpy(), labels.astype(np.uint8))


def _first_damage(files: Iterable[Any]) -> str | None:
    """The record that cannot be read; None if all can, so that what is in one is no example."""
    import tensorflow as tf

    for file in files:
        number = 1
        try:
            for _ in tf.data.TFRecordDataset(str(file)):
                number += 1
        except tf.errors.OpError:
            return f"record {number} of {file}"
    return None
