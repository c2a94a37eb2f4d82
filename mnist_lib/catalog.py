"""The names that options accept: models, optimizers, schedules, precisions, export formats and datasets.

It is fast to import, so that a wrong name is reported before anything slow is imported. For the same reason the code of
a model is given by name; the worker imports it.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnist_lib.errors import SpecError

MAX_PROBABILITIES = 1 << 28  # bytes, for all test images of a dataset: 4 per image and class
MIN_DIVIDED_BATCH = 128  # the smallest batch that is divided into microbatches by default
DIGITS = tuple("0123456789")  # the classes of most datasets here


@dataclass(frozen=True)
class Size:
    """An argument of a model: a whole number from 1."""

    default: int
    maximum: int
    earlier: int | None = None  # the value in specs of releases without this argument; None: there are none


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    build: str  # "module:function", called with (image shape, number of classes, **arguments), like a user's function
    arguments: Mapping[str, Size] = field(default_factory=dict)
    weights: tuple[str, ...] = ()  # arguments that take the path of a file of weights, or None
    # Defaults of the options of the same names:
    optimizer: str = "adam"
    learning_rate: float | None = None  # None: the optimizer's default
    min_full_rate_batch: int = 1  # smaller batches have a proportionally lower default learning rate
    schedule: str = "constant"
    cost: float = 1.0  # rough relative cost of training on one image; the most expensive trials start first
    suits_pictures: bool = True  # whether it recognises objects at any place and against any background
    # Number of microbatches of large batches on CPUs, where one replica trains all of them side by side.
    microbatches: int = 1

    def microbatches_for(self, batch_size: int) -> int:
        """Return the default on CPUs. Small batches are not divided, for the sake of their statistics."""
        return self.microbatches if batch_size >= MIN_DIVIDED_BATCH else 1


def _of_keras_applications(function: str, cost: float) -> ModelEntry:
    return ModelEntry(
        build=f"mnist_lib.models.applications:{function}",
        arguments={"min_side": Size(96, 1_024)},
        weights=("backbone",),
        learning_rate=0.003,
        schedule="one-cycle",
        cost=cost,
    )


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    train: int  # images, including those for validation
    test: int
    about: str
    url: str = ""  # the host that TFDS downloads from; empty if the dataset is part of this package
    box: float = 1.0  # the longer side of the object in an image, as a share of the image's side
    classes: tuple[str, ...] = DIGITS

    @property
    def shows_digits(self) -> bool:
        """Return whether the classes are the ten digits."""
        return self.classes == DIGITS

    @property
    def embedded(self) -> bool:
        return not self.url


# The first two use the defaults of the notebook for "Deep Learning with Python": one hidden layer of 512.
MODELS = {
    "keras": ModelEntry(
        build="mnist_lib.models.keras_models:keras_dense",
        arguments={"hidden_units": Size(512, 65_536)},
        optimizer="rmsprop",
        suits_pictures=False,
    ),
    "scratch": ModelEntry(
        build="mnist_lib.models.scratch:scratch_dense",
        arguments={"hidden_units": Size(512, 65_536)},
        optimizer="sgd",
        suits_pictures=False,
    ),
    "keras-cnn": ModelEntry(
        build="mnist_lib.models.keras_models:keras_cnn",
        arguments={"hidden_units": Size(256, 65_536)},
        learning_rate=0.01,
        schedule="one-cycle",
        cost=20.0,
        microbatches=2,
    ),
    "keras-fast": ModelEntry(
        build="mnist_lib.models.keras_models:keras_fast",
        arguments={"hidden_units": Size(128, 65_536)},
        learning_rate=0.015,
        schedule="one-cycle",
        cost=10.0,
    ),
    "keras-best": ModelEntry(
        build="mnist_lib.models.keras_models:keras_best",
        arguments={"width": Size(32, 1_024)},
        learning_rate=0.008,
        schedule="one-cycle",
        cost=100.0,
    ),
    "keras-resnet": ModelEntry(
        build="mnist_lib.models.keras_models:keras_resnet",
        arguments={"width": Size(16, 1_024), "blocks": Size(1, 32), "positions": Size(24, 224, earlier=224)},
        learning_rate=0.01,
        min_full_rate_batch=32,
        schedule="one-cycle",
        cost=60.0,
    ),
    "keras-mobilenet": _of_keras_applications("keras_mobilenet", cost=300.0),
    "keras-efficientnet": _of_keras_applications("keras_efficientnet", cost=1_000.0),
}
PICTURE_MODEL = "keras-resnet"  # the default for pictures of the user's own: see benchmarks/README.md
USER_MODEL = ModelEntry(build="", cost=60.0)  # the defaults of a model in a user's Python file


def entry_of(model: str) -> ModelEntry:
    """Return a model's entry in the catalog, or the defaults for a user's model."""
    return MODELS.get(model, USER_MODEL)


# name -> default learning rate, the same as in Keras.
OPTIMIZERS = {"sgd": 0.01, "rmsprop": 0.001, "adam": 0.001}

# name -> how the learning rate changes during training.
SCHEDULES = {"constant": "the same at every step", "one-cycle": "rises for a quarter of the steps, then falls to 0"}

# The types in which training can compute; the weights are always float32.
PRECISIONS = {"float32": "", "bfloat16": "faster where the hardware has it"}

# How much an image counts in the loss of a training step.
CLASS_WEIGHTS = {
    "none": "every image counts the same",
    "balanced": "every class counts the same, so the weight is images / (classes * images of its class)",
}

# What epochs, configurations and trials are compared by.
SCORES = {
    "accuracy": "the share of images that are right",
    "balanced-accuracy": "the mean of the accuracies of the classes, so that small ones count as much as large ones",
}


@dataclass(frozen=True, kw_only=True)
class FormatEntry:
    suffix: str
    about: str
    modules: tuple[str, ...] = ()  # packages that it needs from the extra `export`


# The formats that a stored model can be exported to.
EXPORT_FORMATS = {
    "saved_model": FormatEntry(suffix=".savedmodel", about="for TensorFlow Serving and TensorFlow"),
    "litert": FormatEntry(suffix=".tflite", about="for phones and small devices", modules=("ai_edge_litert",)),
    "onnx": FormatEntry(suffix=".onnx", about="for ONNX Runtime and others", modules=("onnxruntime", "tf2onnx")),
}

DATASETS = {
    "mnist-mini": DatasetEntry(train=4_000, test=1_000, about="5,000 real MNIST digits, in the package", box=20 / 28),
    "sklearn-digits": DatasetEntry(train=1_437, test=360, about="1,797 digits of 8x8, in the package"),
    "mnist": DatasetEntry(
        train=60_000, test=10_000, about="the full MNIST", url="https://storage.googleapis.com", box=20 / 28
    ),
    "fashion-mnist": DatasetEntry(
        train=60_000,
        test=10_000,
        about="clothes instead of digits",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": DatasetEntry(
        train=60_000,
        test=10_000,
        about="cursive Japanese",
        url="http://codh.rois.ac.jp",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}

# The suffixes of picture files that can be read.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm")
MAX_PICTURE_BYTES = 10_000_000  # of a picture file that can be read


def meanings(known: Mapping[str, str]) -> str:
    """Return names with their meanings, for a help text."""
    return "; ".join(map(": ".join, known.items()))


def require_known(field: str, name: str, known: Iterable[str]) -> None:
    """Raise SpecError if the name is not known. Its message suggests a similar name, if any, and lists all."""
    known, name = tuple(known), str(name)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SpecError(f"{field}: {name!r} is not known; {hint}known: {', '.join(known)}")
