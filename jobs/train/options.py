"""The options of `jobs.train`. Those of a trial and of promotion are declared in `mnist_lib`."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from cluster.deadlines import Limits
from jobs.console.datasets import DATA_DIR_HELP, TFDS_IMPORT_HELP, DataOptions
from jobs.console.values import Folder
from jobs.train.option_groups import LaneOptions, ModelOptions, RunOptions, ShownOptions
from mnist_lib.catalog import DATASETS, PICTURE_MODEL
from mnist_lib.errors import SpecError
from mnist_lib.model_file import name_of
from mnist_lib.objects.storage import check_storage
from mnist_lib.settings import option
from mnist_lib.spec import VALIDATION_PERCENT, TrialSettings, defaults_for
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.runs import Command, check_run_name
from mnist_lib.store.versions import LATEST, NUMBER
from mnist_lib.training.assignment import Resources

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

        It is 0 with folds, each of which is held out once. A time limit needs images to choose an epoch.
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

    Raises SpecError for a name of another form, of another model, or a second one for a model.
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
