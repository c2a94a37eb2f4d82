"""What a trial is: a `TrialSpec` says everything that its result depends on, and nothing of where it runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mnist_lib.catalog import DATASETS, MODELS, OPTIMIZERS, PRECISIONS, SCHEDULES, require_known
from mnist_lib.errors import SpecError

LARGEST_SEED = 2**31 - 1  # what every random generator here takes
SMALLEST_FLOAT32, LARGEST_FLOAT32 = 1.2e-38, 3.4e38  # below, a learning rate would be 0


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training of one model; `TrialSpec.of` fills in the model's own defaults.

    Raises:
        SpecError: naming the field, the value and its range.
    """

    model: str
    dataset: str
    seed: int  # of the initial weights and of the order of the images
    epochs: int
    global_batch_size: int  # images per step over all replicas
    optimizer: str
    learning_rate: float  # at its peak
    schedule: str
    precision: str
    hidden_units: int
    validation_percent: int  # of the train split; chooses the epoch and the trial to store

    def __post_init__(self) -> None:
        require_known("model", self.model, MODELS)
        require_known("dataset", self.dataset, DATASETS)
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("precision", self.precision, PRECISIONS)
        _require_whole("seed", self.seed, 0, LARGEST_SEED)
        _require_whole("epochs", self.epochs, 1, 100_000)
        _require_whole("batch_size", self.global_batch_size, 1, 1_000_000)
        _require_whole("hidden_units", self.hidden_units, 1, 65_536)
        _require_whole("validation_percent", self.validation_percent, 0, 50)
        if not SMALLEST_FLOAT32 <= self.learning_rate <= LARGEST_FLOAT32:  # NaN is not
            raise SpecError(
                f"learning_rate: expected a number from {SMALLEST_FLOAT32:g} to {LARGEST_FLOAT32:g}"
                f", got {self.learning_rate}"
            )

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
        hidden_units: int | None = None,
        validation_percent: int = 10,
    ) -> TrialSpec:
        require_known("model", model, MODELS)
        optimizer = optimizer or MODELS[model].optimizer
        require_known("optimizer", optimizer, OPTIMIZERS)
        if learning_rate is None:
            of_model = MODELS[model].learning_rate if optimizer == MODELS[model].optimizer else None
            learning_rate = of_model or OPTIMIZERS[optimizer]
        return cls(
            model=model,
            dataset=dataset,
            seed=seed,
            epochs=epochs,
            global_batch_size=global_batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            schedule=MODELS[model].schedule if schedule is None else schedule,
            precision=precision,
            hidden_units=MODELS[model].hidden_units if hidden_units is None else hidden_units,
            validation_percent=validation_percent,
        )

    @property
    def id(self) -> str:
        """Names the trial within its run: the same everywhere."""
        return f"{self.model}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial runs on. One replica per GPU; without GPUs, `cpu_replicas` logical CPU devices."""

    nodes: int = 1  # each with all of the following
    cpus: int = 1
    gpus: int = 0
    cpu_replicas: int = 1
    allow_cpu: bool = False  # GPUs that TensorFlow cannot see become logical CPU devices instead of an error

    def __post_init__(self) -> None:
        _require_whole("nodes_per_trial", self.nodes, 1, 256)
        _require_whole("cpus_per_trial", self.cpus, 1, 4_096)
        _require_whole("gpus_per_trial", self.gpus, 0, 64)
        _require_whole("cpu_replicas", self.cpu_replicas, 1, 64)
        if self.nodes > 1 and self.cpu_replicas > 1:
            raise SpecError("cpu_replicas: expected 1 with --nodes-per-trial, where each node has one without GPUs")
        if self.gpus and self.cpu_replicas > 1:
            raise SpecError(
                f"cpu_replicas: a trial on {self.gpus} GPU(s) has one replica per GPU, got {self.cpu_replicas}"
                "; use --gpus-per-trial 0 with --cpu-replicas"
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes, one on each node, that train one trial together, in lockstep."""

    addresses: tuple[str, ...]  # host:port at which TensorFlow of each can be reached by the others
    rank: int  # of this one; all do the same, but what the first tells counts


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a trial leaves a checkpoint, and when it ends before its last epoch."""

    checkpoint_seconds: float = 30.0  # at least so long from one to the next; 0: after each epoch
    until: float = math.inf  # Unix time: no epoch begins that would end later, but for the first of a trial
    most_epochs: int | None = None  # of a trial, at the learning rates of all its epochs


def trial_grid(models: Iterable[str], seeds: Iterable[int], **shared: Any) -> list[TrialSpec]:
    """Every model with every seed, the trials of one model side by side; `shared` as in `TrialSpec.of`.

    Raises:
        SpecError: for a value out of range, and when a model or a seed is named twice or not at all.
    """
    seeds = list(seeds)
    trials = [TrialSpec.of(model, seed=seed, **shared) for model in models for seed in seeds]
    twice = [trial_id for trial_id, count in Counter(trial.id for trial in trials).items() if count > 1]
    if twice:
        raise SpecError(f"models and seeds: expected each once, got {', '.join(twice)} more than once")
    if not trials:
        raise SpecError("models and seeds: expected at least one of each, got none")
    return trials


def _require_whole(field: str, value: object, smallest: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise SpecError(f"{field}: expected a whole number from {smallest} to {largest}, got {value!r}")
