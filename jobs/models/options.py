"""The options of `jobs.models`, a class for each command; its docstring is the command's help."""

from dataclasses import dataclass
from pathlib import Path

from jobs.console.options import option
from jobs.console.values import folder, moment, number, whole_number
from jobs.train.options import STORAGE_HELP
from mnist_lib.catalog import EXPORT_FORMATS, MODELS, require_known
from mnist_lib.store.promotion import Rule


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    json: bool = option(False, "print one JSON document instead of text")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(StoreOptions):
    """Every version, its accuracy, and which is the champion."""

    model: str | None = option(None, f"one of {', '.join(MODELS)} (default: all)", str, "MODEL", positional=True)

    @property
    def models(self) -> list[str]:
        if self.model is None:
            return list(MODELS)
        require_known("model", self.model, MODELS)
        return [self.model]


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(ModelOptions):
    """Which version was in use when, and why."""


@dataclass(frozen=True, kw_only=True)
class ChampionOptions(ModelOptions):
    """The version in use."""

    at: str | None = option(None, "that was in use then, as in 2026-11-25T03:00:00Z", moment, "TIME")


@dataclass(frozen=True, kw_only=True)
class VersionOptions(StoreOptions):
    version: str | None = option(None, "as in keras@3; without a number the newest", str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(VersionOptions):
    """One version: its files, their hashes, its counts, the report of its run."""

    open: bool = option(False, "show that report in a browser")


@dataclass(frozen=True, kw_only=True)
class DiffOptions(StoreOptions):
    """Two versions: how they were made, and where their answers differ."""

    one: str | None = option(None, "as in keras@1; or 1, of every model", str, "VERSION", positional=True)
    other: str | None = option(None, "as in keras@2; or 2", str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(VersionOptions):
    """Makes a version the champion, if it is better."""

    always: bool = option(False, "even if it is not better")
    alpha: float = option(Rule.alpha, "better is a smaller p of McNemar's test", number, "P")
    min_accuracy: float = option(Rule.min_accuracy, "what a model's first champion must reach", number, "X")
    max_class_drop: float = option(Rule.max_class_drop, "the accuracy in no class may fall by more", number, "X")


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(ModelOptions):
    """Puts the champion before this one, or another version, in its place."""

    to: str | None = option(
        None,
        "a version's number, or a time whose champion it was (default: the champion before this one)",
        str,
        "N|TIME",
    )


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StoreOptions):
    """Is every byte as it was committed? Of the champions, or of what is named."""

    what: str | None = option(
        None,
        "a model, a version, or the folder or URL of a version's copy (default: the champions)",
        str,
        "MODEL|VERSION|COPY",
        positional=True,
    )
    all: bool = option(False, "every version of every model")


@dataclass(frozen=True, kw_only=True)
class CollectOptions(ModelOptions):
    """Deletes old versions, and what publishers that died left."""

    keep: int | None = option(
        None, "of each model: the newest N, the champion, and N that it could be rolled back to", whole_number, "N"
    )
    dry_run: bool = option(False, "say what would be deleted, and delete nothing")


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(VersionOptions):
    data_dir: Path | None = option(None, "as for jobs.train", folder, "DIR")
    data_source: Path | None = option(None, "as for jobs.train", folder, "DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ComputeOptions):
    """Predicts the test images again with the stored weights: are the answers those that were stored?"""

    trust: bool = option(False, "run the stored SavedModel or .keras file itself: it can run any code")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ComputeOptions):
    """Trains a version again, as its manifest says: does it come out the same?"""

    cpus: int | None = option(None, "threads to train with (default: all)", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ComputeOptions):
    """Writes a version in another format, and tries what was written on test images."""

    format: str | None = option(
        None, "; ".join(f"{name}: {entry.about}" for name, entry in EXPORT_FORMATS.items()), str, "NAME"
    )
    to: Path | None = option(None, "where to; nothing may be there (default: as in keras-3.onnx, here)", folder, "PATH")
