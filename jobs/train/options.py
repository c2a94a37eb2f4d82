"""The options of `jobs.train`. Those of a trial and of promotion are declared in `mnist_lib`."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cluster.deadlines import Limits
from jobs.console.datasets import DATA_DIR_HELP, TFDS_IMPORT_HELP, DataOptions
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, parse, split_config
from jobs.console.values import Folder, existing_folder
from jobs.train.option_groups import LaneOptions, ModelOptions, RunOptions, ShownOptions
from mnist_lib.assignment import Resources
from mnist_lib.catalog import DATASETS, PICTURE_MODEL
from mnist_lib.clock import moment_of
from mnist_lib.environment import package_versions
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.model_file import Call, ModelFile, files_of, is_trusted, name_of
from mnist_lib.objects.storage import check_storage
from mnist_lib.settings import MAX_SEED, option, options_of, part_of, values_of
from mnist_lib.spec import KNOWN_WEIGHTS_RATE, VALIDATION_PERCENT, TrialSettings, TrialSpec, defaults_for, trial_grid
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.runs import Command, check_run_name
from mnist_lib.store.versions import LATEST, NUMBER, Version
from mnist_lib.wording import counted

if TYPE_CHECKING:
    from mnist_lib.data.volume import Volume
    from mnist_lib.pretrained import Pretrained, WeightsFile

CHAMPION = "champion"  # as in --init-from keras@champion
BUILDER = "tfds.builder"  # stands for the function in the `Call` of a file of --tfds-import


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions, TrialSettings, DataOptions, Rule, LaneOptions, RunOptions, ShownOptions):
    """Train every model with every seed, report the test accuracy, and store the best trial of each model."""

    COMMAND: ClassVar[Command] = "jobs.train"

    # On the node that prepares the dataset:
    data_dir: Folder | None = option(None, DATA_DIR_HELP)
    tfds_import: Folder | None = option(None, TFDS_IMPORT_HELP, "FILE.py")  # see `require_trusted`

    def __post_init__(self) -> None:
        if vars(self)["models"] is None:  # not given
            in_catalog = self.dataset in DATASETS
            object.__setattr__(self, "models", self.CATALOG_MODELS if in_catalog else (PICTURE_MODEL,))
        super().__post_init__()

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
        default_rate = vars(self)["learning_rate"] is None
        trials = [self.started(trial, default_rate=default_rate) for trial in trials]
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
        has_default = self.validation_percent is None and self.has_time_limit
        return VALIDATION_PERCENT if has_default else self.validation_percent

    @property
    def has_time_limit(self) -> bool:
        return self.max_seconds is not None or self.finish_by is not None

    @functools.cached_property
    def model_files(self) -> Mapping[str, ModelFile]:
        """The files of the models that are given as FILE.py:FUNCTION, by model. Raises ModelError for a bad one."""
        return files_of(self.models)

    @functools.cached_property
    def weights_files(self) -> "Mapping[str, Mapping[str, WeightsFile]]":
        """The weights files of the user's models, by model and argument. Raises ModelError for a bad one."""
        if not self.weights:
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

    def weights_texts(self) -> list[str]:
        """Return a line for each weights file of a model."""
        return [
            f"model {model}: weights {name} from {(self.weights or {})[name]}, sha256 {file.sha256}"
            for model, files in self.weights_files.items()
            for name, file in files.items()
        ]

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

    def started(self, spec: TrialSpec, *, default_rate: bool) -> TrialSpec:
        """Return a trial that starts from the version of its model, if there is one.

        If the version was trained on the same dataset, a default learning rate is lowered: with the usual one, the
        first epochs forget what the weights know.
        """
        version = self.starts.get(spec.model)
        if version is None:
            return spec
        is_known = default_rate and version.facts.dataset.name == spec.dataset
        rate = spec.learning_rate * (KNOWN_WEIGHTS_RATE if is_known else 1)
        return replace(spec, init_from=version.name, init_sha256=version.facts.weights_sha256, learning_rate=rate)

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, which keeps the code files as they were read.

        Options that name code cannot be changed in this way.
        """
        copied = copy.copy(self)
        vars(copied).update(values)
        return copied

    def resolve_defaults(self, images: Callable[[], float] | None = None) -> Self:
        """Return a copy in which the defaults are set that depend on the number of training images.

        Args:
            images: returns that number, if the catalog does not know it; by default, nothing is resolved in this case.
        """
        unresolved = self.unresolved
        entry = self.data().entry
        known = images if entry is None else lambda: entry.train
        if not unresolved or known is None:
            return self
        defaults = self.defaults_for(known())
        return self.changed(**{name: defaults[name] for name in unresolved})

    @classmethod
    def defaults_for(cls, images: float) -> dict[str, Any]:
        """Return the settings whose defaults depend on the number of training images."""
        return dict(defaults_for(images))

    def resolve_defaults_by(self, volume: "Volume") -> tuple[Self, str]:
        """Return a copy like `resolve_defaults`, and a line about the defaults that it has set, if there are any."""
        options = self.resolve_defaults(lambda: volume.train)
        flags = " ".join(options.flags_of_defaults(self.unresolved))
        about = "" if volume.exact else "about "
        return options, flags and f"defaults for {about}{counted(volume.train, 'training image')}: {flags}"

    def flags_of_defaults(self, names: Sequence[str]) -> list[str]:
        """Return settings that `resolve_defaults` has set as the flags that would set them."""
        return flags_of(
            {name: value for name, value in values_of(self).items() if options_of(self)[name].name in names}
        )

    @property
    def unresolved(self) -> list[str]:
        """The settings that were not given and whose defaults depend on the number of training images."""
        return [name for name in self.defaults_for(math.inf) if getattr(self, name) is None]

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
        arguments = {n: value for n, value in self.arguments.items() if names is None or n in names}
        return Call(file, model, arguments, self.weights_sha256.get(model, {}))

    def terms(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the result of a run depends on. `code`: the result of `code_version`."""
        unresolved = self.unresolved
        if "global_batch_size" in unresolved and vars(self)["learning_rate"] is None:
            unresolved = [*unresolved, "learning_rate"]  # whose default depends on the batch size
        return {
            "trials": {trial.id: asdict(trial) | dict.fromkeys(unresolved) for trial in self.grid()},
            **{name: getattr(self, field.name) for name, field in options_of(TrainOptions, "in_terms").items()},
            "code": code["sha256"],
            "versions": package_versions(),
        }

    def resources(self, cpus: int, gpus: int) -> Resources:
        """Return the resources of one trial. Raises SpecError for an invalid value."""
        return Resources(
            cpus=cpus,
            gpus=gpus,
            cpu_replicas=self.cpu_replicas,
            allow_cpu=self.allow_cpu,
        )

    def check(self) -> None:
        """Raise SpecError or ModelError for options that every run would refuse. Resources may still be automatic."""
        self.grid()
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
        check_storage(self.storage)
        if self.run_name is not None:
            check_run_name(self.run_name)

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
        return Rule(**part_of(self, Rule))

    def _seeds(self) -> Sequence[int]:
        if not isinstance(self.seeds, int):
            return self.seeds
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise SpecError(f"seeds: expected seeds up to {MAX_SEED}, got {self.seed + self.seeds - 1}")
        return range(self.seed, self.seed + self.seeds)
