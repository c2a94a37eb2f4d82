"""The options of `jobs.search`, and what it trains: configurations from a space of settings, and final trials."""

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from jobs.console.datasets import DataOptions
from jobs.console.options import flags_of
from jobs.search.halving import DEFAULTS, Halving, Ladder
from jobs.search.space import Space, Value
from jobs.train.options import TrainOptions, models_option
from jobs.train.plan import Plan, arguments_of
from mnist_lib.catalog import entry_of
from mnist_lib.errors import SpecError
from mnist_lib.model_file import Call, ModelFile, name_of
from mnist_lib.settings import MAX_SEED, Seed, one_of, option, options_of, values_of
from mnist_lib.spec import (
    MAX_BATCH_SIZE,
    MIN_EPOCHS,
    VALIDATION_PERCENT,
    WITH_MOMENTUM,
    Folds,
    TrialSettings,
    TrialSpec,
)
from mnist_lib.store.runs import Command

STRATEGIES = {
    "halving": "train all for a few epochs, the best third for more, and so on",
    "random": "train each for all epochs",
    "grid": "train every combination for all epochs",
}
STRATEGY_TEXT = "; ".join(f"{name}: {about}" for name, about in STRATEGIES.items())
SETTINGS = {"model": "model", **{name: field.name for name, field in options_of(TrialSettings, "varies").items()}}
CONFIGURATIONS = 27  # that are tried without a time limit
# With fewer training images than MIN_WITHOUT_FOLDS, configurations are compared with folds: on a tenth of so few
# images, chance would decide.
FOLDS, MIN_WITHOUT_FOLDS = 3, 5_000
MAX_CONFIGURATIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class SearchOptions(TrainOptions, without=["seeds", "refit"]):
    """Find good settings of a model: train many configurations for a few epochs, continue the best ones, and train the
    winner again with fresh seeds. Only these last trials are measured on the test images."""

    GROUP = "search"
    COMMAND: ClassVar[Command] = "jobs.search"
    MARKS: ClassVar = ("vary",)
    CATALOG_MODELS: ClassVar = ("keras",)

    models: tuple[str, ...] = models_option(CATALOG_MODELS)
    folds: Folds | None = option(
        None,
        "number of folds of the training and validation images: for each fold, each configuration is trained on the"
        f" others and predicts the images of that fold (default: {FOLDS} for fewer than {MIN_WITHOUT_FOLDS:,} images,"
        " unless --validation-percent is given; otherwise no folds)",
    )
    seed: Seed = option(0, "seed of the configurations and of their weights")
    vary: Mapping[str, Any] | None = option(
        None,
        "a setting and its values or its range, such as learning_rate=1e-4..1e-1:log or hidden_units=128,256; can be"
        " repeated, and is a mapping in a --config file. Settings:"
        f" {', '.join(SETTINGS)}, and the arguments of the model",
        "NAME=VALUES",
    )
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

    def check(self) -> None:
        """Raise SpecError for options that exclude each other."""
        super().check()
        if self.seed + self.final_seeds > MAX_SEED:
            raise SpecError(f"seed: expected at most {MAX_SEED - self.final_seeds}, got {self.seed}")
        if self.validation_percent == 0:
            raise SpecError("validation_percent: expected 1 or more, since these images decide, got 0")

    @classmethod
    def defaults_for(cls, images: float) -> dict[str, Any]:
        """Return the defaults of `jobs.train` and the default of `folds`, which is None unless there are few images."""
        return {**super().defaults_for(images), "folds": FOLDS if images < MIN_WITHOUT_FOLDS else None}

    @property
    def unresolved(self) -> list[str]:
        return [name for name in super().unresolved if name != "folds" or self.validation_percent is None]

    @property
    def percent_for_validation(self) -> int:
        """The percentage of training images for validation, by which configurations are compared; 0 with folds."""
        if self.folds is not None:
            return 0
        return VALIDATION_PERCENT if self.validation_percent is None else self.validation_percent


