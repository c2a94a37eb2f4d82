"""Get a dataset as arrays through TensorFlow Datasets: download, prepare, decode and check it, once per run.

TFDS takes no lock, so two concurrent preparations would fail, and it reads truncated files without an error.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from mnist_lib.catalog import DATASETS, DatasetEntry
from mnist_lib.data.availability import default_data_dir, describe_availability, missing_data, require_obtainable
from mnist_lib.data.cache import read_cache, write_cache
from mnist_lib.data.split import Dataset, Split
from mnist_lib.environment import import_keras
from mnist_lib.errors import DataChecksumError, DataError, DataFolderError

LOCK_SECONDS = 1_800.0  # enough for a download of MNIST over a slow connection


def prepare(name: str, data_dir: Path | None, source: Path | None) -> Dataset:
    """Return the dataset of that name. If it is not in `data_dir`, prepare it there.

    Args:
        name: one of `catalog.DATASETS`.
        data_dir: the folder of TFDS, which other programs may share. None stands for TFDS' default, or for a temporary
            folder if that cannot be written, as in a container without a home.
        source: a folder with the original files, which are read instead of downloaded.

    Raises:
        DataMissingError: it is not prepared, and there are neither source files nor a network to prepare it from.
        DataChecksumError: a source file differs from the published one.
        DataError: the prepared files are damaged, or the folder cannot be written.
    """
    if data_dir is not None:
        return _prepare(name, data_dir, source)
    try:
        return _prepare(name, default_data_dir(), source)
    except DataFolderError:
        with tempfile.TemporaryDirectory(prefix="tensorflow_datasets-") as temporary:
            return dataclasses.replace(_prepare(name, Path(temporary), source), reusable=False)


def _prepare(name: str, data_dir: Path, source: Path | None) -> Dataset:
    entry = DATASETS[name]
    dataset = read_cache(name, data_dir / entry.tfds_name)
    if dataset is None:
        describe_availability(name, data_dir, source)  # fails before the slow import and before a folder is created
        builder, is_new = _builder(entry, data_dir), False
        if not _is_prepared(builder):  # a prepared folder is not locked, since it may be read-only
            with _lock(name, data_dir / f".{entry.tfds_name}.lock"):
                if not _is_prepared(builder):
                    require_obtainable(name, source, data_dir)
                    _download_and_prepare(name, builder, source)
                    is_new = True
            builder = _builder(entry, data_dir)  # a builder reads the disk only when it is made
        train, test = (_read(name, builder, split) for split in ("train", "test"))
        dataset = Dataset.of(name, str(builder.version), train, test)
        if is_new:
            write_cache(dataset, Path(builder.data_path))
    dataset.train.check(f"{name}/train", entry.train)
    dataset.test.check(f"{name}/test", entry.test)
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

    if source is not None:
        _check_source(name, builder.url_infos.values(), source)
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


def _check_source(name: str, url_infos: Any, source: Path) -> None:
    """Check the source files, all of which exist. TFDS would report a wrong file by its URL."""
    for expected in url_infos:
        path = source / expected.filename
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != expected.checksum:
            raise DataChecksumError(f"{name}: {path}: expected sha256 {expected.checksum}, got {got}; fetch it again")


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
        raise DataError(f"{name}/{split}: expected labels 0 to 9, got {labels.min()} to {labels.max()}")
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
