"""`summary.json`: the whole result of a run in one document. Programs rely on its schema: only add to it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from mnist_lib.aggregation import Tally
from mnist_lib.environment import package_versions
from mnist_lib.results import Accuracy, TrialFailure, TrialResult
from mnist_lib.run_documents import SUMMARY_SCHEMA
from mnist_lib.spec import OPTIONAL_FIELDS, TrialSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mnist_lib.data.split import Labels

SETTINGS = [field.name for field in fields(TrialSpec) if field.name not in ("model", "dataset", "seed", "arguments")]


@dataclass(frozen=True)
class Stored:
    """The version that holds the chosen trial of a model."""

    version: int
    champion: bool
    why: str  # reason for `champion`
    significance: Mapping[str, float] | None = None  # what is left of it for this data set, as in `Budget.document`


def summarize(
    *,
    run: str,
    dataset: Mapping[str, Any],
    tallies: Mapping[str, Tally],  # of the models with a successful trial
    stored: Mapping[str, Stored],  # of the same models
    labels: "Labels",  # [test images]
    trials: Sequence[Mapping[str, Any]],  # a `trial_row` each
    timing: Mapping[str, float],
    ended: str,  # UTC, ISO 8601
    published: "Labels | None" = None,  # [test images]: before corrections, if these differ
    new: "NDArray[np.bool_] | None" = None,  # [test images]: those that the last run did not have
) -> dict[str, Any]:
    """Return the summary of a run."""
    return {
        "schema": SUMMARY_SCHEMA,
        "run": run,
        "dataset": dict(dataset),
        "models": {
            model: _model_row(tally, stored[model], labels) | _partial_tests(tally.chosen, labels, published, new)
            for model, tally in sorted(tallies.items())
        },
        "trials": sorted(trials, key=lambda row: (row["model"], row["seed"])),
        "ended": ended,
        "timing": dict(timing),
        "versions": dict(next((tally.chosen.versions for _, tally in sorted(tallies.items())), package_versions())),
    }


def _model_row(tally: Tally, stored: Stored, labels: "Labels") -> dict[str, Any]:
    statistics, ensemble, chosen = tally.statistics, tally.ensemble(labels), tally.chosen
    return {
        "trials": statistics.count,
        "mean_test_accuracy": statistics.mean,
        "std_test_accuracy": statistics.std,
        "ci95": list(statistics.ci95 or chosen.test.interval()),
        # What the interval covers: another seed or, for a single trial, other test images.
        "ci95_over": "test images" if statistics.ci95 is None else "seeds",
        "highest_test_accuracy": tally.highest,
        "ensemble_test": asdict(ensemble),
        "ensemble_test_accuracy": ensemble.value,
        "best_trial": chosen.trial,  # the stored trial: the best on validation, or the first without validation
        "best_trial_test_accuracy": chosen.test.value,
        "version": stored.version,
        "champion": stored.champion,
        "promotion": stored.why,
        "significance": dict(stored.significance) if stored.significance else None,
    }


def _partial_tests(
    chosen: TrialResult, labels: "Labels", published: "Labels | None", new: "NDArray[np.bool_] | None"
) -> dict[str, Any]:
    """Return the accuracy of the stored trial on the published labels, and on the new test images alone."""
    answers, row = chosen.probabilities.argmax(axis=1), dict[str, Any]()
    if published is not None:
        test = Accuracy(int((answers == published).sum()), len(published))
        row |= {"published_test": asdict(test), "published_test_accuracy": test.value}
    if new is not None and new.any():
        test = Accuracy(int((answers == labels)[new].sum()), int(new.sum()))
        row |= {"new_test": asdict(test), "new_test_accuracy": test.value}
    return row


def trial_row(
    spec_row: Mapping[str, Any], outcome: TrialResult | TrialFailure, attempts: int, *, retry: bool = False
) -> dict[str, Any]:
    """Return one trial with its result or its error.

    Args:
        spec_row: the fields of its `TrialSpec`.
        retry: whether a failed trial may succeed in another run of the same command.
    """
    units = {
        name: size for name, size in spec_row.get("arguments", {}).items() if name == "hidden_units"
    }  # as in schema 1
    row = {"id": outcome.trial, **spec_row, **units, "attempts": attempts}
    if isinstance(outcome, TrialFailure):
        error = {"code": outcome.code, "message": outcome.message, "details": outcome.details, "retry": retry}
        return {**row, "status": "failed", "error": error}
    return {
        **row,
        "status": "ok",
        "test": asdict(outcome.test),
        "test_accuracy": outcome.test.value,
        "test_ci95": list(outcome.test.interval()),
        "validation": asdict(outcome.validation) if outcome.validation else None,
        "best_epoch": outcome.best_epoch,
        "trained_epochs": len(outcome.history),
        "train_seconds": outcome.train_seconds,
        "setup_seconds": outcome.setup_seconds,
        "images_per_second": outcome.images_per_second,
        "replicas": outcome.replicas,
        "devices": list(outcome.devices),
        "gpus": list(outcome.gpus),
        "weights_sha256": outcome.weights_sha256,
        "node": outcome.node,
    }


def settings_of(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the settings of each model as text: {"learning rate": {"keras": "0.001"}}."""
    found: dict[str, dict[str, str]] = {}
    for trial in summary["trials"]:
        settings = {name: trial[name] for name in (*SETTINGS, "hidden_units") if name in trial}
        for name, value in trial.get("arguments", {}).items():
            settings[f"argument {name}" if settings.get(name, value) != value else name] = value
        if settings.get("source_sha256"):
            settings["source_sha256"] = settings["source_sha256"][:12]
        for name, value in settings.items():
            if value or name not in OPTIONAL_FIELDS:
                found.setdefault(name.replace("_", " "), {})[trial["model"]] = str(value)
    return found
