"""The options of `jobs.models`: one class per command, whose docstring is the command's help."""

from dataclasses import dataclass
from pathlib import Path

from jobs.console.options import option
from jobs.console.values import existing_folder, folder, moment, number, whole_number
from jobs.train.options import DATA_DIR_HELP, DATA_SOURCE_HELP, STORAGE_HELP
from mnist_lib.catalog import EXPORT_FORMATS, MODELS, require_known
from mnist_lib.store.promotion import Rule

VERSION_HELP = "keras for the champion, keras@latest for the newest version, keras@3 for version 3"


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    json: bool = option(False, "print one JSON document instead of text")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(StoreOptions):
    """List every version with its test accuracy, and mark the champions."""

    model: str | None = option(None, f"one of {', '.join(MODELS)} (default: all)", str, "MODEL", positional=True)

    @property
    def models(self) -> list[str]:
        if self.model is None:
            return list(MODELS)
        require_known("model", self.model, MODELS)
        return [self.model]


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(ModelOptions):
    """Show which version was the champion from when on, and why."""


@dataclass(frozen=True, kw_only=True)
class ChampionOptions(ModelOptions):
    """Show the champion of each model: the version in use."""

    at: str | None = option(None, "show the champion of that time, such as 2026-11-25T03:00:00Z", moment, "TIME")


@dataclass(frozen=True, kw_only=True)
class VersionOptions(StoreOptions):
    version: str | None = option(None, VERSION_HELP, str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(VersionOptions):
    """Show one version: its accuracy, data set, files with their hashes, and the report of its run."""

    open: bool = option(False, "open the report of its run in a browser")


@dataclass(frozen=True, kw_only=True)
class DiffOptions(StoreOptions):
    """Compare two versions: how they were made, and which test images they predict differently."""

    one: str | None = option(None, f"{VERSION_HELP}; 1 for that of every model", str, "VERSION", positional=True)
    other: str | None = option(None, "the version to compare with, named likewise", str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(StoreOptions):
    """Make a version the champion of its model if it is significantly better than the current champion."""

    version: str | None = option(None, "required, as in keras@latest or keras@3", str, "VERSION", positional=True)
    always: bool = option(False, "promote it even if it is not better")
    alpha: float = option(Rule.alpha, "significance level of McNemar's test against the champion", number, "P")
    min_accuracy: float = option(Rule.min_accuracy, "test accuracy that a first champion needs, 0 to 1", number, "X")
    max_class_drop: float = option(Rule.max_class_drop, "largest drop of the accuracy in a class, 0 to 1", number, "X")


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(ModelOptions):
    """Make an earlier version the champion again."""

    model: str | None = option(None, f"required: one of {', '.join(MODELS)}", str, "MODEL", positional=True)
    to: str | None = option(
        None, "number of a version, or a time when it was the champion (default: the previous champion)", str, "N|TIME"
    )


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StoreOptions):
    """Check that every byte of the champions, or of what is named, is as it was committed."""

    what: str | None = option(
        None,
        f"{VERSION_HELP}; or a copy's folder or URL (default: all champions)",
        str,
        "VERSION|COPY",
        positional=True,
    )
    all: bool = option(False, "check every version, of every model or of the model that is named")


@dataclass(frozen=True, kw_only=True)
class CollectOptions(ModelOptions):
    """Delete old versions and the leftovers of crashed runs."""

    keep: int | None = option(
        None, "required: keep the N newest versions, the champion and the N champions before it", whole_number, "N"
    )
    dry_run: bool = option(False, "list what would be deleted, and delete nothing")


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(VersionOptions):
    data_dir: Path | None = option(None, DATA_DIR_HELP, existing_folder, "DIR")
    data_source: Path | None = option(None, DATA_SOURCE_HELP, folder, "DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ComputeOptions):
    """Predict the test images again from the stored weights, and compare with the stored predictions."""

    trust: bool = option(False, "run the stored SavedModel or .keras file itself, which can run any code")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ComputeOptions):
    """Train a version again as its manifest says, and compare the weights."""

    cpus: int | None = option(None, "number of threads to train with (default: all)", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ComputeOptions):
    """Write a version in another format, and test what was written on test images."""

    format: str | None = option(
        None, "; ".join(f"{name}: {entry.about}" for name, entry in EXPORT_FORMATS.items()), str, "NAME"
    )
    to: Path | None = option(None, "path to write; it must not exist (default: such as keras-3.onnx)", folder, "PATH")
