"""The options of `jobs.train`: the name, default, help and type of each.

Ranges are checked by the types that are made from the options: `TrialSpec`, `Resources`, `Limits`, `Pace`, `Rule`.
"""

import copy
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from cluster.deadlines import Limits
from jobs.console.datasets import DATA_DIR_HELP, TFDS_IMPORT_HELP, DataOptions
from jobs.console.exit_codes import UsageError
from jobs.console.options import names_outside, option, parse, split_config
from jobs.console.values import (
    auto_or_whole_number,
    comma_list,
    existing_folder,
    folder,
    moment,
    named_values,
    number,
    one_number,
    seeds,
    whole_number,
)
from mnist_lib.assignment import Pace, Resources
from mnist_lib.catalog import MODELS, OPTIMIZERS, PRECISIONS, SCHEDULES
from mnist_lib.clock import moment_of
from mnist_lib.environment import package_versions
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.model_file import Call, ModelFile, files_of, is_trusted, name_of
from mnist_lib.spec import MAX_SEED, TrialSpec, trial_grid
from mnist_lib.store.champions.promotion import WHEN, Rule
from mnist_lib.store.runs import Command

MODELS_HELP = (
    f"models to train: {', '.join(MODELS)}, or FILE.py:FUNCTION for your own, such as ./my_models.py:small_resnet"
)
ALPHA_HELP = (
    "probability that chance alone replaces the champion of a model, over all comparisons on a data set together; each"
    " of them spends a hundredth of what is left"
)
CODE_ARGUMENTS = ("model_arg", "hidden_units", "vary")  # options whose values are passed to a user's code
BUILDER = "tfds.builder"  # stands for the function in the `Call` of a file of --tfds-import
STORAGE_HELP = "folder or bucket for runs and models, such as results or s3://bucket/folder (also gs://, az://)"


