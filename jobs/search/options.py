"""The options of `jobs.search`: those of `jobs.train`, and which settings vary."""

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import yaml
from msgspec import Meta

from jobs.console.datasets import DataOptions
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, load_yaml, parse, read_config, split_config
from jobs.console.values import Folder
from jobs.train.option_groups import models_option
from jobs.train.options import TrainOptions
from mnist_lib.errors import SpecError
from mnist_lib.model_file import Call, ModelFile, name_of
from mnist_lib.search.halving import DEFAULTS, Halving, Ladder
from mnist_lib.search.space import Space, Value
from mnist_lib.settings import MAX_SEED, Positive, Seed, one_of, option, options_of, values_of
from mnist_lib.spec import (
    MIN_EPOCHS,
    VALIDATION_PERCENT,
    WITH_MOMENTUM,
    Folds,
    TrialSettings,
    TrialSpec,
    entry_of,
    trial_grid,
)
from mnist_lib.store.runs import Command
from mnist_lib.wording import one_line

if TYPE_CHECKING:
    from mnist_lib.data.split import Dataset

STRATEGIES = {
    "halving": "train all for a few epochs, the best third for more, and so on",
    "random": "train each for all epochs",
    "grid": "train every combination for all epochs",
}
STRATEGY_TEXT = "; ".join(f"{name}: {about}" for name, about in STRATEGIES.items())
SETTINGS = {"model": "model", **{name: field.name for name, field in options_of(TrialSettings, "varies").items()}}
CONFIGURATIONS = 27  # that are tried without a time limit
# Below so many training images, configurations are compared by folds: a tenth of them would decide by chance.
FOLDS, MIN_WITHOUT_FOLDS = 3, 5_000
BRACKET_WITHOUT_HALVING = 9  # configurations that are proposed together
MAX_CONFIGURATIONS = 10_000
MAX_SPACE_BYTES = 100_000

Propose = Callable[[int], Mapping[str, Value]]  # from the number of a configuration to its settings


