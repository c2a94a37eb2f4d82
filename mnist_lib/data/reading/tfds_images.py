"""Read a dataset of TensorFlow Datasets: one of the catalog, any other of images, or that of the user's own builder.

TFDS takes no lock, so two concurrent preparations would fail, and it reads truncated files without an error.
"""

import importlib.util
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.images import Images, PixelWriter
from mnist_lib.data.prepared.index import lock_preparation
from mnist_lib.data.reading.folder import chosen_shape
from mnist_lib.data.request import MAX_CLASSES, Channels, DataRequest
from mnist_lib.data.sources.availability import missing_data, require_obtainable
from mnist_lib.data.sources.listing import Listing
from mnist_lib.data.table import Decoded, as_labels, hashes_of
from mnist_lib.environment import import_keras
from mnist_lib.errors import DataChecksumError, DataError, DataMissingError
from mnist_lib.model_file import ModelFile
from mnist_lib.pictures.reading import Shape, as_picture, fitted
from mnist_lib.wording import counted

IMAGES_PER_BATCH = 1_000  # read at a time, if all have the same shape


def import_builder(file: ModelFile) -> None:
    """Run a Python file, whose builder classes register themselves with TFDS.

    Raises:
        DataError: it cannot be run; the message names the line.
    """
    name = f"tfds_import_{file.sha256[:16]}"
    if name in sys.modules:
        return  # a second registration would fail
    path = str(file.path or file.name)
    # It is made a package, since TFDS looks for README.md, TAGS.txt and other files beside a builder; but one that has
    # no folder, so that it cannot import other files.
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, path))
    assert spec is not None
    spec.submodule_search_locations = []
    try:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        exec(compile(file.content, path, "exec", dont_inherit=True), sys.modules[name].__dict__)
    except Exception as error:  # any error of the user's code
        sys.modules.pop(name, None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 1)
        raise DataError(f"{path}, line {line}: {type(error).__name__}: {error}; correct the file") from error


def prepare_builder(request: DataRequest, data_dir: Path) -> Any:
    """Return the builder of a dataset that is prepared in `data_dir`, after preparing it if it is not.

    Raises:
        DataMissingError: TFDS does not know the dataset, or it cannot be downloaded.
        DataChecksumError: the download differs from the published file.
        DataError: it cannot be prepared.
    """
    import_keras()
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    if request.tfds_import is not None:
        import_builder(request.tfds_import)
    builder = _builder(request, data_dir)
    if not _is_prepared(builder):  # a prepared folder is not locked, since it may be read-only
        with lock_preparation(request.name, data_dir / f".{request.name}.lock"):
            if not _is_prepared(builder):
                require_obtainable(request, data_dir)
                _download_and_prepare(request, builder)
        builder = _builder(request, data_dir)  # a builder reads the disk only when it is made
    return builder


def _builder(request: DataRequest, data_dir: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(request.tfds_name, data_dir=str(data_dir))
    except tfds.core.registered.DatasetNotFoundError as error:
        raise DataMissingError(
            f"{request.dataset}: expected a dataset of TFDS, got a name that it does not know; check the name,"
            " or name the file of your builder with --tfds-import"
        ) from error
    except Exception as error:  # any error of a user's builder
        raise DataError(f"{request.dataset}: no builder: {_line(error)}; correct its name or code") from error


def _is_prepared(builder: Any) -> bool:
    """Return whether the version of this builder is prepared; the folder may hold other versions."""
    return Path(builder.data_path, "dataset_info.json").exists()


def _download_and_prepare(request: DataRequest, builder: Any) -> None:
    import requests  # TFDS uses it and does not catch its exceptions
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    name = request.dataset
    config = tfds.download.DownloadConfig(manual_dir=str(request.data_source) if request.data_source else None)
    try:
        builder.download_and_prepare(download_config=config)
    except (tfds.download.DownloadError, requests.RequestException) as error:
        reason = f"the download failed ({str(error).splitlines()[0]})"
        raise (
            missing_data(name, reason) if request.entry else DataMissingError(f"{name}: {reason}; connect to a network")
        ) from error
    except NonMatchingChecksumError as error:
        raise DataChecksumError(f"{name}: the download differs from the published file: {error}; try again") from error
    except OSError as error:
        where = f"{builder.data_path} ({error.strerror or error})"
        raise DataError(f"{name}: cannot be prepared in {where}; name another folder with --data-dir") from error
    except Exception as error:
        raise DataError(f"{name}: cannot be prepared: {_line(error)}; correct its builder") from error


def _line(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).split()])[:300]


