"""Trials and the resources they run on. The result of a trial depends on its `TrialSpec`, not on its `Resources`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mnist_lib.catalog import MODELS, OPTIMIZERS, PRECISIONS, SCHEDULES, require_known
from mnist_lib.errors import SpecError
from mnist_lib.wording import counted

DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
MAX_SEED = 2**31 - 1  # every random generator here accepts it
MIN_FLOAT32, MAX_FLOAT32 = 1.2e-38, 3.4e38  # a smaller learning rate would become 0


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training of one model. `TrialSpec.of` fills in the model's defaults.

    Raises:
        SpecError: a value is out of its range; the message names both.
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
    hidden_units: int
    validation_percent: int  # of the train split; validation selects the epoch and the trial to store

    def __post_init__(self) -> None:
        require_known("model", self.model, MODELS)
        if not DATASET_NAME.fullmatch(self.dataset):
            raise SpecError(f"dataset: expected letters, digits, '.', '_' or '-', got {self.dataset!r}")
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("precision", self.precision, PRECISIONS)
        _require_whole("seed", self.seed, 0, MAX_SEED)
        _require_whole("epochs", self.epochs, 1, 100_000)
        _require_whole("batch_size", self.global_batch_size, 1, 1_000_000)
        _require_whole("hidden_units", self.hidden_units, 1, 65_536)
        _require_whole("validation_percent", self.validation_percent, 0, 50)
        if not MIN_FLOAT32 <= self.learning_rate <= MAX_FLOAT32:  # NaN is refused, too: it compares as false
            limits = f"{MIN_FLOAT32:g} to {MAX_FLOAT32:g}"
            raise SpecError(f"learning_rate: expected a number from {limits}, got {self.learning_rate}")

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
            default = MODELS[model].learning_rate if optimizer == MODELS[model].optimizer else None
            learning_rate = default or OPTIMIZERS[optimizer]
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
        """The name of the trial within its run."""
        return f"{self.model}-s{self.seed}"

    @property
    def kind(self) -> str:
        """The trials of a run that have this in common are compiled once per worker."""
        return self.model

    @property
    def cost(self) -> float:
        """Roughly how long the trial takes, compared with other trials of the run."""
        return MODELS[self.model].cost * self.epochs


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial runs on: one replica per GPU or, without GPUs, one on each of `cpu_replicas` logical CPU devices."""

    nodes: int = 1  # the other fields are for each node
    cpus: int = 1
    gpus: int = 0
    cpu_replicas: int = 1
    allow_cpu: bool = False  # use CPU devices in place of GPUs that TensorFlow does not see

    def __post_init__(self) -> None:
        _require_whole("nodes_per_trial", self.nodes, 1, 256)
        _require_whole("cpus_per_trial", self.cpus, 1, 4_096)
        _require_whole("gpus_per_trial", self.gpus, 0, 64)
        _require_whole("cpu_replicas", self.cpu_replicas, 1, 64)
        if self.nodes > 1 and self.cpu_replicas > 1:
            raise SpecError(f"cpu_replicas: expected 1 with --nodes-per-trial, got {self.cpu_replicas}; leave it out")
        if self.gpus and self.cpu_replicas > 1:
            got = f"{self.cpu_replicas} with {counted(self.gpus, 'GPU')}"
            raise SpecError(
                f"cpu_replicas: expected 1 on GPUs, got {got}; use --gpus-per-trial 0, or leave out --cpu-replicas"
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes, one on each node, that train one trial in lockstep, as described to one of them."""

    addresses: tuple[str, ...]  # host:port where the others' TensorFlow finds each process
    rank: int  # of this process; the events of rank 0 are those of the trial


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a trial yields a checkpoint, and whether it ends before its last epoch."""

    checkpoint_seconds: float = 30.0  # minimum time between checkpoints; 0: a checkpoint after each epoch
    max_epochs: int | None = None  # end a trial after this epoch; learning rates are those of the full trial


@dataclass(frozen=True)
class Assignment:
    """A trial as it is given to a lane."""

    spec: TrialSpec
    checkpoint: bytes | None = None  # the newest one of an earlier attempt
    # Time limit of the trial from its start; an epoch that would end later is not begun, except the first. Not a point
    # in time, since the clocks of two machines may differ.
    seconds: float = math.inf


def trial_grid(models: Iterable[str], seeds: Iterable[int], **shared: Any) -> list[TrialSpec]:
    """Return a trial for each model and seed, ordered by model. `shared` are arguments of `TrialSpec.of`.

    Raises:
        SpecError: a value is out of range, there is no model or seed, or one is given twice.
    """
    seeds = list(seeds)
    trials = [TrialSpec.of(model, seed=seed, **shared) for model in models for seed in seeds]
    repeated = [trial_id for trial_id, count in Counter(trial.id for trial in trials).items() if count > 1]
    if repeated:
        raise SpecError(f"models and seeds: expected each once, got {', '.join(repeated)} more than once")
    if not trials:
        raise SpecError("models and seeds: expected at least one of each, got none")
    return trials


def by_cost(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """Return the trials, the most expensive first, since the last ones to start should be short."""
    return sorted(trials, key=lambda trial: -trial.cost)


def _require_whole(field: str, value: object, minimum: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise SpecError(f"{field}: expected a whole number from {minimum} to {maximum}, got {value!r}")