@dataclass(frozen=True, kw_only=True)
class SearchOptions(TrainOptions, without=["seeds", "refit"]):
    """Find good settings of a model: train many configurations for a few epochs, continue the best ones, and train the
    winner again with fresh seeds. Only these last trials are measured on the test images."""

    GROUP = "search"
    COMMAND: ClassVar[Command] = "jobs.search"
    CATALOG_MODELS: ClassVar = ("keras",)

    models: tuple[str, ...] = models_option(CATALOG_MODELS)
    folds: Folds | None = option(
        None,
        "number of folds of the training and validation images: each configuration is trained without each fold, and"
        f" predicts its images (default: {FOLDS} for fewer than {MIN_WITHOUT_FOLDS:,} images, unless"
        " --validation-percent is given; otherwise no folds)",
    )
    seed: Seed = option(0, "seed of the configurations and of their weights")
    vary: Mapping[str, Any] | None = option(
        None,
        "a setting and its values or its range, such as learning_rate=1e-4..1e-1:log or hidden_units=128,256; can be"
        f" repeated. Settings: {', '.join(SETTINGS)}, and the arguments of the model",
        "NAME=VALUES",
    )
    space: Folder | None = option(None, "YAML file of `setting: values`, as for --vary", "FILE")
    trials: Annotated[int, Meta(ge=1, le=MAX_CONFIGURATIONS)] | None = option(
        None,
        "number of configurations to try, the default settings included; a grid has all combinations (default:"
        f" {CONFIGURATIONS}, or with a time limit as many as it allows)",
        in_terms=True,
    )
    strategy: Annotated[str, one_of(STRATEGIES)] = option(
        "halving", f"how configurations are trained. {STRATEGY_TEXT}", in_terms=True
    )
    final_seeds: Annotated[int, Meta(ge=1, le=1_000)] = option(
        3, "number of seeds with which the winner is trained again", in_terms=True
    )
    max_epochs_total: Positive | None = option(
        None, "maximum number of epochs of all trials together (default: no limit)", in_terms=True
    )

    def check(self) -> None:
        """Raise SpecError for options that exclude each other, or a space in which a configuration is invalid."""
        super().check()
        if self.seed + self.final_seeds > MAX_SEED:
            raise SpecError(f"seed: expected at most {MAX_SEED - self.final_seeds}, got {self.seed}")
        if self.validation_percent == 0:
            raise SpecError("validation_percent: expected 1 or more, since validation images decide, got 0")
        known = [self._arguments(name_of(model)) for model in self.models]
        for name in self.arguments:
            if not any(names is None or name in names for names in known):
                raise SpecError(f"model_arg: expected an argument of {', '.join(self.models)}, got {name}")
        checked = self.resolve_defaults()
        # The smallest search that is possible. It is first, since it refuses a grid of too many configurations.
        (self.changed(epochs=MIN_EPOCHS) if checked.epochs is None else checked).halving()
        for example in self.variation.examples():
            self.trial(example, 0)

    @classmethod
    def defaults_for(cls, images: float) -> dict[str, Any]:
        """Return what `jobs.train` does, and whether there are so few images that folds are compared."""
        return {**super().defaults_for(images), "folds": FOLDS if images < MIN_WITHOUT_FOLDS else None}

    @property
    def unresolved(self) -> list[str]:
        return [name for name in super().unresolved if name != "folds" or self.validation_percent is None]

    def planned_configurations(self, halving: Halving) -> int | None:
        """Return the number of configurations of a search; None if only the time decides it."""
        is_open = self.trials is None and halving.configurations == MAX_CONFIGURATIONS
        return None if is_open else halving.configurations

    @property
    def percent_for_validation(self) -> int:
        """The percentage of training images for validation, which decide; 0 with folds, which then decide."""
        if self.folds is not None:
            return 0
        return VALIDATION_PERCENT if self.validation_percent is None else self.validation_percent

    @functools.cached_property
    def variation(self) -> Space:
        """The settings that vary. Raises SpecError for an invalid one, UsageError for a file that cannot be read."""
        given = {**_settings_of(self.space), **(self.vary or {})}
        for name in given:
            if name in self.arguments or (
                name in SETTINGS and getattr(self, SETTINGS[name], None) != getattr(type(self), SETTINGS[name], None)
            ):
                raise SpecError(f"space: {name}: expected values to try or a fixed value, got both; omit one of them")
        if len(self.models) > 1:
            given.setdefault("model", [*map(name_of, self.models)])
        known = {name_of(model): self._arguments(name_of(model)) for model in self.models}
        names = None if None in known.values() else [*SETTINGS, *{n for names in known.values() for n in names or ()}]
        space = Space.parse(given, names)
        for value in space.dimensions["model"].ends if "model" in space.dimensions else ():
            if value not in known:
                raise SpecError(f"space: model: expected one of --models {', '.join(self.models)}, got {value!r}")
        return space

    def halving(self) -> Halving:
        """Return a search without any scores yet. Raises SpecError if --max-epochs-total allows no configuration."""
        ladder = (
            Ladder.halving(self.epochs)
            if self.strategy == "halving"
            else Ladder((self.epochs,), BRACKET_WITHOUT_HALVING)  # all epochs at once
        )
        ladder = replace(ladder, folds=self.folds or 1)
        others = self._combinations()
        count = self._max_configurations if others is None else 1 + len(others)
        if self.max_epochs_total is not None:
            left = self.max_epochs_total - self.final_seeds * self.epochs
            fitting = ladder.fitting(left, count)
            if not fitting:
                least = ladder.epochs_of(1) + self.final_seeds * self.epochs
                raise SpecError(f"max_epochs_total: expected at least {least}, got {self.max_epochs_total}")
            count = fitting
        return Halving(count, ladder)

    def proposals(self) -> Propose:
        """Return the function from a configuration's number to its settings."""
        defaults = self.default_settings
        others = self._combinations()
        if others is not None:
            if self.strategy != "grid":
                random.Random(self.seed).shuffle(others)
            return [defaults, *others].__getitem__
        return lambda number: defaults if number == DEFAULTS else self.variation.configuration(number, seed=self.seed)

    @property
    def default_settings(self) -> dict[str, Value]:
        """What the first configuration sets: the first model if models vary, and otherwise nothing."""
        models = self.variation.dimensions.get("model")
        return {"model": models.ends[0]} if models else {}

    @property
    def _max_configurations(self) -> int:
        return self.trials or (MAX_CONFIGURATIONS if self.has_time_limit else CONFIGURATIONS)

    def _combinations(self) -> list[dict[str, Value]] | None:
        """Return all combinations but that of the defaults; None if they are too many to try each of them."""
        if self.strategy != "grid" and self.variation.combinations() > self._max_configurations:
            return None
        spec = self.trial(self.default_settings, None)
        defaults = {
            name: getattr(spec, SETTINGS[name]) if name in SETTINGS else spec.arguments.get(name)
            for name in self.variation.dimensions
        }
        others = [combination for combination in self.variation.grid() if combination != defaults]
        return others if self.strategy == "grid" or len(others) < self._max_configurations else None

    def finals(self, settings: Mapping[str, Value]) -> list[TrialSpec]:
        """Return trials with these settings, and with seeds that the search has not used."""
        spec = self.trial(settings, None)
        return [replace(spec, seed=self.seed + 1 + number) for number in range(self.final_seeds)]

    def call(self, model: str, file: ModelFile) -> Call:
        """Return one call that stands for all calls of the search, and differs from that of each stored version.

        It has the values to try in a mapping named "--vary", which is never an argument of a stored version.
        """
        call, names = super().call(model, file), file.arguments_of(model)
        given = {**_settings_of(self.space), **(self.vary or {})}
        varied = Space.parse(given, None).document() if given else {}
        varied = {n: v for n, v in varied.items() if n not in SETTINGS and (names is None or n in names)}
        return call._replace(arguments={**call.arguments, "--vary": varied}) if varied else call

    def terms(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the result of a search depends on. `code`: the result of `code_version`."""
        of_train, of_search = options_of(TrainOptions), values_of(self, "in_terms")
        search = {name: value for name, value in of_search.items() if name not in of_train}
        search |= {"space": self.variation.document(), "folds": self.folds}
        return {**super().terms(code), "search": search}

    def grid(self) -> list[TrialSpec]:
        """Return a trial of each model that the space has."""
        found: dict[str, TrialSpec] = {}
        for settings in (self.default_settings, *self.variation.examples()):
            spec = self.trial(settings, None)
            found.setdefault(spec.model, spec)
        return [*found.values()]

    def with_inline_space(self) -> "SearchOptions":
        """Return the same options without a file that may change or be missing elsewhere."""
        return self.changed(space=None, vary=self.variation.document())

    def train_flags(self, settings: Mapping[str, Value], dataset: "Dataset | None" = None) -> list[str]:
        """Return the options of `jobs.train` for these settings, on the same data.

        Args:
            dataset: options that only repeat a default for its number of images are left out.
        """
        spec = self.trial(settings, None)
        given = values_of(self)
        given = {name: given[name] for name in (*options_of(DataOptions), *options_of(TrialSettings), "storage")}
        given |= {name: value for name, value in settings.items() if name in SETTINGS}
        given["momentum"] = spec.momentum  # 0 for an optimizer that has none
        given["validation_percent"] = spec.validation_percent  # as in the search, also for few images
        arguments = {**self.arguments, **settings}
        given["model_arg"] = {name: value for name, value in arguments.items() if name in spec.arguments} or None
        given["init_from"] = spec.init_from
        given["models"] = [model for model in self.models if name_of(model) == spec.model]
        given["weights"] = {name: path for name, path in (self.weights or {}).items() if name in spec.weights} or None
        for name in ("seed", "model"):
            given.pop(name, None)
        by_images = {}
        if dataset:
            by_images = super().defaults_for(len(dataset.train))
            by_images["validation_percent"] = dataset.percent_for_validation(None)
        defaults = {name: by_images.get(field.name, field.default) for name, field in options_of(TrainOptions).items()}
        return flags_of({name: value for name, value in given.items() if value != defaults.get(name)})

    def _arguments(self, model: str) -> list[str] | None:
        """Return the names of the arguments of a model, or None if it accepts any."""
        files = self.model_files
        return files[model].arguments_of(model) if model in files else [*entry_of(model).arguments]

    def trial(self, settings: Mapping[str, Value], number: int | None) -> TrialSpec:
        """Return the trial of a configuration. `number`: None for one outside the search."""
        model = str(settings.get("model", name_of(self.models[0])))
        shared = self.shared | {SETTINGS[name]: value for name, value in settings.items() if name in SETTINGS}
        shared.pop("model", None)
        optimizer = shared["optimizer"] or entry_of(model).optimizer
        if "momentum" in settings and optimizer not in WITH_MOMENTUM:
            shared["momentum"] = 0.0  # momentum varies, but this optimizer has none
        given = self.arguments | {name: value for name, value in settings.items() if name not in SETTINGS}
        accepted = self._arguments(model)
        arguments = {name: value for name, value in given.items() if accepted is None or name in accepted}
        (spec,) = trial_grid(
            [model], [self.seed], sources=self.model_files, arguments=arguments, weights=self.weights_sha256, **shared
        )
        started = self.started(spec, default_rate=shared["learning_rate"] is None)
        return replace(started, configuration=number)


def require_after_dashes(own: Sequence[str], options: type[Any]) -> None:
    """Raise UsageError for an option of the job among those before the dashes, which are fields of `options`."""
    for place, word in enumerate(own):
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        kind = next((kind for kind in (TrainOptions, SearchOptions) if name in options_of(kind)), None)
        if word.startswith("--") and kind is not None and name not in options_of(options):
            shown = " ".join([word, *([] if "=" in word else own[place + 1 : place + 2])])
            flag = word.partition("=")[0]
            raise UsageError(f"{flag} is an option of {kind.COMMAND}; give it after --, as in: -- {shown}")


def job_options(program: str, flags: Sequence[str], stored: Mapping[str, Any] = MappingProxyType({})) -> TrainOptions:
    """Return the options of `jobs.search` or, if they are not those of a search, of `jobs.train`.

    Args:
        stored: values that replace the defaults, as in a --config file.
    """
    options: TrainOptions = parse(program, SearchOptions if is_search(flags, stored) else TrainOptions, flags, stored)
    return options


def is_search(flags: Sequence[str], stored: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Return whether the options of a job are those of a search. `stored`: as in `job_options`."""
    files, words = split_config(flags)
    names = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    return not names.union(stored, *map(read_config, files)).isdisjoint(("vary", "space"))


def _settings_of(path: Path | None) -> dict[str, Any]:
    """Return the content of the YAML file of --space. Raises UsageError if it is not a mapping."""
    if path is None:
        return {}
    try:
        if not path.is_file():
            raise UsageError(f"space: {path}: expected a YAML file of `setting: values`, got none")
        with path.open("rb") as file:
            content = file.read(MAX_SPACE_BYTES + 1)
        if len(content) > MAX_SPACE_BYTES:
            raise UsageError(f"space: expected a file of at most {MAX_SPACE_BYTES:,} bytes, got a larger one")
        given = load_yaml(content.decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"space: {path}: expected a YAML file of `setting: values` ({one_line(error)})") from None
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise UsageError(f"space: {path}: expected `setting: values` on each line, got something else")
    return dict(given)
