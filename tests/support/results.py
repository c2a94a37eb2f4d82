"""Results of trials that were not trained."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from msgspec import structs

from mnist_lib.results import EpochDone, TrialFailure, TrialRecord, TrialResult, add_epoch
from mnist_lib.run_documents import ErrorSummary, FailedTrial
from mnist_lib.spec import TrialSpec


def trial_result(spec: TrialSpec, **fields: Any) -> TrialResult:
    """Return a result with these fields, which must include test, validation, history and probabilities.

    The others are fields of the result or of its record.
    """
    defaults = {
        "test_accuracy": fields["test"].value if fields["test"] else 0.0,
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
    values = {**defaults, **fields}
    of_record = {name: values.pop(name) for name in [*values] if name in TrialRecord.__struct_fields__}
    return TrialResult(trial=spec.id, record=TrialRecord(id=spec.id, spec=spec, **of_record), **values)


def with_fields(trial: Any, **fields: Any) -> Any:
    """Return a trial of a summary, or the result of one, with other fields, some of which may be those of its spec."""
    if isinstance(trial, TrialResult):
        return structs.replace(trial, record=with_fields(trial.record, **fields))
    of_spec = {name: fields.pop(name) for name in [*fields] if name in TrialSpec.__dataclass_fields__}
    return structs.replace(trial, spec=replace(trial.spec, **of_spec), **fields)


def failed_trial(spec: TrialSpec, failure: TrialFailure) -> FailedTrial:
    """Return the row of a trial whose first attempt failed."""
    error = ErrorSummary(code=failure.code, message=failure.message, details=failure.details)
    return FailedTrial(id=spec.id, spec=spec, error=error)


def epochs_in(events: Iterable[object]) -> list[EpochDone]:
    """Return the epochs among events, as a driver knows them."""
    epochs: list[EpochDone] = []
    for event in events:
        if isinstance(event, EpochDone):
            add_epoch(epochs, event)
    return epochs
