"""Read any image dataset of TensorFlow Datasets, or of the user's own builder."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lib.data.availability import REMEDY
from mnist_lib.data.folder import DEFAULT_SIDE, require_memory
from mnist_lib.data.request import MAX_CLASSES, MAX_SIDE, Channels, DataRequest
from mnist_lib.data.split import Dataset, Split, as_labels
from mnist_lib.errors import DataError, DataMissingError, MnistError
from mnist_lib.model_file import ModelFile
from mnist_lib.pictures.reading import Shape, fitted
from mnist_lib.wording import counted


class _Loader(SourceFileLoader):
    """Runs the content of a file that was read earlier, instead of what its path has now."""

    def __init__(self, name: str, file: ModelFile) -> None:
        super().__init__(name, str(file.path or file.name))
        self._content = file.content

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._content, self.path, "exec", dont_inherit=True)


def import_builder(file: ModelFile) -> None:
    """Run a Python file, whose builder classes register themselves with TFDS.

    Raises:
        DataError: it cannot be run; the message names the line.
    """
    name = f"tfds_import_{file.sha256[:16]}"
    if name in sys.modules:
        return  # a second registration would fail
    loader = _Loader(name, file)
    # It is made a package, since TFDS looks for README.md, TAGS.txt and other files beside a builder; but one that has
    # no folder, so that it cannot import other files.
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    spec.submodule_search_locations = []
    try:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        loader.exec_module(sys.modules[name])
    except Exception as error:  # any error of the user's code
        sys.modules.pop(name, None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == loader.path]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 1)
        raise DataError(f"{loader.path}, line {line}: {type(error).__name__}: {error}; correct the file") from error


def find_builder(request: DataRequest, data_dir: Path) -> Any:
    """Return the builder of a dataset. Raises DataMissingError if TFDS does not know its name."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(request.tfds, data_dir=str(data_dir))
    except tfds.core.registered.DatasetNotFoundError as error:
        raise DataMissingError(
            f"{request.dataset}: expected a dataset of TFDS, got a name that it does not know; check the name,"
            " or name the file of your builder with --tfds-import"
        ) from error
    except Exception as error:  # any error of a user's builder
        raise DataError(f"{request.dataset}: no builder: {_line(error)}; correct its name or code") from error


def call_builder(request: DataRequest, prepare: Callable[[], None]) -> None:
    """Call `prepare`. Raises DataError for any exception of the builder."""
    try:
        prepare()
    except MnistError as error:
        raise type(error)(str(error).replace(REMEDY, "connect to a network")) from error
    except Exception as error:
        raise DataError(f"{request.dataset}: cannot be prepared: {_line(error)}; correct its builder") from error


def _line(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).split()])[:300]


def read_prepared(request: DataRequest, builder: Any, max_bytes: float) -> Dataset:
    """Read both splits of a prepared dataset.

    Raises:
        DataError: it is not labelled images, a split does not exist, or the images need more than
            `max_bytes`.
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
    shape, notices = _shape(request, image.shape)
    count = sum(builder.info.splits[split].num_examples for split in request.splits)
    require_memory(request.name, count, shape, max_bytes)
    train, test = (_read(request, builder, split, shape, label.num_classes) for split in request.splits)
    dataset = Dataset.of(request.name, str(builder.version), train, test, label.names)
    return replace(dataset, notices=tuple(notices))


def _shape(request: DataRequest, given: tuple[int | None, ...]) -> tuple[Shape, list[str]]:
    height, width, channels = given
    channels = request.channels or channels or 3
    if channels not in get_args(Channels):
        raise DataError(f"{request.dataset}: expected images of 1, 3 or 4 channels, got {channels}; use --channels 3")
    if request.image_size is not None:
        return Shape(*request.image_size, channels), []
    if height and width and max(height, width) <= MAX_SIDE:
        return Shape(height, width, channels), []
    notice = f"images are resized to {DEFAULT_SIDE} x {DEFAULT_SIDE} and cropped; choose another size with --image-size"
    return Shape(DEFAULT_SIDE, DEFAULT_SIDE, channels), [notice]


def _read(request: DataRequest, builder: Any, split: str, shape: Shape, classes: int) -> Split:
    """Return the images of a split in the order of the files."""
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    config = tfds.ReadConfig(interleave_cycle_length=1)
    examples = tfds.as_numpy(
        builder.as_dataset(split=split, as_supervised=True, shuffle_files=False, read_config=config)
    )
    images, labels = np.zeros((count, *shape), np.uint8), np.zeros(count, np.int64)
    number = 0
    for number, (image, label) in enumerate(examples, start=1):
        images[number - 1], labels[number - 1] = _image(image, shape), label
    if number != count or not count:
        raise DataError(
            f"{request.dataset}/{split}: expected {counted(max(count, 1), 'image')}, got {number:,}; prepare it again"
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        got = f"labels {labels.min()} to {labels.max()}"
        raise DataError(
            f"{request.dataset}/{split}: expected labels 0 to {classes - 1}, got {got}; choose another split"
        )
    return Split(images, as_labels(labels, classes))


def _image(image: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        image = np.clip(image.astype(np.float32) / (257 if image.dtype == np.uint16 else 1), 0, 255).astype(np.uint8)
    if image.shape == shape:
        return image
    return fitted(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), shape)