def _list(abouts: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {about}" for name, about in abouts.items())


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """Train every model with every seed, report the test accuracy, and store the best trial of each model."""

    COMMAND: ClassVar[Command] = "jobs.train"

    # On the node that prepares the dataset:
    data_dir: Path | None = option(None, DATA_DIR_HELP, folder, "DIR", outside=True)
    tfds_import: Path | None = option(None, TFDS_IMPORT_HELP, folder, "FILE.py", outside=True)  # see `require_trusted`
    models: tuple[str, ...] = option(("keras", "scratch"), MODELS_HELP, comma_list, "A,B", outside=True, known=MODELS)
    model_arg: Mapping[str, Any] | None = option(
        None,
        "argument of the function that builds a model, such as width=64; can be repeated",
        named_values,
        "NAME=VALUE",
        repeated=True,
    )
    trust: bool = option(
        False, "run the Python files that a --config file names; accepted on the command line only", typed=True
    )
    seeds: tuple[int, ...] | int = option(1, "number of seeds, or a list of seeds, such as 4,8", seeds, "N|A,B")
    seed: int = option(0, "first seed, if --seeds is a number", whole_number, "N")
    epochs: int = option(5, "passes over the training images", whole_number, "N")
    batch_size: int = option(128, "images per training step, over all replicas of a trial", whole_number, "N")
    optimizer: str | None = option(
        None, f"optimizer: {', '.join(OPTIMIZERS)} (default: that of the model)", str, "NAME"
    )
    learning_rate: float | None = option(
        None, "peak learning rate (default: that of the model or the optimizer)", one_number, "X"
    )
    schedule: str | None = option(
        None, f"learning-rate schedule. {_list(SCHEDULES)} (default: that of the model)", str, "NAME"
    )
    momentum: float = option(0.0, "momentum of the optimizers sgd and rmsprop", number, "X")
    weight_decay: float = option(
        0.0, "share of each weight that a step removes at a learning rate of 1 (decoupled weight decay)", number, "X"
    )
    global_clipnorm: float | None = option(
        None, "maximum norm of all gradients of a step together (default: no limit)", number, "X"
    )
    precision: str = option("float32", f"number format of training: {', '.join(PRECISIONS)}", str, "NAME")
    hidden_units: int | None = option(
        None,
        "units of the hidden layer, the same as --model-arg hidden_units=N (default: that of the model)",
        whole_number,
        "N",
    )
    validation_percent: int = option(
        10, "percentage of training images held out to select the epoch and the trial to store", whole_number, "N"
    )
    address: str | None = option(
        None,
        "running Ray cluster to join (default: RAY_ADDRESS, or start one on this machine)",
        str,
        "HOST:PORT",
        outside=True,
    )
    gpus_per_trial: int | None = option(
        None,
        "GPUs per node of a trial (default: auto, which is 1 if any node has a GPU)",
        auto_or_whole_number,
        "N|auto",
    )
    cpus_per_trial: int | None = option(
        None,
        "CPUs and threads per node of a trial (default: auto, which is an equal share)",
        auto_or_whole_number,
        "N|auto",
    )
    nodes_per_trial: int = option(1, "nodes per trial; more than 1 only helps large models", whole_number, "N")
    max_concurrent: int | None = option(
        None, "maximum number of concurrent trials (default: as many as fit)", whole_number, "N"
    )
    cpu_replicas: int = option(1, "model replicas on each node of a trial that has no GPU", whole_number, "N")
    allow_cpu: bool = option(False, "train on CPUs if TensorFlow does not see the GPUs that Ray granted")
    max_failures: int = option(3, "maximum number of retries of a trial whose worker died", whole_number, "N")
    wait_for_resources: float | None = option(
        None, "seconds to wait for busy nodes (default: 600) and for nodes yet to join (default: 0)", number, "S"
    )
    trial_timeout: float | None = option(
        None, "seconds in which a worker must end a trial once it has begun it (default: no limit)", number, "S"
    )
    max_seconds: float | None = option(
        None,
        "time limit of the run in seconds from the start of the command; only the first epoch of a trial may exceed it"
        " (default: none)",
        number,
        "S",
    )
    finish_by: str | None = option(
        None, "time limit of the run as date and time, such as 2099-12-31T06:00:00Z (default: none)", moment, "TIME"
    )
    checkpoint_seconds: float = option(
        Pace.checkpoint_seconds, "seconds between two checkpoints of a trial; 0: after every epoch", number, "S"
    )
    promote: str = option(Rule.when, f"when to make a stored model the champion. {_list(WHEN)}", str, "WHEN")
    alpha: float = option(Rule.alpha, ALPHA_HELP, number, "P")
    min_accuracy: float = option(
        Rule.min_accuracy, "minimum test accuracy of a model's first champion, such as 0.97", number, "X"
    )
    max_class_drop: float = option(
        Rule.max_class_drop, "maximum loss of accuracy in any class for --promote if-better, such as 0.1", number, "X"
    )
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL", outside=True)
    report: bool = option(True, "write report.html and plots of the run, and index.html of all runs (default: on)")
    require_all: bool = option(
        False,
        "store nothing if a trial failed with an error that another attempt may avoid, such as E-OOM or E-NODE-LOST;"
        " repeat the command to train that trial again. jobs.retrain sets this for all attempts but the last",
    )
    run_name: str | None = option(None, "name of the run (default: the time and the dataset)", str, "NAME")
    resume: str | None = option(
        None,
        "resume this unfinished run with its own settings; options that name files, code or an address are repeated",
        str,
        "RUN",
    )
    lease: str | None = option(
        None, "lease, set by jobs.retrain; once another process holds it, nothing is stored", str, "NAME:N"
    )
    plan: bool = option(False, "print what would run, where and why, then exit")
    calibrate: bool = option(False, "like --plan, and train each model for a few epochs to estimate the duration")
    json: bool = option(False, "print one JSON document instead of tables")
    quiet: bool = option(False, "print warnings and errors only", short=["-q"])
    verbose: bool = option(False, "print every epoch, and the traceback of an error", short=["-v"])

    def grid(self) -> list[TrialSpec]:
        """Return a trial for each model and seed. Raises SpecError for an invalid value, or ModelError."""
        models = map(name_of, self.models)
        return trial_grid(models, self._seeds(), sources=self.model_files, arguments=self.arguments, **self.shared)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the functions that build the models."""
        units = {} if self.hidden_units is None else {"hidden_units": self.hidden_units}
        return {**(self.model_arg or {}), **units}

    @property
    def shared(self) -> dict[str, Any]:
        """What the trials of a run have in common, as `trial_grid` takes it."""
        return {
            "dataset": self.data().name,
            "epochs": self.epochs,
            "global_batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "precision": self.precision,
            "validation_percent": self.validation_percent,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "global_clipnorm": self.global_clipnorm,
        }

    @functools.cached_property
    def model_files(self) -> Mapping[str, ModelFile]:
        """The files of the models that are given as FILE.py:FUNCTION, by model. Raises ModelError for a bad one."""
        return files_of(self.models)

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, which keeps the code files as they were read.

        Options that name code cannot be changed in this way.
        """
        copied = copy.copy(self)
        vars(copied).update(values)
        return copied

    def require_trusted(self, arguments: Sequence[str]) -> None:
        """Raise ModelError if a configuration file names Python files that the user has not asked to run.

        Args:
            arguments: the command line.
        """
        _, words = split_config(arguments)
        if "--trust" in words:
            return
        typed = parse("jobs.train", type(self), words)
        for name, call in self.calls.items():
            if typed.calls.get(name) != call and not is_trusted(call):
                raise ModelError(
                    f"{name} is code in {call.file.name}, sha256 {call.file.sha256}, run as {call}, which a"
                    " configuration file names; to run it, add --trust to the command line"
                )

    @property
    def calls(self) -> dict[str, Call]:
        """What a run executes of the user's code, by the names that messages use for it."""
        calls = {f"models: {model}": self.call(model, file) for model, file in self.model_files.items()}
        if self.builder_file is not None:
            calls["tfds_import: the builder"] = Call(self.builder_file, BUILDER, {"dataset": self.dataset})
        return calls

    def call(self, model: str, file: ModelFile) -> Call:
        """Return the call that builds a user's model, with those of the arguments that its function accepts."""
        names = file.arguments_of(model)
        return Call(file, model, {n: value for n, value in self.arguments.items() if names is None or n in names})

    @property
    def outside(self) -> dict[str, Any]:
        """The options that name files, code or an address, or are passed to such code, apart from --storage."""
        names = {field.name for field in fields(self) if field.name != "storage" and names_outside(self, field.name)}
        names |= {*CODE_ARGUMENTS} if "models" in names else set()
        given = {name: getattr(self, name, None) for name in sorted(names)}
        return {name: value for name, value in given.items() if value is not None}

    def terms(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the result of a run depends on. `code`: the result of `code_version`."""
        return terms_of(self, self.grid(), code)

    def resources(self, cpus: int, gpus: int) -> Resources:
        """Return the resources of one trial. Raises SpecError for an invalid value."""
        return Resources(
            nodes=self.nodes_per_trial,
            cpus=cpus,
            gpus=gpus,
            cpu_replicas=self.cpu_replicas,
            allow_cpu=self.allow_cpu,
        )

    def check(self) -> None:
        """Raise SpecError for a value that is out of range. Resources that are auto are not known yet."""
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        self.resources(1 if cpus is None else cpus, 0 if gpus is None else gpus)
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise SpecError(f"max_concurrent: expected 1 or more, got {self.max_concurrent}")
        if self.quiet and self.verbose:
            raise SpecError("quiet: expected one of --quiet and --verbose, got both")
        self.rule()
        self.limits()
        self.pace()
        self.deadline(begin=0)

    def check_data_dir(self) -> None:
        """Raise UsageError if the data folder is not on this machine. Not for `jobs.submit`, which trains elsewhere."""
        if self.data_dir is not None:
            try:
                existing_folder(self.data_dir)
            except ValueError as error:
                raise UsageError(f"data_dir: {error}") from None

    def limits(self) -> Limits:
        """Return when to retry and when to abandon attempts. Raises SpecError for an invalid value."""
        if not 0 <= self.max_failures <= 1_000:
            raise SpecError(f"max_failures: expected a whole number from 0 to 1000, got {self.max_failures}")
        wait, overtime = self.wait_for_resources, self.trial_timeout
        return Limits(
            max_failures=self.max_failures,
            trial_seconds=_seconds("trial_timeout", math.inf if overtime is None else overtime),
            wait_seconds=_seconds("wait_for_resources", Limits.wait_seconds if wait is None else wait),
        )

    def pace(self) -> Pace:
        """Return how often trials yield checkpoints. Raises SpecError for an invalid value."""
        return Pace(checkpoint_seconds=_seconds("checkpoint_seconds", self.checkpoint_seconds))

    def deadline(self, begin: float) -> float:
        """Return the value of `steady_time()` after which no further epoch is trained, or infinity.

        Raises SpecError for an invalid value.

        Args:
            begin: when the command began, by `steady_time()`, less the time that earlier drivers worked on the run.
        """
        until = moment_of(self.finish_by).timestamp() if self.finish_by else math.inf
        return until if self.max_seconds is None else min(until, begin + _seconds("max_seconds", self.max_seconds))

    def rule(self) -> Rule:
        """Return the promotion rule. Raises SpecError for an invalid value."""
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
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise SpecError(f"seeds: expected seeds up to {MAX_SEED}, got {self.seed + self.seeds - 1}")
        return range(self.seed, self.seed + self.seeds)


def _seconds(name: str, value: float) -> float:
    if not value >= 0:  # also refuses NaN
        raise SpecError(f"{name}: expected seconds, 0 or more, got {value}")
    return value


def command_of(names: Collection[str]) -> str:
    """Return the command whose options have these names, for a run that does not name its command."""
    return "jobs.search" if "vary" in names or "space" in names else "jobs.train"


def terms_of(options: TrainOptions, trials: Sequence[TrialSpec], code: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the result of a run depends on. `code`: the result of `code_version`."""
    return {
        "trials": {trial.id: asdict(trial) for trial in trials},
        "rule": asdict(options.rule()),
        **({"images": images} if any(images := [options.image_size, options.channels]) else {}),
        "gpus_per_trial": options.gpus_per_trial,
        "nodes_per_trial": options.nodes_per_trial,
        "cpu_replicas": options.cpu_replicas,
        "max_seconds": options.max_seconds,
        "finish_by": options.finish_by,
        "code": code["sha256"],
        "versions": package_versions(),
    }
