"""`summary.json`: the whole result of a run as one document. Programs rely on its schema: add to it, change nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_lib.environment import package_versions
from mnist_lib.results import Accuracy, Tally, TrialFailure, TrialResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUMMARY_SCHEMA = 1


@dataclass(frozen=True)
class Stored:
    """What became of the chosen trial of a model."""

    version: int
    champion: bool
    why: str  # it is the champion, or is not


def summarize(
    *,
    run: str,
    dataset: Mapping[str, Any],
    tallies: Mapping[str, Tally],
    stored: Mapping[str, Stored],
    labels: "NDArray[np.uint8]",
    trials: Sequence[Mapping[str, Any]],
    timing: Mapping[str, float],
    ended: str,
) -> dict[str, Any]:
    """The document of DESIGN's schema 1.

    Args:
        tallies: of the models of which a trial succeeded.
        stored: what became of each of these.
        labels: of the test split.
        trials: one `trial_row` each.
        ended: UTC, ISO 8601.
    """
    return {
        "schema": SUMMARY_SCHEMA,
        "run": run,
        "dataset": dict(dataset),
        "models": {model: _model_row(tally, stored[model], labels) for model, tally in sorted(tallies.items())},
        "trials": sorted(trials, key=lambda row: (row["model"], row["seed"])),
        "ended": ended,
        "timing": dict(timing),
        "versions": dict(next((tally.chosen.versions for _, tally in sorted(tallies.items())), package_versions())),
    }


def _model_row(tally: Tally, stored: Stored, labels: "NDArray[np.uint8]") -> dict[str, Any]:
    statistics, ensemble, chosen = tally.statistics, tally.ensemble(labels), tally.chosen
    of_seeds = statistics.ci95 is not None
    return {
        "trials": statistics.count,
        "mean_test_accuracy": statistics.mean,
        "std_test_accuracy": statistics.std,
        "ci95": list(statistics.ci95 or chosen.test.interval()),
        # What the interval allows for: another seed, or (of a single trial) other test images.
        "ci95_over": "seeds" if of_seeds else "test images",
        "highest_test_accuracy": tally.highest,
        "ensemble_test": _counts(ensemble),
        "ensemble_test_accuracy": ensemble.value,
        "best_trial": chosen.trial,  # on validation, without validation the first; this is the one that is stored
        "best_trial_test_accuracy": chosen.test.value,
        "version": stored.version,
        "champion": stored.champion,
        "promotion": stored.why,
    }


def trial_row(spec_row: Mapping[str, Any], outcome: TrialResult | TrialFailure, attempts: int) -> dict[str, Any]:
    """One trial, as it ended."""
    row = {"id": outcome.trial, **spec_row, "attempts": attempts}
    if isinstance(outcome, TrialFailure):
        error = {"code": outcome.code, "message": outcome.message, "details": outcome.details}
        return {**row, "status": "failed", "error": error}
    return {
        **row,
        "status": "ok",
        "test": _counts(outcome.test),
        "test_accuracy": outcome.test.value,
        "test_ci95": list(outcome.test.interval()),
        "validation": _counts(outcome.validation) if outcome.validation else None,
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


def _counts(accuracy: Accuracy) -> dict[str, int]:
    return {"correct": accuracy.correct, "total": accuracy.total}
