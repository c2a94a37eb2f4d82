"""What a trial is. Its result depends on its `TrialSpec` alone, not on how it is run (`assignment`)."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mnist_lib.catalog import MODELS, OPTIMIZERS, PRECISIONS, SCHEDULES, USER_MODEL, ModelEntry, require_known
from mnist_lib.documents import convert
from mnist_lib.errors import SpecError
from mnist_lib.model_file import MODEL_NAME, ModelFile

DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
SHA256 = re.compile("[0-9a-f]{64}", re.ASCII)
MAX_ARGUMENTS, MAX_ARGUMENT_LENGTH, MAX_ARGUMENT = 32, 200, 1e9
# The fields of a spec that are None or 0 if they are not used.
OPTIONAL_FIELDS = ("source_sha256", "momentum", "weight_decay", "global_clipnorm", "configuration")
WITH_MOMENTUM = ("sgd", "rmsprop")
MAX_EPOCHS = 100_000
MAX_SEED = 2**31 - 1  # every random generator here accepts it
MIN_FLOAT32, MAX_FLOAT32 = 1.2e-38, 3.4e38  # a smaller learning rate would become 0


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training of one model. `TrialSpec.of` fills in the model's defaults.

    Momentum, weight decay and clipping are those of Keras' optimizers.

    Raises:
        SpecError: a value is out of range; the message names the value and the range.
    """

    model: str
    dataset: str
    seed: int  # determines the initial weights and the order of the images
    epochs: int
    global_batch_size: int  # images per step, over all replicas
    optimizer: str
    learning_rate: float  # the peak of the schedule
    schedule: str
    precision: str
    validation_percent: int  # of the train split; validation selects the epoch and the trial to store
    arguments: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # arguments of the function that builds the model
    source_sha256: str | None = None  # hash of the Python file that defines the model; None for the catalog
    momentum: float = 0.0
    weight_decay: float = 0.0  # the share of each weight that a step of learning rate 1 removes
    global_clipnorm: float | None = None  # the maximum norm of all gradients together
    configuration: int | None = None  # its number in a search; None for any other trial

    def __post_init__(self) -> None:
        if self.source_sha256 is None:
            require_known("model", self.model, MODELS)
        elif not MODEL_NAME.fullmatch(self.model) or not SHA256.fullmatch(self.source_sha256):
            raise SpecError(
                f"model: expected a function and the sha256 of its file, got {self.model!r}, {self.source_sha256!r}"
            )
        _check_arguments(self.arguments)
        if self.source_sha256 is None:
            _check_sizes(self.model, self.arguments)
        if not DATASET_NAME.fullmatch(self.dataset):
            raise SpecError(f"dataset: expected letters, digits, '.', '_' or '-', got {self.dataset!r}")
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("precision", self.precision, PRECISIONS)
        require_whole("seed", self.seed, 0, MAX_SEED)
        require_whole("epochs", self.epochs, 1, MAX_EPOCHS)
        require_whole("batch_size", self.global_batch_size, 1, 1_000_000)
        require_whole("validation_percent", self.validation_percent, 0, 50)
        for name in ("learning_rate", "momentum", "weight_decay", "global_clipnorm"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise SpecError(f"{name}: expected a number, got {str(value)[:100]!r}")
        if not MIN_FLOAT32 <= self.learning_rate <= MAX_FLOAT32:  # NaN is refused, too: it compares as false
            limits = f"{MIN_FLOAT32:g} to {MAX_FLOAT32:g}"
            raise SpecError(f"learning_rate: expected a number from {limits}, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise SpecError(f"momentum: expected a number from 0 to below 1, got {self.momentum}")
        if self.momentum and self.optimizer not in WITH_MOMENTUM:
            raise SpecError(
                f"momentum: expected one of the optimizers {', '.join(WITH_MOMENTUM)}, got {self.optimizer}"
            )
        if not 0 <= self.weight_decay <= MAX_FLOAT32:
            raise SpecError(f"weight_decay: expected a number, 0 or more, got {self.weight_decay}")
        if self.configuration is not None:
            require_whole("configuration", self.configuration, 0, MAX_SEED)
        if self.global_clipnorm is not None and not MIN_FLOAT32 <= self.global_clipnorm <= MAX_FLOAT32:
            raise SpecError(f"global_clipnorm: expected a number above 0, got {self.global_clipnorm}")

    @classmethod
    def of(
        cls,
        model: str,
        *,
        dataset: str = "mnist-mini",
        seed: int = 0,
        epochs: int = 5,
        global_batch_size: int = 128,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        schedule: str | None = None,
        precision: str = "float32",
        validation_percent: int = 10,
        source_sha256: str | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        global_clipnorm: float | None = None,
        arguments: Mapping[str, Any] | None = None,
        hidden_units: int | None = None,
    ) -> TrialSpec:
        """Return a spec with the defaults of its model. `hidden_units` is the argument of that name."""
        if source_sha256 is None:
            require_known("model", model, MODELS)
        entry = entry_of(model)
        optimizer = optimizer or entry.optimizer
        require_known("optimizer", optimizer, OPTIMIZERS)
        if learning_rate is None:
            default = entry.learning_rate if optimizer == entry.optimizer else None
            learning_rate = default or OPTIMIZERS[optimizer]
        return cls(
            model=model,
            dataset=dataset,
            seed=seed,
            epochs=epochs,
            global_batch_size=global_batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            schedule=entry.schedule if schedule is None else schedule,
            precision=precision,
            validation_percent=validation_percent,
            arguments={
                **{name: size.default for name, size in entry.arguments.items()},
                **(arguments or {}),
                **({} if hidden_units is None else {"hidden_units": hidden_units}),
            },
            source_sha256=source_sha256,
            momentum=momentum,
            weight_decay=weight_decay,
            global_clipnorm=global_clipnorm,
        )

    @classmethod
    def of_record(cls, record: Mapping[str, Any], name: str) -> TrialSpec:
        """Return the spec of a record made by `asdict`. Raises IntegrityError for any other; `name` is for messages."""
        fields = dict(record)
        if "hidden_units" in fields:  # it was written before models had arguments
            fields["arguments"] = {"hidden_units": fields.pop("hidden_units")}
        return convert(fields, cls, name, "$.spec")

    @property
    def id(self) -> str:
        """The name of the trial within its run."""
        return f"{self.model}-s{self.seed}" if self.configuration is None else f"{self.model}-c{self.configuration}"

    @property
    def kind(self) -> str:
        """A key for sharing compilation: trials of a run with the same kind are compiled once per worker."""
        return self.model if self.configuration is None else str(self.shape)

    @property
    def shape(self) -> TrialSpec:
        """The trial without what may differ between trials that share a compiled model."""
        return replace(self, seed=0, epochs=1, learning_rate=1.0, schedule="constant", configuration=None)

    @property
    def cost(self) -> float:
        """Roughly how long the trial takes, compared with other trials of the run."""
        return entry_of(self.model).cost * self.epochs


def entry_of(model: str) -> ModelEntry:
    """Return a model's entry in the catalog, or the defaults for a user's model."""
    return MODELS.get(model, USER_MODEL)


def trial_grid(
    models: Iterable[str],
    seeds: Iterable[int],
    *,
    sources: Mapping[str, ModelFile] | None = None,
    arguments: Mapping[str, Any] | None = None,
    **shared: Any,
) -> list[TrialSpec]:
    """Return a trial for each model and seed, ordered by model.

    Args:
        sources: the Python files that define models which are not in the catalog, by model.
        arguments: passed to the functions that build the models, each to those that accept an argument of that name.
        shared: other arguments of `TrialSpec.of`.

    Raises:
        SpecError: a value is out of range, an argument fits no model, there is no model or seed, or one is repeated.
    """
    models, seeds, given, sources = list(models), list(seeds), arguments or {}, sources or {}

    accepted = {
        model: sources[model].arguments_of(model) if model in sources else list(entry_of(model).arguments)
        for model in models
    }
    for name in given:
        known = [names for names in accepted.values() if names is not None]
        if len(known) == len(models) > 0 and not any(name in names for names in known):
            have = ", ".join(dict.fromkeys(itertools.chain(*known))) or "none"
            raise SpecError(f"model_arg: expected an argument of {' or '.join(models)}, got {name}; arguments: {have}")
    trials = [
        TrialSpec.of(
            model,
            seed=seed,
            source_sha256=sources[model].sha256 if model in sources else None,
            arguments={name: given[name] for name in given if (names := accepted[model]) is None or name in names},
            **shared,
        )
        for model in models
        for seed in seeds
    ]
    repeated = [trial_id for trial_id, count in Counter(trial.id for trial in trials).items() if count > 1]
    if repeated:
        raise SpecError(f"models and seeds: expected each once, got {', '.join(repeated)} more than once")
    if not trials:
        raise SpecError("models and seeds: expected at least one of each, got none")
    return trials


def by_cost(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """Return the trials, the most expensive first, since the last ones to start should be short."""
    return sorted(trials, key=lambda trial: -trial.cost)


def require_whole(field: str, value: object, minimum: int, maximum: int) -> None:
    """Raise SpecError unless the value is a whole number from `minimum` to `maximum`."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise SpecError(f"{field}: expected a whole number from {minimum} to {maximum}, got {value!r}")


def _check_sizes(model: str, arguments: Mapping[str, object]) -> None:
    """Raise SpecError unless the arguments are those of a model of the catalog, each in its range."""
    sizes = MODELS[model].arguments
    if set(arguments) != set(sizes):
        raise SpecError(f"{model}: expected the arguments {', '.join(sizes)}, got {', '.join(map(str, arguments))}")
    for name, size in sizes.items():
        require_whole(name, arguments[name], 1, size.maximum)


def _check_arguments(arguments: Mapping[str, object]) -> None:
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise SpecError("model_arg: expected arguments by name, got something else")
    if len(arguments) > MAX_ARGUMENTS:
        raise SpecError(f"model_arg: expected at most {MAX_ARGUMENTS} arguments, got {len(arguments)}")
    for name, value in arguments.items():
        if not MODEL_NAME.fullmatch(name):
            raise SpecError(f"model_arg: expected the name of an argument, got {name[:100]!r}")
        if isinstance(value, str) and len(value) <= MAX_ARGUMENT_LENGTH:
            continue
        if not isinstance(value, bool | int | float) or not abs(value) <= MAX_ARGUMENT:
            expected = f"a number up to {MAX_ARGUMENT:g}, true, false or up to {MAX_ARGUMENT_LENGTH} characters"
            raise SpecError(f"model_arg: {name}: expected {expected}, got {str(value)[:100]!r}")
