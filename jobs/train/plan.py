"""What a run trains: its trials, code and weights, from its options and what is known of its dataset and versions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from jobs.console.options import flags_of, parse, split_config
from jobs.train.options import TrainOptions
from mnist_lib.catalog import entry_of
from mnist_lib.environment import package_versions
from mnist_lib.errors import ModelError, SpecError
from mnist_lib.model_file import Call, ModelFile, files_of, is_trusted, name_of
from mnist_lib.settings import MAX_SEED, field_values, options_of, values_of
from mnist_lib.spec import KNOWN_WEIGHTS_RATE, TrialSettings, TrialSpec, trial_grid
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

if TYPE_CHECKING:
    from mnist_lib.data.reading.folder import Volume
    from mnist_lib.models.pretrained import WeightsFile

AnyPlan = TypeVar("AnyPlan", bound="Plan")

BUILDER = "tfds.builder"  # stands for the function in the `Call` of a file of --tfds-import


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run of `jobs.train`. `Plan.of` makes it from options; other methods return a more definite one."""

    OPTIONS: ClassVar[type[TrainOptions]] = TrainOptions

    options: TrainOptions
    files: Mapping[str, ModelFile]  # that define models which are not in the catalog, by model
    weights: Mapping[str, Mapping[str, WeightsFile]]  # by model and argument
    warm_starts: Mapping[str, Version] = field(default_factory=dict)  # from which trials start, by model, once known

    @classmethod
    def of(cls, options: TrainOptions) -> Self:
        """Return the plan of options, and read the files that they name. Raises ModelError for a bad file."""
        files = files_of(options.models)
        weights: Mapping[str, Mapping[str, WeightsFile]] = {}
        if options.weights:
            from mnist_lib.models.pretrained import files_by_model  # imports NumPy

            models = map(name_of, options.models)
            weights = files_by_model(models, files, {name: Path(str(path)) for name, path in options.weights.items()})
        return cls(options=options, files=files, weights=weights)

    def check(self) -> None:
        """Raise SpecError or ModelError for options that every run would refuse."""
        self.options.check()
        self.trials  # noqa: B018

    # Trials

    @functools.cached_property
    def trials(self) -> list[TrialSpec]:
        """A trial for each model and seed, and for each fold. Raises SpecError or ModelError.

        With folds and `refit`, there is also a trial that is trained on all images.
        """
        options = self.options
        trials = self._specs(map(name_of, options.models), _seeds(options))
        if options.folds is None:
            return trials
        folds = [fold for trial in trials for fold in trial.in_folds(options.folds)]
        return [*folds, *(trials if options.refit else ())]

    def _specs(self, models: Iterable[str], seeds: Sequence[int], **changes: Any) -> list[TrialSpec]:
        """Return a trial of each model and seed. `changes`: settings and `arguments` that replace those of the options.

        A trial that starts from a version trained on the same dataset has a lower default learning rate: at the usual
        rate, the first epochs would undo what that version has learned.
        """
        options = self.options
        microbatches = 1 if options.gpus_per_trial else 0  # 0: the default on CPUs
        not_settings = {"arguments": options.arguments, "microbatches": microbatches}
        shared = {**field_values(options, TrialSettings), **not_settings, **changes}
        del shared["seed"]
        shared |= {"dataset": options.data().name, "validation_percent": options.percent_for_validation}
        # A model of the catalog that starts from a version has all its weights from it, and uses no file of weights.
        unused = self.warm_starts.keys() - self.files.keys()
        weights = {model: names for model, names in self.weights_sha256.items() if model not in unused}
        trials = trial_grid(models, seeds, sources=self.files, weights=weights, **shared)
        return [self._with_warm_start(trial, default_rate=shared["learning_rate"] is None) for trial in trials]

    def _with_warm_start(self, spec: TrialSpec, *, default_rate: bool) -> TrialSpec:
        """Return a trial that starts from the version of its model, if there is one."""
        version = self.warm_starts.get(spec.model)
        if version is None:
            return spec
        is_known = default_rate and version.facts.dataset.name == spec.dataset
        rate = spec.learning_rate * (KNOWN_WEIGHTS_RATE if is_known else 1)
        return replace(spec, init_from=version.name, init_sha256=version.facts.weights_sha256, learning_rate=rate)

    def with_options(self, **values: Any) -> Self:
        """Return a plan with other values of some options, none of which names a file; files are not read again."""
        options = replace(self.options, **values)
        vars(options)["builder_file"] = self.options.builder_file
        return replace(self, options=options)

    # Defaults that follow from the number of training images

    def resolve_defaults(self, images: Callable[[], float] | None = None) -> Self:
        """Return a plan with values for the defaults that depend on the number of training images.

        Args:
            images: returns that number, if the catalog does not know it; by default, nothing is resolved in this case.
        """
        unresolved = self.options.unresolved
        entry = self.options.data().entry
        known = images if entry is None else lambda: entry.train
        if not unresolved or known is None:
            return self
        defaults = self.options.defaults_for(known())
        return self.with_options(**{name: defaults[name] for name in unresolved})

    # Code and weights

    @property
    def weights_sha256(self) -> dict[str, dict[str, str]]:
        """The sha256 of the weights files, by model and argument."""
        return {model: {name: file.sha256 for name, file in files.items()} for model, files in self.weights.items()}

    @property
    def calls(self) -> dict[str, Call]:
        """The calls of the user's code that a run executes, by the names that messages use for them."""
        calls = {f"models: {model}": self._call(model, file) for model, file in self.files.items()}
        if self.options.builder_file is not None:
            arguments = {"dataset": self.options.dataset}
            calls["tfds_import: the builder"] = Call(self.options.builder_file, BUILDER, arguments)
        return calls

    def _call(self, model: str, file: ModelFile) -> Call:
        """Return the call that builds a user's model, with the given arguments that its function accepts."""
        names = arguments_of(self, model)
        arguments = {n: value for n, value in self.options.arguments.items() if names is None or n in names}
        return Call(file, model, arguments, self.weights_sha256.get(model, {}))

    def terms(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the result of a run depends on. `code`: the result of `code_version`."""
        options = self.options
        unresolved = options.unresolved
        if "global_batch_size" in unresolved:  # on which other defaults depend
            rate = ["learning_rate"] if vars(options)["learning_rate"] is None else []
            unresolved = [*unresolved, *rate, "microbatches"]
        if "epochs" in unresolved and options.freeze_epochs is None:
            unresolved = [*unresolved, "freeze_epochs"]
        return {
            "trials": {trial.id: asdict(trial) | dict.fromkeys(unresolved) for trial in self.trials},
            **{name: getattr(options, field.name) for name, field in options_of(TrainOptions, "in_terms").items()},
            "code": code["sha256"],
            "versions": package_versions(),
        }


def arguments_of(plan: Plan, model: str) -> list[str] | None:
    """Return the names of the arguments of a model, or None if it accepts any."""
    return plan.files[model].arguments_of(model) if model in plan.files else [*entry_of(model).arguments]


def require_trusted_code(plan: Plan, arguments: Sequence[str]) -> None:
    """Raise ModelError if a configuration file names Python files that the user has not asked to run.

    Args:
        arguments: the command line.
    """
    _, words = split_config(arguments)
    if "--trust" in words:
        return
    typed = plan.of(parse("jobs.train", type(plan.options), words))
    for name, call in plan.calls.items():
        if typed.calls.get(name) != call and not is_trusted(call):
            raise ModelError(
                f"{name} is code in {call.file.name}, sha256 {call.file.sha256}, run as {call}, and named"
                " by a configuration file; to run it, add --trust to the command line"
            )


def weights_texts(plan: Plan) -> list[str]:
    """Return a line for each weights file of a model."""
    return [
        f"model {model}: weights {name} from {(plan.options.weights or {})[name]}, sha256 {file.sha256}"
        for model, files in plan.weights.items()
        for name, file in files.items()
    ]


def resolve_defaults_by(plan: AnyPlan, volume: Volume) -> tuple[AnyPlan, str]:
    """Return the plan for a number of images, and a line about the defaults that follow from it, if there are any."""
    resolved = plan.resolve_defaults(lambda: volume.train)
    flags = " ".join(flags_of_defaults(resolved.options, plan.options.unresolved))
    about = "" if volume.exact else "about "
    return resolved, flags and f"defaults for {about}{counted(volume.train, 'training image')}: {flags}"


def flags_of_defaults(options: TrainOptions, names: Sequence[str]) -> list[str]:
    """Return the flags that would set these settings, which follow from the number of images."""
    fields = options_of(options)
    return flags_of({name: value for name, value in values_of(options).items() if fields[name].name in names})


def _seeds(options: TrainOptions) -> Sequence[int]:
    """Return the seeds of the trials of each model. Raises SpecError if one is too large."""
    if not isinstance(options.seeds, int):
        return options.seeds
    if options.seed + options.seeds - 1 > MAX_SEED:
        raise SpecError(f"seeds: expected seeds up to {MAX_SEED}, got {options.seed + options.seeds - 1}")
    return range(options.seed, options.seed + options.seeds)
