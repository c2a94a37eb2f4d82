"""What a trial is. Its result depends on its `TrialSpec` alone, not on how it is run (`training.assignment`)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from msgspec import Meta

from mnist_lib.augment import AUTO, EARLIER, PRESETS, parse_augment
from mnist_lib.catalog import (
    CLASS_WEIGHTS,
    MODELS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    SCORES,
    entry_of,
    meanings,
    require_known,
)
from mnist_lib.documents import Sha256, VersionName
from mnist_lib.errors import SpecError
from mnist_lib.model_file import MODEL_NAME, ModelFile
from mnist_lib.settings import CheckedFields, Seed, check_fields, one_of, option, require

MAX_ARGUMENT_LENGTH = 200
MAX_ARGUMENT = 1e9
WITH_MOMENTUM = ("sgd", "rmsprop")
MAX_EPOCHS = 100_000
MIN_FLOAT32, MAX_FLOAT32 = 1.2e-38, 3.4e38  # a smaller learning rate would become 0

# By default, so many percent of the training images are for validation, but none if these are fewer than this number:
# on 300 pictures, training on all and storing the last epoch is 3 points better than choosing an epoch by 25 images.
VALIDATION_PERCENT = 10
MIN_VALIDATION = 100

# Defaults for many images, and for few: on 300 digits, `keras-cnn` has 11% after 5 epochs in batches of 128, and 96%
# after 40 in batches of 16. On 338 pictures of scenes, `keras-resnet` has 85% after 40 epochs, and 94% after 80.
MIN_EPOCHS = 5
MAX_BATCH_SIZE = 128
FEW_EPOCHS = 80
FEW_BATCH_SIZE = 16
MIN_TRAINED_IMAGES, MIN_STEPS = 80_000, 16  # of all epochs and of an epoch, as far as the limits allow
# Above MANY_EPOCHS, all epochs together train on at most MAX_TRAINED_IMAGES images.
MANY_EPOCHS = 40
MAX_TRAINED_IMAGES = 50_000
# Defaults if weights are known: from a version of the same dataset or, for a model of the catalog, from a file.
KNOWN_WEIGHTS_RATE = 0.3  # the share of the default learning rate
FROZEN_SHARE = 0.25  # the share of the epochs in which weights of a file are frozen
BY_IMAGES_TEXT = (
    f"epochs and batch size, if not given: {MIN_EPOCHS} and {MAX_BATCH_SIZE}; for few images, up to {FEW_EPOCHS} epochs"
    f" in batches down to {FEW_BATCH_SIZE}"
)
INEXACT_TEXT = "on GPUs, a trial that is trained again has other weights, unless with --deterministic"

Epochs = Annotated[int, Meta(ge=1, le=MAX_EPOCHS)]
Folds = Annotated[int, Meta(ge=2, le=1_000)]


@dataclass(frozen=True, kw_only=True)
class TrialSettings(CheckedFields):
    """How a trial is trained. Momentum, weight decay and clipping are those of Keras' optimizers.

    A further setting is one field here and its use in the training step: options, search, documents and reports follow.
    Reports leave out a setting that has its default, if that is None, 0.0, False or a name.
    """

    GROUP = "training"

    epochs: Epochs = option(
        None,
        f"passes over the training images (default: {MIN_EPOCHS}; more for fewer than"
        f" {MIN_TRAINED_IMAGES // MIN_EPOCHS:,} images, up to {FEW_EPOCHS})",
    )
    global_batch_size: Annotated[int, Meta(ge=1, le=1_000_000)] = option(
        None,
        f"images per training step, over all replicas of a trial (default: {MAX_BATCH_SIZE}; less for fewer than"
        f" {MIN_STEPS * MAX_BATCH_SIZE:,} images, down to {FEW_BATCH_SIZE})",
        name="batch_size",
        varies=True,
    )
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = option(
        None, f"optimizer: {', '.join(OPTIMIZERS)} (default: that of the model)", varies=True
    )
    learning_rate: Annotated[float, Meta(ge=MIN_FLOAT32, le=MAX_FLOAT32)] = option(
        None,
        "peak learning rate (default: that of the model or the optimizer; lower for small batches of keras-resnet)",
        varies=True,
    )
    schedule: Annotated[str, one_of(SCHEDULES)] = option(
        None, f"learning-rate schedule. {meanings(SCHEDULES)} (default: that of the model)", varies=True
    )
    momentum: Annotated[float, Meta(ge=0, lt=1)] = option(
        0.0, "momentum of the optimizers sgd and rmsprop", varies=True
    )
    weight_decay: Annotated[float, Meta(ge=0, le=MAX_FLOAT32)] = option(
        0.0, "share of each weight that a step removes at a learning rate of 1 (decoupled weight decay)", varies=True
    )
    global_clipnorm: Annotated[float, Meta(ge=MIN_FLOAT32, le=MAX_FLOAT32)] | None = option(
        None, "maximum norm of all gradients of a step together (default: no limit)", varies=True
    )
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = option(
        0.0, "share of each label that is spread evenly over all classes during training", varies=True
    )
    augment: Annotated[str, Meta(max_length=MAX_ARGUMENT_LENGTH)] = option(
        None,
        f"how training images are changed at each step: {', '.join(PRESETS)}, or a list such as"
        " photos,flip=horizontal,rotate=10 (default: auto: photos for images in colour, what suits the network for grey"
        " ones, and nothing for keras, scratch and your own models)",
        metavar="CHANGES",
        varies=True,
    )
    class_weights: Annotated[str, one_of(CLASS_WEIGHTS)] = option(
        "none", f"weight of an image in the loss. {meanings(CLASS_WEIGHTS)}", varies=True
    )
    freeze_epochs: Annotated[int, Meta(ge=0, le=MAX_EPOCHS)] | None = option(
        None,
        "number of first epochs in which only new weights are trained, which neither a file nor a version gives; then"
        " all are trained, by a new optimizer at half the learning rate (default: a quarter of the epochs for models of"
        " the catalog with --weights, otherwise none)",
        varies=True,
    )
    precision: Annotated[str, one_of(PRECISIONS)] = option(
        "float32", f"number format of training: {', '.join(PRECISIONS)}", varies=True
    )
    deterministic: bool = option(
        False,
        "train without XLA and with deterministic operations only: equal trials then have equal weights on GPUs, too;"
        " a model that uses an operation without a deterministic kernel is refused",
    )
    validation_percent: Annotated[int, Meta(ge=0, le=50)] | None = option(
        None,
        "percentage of training images held out to select the epoch and the trial to store (default:"
        f" {VALIDATION_PERCENT}, or 0 if that is fewer than {MIN_VALIDATION} images, unless a time limit or a search"
        " needs them)",
    )
    score: Annotated[str, one_of(SCORES)] = option(
        "accuracy", f"measure by which epochs, configurations and trials are compared. {meanings(SCORES)}"
    )
    none_class: bool = option(
        True,
        "train on a folder of pictures with made-up ones as a further class, so that more pictures of something else"
        " are answered with `none of these` (default: yes)",
    )
    seed: Seed = option(0, "first seed, if --seeds is a number")  # seed of the initial weights and the order of images


@dataclass(frozen=True, kw_only=True)
class TrialSpec(TrialSettings):
    """One training of one model. `TrialSpec.of` fills in the model's defaults.

    Raises SpecError for a value that is missing or out of range, with the range.
    """

    model: str  # the model
    dataset: str  # the name of the dataset
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # arguments of its function, by name
    source_sha256: str | None = None  # sha256 of the Python file that defines the model; `null` for the catalog
    # The sha256 of each file of weights, by the argument of the model's function that gets its path.
    weights: Mapping[str, str] = field(default_factory=dict, hash=False)
    init_from: VersionName | None = None  # the version whose weights it starts from; `null` for random weights
    init_sha256: Sha256 | None = None  # the sha256 of these weights
    configuration: Seed | None = None  # its number in a search; `null` for any other trial
    fold: Seed | None = None  # the fold, from 0, that it is not trained on and predicts; `null` without folds
    folds: Folds | None = None  # number of folds of the training images; `null` without folds
    augment: str = EARLIER  # documents of earlier releases lack it
    # Number of parts of each batch, each normalised by its own statistics; at most one for each image. Replicas share
    # them, and each has at least one. 0 stands for the default on CPUs.
    microbatches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    def __post_init__(self) -> None:
        parse_augment(self.augment)
        _check_arguments({**self.arguments, **self.weights})
        with_files = self.weights
        if self.source_sha256 is None:
            require_known("model", self.model, MODELS)
            sizes = MODELS[self.model].arguments
            earlier = {name: size.earlier for name, size in sizes.items() if size.earlier}
            object.__setattr__(self, "arguments", {**self.arguments, **earlier, **self.arguments})
            if set(self.arguments) != set(sizes):
                got = ", ".join(self.arguments)
                raise SpecError(f"{self.model}: expected the arguments {', '.join(sizes)}, got {got}")
            for name, size in sizes.items():
                require(name, self.arguments[name], Annotated[int, Meta(ge=1, le=size.maximum)])
            with_files = dict.fromkeys(MODELS[self.model].weights, "")
        if not self.weights.keys() <= with_files.keys() - self.arguments.keys():
            expected = f"arguments of {self.model} that take a file and have no other value"
            raise SpecError(f"weights: expected {expected}, got {', '.join(self.weights)}")
        check_fields(self, complete=True)
        if not self.microbatches:
            object.__setattr__(self, "microbatches", entry_of(self.model).microbatches_for(self.global_batch_size))
        if self.momentum and self.optimizer not in WITH_MOMENTUM:
            optimizers = " or ".join(WITH_MOMENTUM)
            raise SpecError(f"momentum: expected one of the optimizers {optimizers}, got {self.optimizer}")

    @classmethod
    def of(
        cls,
        model: str,
        *,
        dataset: str = "mnist-mini",
        arguments: Mapping[str, Any] | None = None,
        hidden_units: int | None = None,
        source_sha256: str | None = None,
        weights: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> TrialSpec:
        """Return a spec with the defaults of its model for many images. `hidden_units`: the argument of that name."""
        entry = entry_of(model)
        settings = defaults_for(math.inf) | {name: value for name, value in settings.items() if value is not None}
        settings.setdefault("augment", AUTO)
        optimizer = settings.setdefault("optimizer", entry.optimizer)
        require_known("optimizer", optimizer, OPTIMIZERS)
        own_rate = entry.learning_rate if optimizer == entry.optimizer else None
        rate = own_rate or OPTIMIZERS[optimizer]
        batch_size = settings["global_batch_size"]
        if own_rate and isinstance(batch_size, int):  # another value is refused below
            rate *= min(1.0, batch_size / entry.min_full_rate_batch)
        epochs = settings["epochs"]
        if weights and source_sha256 is None and isinstance(epochs, int):
            rate *= KNOWN_WEIGHTS_RATE
            settings.setdefault("freeze_epochs", int(FROZEN_SHARE * epochs))
        return cls(
            model=model,
            dataset=dataset,
            source_sha256=source_sha256,
            weights=weights or {},
            arguments={name: size.default for name, size in entry.arguments.items()}
            | dict(arguments or {})
            | ({} if hidden_units is None else {"hidden_units": hidden_units}),
            **{"learning_rate": rate, "schedule": entry.schedule, **settings},
        )

    @property
    def id(self) -> str:
        """The name of the trial within its run."""
        fold = "" if self.fold is None else f"-f{self.fold}"
        return f"{self.model}-{f's{self.seed}' if self.configuration is None else f'c{self.configuration}'}{fold}"

    @property
    def compile_key(self) -> str:
        """A key for sharing compilation: trials of a run with the same key are compiled once per worker."""
        return self.model if self.configuration is None and self.fold is None else str(self.compile_group)

    @property
    def compile_group(self) -> TrialSpec:
        """The trial without what may differ between trials that share a compiled model."""
        return replace(self, seed=0, epochs=1, learning_rate=1.0, schedule="constant", configuration=None)

    def in_folds(self, folds: int) -> list[TrialSpec]:
        """Return a trial for each fold. It chooses no epoch, so that its fold measures it without bias."""
        return [replace(self, fold=fold, folds=folds, validation_percent=0) for fold in range(folds)]

    @property
    def cost(self) -> float:
        """Roughly how long the trial takes, compared with other trials of the run."""
        return entry_of(self.model).cost * self.epochs


def defaults_for(images: float) -> dict[str, int]:
    """Return the settings whose defaults depend on the number of training images, including those for validation."""
    max_epochs = max(MANY_EPOCHS, min(FEW_EPOCHS, int(MAX_TRAINED_IMAGES / images)))
    epochs = max(MIN_EPOCHS, min(max_epochs, int(MIN_TRAINED_IMAGES / images)))
    largest = min(MAX_BATCH_SIZE, images / MIN_STEPS)
    batch_size = max(FEW_BATCH_SIZE, 2 ** int(math.log2(max(1, largest))))
    return {"epochs": epochs, "global_batch_size": batch_size}


def is_unused(name: str, value: object) -> bool:
    """Return whether the value of a field of a spec stands for "not used", so that reports leave it out."""
    if name == "microbatches":
        return value == 1
    default = getattr(TrialSpec.__dataclass_fields__.get(name), "default", ...)
    return value == default and isinstance(default, float | str | bool | None)


def is_exact(devices: Iterable[str], deterministic: bool) -> bool:
    """Return whether a trial that is trained again has the same weights, bit for bit, on devices of the same type.

    On GPUs, XLA chooses kernels by their speed, and the gradient of max-pooling is a sum in any order.
    """
    return deterministic or not any("GPU" in device for device in devices)


def trial_grid(
    models: Iterable[str],
    seeds: Sequence[int],
    *,
    sources: Mapping[str, ModelFile] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: Mapping[str, Mapping[str, str]] | None = None,
    **shared: Any,
) -> list[TrialSpec]:
    """Return a trial for each model and seed, ordered by model.

    Args:
        sources: the Python files that define models which are not in the catalog, by model.
        arguments: passed to the functions that build the models, each to those that accept an argument of that name.
        weights: the sha256 of the weights files of each model, by argument.
        shared: other arguments of `TrialSpec.of`.

    Raises:
        SpecError: a value is out of range, an argument fits no model, there is no model or seed, or one is repeated.
    """
    given = arguments or {}
    trials = list[TrialSpec]()
    accepted = dict[str, Collection[str]]()
    for model in models:
        source = (sources or {}).get(model)
        names = source.arguments_of(model) if source else entry_of(model).arguments
        accepted[model] = given if names is None else names  # None: any may be accepted
        fields = {
            **shared,
            "source_sha256": source.sha256 if source else None,
            "weights": (weights or {}).get(model),
            "arguments": {name: value for name, value in given.items() if name in accepted[model]},
        }
        trials += [TrialSpec.of(model, seed=seed, **fields) for seed in seeds]
    for name in given:
        if accepted and not any(name in names for names in accepted.values()):
            have = ", ".join(dict.fromkeys(itertools.chain(*accepted.values()))) or "none"
            known = " or ".join(accepted)
            raise SpecError(f"model_arg: expected an argument of {known}, got {name}; arguments: {have}")
    repeated = [trial_id for trial_id, count in Counter(trial.id for trial in trials).items() if count > 1]
    if repeated:
        raise SpecError(f"models and seeds: expected each once, got {', '.join(repeated)} more than once")
    if not trials:
        raise SpecError("models and seeds: expected at least one of each, got none")
    return trials


def by_cost(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """Return the trials, the most expensive first, since the last ones to start should be short."""
    return sorted(trials, key=lambda trial: -trial.cost)


def _check_arguments(arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        if not MODEL_NAME.fullmatch(name):
            raise SpecError(f"model_arg: expected the name of an argument, got {name[:100]!r}")
        is_text = isinstance(value, str) and len(value) <= MAX_ARGUMENT_LENGTH
        if not is_text and not (isinstance(value, bool | int | float) and abs(value) <= MAX_ARGUMENT):
            expected = f"a number up to {MAX_ARGUMENT:g}, true, false or up to {MAX_ARGUMENT_LENGTH} characters"
            raise SpecError(f"model_arg: {name}: expected {expected}, got {str(value)[:100]!r}")
