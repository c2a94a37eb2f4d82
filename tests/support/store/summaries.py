"""A small summary of a run, as it is stored."""

from typing import Any


def small_summary(**fields: Any) -> dict[str, Any]:
    """Return a summary of a run without trials, with these fields instead of its own."""
    dataset = {"name": "mnist", "version": "3.0.1", "fingerprint": "f", "train": 90, "validation": 10, "test": 20}
    summary = {
        "schema": 1,
        "run": "r",
        "dataset": dataset,
        "models": {},
        "trials": [],
        "ended": "2026-11-25T03:00:31Z",
        "timing": {"wall_seconds": 31.0},
        "versions": {"python": "3.11.7"},
    }
    return {**summary, **fields}


def small_trial(seed: int, **fields: Any) -> dict[str, Any]:
    """Return the row of a trial that failed, with these fields instead of its own."""
    trial = {"id": f"keras-s{seed}", "model": "keras", "dataset": "mnist", "seed": seed, "epochs": 5, "attempts": 1}
    error = {"code": "E-NAN", "message": "the loss is not a number", "details": "", "retry": False}
    return {**trial, "status": "failed", "error": error, **fields}


def small_model(**fields: Any) -> dict[str, Any]:
    """Return the row of a model with one successful trial, with these fields instead of its own."""
    accuracies = ("mean_test_accuracy", "highest_test_accuracy", "ensemble_test_accuracy", "best_trial_test_accuracy")
    model = {
        "trials": 1,
        **dict.fromkeys(accuracies, 0.95),
        "std_test_accuracy": None,
        "ci95": [0.9, 1.0],
        "ci95_over": "test images",
        "ensemble_test": {"correct": 19, "total": 20},
        "best_trial": "keras-s0",
        "version": 1,
        "champion": True,
        "promotion": "the first champion",
        "significance": {"total": 0.05, "left": 0.05, "comparisons": 0},
    }
    return {**model, **fields}
