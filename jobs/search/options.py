"""The options of `jobs.search`: those of `jobs.train`, and which settings vary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from jobs.train.option_groups import models_option
from jobs.train.options import TrainOptions
from mnist_lib.errors import SpecError
from mnist_lib.settings import MAX_SEED, Seed, one_of, option, options_of
from mnist_lib.spec import VALIDATION_PERCENT, Folds, TrialSettings
from mnist_lib.store.runs import Command

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
        "number of folds of the training and validation images: each configuration is trained without each fold, and"
        f" predicts its images (default: {FOLDS} for fewer than {MIN_WITHOUT_FOLDS:,} images, unless"
        " --validation-percent is given; otherwise no folds)",
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
            raise SpecError("validation_percent: expected 1 or more, since validation images decide, got 0")

    @classmethod
    def defaults_for(cls, images: float) -> dict[str, Any]:
        """Return what `jobs.train` does, and whether there are so few images that folds are compared."""
        return {**super().defaults_for(images), "folds": FOLDS if images < MIN_WITHOUT_FOLDS else None}

    @property
    def unresolved(self) -> list[str]:
        return [name for name in super().unresolved if name != "folds" or self.validation_percent is None]

    @property
    def percent_for_validation(self) -> int:
        """The percentage of training images for validation, which decide; 0 with folds, which then decide."""
        if self.folds is not None:
            return 0
        return VALIDATION_PERCENT if self.validation_percent is None else self.validation_percent
