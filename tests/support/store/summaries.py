"""A small summary of a run, as it is stored."""

from collections.abc import Mapping
from typing import Any

from mnist_lib.catalog import DIGITS
from mnist_lib.documents import decode, encode
from mnist_lib.run_documents import Summary
from mnist_lib.spec import TrialSpec


def summary_of(document: Mapping[str, Any]) -> Summary:
    """Return the summary in a document."""
    return decode(encode(document), Summary, "the summary")


def small_summary(**fields: Any) -> dict[str, Any]:
    """Return a summary of a run without trials, with these fields instead of its own."""
    dataset = {"name": "mnist", "version": "3.0.1", "fingerprint": "f", "train": 90, "validation": 10, "test": 20}
    images = {"classes": [*DIGITS], "image_shape": [28, 28, 1], "largest_class": 2}
    seconds = {"wall_seconds": 31.0, "start_seconds": 1.0, "prepare_seconds": 1.0, "trials_seconds": 28.0}
    summary = {
        "schema": 2,
        "run": "r",
        "dataset": {**dataset, **images},
        "models": {},
        "trials": [],
        "ended": "2026-11-25T03:00:31Z",
        "timing": {**seconds, "store_seconds": 1.0},
        "versions": {"python": "3.11.7"},
    }
    return {**summary, **fields}


def small_trial(seed: int, **fields: Any) -> dict[str, Any]:
    """Return the row of a trial that failed, with these fields, of its spec or its own, instead of the usual ones."""
    spec = {"model": "keras", "dataset": "mnist", "seed": seed, "epochs": 5, "arguments": {"hidden_units": 512}}
    settings = {"global_batch_size": 32, "optimizer": "rmsprop", "learning_rate": 0.001, "schedule": "constant"}
    spec |= {**settings, "precision": "float32", "validation_percent": 10}
    spec |= {name: fields.pop(name) for name in [*fields] if name in TrialSpec.__dataclass_fields__}
    error = {"code": "E-NAN", "message": "the loss is not a number", "details": "", "retry": False}
    trial = {"id": f"keras-s{seed}", "spec": spec, "attempts": 1, "status": "failed", "error": error}
    return {**trial, **fields}


def successful_trial(seed: int, **fields: Any) -> dict[str, Any]:
    """Return the row of a trial that succeeded, with these fields instead of its own."""
    counts = {"correct": 9, "total": 10}
    result = {"test": counts, "test_accuracy": 0.9, "test_ci95": [0.6, 1.0], "validation": counts, "best_epoch": 5}
    seconds = {"trained_epochs": 5, "train_seconds": 1.0, "setup_seconds": 1.0, "images_per_second": 1.0}
    where = {"replicas": 1, "devices": ["CPU:0"], "gpus": [], "weights_sha256": "0" * 64, "node": "n"}
    trial = small_trial(seed, **{"status": "ok", **result, **seconds, **where, **fields})
    del trial["error"]
    return trial


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
