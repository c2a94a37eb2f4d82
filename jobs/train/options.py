"""The options of `jobs.train`. Those of a trial and of promotion are declared in `mnist_lib`."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from msgspec import Meta

from cluster.deadlines import Limits
from jobs.console.datasets import DATA_DIR_HELP, TFDS_IMPORT_HELP, DataOptions
from jobs.console.exit_codes import UsageError
from jobs.console.options import Options, StorageOptions, names_outside, parse, split_config
from jobs.console.values import AUTO, Folder, Moment, existing_folder, seeds
from mnist_lib.assignment import CHECKPOINT_SECONDS, CPUs, GPUs, Nodes, Replicas, Resources
from mnist_lib.catalog import MODELS
from mnist_lib.clock import moment_of
from mnist_lib.environment import package_versions
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.model_file import Call, ModelFile, files_of, is_trusted, name_of
from mnist_lib.settings import MAX_SEED, Positive, Seconds, Seed, option, options_of, part_of, values_of
from mnist_lib.spec import VALIDATION_PERCENT, Folds, TrialSettings, TrialSpec, defaults_for, trial_grid
from mnist_lib.store.champions.promotion import WHEN, Rule, Thresholds, When
from mnist_lib.store.runs import Command
from mnist_lib.store.versions import LATEST, NUMBER, Version

if TYPE_CHECKING:
    from mnist_lib.pretrained import Pretrained, WeightsFile

MODELS_HELP = (
    f"models to train: {', '.join(MODELS)}, or FILE.py:FUNCTION for your own, such as ./my_models.py:small_resnet"
)
CHAMPION = "champion"  # as in --init-from keras@champion
BUILDER = "tfds.builder"  # stands for the function in the `Call` of a file of --tfds-import

Count = Annotated[int, Meta(ge=1, le=100_000)]
Seeds = Annotated[
    tuple[Seed, ...] | Count, seeds, Meta(title="N|A,B", description="a count from 1 to 100000, or a list of seeds")
]
AnyFolder = Folder | None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    GROUP = "models"

    models: tuple[str, ...] = option(("keras", "scratch"), MODELS_HELP, source="user", known=MODELS)
    model_arg: Mapping[str, Any] | None = option(
        None,
        "argument of the function that builds a model, such as width=64; can be repeated",
        source="user with code",
    )
    weights: Mapping[str, Any] | None = option(
        None,
        "file with weights; the function that builds a model gets its path as the argument NAME, such as"
        " backbone=digits.weights.h5; can be repeated (default: files in the folder weights beside the model's file"
        " that are named like an argument of the function)",
        "NAME=FILE",
        source="user",
    )
    hidden_units: int | None = option(
        None,
        "units of the hidden layer, the same as --model-arg hidden_units=N (default: that of the model)",
        source="user with code",
    )
    seeds: Seeds = option(1, "number of seeds, or a list of seeds, such as 4,8")
    folds: Folds | None = option(
        None,
        "number of folds of the training and validation images: for each, a trial is trained on the other folds, so"
        " that each image is predicted by a model that was not trained on it (default: no folds)",
    )
    refit: bool = option(False, "with --folds, also train on all of these images, and store that model")
    init_from: tuple[str, ...] | None = option(
        None,
        "stored versions whose weights are the initial weights of every seed, up to one for each model: keras@3,"
        " keras@latest or keras@champion; @champion or @latest for all models, of which those without one start from"
        " random weights (default: random weights)",
        "VERSION",
        scope="run",
    )
    trust: bool = option(
        False,
        "run the Python files that a --config file names; accepted on the command line only",
        scope="process",
        source="command line",
    )


@dataclass(frozen=True, kw_only=True)
class LaneOptions(Options):
    GROUP = "cluster"

    address: str | None = option(
        None,
        "running Ray cluster to join (default: RAY_ADDRESS, or start one on this machine)",
        "HOST:PORT",
        source="user",
    )
    gpus_per_trial: Annotated[GPUs, *AUTO] | None = option(
        None, "GPUs per node of a trial (default: auto, which is 1 if any node has a GPU)", scope="run"
    )
    cpus_per_trial: Annotated[CPUs, *AUTO] | None = option(
        None, "CPUs and threads per node of a trial (default: auto, which is an equal share)"
    )
    nodes_per_trial: Nodes = option(1, "nodes per trial; more than 1 only helps large models", scope="run")
    max_concurrent: Positive | None = option(None, "maximum number of concurrent trials (default: as many as fit)")
    cpu_replicas: Replicas = option(1, "model replicas on each node of a trial that has no GPU", scope="run")
    allow_cpu: bool = option(False, "train on CPUs if TensorFlow does not see the GPUs that Ray granted")
    max_failures: Annotated[int, Meta(ge=0, le=1_000)] = option(
        Limits.max_failures, "maximum number of retries of a trial whose worker died"
    )
    wait_for_resources: Seconds | None = option(
        None, "seconds to wait for busy nodes (default: 600) and for nodes yet to join (default: 0)"
    )
    trial_timeout: Seconds | None = option(
        None, "seconds in which a worker must end a trial once it has begun it (default: no limit)"
    )
    checkpoint_seconds: Seconds = option(
        CHECKPOINT_SECONDS,
        "seconds between two checkpoints of a trial, also within an epoch; 0: after every epoch",
    )


@dataclass(frozen=True, kw_only=True)
class PromotionOptions(Thresholds):
    GROUP = "promotion"

    promote: When = option(
        Rule.when,
        f"when to make a stored model the champion. {'; '.join(f'{name}: {about}' for name, about in WHEN.items())}",
        "WHEN",
        scope="run",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(StorageOptions):
    GROUP = "run"

    max_seconds: Seconds | None = option(
        None,
        "time limit of the run in seconds from the start of the command; only the first steps of a trial may exceed it"
        " (default: none)",
        scope="run",
    )
    finish_by: Moment | None = option(
        None, "time limit of the run as date and time, such as 2099-12-31T06:00:00Z (default: none)", scope="run"
    )
    report: bool = option(True, "write report.html and plots of the run, and index.html of all runs (default: on)")
    require_all: bool = option(
        False,
        "store nothing if a trial failed with an error that another attempt may avoid, such as E-OOM or E-NODE-LOST;"
        " repeat the command to train that trial again. jobs.retrain sets this for all attempts but the last",
        scope="process",
    )
    run_name: str | None = option(None, "name of the run (default: the time and the dataset)", scope="process")
    resume: str | None = option(
        None,
        "resume this unfinished run with its own settings; options that name files, code or an address are repeated",
        "RUN",
        scope="process",
    )
    lease: str | None = option(
        None,
        "lease, set by jobs.retrain; once another process holds it, nothing is stored",
        "NAME:N",
        scope="process",
    )
    plan: bool = option(False, "print what would run, where and why, then exit", scope="process")
    calibrate: bool = option(
        False, "like --plan, and train each model for a few epochs to estimate the duration", scope="process"
    )


@dataclass(frozen=True, kw_only=True)
class ShownOptions(Options):
    GROUP = "output"

    json: bool = option(False, "print one JSON document instead of tables")
    quiet: bool = option(False, "print warnings and errors only", short=["-q"], scope="process")
    verbose: bool = option(False, "print every epoch, and the traceback of an error", short=["-v"], scope="process")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions, TrialSettings, DataOptions, PromotionOptions, LaneOptions, RunOptions, ShownOptions):
    """Train every model with every seed, report the test accuracy, and store the best trial of each model."""

    COMMAND: ClassVar[Command] = "jobs.train"

    # On the node that prepares the dataset:
    data_dir: AnyFolder = option(None, DATA_DIR_HELP, source="user")
    tfds_import: AnyFolder = option(None, TFDS_IMPORT_HELP, "FILE.py", source="user")  # see `require_trusted`

    def grid(self) -> list[TrialSpec]:
        """Return a trial for each model and seed, and for each fold. Raises SpecError for an invalid value, ModelError.

        With folds, a trial that is in none of them is trained on all images, if there is to be one.
        """
        models = map(name_of, self.models)
        trials = trial_grid(
            models,
            self._seeds(),
            sources=self.model_files,
            arguments=self.arguments,
            weights=self.weights_sha256,
            **self.shared,
        )
        trials = [*map(self.started, trials)]
        if self.folds is None:
            return trials
        return [*(fold for trial in trials for fold in trial.in_folds(self.folds)), *(trials if self.refit else ())]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the functions that build the models."""
        units = {} if self.hidden_units is None else {"hidden_units": self.hidden_units}
        return {**(self.model_arg or {}), **units}

    @property
    def shared(self) -> dict[str, Any]:
        """What the trials of a run have in common, as `trial_grid` takes it."""
        settings = part_of(self, TrialSettings)
        del settings["seed"]
        return {"dataset": self.data().name, **settings, "validation_percent": self.percent_for_validation}

    @property
    def percent_for_validation(self) -> int | None:
        """The percentage of training images for validation; None: as the number of images allows.

        It is 0 with folds, each of which is held out once. A time limit needs images to choose an epoch.
        """
        if self.folds is not None:
            return 0
        limited = self.max_seconds is not None or self.finish_by is not None
        return VALIDATION_PERCENT if self.validation_percent is None and limited else self.validation_percent

    @functools.cached_property
    def model_files(self) -> Mapping[str, ModelFile]:
        """The files of the models that are given as FILE.py:FUNCTION, by model. Raises ModelError for a bad one."""
        return files_of(self.models)

    @functools.cached_property
    def weights_files(self) -> "Mapping[str, Mapping[str, WeightsFile]]":
        """The weights files of the user's models, by model and argument. Raises ModelError for a bad one."""
        if not self.weights and not self.model_files:
            return {}
        from mnist_lib.pretrained import files_by_model  # imports NumPy

        given = {name: Path(str(path)) for name, path in (self.weights or {}).items()}
        return files_by_model(self.model_files, given)

    @property
    def weights_sha256(self) -> dict[str, dict[str, str]]:
        """The sha256 of the weights files, by model and argument."""
        return {
            model: {name: file.sha256 for name, file in files.items()} for model, files in self.weights_files.items()
        }

    @property
    def pretrained(self) -> "Pretrained":
        """What the trials start from."""
        from mnist_lib.pretrained import Pretrained

        return Pretrained({file.sha256: file for files in self.weights_files.values() for file in files.values()})

    def names_to_start_from(self) -> dict[str, str]:
        """Return the name that --init-from gives for each model; it begins with "@" if it is given for all of them.

        Raises SpecError for a name of another form, of another model, or a second one for a model.
        """
        models, found = [*map(name_of, self.models)], dict[str, str]()
        for name in self.init_from or ():
            model, at, which = name.partition("@")
            if at and which not in (CHAMPION, LATEST) and not NUMBER.fullmatch(which):
                raise SpecError(f"init_from: expected a version, such as keras@3 or @{CHAMPION}, got {name[:100]!r}")
            if model not in ("", *models) or not name:
                expected = f"a version of {', '.join(models)}"
                raise SpecError(f"init_from: expected {expected}, got {name[:100]!r}; name its model in --models")
            for each in [model] if model else models:
                if each in found:
                    raise SpecError(f"init_from: expected one version of {each}, got {found[each]} and {name}")
                found[each] = name
        return found

    @functools.cached_property
    def starts(self) -> Mapping[str, Version]:
        """The versions from which the trials start, by model; none before `starting_from` has found them."""
        return {}

    def starting_from(self, versions: Mapping[str, Version]) -> Self:
        """Return a copy whose trials start from the weights of these versions, by model."""
        return self.changed(init_from=tuple(version.name for version in versions.values()) or None, starts=versions)

    def started(self, spec: TrialSpec) -> TrialSpec:
        """Return a trial that starts from the version of its model, if there is one."""
        version = self.starts.get(spec.model)
        if version is None:
            return spec
        return replace(spec, init_from=version.name, init_sha256=version.facts.weights_sha256)

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, which keeps the code files as they were read.

        Options that name code cannot be changed in this way.
        """
        copied = copy.copy(self)
        vars(copied).update(values)
        return copied

    def settled(self, images: Callable[[], int] | None = None) -> Self:
        """Return a copy in which the defaults are set that depend on the number of training images.

        Args:
            images: returns that number, if the catalog does not know it; None leaves the defaults unset in this case.
        """
        unset, entry = self.unset, self.data().entry
        known = images if entry is None else lambda: entry.train
        if not unset or known is None:
            return self
        defaults = defaults_for(known())
        return self.changed(**{name: defaults[name] for name in unset})

    @property
    def unset(self) -> list[str]:
        """The settings that were not given and whose defaults depend on the number of training images."""
        return [name for name in defaults_for(math.inf) if getattr(self, name) is None]

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
        names = {name for name in options_of(self) if name != "storage" and names_outside(self, name)}
        names |= {*self.code_arguments()} if "models" in names else set()
        values = values_of(self)
        return {name: values[name] for name in sorted(names) if values[name] is not None}

    @classmethod
    def code_arguments(cls) -> list[str]:
        """Return the options whose values are passed to the code of the user's models."""
        return [name for name, field in options_of(cls).items() if field.metadata["source"] == "user with code"]

    def terms(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the result of a run depends on. `code`: the result of `code_version`."""
        return {
            "trials": {trial.id: asdict(trial) | dict.fromkeys(self.unset) for trial in self.grid()},
            **{name: getattr(self, field.name) for name, field in options_of(TrainOptions, "run").items()},
            "code": code["sha256"],
            "versions": package_versions(),
        }

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
        """Raise SpecError for options that exclude each other. Resources that are auto are not known yet."""
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        self.resources(1 if cpus is None else cpus, 0 if gpus is None else gpus)
        self.names_to_start_from()
        if self.quiet and self.verbose:
            raise SpecError("quiet: expected one of --quiet and --verbose, got both")
        if self.refit and self.folds is None:
            raise SpecError("refit: expected --folds with it, got none; without folds, leave it out")
        if self.folds is not None and self.validation_percent != type(self).validation_percent:
            raise SpecError(
                f"validation_percent: expected none with --folds, which hold out each image once, got"
                f" {self.validation_percent}; leave out one of them"
            )

    def check_data_dir(self) -> None:
        """Raise UsageError if the data folder is not on this machine. Not for `jobs.submit`, which trains elsewhere."""
        if self.data_dir is not None:
            try:
                existing_folder(self.data_dir)
            except ValueError as error:
                raise UsageError(f"data_dir: {error}") from None

    def limits(self) -> Limits:
        """Return when to retry and when to abandon attempts."""
        wait, overtime = self.wait_for_resources, self.trial_timeout
        return Limits(
            max_failures=self.max_failures,
            trial_seconds=math.inf if overtime is None else overtime,
            wait_seconds=Limits.wait_seconds if wait is None else wait,
        )

    def deadline(self, begin: float) -> float:
        """Return the value of `steady_time()` at which the run should end, or infinity.

        Args:
            begin: when the command began, by `steady_time()`, less the time that earlier drivers worked on the run.
        """
        until = moment_of(self.finish_by).timestamp() if self.finish_by else math.inf
        return until if self.max_seconds is None else min(until, begin + self.max_seconds)

    def rule(self) -> Rule:
        return Rule(when=self.promote, **part_of(self, Thresholds))

    def _seeds(self) -> Sequence[int]:
        if not isinstance(self.seeds, int):
            return self.seeds
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise SpecError(f"seeds: expected seeds up to {MAX_SEED}, got {self.seed + self.seeds - 1}")
        return range(self.seed, self.seed + self.seeds)