BRACKET_WITHOUT_HALVING = 9  # configurations that are proposed together

Propose = Callable[[int], Mapping[str, Value]]  # from the number of a configuration to its settings


@dataclass(frozen=True, kw_only=True)
class SearchPlan(Plan):
    """The plan of a search."""

    OPTIONS: ClassVar = SearchOptions

    options: SearchOptions

    @functools.cached_property
    def variation(self) -> Space:
        """The settings that vary. Raises SpecError for an invalid one."""
        known = {name: arguments_of(self, name) for name in map(name_of, self.options.models)}
        given = self.options.vary or {}
        models = {} if "model" in given or len(known) == 1 else {"model": [*known]}
        names = None if None in known.values() else [*SETTINGS, *{n for names in known.values() for n in names or ()}]
        space = Space.parse({**given, **models}, names)
        for value in space.dimensions["model"].ends if "model" in space.dimensions else ():
            if value not in known:
                raise SpecError(
                    f"vary: model: expected one of --models {', '.join(self.options.models)}, got {value!r}"
                )
        return space

    def check(self) -> None:
        """Do what `Plan.check` does, and refuse a space in which a configuration is invalid."""
        super().check()
        options = self.options
        for name in options.vary or {}:
            field = SETTINGS.get(name, "")
            if name in options.arguments or getattr(options, field, None) != getattr(type(options), field, None):
                raise SpecError(f"vary: {name}: expected values to try or a fixed value, got both; omit one of them")
        known = [arguments_of(self, name_of(model)) for model in options.models]
        for name in options.arguments:
            if not any(names is None or name in names for names in known):
                raise SpecError(f"model_arg: expected an argument of {', '.join(options.models)}, got {name}")
        # The smallest possible search is checked first, since this finds a grid of too many configurations.
        smallest = self.resolve_defaults()
        if "epochs" in smallest.options.unresolved:
            smallest = smallest.with_options(epochs=MIN_EPOCHS)
        smallest.halving()
        for example in self.variation.examples():
            self.trial(example, 0)

    def planned_configurations(self, halving: Halving) -> int | None:
        """Return the number of configurations of a search; None if only the time decides it."""
        is_open = self.options.trials is None and halving.configurations == MAX_CONFIGURATIONS
        return None if is_open else halving.configurations

    def halving(self) -> Halving:
        """Return a search without any scores yet."""
        epochs = self.options.epochs
        ladder = Ladder((epochs,), BRACKET_WITHOUT_HALVING)  # all epochs at once
        if self.options.strategy == "halving":
            ladder = Ladder.halving(epochs)
        others = self._combinations()
        count = self._max_configurations if others is None else 1 + len(others)
        return Halving(count, replace(ladder, folds=self.options.folds or 1))

    def proposals(self) -> Propose:
        """Return the function from a configuration's number to its settings."""
        defaults = self.default_settings
        others = self._combinations()
        seed = self.options.seed
        if others is None:
            return lambda number: defaults if number == DEFAULTS else self.variation.configuration(number, seed)
        if self.options.strategy != "grid":
            random.Random(seed).shuffle(others)
        return [defaults, *others].__getitem__

    @property
    def default_settings(self) -> dict[str, Value]:
        """What the first configuration sets: the first model if models vary, and otherwise nothing."""
        models = self.variation.dimensions.get("model")
        return {"model": models.ends[0]} if models else {}

    @property
    def _max_configurations(self) -> int:
        return self.options.trials or (MAX_CONFIGURATIONS if self.options.has_time_limit else CONFIGURATIONS)

    def _combinations(self) -> list[dict[str, Value]] | None:
        """Return all combinations except the default settings; None if there are too many combinations to try each."""
        if self.options.strategy != "grid" and self.variation.combinations() > self._max_configurations:
            return None
        spec = self.trial(self.default_settings, None)
        defaults = {
            name: getattr(spec, SETTINGS[name]) if name in SETTINGS else spec.arguments.get(name)
            for name in self.variation.dimensions
        }
        others = [combination for combination in self.variation.grid() if combination != defaults]
        return others if self.options.strategy == "grid" or len(others) < self._max_configurations else None

    def finals(self, settings: Mapping[str, Value]) -> list[TrialSpec]:
        """Return trials with these settings, and with seeds that the search has not used."""
        spec = self.trial(settings, None)
        return [replace(spec, seed=self.options.seed + 1 + number) for number in range(self.options.final_seeds)]

    def _call(self, model: str, file: ModelFile) -> Call:
        """Return one call that stands for all calls of the search, and differs from the call of every stored version.

        It has the values to try in a mapping named "--vary", which is never an argument of a stored version.
        """
        call = super()._call(model, file)
        names = file.arguments_of(model)
        varied = Space.parse(self.options.vary, None).document() if self.options.vary else {}
        varied = {n: v for n, v in varied.items() if n not in SETTINGS and (names is None or n in names)}
        return call._replace(arguments={**call.arguments, "--vary": varied}) if varied else call

    def terms(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that the result of a search depends on. `code`: the result of `code_version`."""
        of_train, of_search = options_of(TrainOptions), values_of(self.options, "in_terms")
        search = {name: value for name, value in of_search.items() if name not in of_train}
        search |= {"space": self.variation.document(), "folds": self.options.folds}
        return {**super().terms(code), "search": search}

    @functools.cached_property
    def trials(self) -> list[TrialSpec]:
        """A trial of each model that the space has."""
        found: dict[str, TrialSpec] = {}
        for settings in (self.default_settings, *self.variation.examples()):
            spec = self.trial(settings, None)
            found.setdefault(spec.model, spec)
        return [*found.values()]

    def train_flags(self, settings: Mapping[str, Value]) -> list[str]:
        """Return the options of `jobs.train` for these settings, on the same data."""
        spec = self.trial(settings, None)
        values = values_of(self.options)
        given = {name: values[name] for name in (*options_of(DataOptions), *options_of(TrialSettings), "storage")}
        given |= {name: value for name, value in settings.items() if name in SETTINGS}
        arguments = {**self.options.arguments, **settings}
        weights = self.options.weights or {}
        given |= {
            "seed": None,
            "model": None,
            "momentum": spec.momentum,  # 0 for an optimizer that has none
            "validation_percent": spec.validation_percent,  # as in the search, also for few images
            "model_arg": {name: value for name, value in arguments.items() if name in spec.arguments} or None,
            "init_from": spec.init_from,
            "models": [model for model in self.options.models if name_of(model) == spec.model],
            "weights": {name: path for name, path in weights.items() if name in spec.weights} or None,
        }
        defaults = {name: field.default for name, field in options_of(TrainOptions).items()}
        return flags_of({name: value for name, value in given.items() if value != defaults.get(name)})

    def trial(self, settings: Mapping[str, Value], number: int | None) -> TrialSpec:
        """Return the trial of a configuration. `number`: None for one outside the search."""
        model = str(settings.get("model", name_of(self.options.models[0])))
        changes = {SETTINGS[name]: value for name, value in settings.items() if name in SETTINGS}
        changes.pop("model", None)
        optimizer = changes.get("optimizer") or self.options.optimizer or entry_of(model).optimizer
        if "momentum" in settings and optimizer not in WITH_MOMENTUM:
            changes["momentum"] = 0.0  # momentum varies, but this optimizer has none
        given = self.options.arguments | {name: value for name, value in settings.items() if name not in SETTINGS}
        accepted = arguments_of(self, model)
        arguments = {name: value for name, value in given.items() if accepted is None or name in accepted}
        if number is not None and not self.options.gpus_per_trial:
            # Configurations are compared, so all of a model have the same value: the default for the batch size.
            changes["microbatches"] = entry_of(model).microbatches_for(self.options.global_batch_size or MAX_BATCH_SIZE)
        (spec,) = self._specs([model], [self.options.seed], **changes, arguments=arguments)
        return replace(spec, configuration=number)
