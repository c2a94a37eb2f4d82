"""The options of `jobs.train`, in groups, some of which a search shares.

The options of a trial and of promotion are declared in `mnist_lib`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from cluster.deadlines import Limits
from jobs.console.datasets import DATA_DIR_HELP, TFDS_IMPORT_HELP, DataOptions
from jobs.console.options import Options, StorageOptions
from jobs.console.values import Folder, Moment, seeds
from mnist_lib.catalog import DATASETS, MODELS, PICTURE_MODEL
from mnist_lib.errors import SpecError
from mnist_lib.model_file import name_of
from mnist_lib.objects.storage import check_storage
from mnist_lib.settings import Positive, Seconds, Seed, option
from mnist_lib.spec import VALIDATION_PERCENT, Folds, TrialSettings, defaults_for
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.runs import Command, check_run_name
from mnist_lib.store.versions import LATEST, NUMBER
from mnist_lib.training.assignment import CHECKPOINT_SECONDS, CPUs, GPUs, Replicas, Resources

Count = Annotated[int, Meta(ge=1, le=100_000)]
Seeds = Annotated[
    tuple[Seed, ...] | Count, seeds, Meta(title="N|A,B", description="a count from 1 to 100000, or a list of seeds")
]


def models_option(catalog_default: Sequence[str]) -> Any:
    """Return the field of --models. `catalog_default`: the default for a dataset of the catalog."""
    known = f"{', '.join(MODELS)}, or FILE.py:FUNCTION for your own, such as ./my_models.py:small_resnet"
    by_default = f"{','.join(catalog_default)}; for a folder of pictures or tfds:NAME, {PICTURE_MODEL}"
    return option(None, f"models to train: {known} (default: {by_default})")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    GROUP = "models"

    CATALOG_MODELS: ClassVar[tuple[str, ...]] = ("keras", "scratch")  # the default for a dataset of the catalog

    models: tuple[str, ...] = models_option(CATALOG_MODELS)
    model_arg: Mapping[str, Any] | None = option(
        None, "argument of the function that builds a model, such as width=64; can be repeated"
    )
    weights: Mapping[str, Any] | None = option(
        None,
        "file with weights; the function that builds a model gets its path as the argument NAME, such as"
        " backbone=digits.weights.h5; can be repeated",
        "NAME=FILE",
    )
    hidden_units: int | None = option(
        None, "units of the hidden layer, the same as --model-arg hidden_units=N (default: that of the model)"
    )
    seeds: Seeds = option(1, "number of seeds, or a list of seeds, such as 4,8")
    folds: Folds | None = option(
        None,
        "number of folds of the training and validation images: for each, a trial is trained on the other folds, so"
        " that each image is predicted by a model that was not trained on it (default: no folds)",
    )
    refit: bool = option(False, "with --folds, also train on all training and validation images, and store that model")
    init_from: tuple[str, ...] | None = option(
        None,
        "stored versions whose weights are the initial weights of every seed, up to one for each model: keras@3,"
        " keras@latest or keras@champion; @champion or @latest for all models; a model without such a version starts"
        " from random weights (default: random weights)",
        "VERSION",
        in_terms=True,
    )
    trust: bool = option(
        False,
        "run the Python files that a --config file names; accepted on the command line only",
        stored=False,
        in_file=False,
    )


@dataclass(frozen=True, kw_only=True)
class LaneOptions(Options):
    GROUP = "cluster"

    address: str | None = option(
        None, "running Ray cluster to join (default: RAY_ADDRESS, or start one on this machine)", "HOST:PORT"
    )
    gpus_per_trial: GPUs | None = option(
        None, "GPUs per node of a trial (default: 1 if any node has a GPU, otherwise 0)", in_terms=True
    )
    cpus_per_trial: CPUs | None = option(
        None, "CPUs and threads per node of a trial (default: an equal share of a node's CPUs)"
    )
    max_concurrent: Positive | None = option(None, "maximum number of concurrent trials (default: as many as fit)")
    cpu_replicas: Replicas = option(1, "model replicas on each node of a trial that has no GPU", in_terms=True)
    allow_cpu: bool = option(False, "train on CPUs if TensorFlow does not see the GPUs that Ray granted")
    max_failures: Annotated[int, Meta(ge=0, le=1_000)] = option(
        Limits.max_failures, "maximum number of retries of a trial whose worker died"
    )
    wait_for_resources: Seconds | None = option(
        None, "seconds to wait for busy nodes (default: 600) and for nodes yet to join (default: 0)"
    )
    trial_timeout: Seconds | None = option(
        None, "seconds within which a worker must end a trial that it has begun (default: no limit)"
    )
    checkpoint_seconds: Seconds = option(
        CHECKPOINT_SECONDS,
        "seconds between two checkpoints of a trial, also within an epoch; 0: after every epoch",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(StorageOptions):
    GROUP = "run"

    max_seconds: Seconds | None = option(
        None,
        "time limit of the run in seconds from the start of the command; only the first steps of a trial may exceed it"
        " (default: none)",
        in_terms=True,
    )
    finish_by: Moment | None = option(
        None, "time limit of the run as date and time, such as 2099-12-31T06:00:00Z (default: none)", in_terms=True
    )
    report: bool = option(True, "write report.html and plots of the run, and index.html of all runs (default: on)")
    require_all: bool = option(
        False,
        "store nothing if a trial failed with an error that another attempt may avoid, such as E-OOM or E-NODE-LOST;"
        " repeat the command to train that trial again. jobs.retrain sets this for all attempts but the last",
        stored=False,
    )
    run_name: str | None = option(None, "name of the run (default: the time and the dataset)", stored=False)
    resume: str | None = option(
        None,
        "print the command that resumes this run, to check and to paste, and exit; nothing is run",
        "RUN",
        stored=False,
    )
    plan: bool = option(False, "print what would run, where and why, then exit", stored=False)


@dataclass(frozen=True, kw_only=True)
class ShownOptions(Options):
    GROUP = "output"

    json: bool = option(False, "print one JSON document instead of tables")
    quiet: bool = option(False, "print warnings and errors only", short=["-q"], stored=False)
    verbose: bool = option(False, "print every epoch, and the traceback of an error", short=["-v"], stored=False)


CHAMPION = "champion"  # as in --init-from keras@champion


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions, TrialSettings, DataOptions, Rule, LaneOptions, RunOptions, ShownOptions):
    """Train every model with every seed, report the test accuracy, and store the best trial of each model."""

    COMMAND: ClassVar[Command] = "jobs.train"
    MARKS: ClassVar[tuple[str, ...]] = ()  # options that only this command has, and needs

    # On the node that prepares the dataset:
    data_dir: Folder | None = option(None, DATA_DIR_HELP)
    tfds_import: Folder | None = option(None, TFDS_IMPORT_HELP, "FILE.py")  # see `plan.require_trusted_code`

    def __post_init__(self) -> None:
        if vars(self)["models"] is None:  # not given
            in_catalog = self.dataset in DATASETS
            object.__setattr__(self, "models", self.CATALOG_MODELS if in_catalog else (PICTURE_MODEL,))
        super().__post_init__()

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the functions that build the models."""
        units = {} if self.hidden_units is None else {"hidden_units": self.hidden_units}
        return {**(self.model_arg or {}), **units}

    @property
    def percent_for_validation(self) -> int | None:
        """The percentage of training images for validation; None: as the number of images allows.

        It is 0 with folds, since each fold is held out once. With a time limit, the default is not None,
        since validation images then choose the epoch.
        """
        if self.folds is not None:
            return 0
        has_default = self.validation_percent is None and self.has_time_limit
        return VALIDATION_PERCENT if has_default else self.validation_percent

    @property
    def has_time_limit(self) -> bool:
        return self.max_seconds is not None or self.finish_by is not None

    @classmethod
    def defaults_for(cls, images: float) -> dict[str, Any]:
        """Return the settings whose defaults depend on the number of training images."""
        return dict(defaults_for(images))

    @property
    def unresolved(self) -> list[str]:
        """The settings that were not given and whose defaults depend on the number of training images."""
        return [name for name in self.defaults_for(math.inf) if getattr(self, name) is None]

    def resources(self, cpus: int, gpus: int) -> Resources:
        """Return the resources of one trial. Raises SpecError for an invalid value."""
        return Resources(
            cpus=cpus,
            gpus=gpus,
            cpu_replicas=self.cpu_replicas,
            allow_cpu=self.allow_cpu,
        )

    def check(self) -> None:
        """Raise SpecError for values that every run would refuse. Resources may still be automatic."""
        cpus = self.cpus_per_trial
        gpus = self.gpus_per_trial
        self.resources(1 if cpus is None else cpus, 0 if gpus is None else gpus)
        names_to_start_from(self)
        if self.refit and self.folds is None:
            raise SpecError("refit: expected --folds with it, got none; without folds, leave it out")
        if self.folds is not None and self.validation_percent != type(self).validation_percent:
            raise SpecError(
                f"validation_percent: expected none with --folds, which hold out each image once, got"
                f" {self.validation_percent}; leave out one of them"
            )
        check_storage(self.storage)
        if self.run_name is not None:
            check_run_name(self.run_name)

    def limits(self) -> Limits:
        """Return when to retry and when to abandon attempts."""
        wait = self.wait_for_resources
        overtime = self.trial_timeout
        return Limits(
            max_failures=self.max_failures,
            trial_seconds=math.inf if overtime is None else overtime,
            wait_seconds=Limits.wait_seconds if wait is None else wait,
        )


def names_to_start_from(options: TrainOptions) -> dict[str, str]:
    """Return the name that --init-from gives for each model; it begins with "@" if it is given for all of them.

    Raises SpecError for a name of another form or of another model, and for a second name for a model.
    """
    models = [*map(name_of, options.models)]
    found = dict[str, str]()
    for name in options.init_from or ():
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
