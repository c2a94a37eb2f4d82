"""The options of `jobs.models`: one class per command, whose docstring is the command's help."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from jobs.console.datasets import (
    CHAMPION_DATASET_HELP,
    VERSION_DATASET_HELP,
    VERSION_HELP,
    ModelFileOptions,
    SourceOptions,
)
from jobs.console.options import JsonOptions, StorageOptions
from jobs.console.values import Folder
from mnist_lib.catalog import EXPORT_FORMATS, MODELS, require_known
from mnist_lib.data.request import stored_name
from mnist_lib.errors import SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.settings import Positive, one_of, option
from mnist_lib.store.champions.log import datasets_with_logs
from mnist_lib.store.champions.promotion import Thresholds
from mnist_lib.store.versions import model_names

REPRODUCE_WEIGHTS_HELP = "file with weights from which the version was trained, as for jobs.train; can be repeated"
MODEL_HELP = f"{', '.join(MODELS)}, or your own"


@dataclass(frozen=True, kw_only=True)
class StoreOptions(StorageOptions, JsonOptions):
    pass


@dataclass(frozen=True, kw_only=True)
class ModelOptions(StoreOptions):
    model: str | None = option(None, f"model: {MODEL_HELP} (default: all)", "MODEL", positional=True)

    def models(self, objects: Objects) -> list[str]:
        """Return the given model, or all. Raises SpecError if it is neither in the catalog nor in the storage."""
        names = model_names(objects)
        if self.model is None:
            return names
        require_known("model", self.model, names)
        return [self.model]


@dataclass(frozen=True, kw_only=True)
class DatasetModelOptions(ModelOptions):
    dataset: str | None = option(None, "dataset, such as mnist or ./letters (default: all)", "NAME|DIR")

    def datasets(self, objects: Objects, model: str) -> list[str]:
        """Return the datasets, or only `dataset`, for which a model has a champion. Raises SpecError if it has none."""
        known = datasets_with_logs(objects, model)
        if self.dataset is None:
            return known
        name = stored_name(self.dataset)
        if self.model is not None and name not in known:
            expected = f"a dataset for which {model} has a champion ({', '.join(known) or 'none'})"
            raise SpecError(f"dataset: expected {expected}, got {name}")
        return [name] if name in known else []


@dataclass(frozen=True, kw_only=True)
class ListOptions(DatasetModelOptions):
    """List every version with its dataset and test accuracy, and mark the champions."""


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(DatasetModelOptions):
    """List every decision about the champion of each model and dataset, with its date and reason."""


@dataclass(frozen=True, kw_only=True)
class ChampionOptions(DatasetModelOptions):
    """Show the champion of each model and dataset: the version in use."""


@dataclass(frozen=True, kw_only=True)
class VersionOptions(StoreOptions):
    dataset: str | None = option(None, CHAMPION_DATASET_HELP, "NAME|DIR")
    version: str = option(None, f"version, {VERSION_HELP}", "VERSION", positional=True, required=True)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(VersionOptions):
    """Show one version: its accuracy, dataset, files with their hashes, and the report of its run."""


@dataclass(frozen=True, kw_only=True)
class DiffOptions(StoreOptions):
    """Compare two versions: their settings, their accuracies, and the test images that they predict differently."""

    one: str = option(None, f"first version, {VERSION_HELP}", "VERSION", positional=True, required=True)
    other: str = option(None, "second version, in the same form", "VERSION", positional=True, required=True)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(SourceOptions, StoreOptions, ModelFileOptions, Thresholds):
    """Make a version the champion of its model and dataset if it is significantly better than the current one."""

    version: str = option(None, "version, such as keras@latest or keras@3", "VERSION", positional=True, required=True)
    always: bool = option(False, "promote the version even if it is not better than the champion")
    dataset: str | None = option(None, VERSION_DATASET_HELP, "DIR|tfds:NAME")


@dataclass(frozen=True, kw_only=True)
class AcceptOptions(StoreOptions):
    """Accept an unexpected change: make the dataset of one run the reference, with which later runs are compared."""

    dataset: str = option(None, "name or folder of the dataset", "NAME|DIR", positional=True, required=True)
    state: str = option(
        None, "fingerprint of the dataset in that run, or its first digits", "FINGERPRINT", required=True
    )


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(ModelOptions):
    """Make an earlier version the champion of a dataset again."""

    model: str = option(None, f"model: {MODEL_HELP}", "MODEL", positional=True, required=True)
    to: Positive | None = option(None, "number of the version (default: that of the previous champion)")
    dataset: str | None = option(None, CHAMPION_DATASET_HELP, "NAME|DIR")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StoreOptions):
    """Check that the files of the champions, of one version or of a copy have not changed since they were stored."""

    what: str | None = option(
        None, f"version, {VERSION_HELP}, or path of a copy (default: champions)", "VERSION|COPY", positional=True
    )
    all: bool = option(False, "check every version, not only champions, of every model or of the given model")


@dataclass(frozen=True, kw_only=True)
class CollectOptions(ModelOptions):
    """Delete old versions and the leftovers of crashed runs."""

    keep: Positive = option(
        None, "number of versions: keep each model's N newest ones, champion and N earlier champions", required=True
    )
    dry_run: bool = option(False, "only list the versions that would be deleted")


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(SourceOptions, VersionOptions, ModelFileOptions):
    dataset: str | None = option(None, f"{CHAMPION_DATASET_HELP}; or the {VERSION_DATASET_HELP}", "NAME|DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ComputeOptions):
    """Predict the test images again and compare with the stored predictions; with --on, test on other pictures."""

    on: str | None = option(
        None, "other labelled pictures to test the version on: a folder of class folders, or a dataset", "DIR|NAME"
    )


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ComputeOptions):
    """Train a version again with the settings in its manifest, and compare the weights."""

    cpus: Positive | None = option(
        None, "number of training threads (default: as many as the version was trained with)"
    )
    weights: Mapping[str, Any] | None = option(None, REPRODUCE_WEIGHTS_HELP, "NAME=FILE")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ComputeOptions):
    """Export a version in another format, and check the result on test images."""

    format: Annotated[str, one_of(EXPORT_FORMATS)] = option(
        None,
        "format to export to. " + "; ".join(f"{name}: {entry.about}" for name, entry in EXPORT_FORMATS.items()),
        required=True,
    )
    to: Folder | None = option(None, "new file or folder to write (default: a name such as keras-3.onnx)", "PATH")
