"""The options of `jobs.train`: the name, default, help and type of each.

Whether a value is possible is checked where it belongs (`TrialSpec`, `Resources`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.lanes.deadlines import Limits
from jobs.console.options import option
from jobs.console.values import auto_or_whole_number, comma_list, folder, moment, number, seeds, whole_number
from mnist_lib.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES, require_known
from mnist_lib.environment import package_versions
from mnist_lib.errors import SpecError
from mnist_lib.spec import LARGEST_SEED, Pace, Resources, TrialSpec, trial_grid
from mnist_lib.store.promotion import WHEN, Rule

STORAGE_HELP = "where runs and models are stored: a folder, or as in s3://bucket/folder, gs://..., az://..."


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Trains every model with every seed, reports test accuracy, and stores the best trial of each model."""

    dataset: str = option(
        "mnist-mini", "; ".join(f"{name}: {entry.about}" for name, entry in DATASETS.items()), str, "NAME"
    )
    data_dir: Path | None = option(
        None, "TensorFlow Datasets' folder (default: TFDS_DATA_DIR or ~/tensorflow_datasets)", folder, "DIR"
    )
    data_source: Path | None = option(
        None, "a folder with the original *-ubyte.gz files, for machines without a network", folder, "DIR"
    )
    models: tuple[str, ...] = option(("keras", "scratch"), "which of: " + ", ".join(MODELS), comma_list, "A,B")
    seeds: tuple[int, ...] | int = option(1, "how many seeds from --seed on; or a list, as in 4,8", seeds, "N|A,B")
    seed: int = option(0, "the first seed", whole_number, "N")
    epochs: int = option(5, "passes over the training images", whole_number, "N")
    batch_size: int = option(128, "images per step, over all replicas of a trial", whole_number, "N")
    optimizer: str | None = option(None, f"{' or '.join(OPTIMIZERS)} (default: the model's own)", str, "NAME")
    learning_rate: float | None = option(
        None, "step size, at its peak (default: the model's or the optimizer's own)", number, "X"
    )
    schedule: str | None = option(
        None,
        "; ".join(f"{name}: {about}" for name, about in SCHEDULES.items()) + " (default: the model's own)",
        str,
        "NAME",
    )
    precision: str = option("float32", "or bfloat16 in training; weights and results are float32", str, "NAME")
    hidden_units: int | None = option(None, "width of the hidden layer (default: the model's own)", whole_number, "N")
    validation_percent: int = option(
        10, "share of the training images that chooses the epoch and the trial to store", whole_number, "N"
    )
    address: str | None = option(
        None, "a running Ray cluster (default: RAY_ADDRESS, or a cluster of our own, here)", str, "HOST:PORT"
    )
    gpus_per_trial: int | None = option(
        None, "a trial is mirrored over them (default: auto, 1 where there are any)", auto_or_whole_number, "N|auto"
    )
    cpus_per_trial: int | None = option(
        None, "its threads, too (default: auto, all that there are to share out)", auto_or_whole_number, "N|auto"
    )
    nodes_per_trial: int = option(
        1, "a trial is mirrored over so many nodes; worth it for models that keep them busy", whole_number, "N"
    )
    max_concurrent: int | None = option(None, "trials at once (default: as many as fit)", whole_number, "N")
    cpu_replicas: int = option(
        1, "without GPUs: mirror each trial over this many logical CPU devices", whole_number, "N"
    )
    allow_cpu: bool = option(False, "train on CPU devices in place of GPUs that TensorFlow cannot see")
    max_failures: int = option(3, "how often a trial whose worker died is tried again", whole_number, "N")
    wait_for_resources: float | None = option(
        None,
        "seconds to wait while every node is busy (default: 600), and, if given, for nodes that are not there yet",
        number,
        "S",
    )
    trial_timeout: float | None = option(None, "seconds after which an attempt at a trial is given up", number, "S")
    max_seconds: float | None = option(
        None, "train fewer epochs rather than longer than this; each trial trains at least one", number, "S"
    )
    finish_by: str | None = option(None, "the same by a time, as in 2026-11-25T06:00:00Z", moment, "TIME")
    checkpoint_seconds: float = option(
        Pace.checkpoint_seconds, "from one checkpoint of a trial to the next; 0: after each epoch", number, "S"
    )
    promote: str = option(
        Rule.when,
        "; ".join(f"{when}: {about}" for when, about in WHEN.items()),
        str,
        "WHEN",
    )
    alpha: float = option(Rule.alpha, "--promote if-better asks for a smaller p of McNemar's test", number, "P")
    min_accuracy: float = option(Rule.min_accuracy, "what a model's first champion must reach, as in 0.97", number, "X")
    max_class_drop: float = option(
        Rule.max_class_drop, "--promote if-better lets the accuracy in no class fall by more, as in 0.1", number, "X"
    )
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    report: bool = option(True, "write report.html and plots of the run, and index.html over all runs (default: on)")
    run_name: str | None = option(None, "the run's name (default: the time and the dataset)", str, "NAME")
    resume: str | None = option(
        None, "go on with that unfinished run, with the options that it was begun with", str, "RUN"
    )
    lease: str | None = option(
        None,
        "write nothing once that lease of the storage has passed to another process; jobs.retrain gives it",
        str,
        "NAME:N",
    )
    plan: bool = option(False, "print what would run, where and why, and stop")
    calibrate: bool = option(False, "--plan, and how long it would take: trains a few epochs of each model")
    json: bool = option(False, "print the summary as one JSON document instead of tables")
    quiet: bool = option(False, "show warnings and errors only", short=["-q"])
    verbose: bool = option(False, "show every epoch, and tracebacks", short=["-v"])

    def trials(self) -> list[TrialSpec]:
        """Raises SpecError for what no trial can have."""
        require_known("dataset", self.dataset, DATASETS)
        return trial_grid(
            self.models,
            self._seeds(),
            dataset=self.dataset,
            epochs=self.epochs,
            global_batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            precision=self.precision,
            hidden_units=self.hidden_units,
            validation_percent=self.validation_percent,
        )

    def resources(self, cpus: int, gpus: int) -> Resources:
        """Raises SpecError for what no trial can run on."""
        return Resources(
            nodes=self.nodes_per_trial,
            cpus=cpus,
            gpus=gpus,
            cpu_replicas=self.cpu_replicas,
            allow_cpu=self.allow_cpu,
        )

    def check(self) -> None:
        """Raises SpecError for a value that is out of range; of resources, what is auto is known with the cluster."""
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        self.resources(1 if cpus is None else cpus, 0 if gpus is None else gpus)
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise SpecError(f"max_concurrent: expected a whole number from 1, got {self.max_concurrent}")
        if self.quiet and self.verbose:
            raise SpecError("quiet: expected one of --quiet and --verbose, got both")
        self.rule()
        self.limits()
        self.pace(begin=0)

    def limits(self) -> Limits:
        """Raises SpecError for what is no time or count."""
        if not 0 <= self.max_failures <= 1_000:
            raise SpecError(f"max_failures: expected a whole number from 0 to 1000, got {self.max_failures}")
        wait, overtime = self.wait_for_resources, self.trial_timeout
        return Limits(
            max_failures=self.max_failures,
            item_seconds=_seconds("trial_timeout", math.inf if overtime is None else overtime),
            wait_seconds=_seconds("wait_for_resources", Limits.wait_seconds if wait is None else wait),
        )

    def pace(self, begin: float) -> Pace:
        """Of a run that began at that Unix time. Raises SpecError for what is no time."""
        until = datetime.fromisoformat(self.finish_by).timestamp() if self.finish_by else math.inf
        if self.max_seconds is not None:
            until = min(until, begin + _seconds("max_seconds", self.max_seconds))
        return Pace(checkpoint_seconds=_seconds("checkpoint_seconds", self.checkpoint_seconds), until=until)

    def rule(self) -> Rule:
        """Raises SpecError for one that is not valid."""
        return Rule(
            when=self.promote,
            alpha=self.alpha,
            min_accuracy=self.min_accuracy,
            max_class_drop=self.max_class_drop,
        )

    def _seeds(self) -> Sequence[int]:
        if not isinstance(self.seeds, int):
            return self.seeds
        if not 1 <= self.seeds <= 100_000:
            raise SpecError(f"seeds: expected a count from 1 to 100000, got {self.seeds}")
        if self.seed + self.seeds - 1 > LARGEST_SEED:
            raise SpecError(f"seeds: expected seeds up to {LARGEST_SEED}, got {self.seed + self.seeds - 1}")
        return range(self.seed, self.seed + self.seeds)


def _seconds(name: str, value: float) -> float:
    if not value >= 0:  # NaN is not
        raise SpecError(f"{name}: expected seconds, 0 or more, got {value}")
    return value


def terms_of(options: TrainOptions, trials: Sequence[TrialSpec], code: Mapping[str, Any]) -> dict[str, Any]:
    """`code`: as `code_version` gives it."""
    return {
        "trials": {trial.id: asdict(trial) for trial in trials},
        "rule": asdict(options.rule()),
        "gpus_per_trial": options.gpus_per_trial,
        "nodes_per_trial": options.nodes_per_trial,
        "cpu_replicas": options.cpu_replicas,
        "max_seconds": options.max_seconds,
        "finish_by": options.finish_by,
        "code": code["sha256"],
        "versions": package_versions(),
    }
