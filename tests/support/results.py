"""Results of trials that were not trained."""

from collections.abc import Iterable
from typing import Any

from mnist_lib.results import EpochDone, Epochs, TrialResult
from mnist_lib.spec import TrialSpec


def trial_result(spec: TrialSpec, **fields: Any) -> TrialResult:
    """Return a result with these fields, which must include test, validation, history and probabilities."""
    defaults = {
        "test_ci95": fields["test"].interval() if fields["test"] else (0.0, 1.0),
        "best_epoch": spec.epochs,
        "trained_epochs": len(fields["history"]),
        "train_seconds": 8.0,
        "images_per_second": 45_000.0,
        "setup_seconds": 1.0,
        "replicas": 1,
        "devices": ("CPU:0",),
        "gpus": (),
        "node": "node-0/0123abcd",
        "weights_sha256": "0" * 64,
        "versions": {"python": "3.11.7", "tensorflow": "2.21.0"},
        "files": {},
    }
    return TrialResult(trial=spec.id, spec=spec, **{**defaults, **fields})


def epochs_in(events: Iterable[object]) -> Epochs:
    """Return the epochs among events, as a driver knows them."""
    epochs = Epochs()
    for event in events:
        if isinstance(event, EpochDone):
            epochs.add(event)
    return epochs
