"""The options of `jobs.models`: one class per command, whose docstring is the command's help."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.console.datasets import SourceOptions
from jobs.console.options import option
from jobs.console.values import folder, moment, named_values, number, whole_number
from jobs.train.options import ALPHA_HELP, STORAGE_HELP
from mnist_lib.catalog import EXPORT_FORMATS, MODELS, require_known
from mnist_lib.data.request import stored_name
from mnist_lib.errors import SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.log import datasets_with_logs
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.versions import model_names

MODEL_HELP = f"{', '.join(MODELS)}, or your own"
VERSION_HELP = "such as keras (the champion), keras@latest (the newest version) or keras@3 (version 3)"


MODEL_FILE_HELP = (
    "Python file of your own model; its code is run only if the version was trained from it, with the arguments of"
    " --model-arg (default: files that models were trained from on this machine)"
)
VERSION_DATASET_HELP = "dataset of the version, if it is not in the catalog: a folder of pictures or tfds:NAME"
CHAMPION_DATASET_HELP = "data set whose champion is meant, such as mnist or ./letters (default: the one trained last)"


def model_arg_option() -> Any:
    """Return the field of --model-arg, which belongs to --model-file."""
    help = "argument with which the function in --model-file built the version, such as width=64; can be repeated"
    return option(None, help, named_values, "NAME=VALUE", repeated=True, typed=True)


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    json: bool = option(False, "print one JSON document instead of text")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(StoreOptions):
    model: str | None = option(None, f"model: {MODEL_HELP} (default: all)", str, "MODEL", positional=True)

    def models(self, objects: Objects) -> list[str]:
        """Return the given model, or all. Raises SpecError if it is neither in the catalog nor in the storage."""
        names = model_names(objects)
        if self.model is None:
            return names
        require_known("model", self.model, names)
        return [self.model]


@dataclass(frozen=True, kw_only=True)
class DatasetModelOptions(ModelOptions):
    dataset: str | None = option(None, "data set, such as mnist or ./letters (default: all)", str, "NAME|DIR")

    def datasets(self, objects: Objects, model: str) -> list[str]:
        """Return the data sets for which a model has a champion, or the given one. Raises SpecError if it has none."""
        known = datasets_with_logs(objects, model)
        if self.dataset is None:
            return known
        name = stored_name(self.dataset)
        if self.model is not None and name not in known:
            expected = f"a data set for which {model} has a champion ({', '.join(known) or 'none'})"
            raise SpecError(f"dataset: expected {expected}, got {name}")
        return [name] if name in known else []


@dataclass(frozen=True, kw_only=True)
class ListOptions(DatasetModelOptions):
    """List every version with its data set and test accuracy, and mark the champions."""


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(DatasetModelOptions):
    """List every decision about the champion of each model and data set, with its date and reason."""


@dataclass(frozen=True, kw_only=True)
class ChampionOptions(DatasetModelOptions):
    """Show the champion of each model and data set: the version in use."""

    at: str | None = option(
        None, "print the champion at this time, such as 2026-11-25T03:00:00Z (default: now)", moment, "TIME"
    )


@dataclass(frozen=True, kw_only=True)
class VersionOptions(StoreOptions):
    dataset: str | None = option(None, CHAMPION_DATASET_HELP, str, "NAME|DIR")
    version: str | None = option(None, f"required: version, {VERSION_HELP}", str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(VersionOptions):
    """Show one version: its accuracy, dataset, files with their hashes, and the report of its run."""

    open: bool = option(False, "open the report of the version's run in a browser")


@dataclass(frozen=True, kw_only=True)
class DiffOptions(StoreOptions):
    """Compare two versions: how they were made, and which test images they predict differently."""

    one: str | None = option(
        None, f"required: first version, {VERSION_HELP}; 3 is version 3 of each model", str, "VERSION", positional=True
    )
    other: str | None = option(None, "required: second version, in the same form", str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(SourceOptions, StoreOptions):
    """Make a version the champion of its model and data set if it is significantly better than the current one."""

    version: str | None = option(
        None, "required: version, such as keras@latest or keras@3", str, "VERSION", positional=True
    )
    always: bool = option(False, "promote the version even if it is not better than the champion")
    dataset: str | None = option(None, VERSION_DATASET_HELP, str, "DIR|tfds:NAME")
    model_file: Path | None = option(None, MODEL_FILE_HELP, folder, "FILE.py", typed=True)
    model_arg: Mapping[str, Any] | None = model_arg_option()
    alpha: float = option(Rule.alpha, ALPHA_HELP, number, "P")
    min_accuracy: float = option(Rule.min_accuracy, "minimum test accuracy of a first champion, 0 to 1", number, "X")
    max_class_drop: float = option(Rule.max_class_drop, "maximum loss of accuracy in any class, 0 to 1", number, "X")


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(ModelOptions):
    """Make an earlier version the champion of a data set again."""

    model: str | None = option(None, f"required: model: {MODEL_HELP}", str, "MODEL", positional=True)
    to: str | None = option(
        None, "version number, or a time when it was the champion (default: the previous champion)", str, "N|TIME"
    )
    dataset: str | None = option(None, CHAMPION_DATASET_HELP, str, "NAME|DIR")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StoreOptions):
    """Check that the files of the champions, of one version or of a copy have not changed since they were stored."""

    what: str | None = option(
        None, f"version, {VERSION_HELP}, or path of a copy (default: champions)", str, "VERSION|COPY", positional=True
    )
    all: bool = option(False, "check every version, not only champions, of every model or of the given model")


@dataclass(frozen=True, kw_only=True)
class CollectOptions(ModelOptions):
    """Delete old versions and the leftovers of crashed runs."""

    keep: int | None = option(
        None, "required: keep each model's N newest versions, champion and N earlier champions", whole_number, "N"
    )
    dry_run: bool = option(False, "list what would be deleted, and delete nothing")


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(SourceOptions, VersionOptions):
    dataset: str | None = option(None, f"{CHAMPION_DATASET_HELP}; or the {VERSION_DATASET_HELP}", str, "NAME|DIR")
    model_file: Path | None = option(None, MODEL_FILE_HELP, folder, "FILE.py", typed=True)
    model_arg: Mapping[str, Any] | None = model_arg_option()


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ComputeOptions):
    """Predict the test images again with the stored weights, and compare the results with the stored predictions."""

    trust: bool = option(False, "load the model from the SavedModel or .keras file, which can run any code", typed=True)


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ComputeOptions):
    """Train a version again with the settings in its manifest, and compare the weights."""

    cpus: int | None = option(None, "number of training threads (default: one per CPU)", whole_number, "N")
    max_epochs: int = option(1_000, "maximum number of epochs; a manifest with more is refused", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ComputeOptions):
    """Export a version in another format, and check the result on test images."""

    format: str | None = option(
        None, "required. " + "; ".join(f"{name}: {entry.about}" for name, entry in EXPORT_FORMATS.items()), str, "NAME"
    )
    to: Path | None = option(None, "new file or folder to write (default: a name such as keras-3.onnx)", folder, "PATH")
