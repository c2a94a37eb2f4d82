"""The groups of options that `jobs.train` and `jobs.search` share, besides those declared in `mnist_lib`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from cluster.deadlines import Limits
from jobs.console.options import Options, StorageOptions
from jobs.console.values import Moment, seeds
from mnist_lib.catalog import MODELS, PICTURE_MODEL
from mnist_lib.settings import Positive, Seconds, Seed, option
from mnist_lib.spec import Folds
from mnist_lib.training.assignment import CHECKPOINT_SECONDS, CPUs, GPUs, Replicas

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
    refit: bool = option(False, "with --folds, also train on all of these images, and store that model")
    init_from: tuple[str, ...] | None = option(
        None,
        "stored versions whose weights are the initial weights of every seed, up to one for each model: keras@3,"
        " keras@latest or keras@champion; @champion or @latest for all models, of which those without one start from"
        " random weights (default: random weights)",
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
        None, "seconds in which a worker must end a trial once it has begun it (default: no limit)"
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