def list_prepared(request: DataRequest, builder: Any) -> Listing:
    """List both splits of a dataset that TFDS has prepared.

    Raises:
        DataError: it is not labelled images, or a split does not exist.
    """
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys or ()
    image, label = (builder.info.features[key] for key in keys) if len(keys) == 2 else (None, None)
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(
            f"{request.dataset}: expected images with one class each, got other data; choose another dataset"
        )
    if not 2 <= label.num_classes <= MAX_CLASSES:
        got = f"{label.num_classes:,}"
        raise DataError(f"{request.dataset}: expected 2 to {MAX_CLASSES:,} classes, got {got}; choose another dataset")
    missing = [split for split in request.splits if split not in builder.info.splits]
    if missing:
        known = ", ".join(builder.info.splits)
        raise DataError(
            f"{request.dataset}: expected the split {missing[0]}, got {known}; use --train-split or --test-split"
        )
    train, test = (builder.info.splits[split].num_examples for split in request.splits)
    return Listing(
        classes=request.entry.classes if request.entry else tuple(label.names),
        paths=(),
        labels=(),
        splits=["train"] * train + ["test"] * test,
        notices=(),
        unreadable=(),
        version=str(builder.version),
    )


def decode_prepared(request: DataRequest, listing: Listing, prepared: Path, builder: Any) -> Decoded:
    """Read both splits of a dataset that TFDS has prepared into a file of pixels.

    Args:
        prepared: as `prepared_folder` returns it.

    Raises:
        DataError: a file is damaged, or there is too little space for the images.
    """
    shape, notices = _shape(request, builder.info.features[builder.info.supervised_keys[0]].shape)
    count = len(listing.splits)
    labels = np.zeros(count, np.int64)
    train = listing.splits.count("train")
    with PixelWriter(prepared, shape, count) as writer:
        for split, rows in zip(request.splits, (slice(train), slice(train, count)), strict=True):
            _read(request, builder, split, writer, shape, labels[rows])
        images = Images(writer.finish(), np.arange(count))
    return Decoded(
        images=images,
        hashes=hashes_of(images),
        labels=as_labels(labels, len(listing.classes)),
        notices=tuple(notices),
    )


def _shape(request: DataRequest, given: tuple[int | None, ...]) -> tuple[Shape, list[str]]:
    height, width, channels = given
    channels = request.channels or channels or 3
    if channels not in get_args(Channels):
        raise DataError(f"{request.dataset}: expected images of 1, 3 or 4 channels, got {channels}; use --channels 3")
    return chosen_shape(request, (height, width) if height and width else None, channels, "images")


def _read(
    request: DataRequest, builder: Any, split: str, writer: PixelWriter, shape: Shape, labels: NDArray[np.int64]
) -> None:
    """Write the images of a split, in the order of the files, and read their labels into an array of their number."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    name = f"{request.dataset}/{split}"
    number = 0
    same_shape = None not in builder.info.features[builder.info.supervised_keys[0]].shape
    try:
        examples = builder.as_dataset(
            split=split,
            batch_size=IMAGES_PER_BATCH if same_shape else 1,
            as_supervised=True,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        for batch, batch_labels in tfds.as_numpy(examples):
            end = number + len(batch)
            labels[number:end] = batch_labels
            writer.add(_images(batch, shape))
            number = end
    except tf.errors.OpError as error:
        damage = f"a file in {builder.data_path} is damaged ({error.message.splitlines()[0]})"
        raise DataError(f"{name}: {damage}; delete that folder and run again") from error
    if number != len(labels) or not number:
        raise DataError(f"{name}: expected {counted(max(len(labels), 1), 'image')}, got {number:,}; prepare it again")
    classes = builder.info.features[builder.info.supervised_keys[1]].num_classes
    if not 0 <= labels.min() <= labels.max() < classes:
        got = f"labels {labels.min()} to {labels.max()}"
        raise DataError(f"{name}: expected labels 0 to {classes - 1}, got {got}; choose another split")


def _images(batch: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    """Return images of any type and size, [n, height, width, channels], as those of a dataset, [n, *shape]."""
    if batch.dtype != np.uint8:
        batch = np.clip(batch.astype(np.float32) / (257 if batch.dtype == np.uint16 else 1), 0, 255).astype(np.uint8)
    if batch.shape[1:] == shape:
        return batch
    return np.stack([fitted(as_picture(image), shape) for image in batch])
