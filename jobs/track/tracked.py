"""The content that is copied to MLflow: a part for the run itself, and one for each trial or configuration."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mnist_lib.documents import builtins_of
from mnist_lib.environment import moment_of
from mnist_lib.errors import SpecError
from mnist_lib.results import EpochDone
from mnist_lib.settings import options_of
from mnist_lib.spec import TrialSettings
from mnist_lib.store.history import RungScored
from mnist_lib.store.runs import CONFIGURATION, PLOTS, REPORT, RUN_RECORD, SEARCH, SUMMARY, RunFolder

# The name of the field of each setting, by the name of its option.
NAMES = {name: field.name for name, field in options_of(TrialSettings).items()}
# The fields of a trial that say how it was trained. Arguments of its model are added.
FIELDS = ("model", "dataset", "init_from", *NAMES.values())
OPTIONS = {field: name for name, field in NAMES.items()}
RESULTS = ("test_accuracy", "test_balanced_accuracy", "train_seconds", "images_per_second")
RESULTS_OF_MODEL = (
    *("mean_test_accuracy", "std_test_accuracy", "ensemble_test_accuracy", "best_trial_test_accuracy"),
    *("mean_test_balanced_accuracy", "best_trial_test_balanced_accuracy"),
)
FILES = (REPORT, SUMMARY, SEARCH, CONFIGURATION)  # and the plots
CONFIGURATION_OF = re.compile(r"-c(\d+)(?:-f\d+)?$")  # the number of a configuration in the name of its trial


class Metrics(NamedTuple):
    values: Mapping[str, float]
    at: float  # Unix time
    step: int = 0  # the epoch; 0 for a result of the whole run or trial


@dataclass(frozen=True, kw_only=True)
class Part:
    """A trial, a configuration, or a run with these as its parts."""

    name: str
    failed: bool = False
    parameters: Mapping[str, str]
    metrics: Sequence[Metrics] = ()
    version: tuple[str, int] | None = None  # model and number of the version that was stored for the trial
    parts: Sequence["Part"] = ()
    files: Sequence[str] = ()  # names in the run's folder


def key_of(folder: RunFolder) -> str:
    """Return a unique identifier of a run. Runs of the same name in different storages have different identifiers."""
    return f"{folder.run} {hashlib.sha256(folder.read(RUN_RECORD) or b'').hexdigest()[:16]}"


def tracked_run(folder: RunFolder) -> Part:
    """Read a run.

    Raises:
        IntegrityError: one of its documents is damaged.
        SpecError: the run is not complete, or a document has more correct predictions than images.
    """
    begun = folder.begun()
    summary = folder.summary()
    if summary is None:
        raise SpecError(f"runs: expected a complete run, got {folder.run}, which has not ended; copy it later")
    ended = moment_of(summary.ended).timestamp()
    trials = {trial.id: trial for trial in summary.trials}
    search_document = folder.search()
    configurations = search_document.configurations if search_document else {}
    versions = {row.best_trial: (model, row.version) for model, row in summary.models.items()}
    failed = {trial.id for trial in summary.failed}
    metrics: dict[str, list[Metrics]] = {}
    epochs = set()  # each is copied once: a resumed trial repeats those after its checkpoint
    for entry in folder.history():
        if isinstance(entry, RungScored):  # a configuration has failed if its last rung has no score
            (failed.add if entry.validation is None else failed.discard)(entry.trial)
        elif isinstance(entry, EpochDone) and (entry.trial, entry.epoch) not in epochs:
            epochs.add((entry.trial, entry.epoch))
            metrics.setdefault(entry.trial, []).append(Metrics(_values_of(entry), entry.at, entry.epoch))
    parts = []
    for name in dict.fromkeys([*trials, *metrics, *sorted(failed)]):
        measured = metrics.get(name, [])
        trial = trials.get(name)
        number = CONFIGURATION_OF.search(name)
        settings = configurations.get(int(number[1]), {}) if number else {}
        results = {result: value for result in RESULTS if (value := getattr(trial, result, None)) is not None}
        part = Part(
            name=name,
            failed=name in failed,
            parameters=_parameters(builtins_of(trial.spec)) if trial else _as_texts(settings),
            metrics=[*measured, Metrics(results, measured[-1].at if measured else ended)],
            version=versions.get(name),
        )
        parts.append(part)
    dataset = summary.dataset
    search = summary.search
    parameters = {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        **{f"{split}_images": getattr(dataset, split) for split in ("train", "validation", "test")},
        **{f"best_{setting}": value for setting, value in (search.settings if search else {}).items()},
    }
    results_of_models = {
        f"{model}.{result}": value
        for model, row in summary.models.items()
        for result in RESULTS_OF_MODEL
        if (value := getattr(row, result)) is not None
    }
    return Part(
        name=begun.run,
        failed=not summary.models,
        parameters={name: str(value) for name, value in parameters.items()},
        metrics=[Metrics(results_of_models, ended)],
        parts=parts,
        files=[*filter(folder.has, FILES), *folder.names(PLOTS)],
    )


def _values_of(epoch: EpochDone) -> dict[str, float]:
    values = {"train_loss": epoch.loss}
    for name, accuracy in (("train", epoch.train), ("validation", epoch.validation)):
        if accuracy is not None and accuracy.total:
            values[f"{name}_accuracy"] = accuracy.value
            if accuracy.balanced:
                values[f"{name}_balanced_accuracy"] = accuracy.score
    return values


def _parameters(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings in a trial's spec, by the names that they have on the command line."""
    settings = {OPTIONS.get(field, field): spec[field] for field in FIELDS if field in spec}
    for name, value in spec.get("arguments", {}).items():
        settings[f"argument {name}" if NAMES.get(name, name) in FIELDS else name] = value
    return _as_texts(settings)


def _as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items() if value is not None}
