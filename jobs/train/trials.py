"""The trials of a run, which are trained to their results. It starts with the results of the run's earlier drivers."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import structs

from jobs.console.exit_codes import is_worth_a_retry
from jobs.train.display import RunProgress
from jobs.train.recorder import Recorder
from mnist_lib.model_file import ModelFile
from mnist_lib.report.aggregation import Tally
from mnist_lib.results import EpochDone, TrialFailure, TrialRecord, TrialResult, TrialStarted, add_epoch
from mnist_lib.run_documents import ErrorSummary, FailedTrial
from mnist_lib.spec import TrialSpec, by_cost
from mnist_lib.store.history import TrialEnded
from mnist_lib.store.resumption import read_result, store_result
from mnist_lib.training.assignment import Assignment
from mnist_lib.wording import and_balanced, counted, percent, rounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Trials:
    """The trials of a run, as what its loop trains, and their results.

    Args:
        files: the files that define models, by model.
    """

    expects_more = False

    def __init__(
        self, recorder: Recorder, trials: Sequence[TrialSpec], files: Mapping[str, ModelFile] = MappingProxyType({})
    ) -> None:
        self._recorder = recorder
        self._files = files
        self.progress = RunProgress(trials)
        self.tallies: dict[str, Tally] = {}  # of the trials on all images or, if there are none, of those of folds
        # Probabilities that the trial of a fold has for the images of its fold.
        self.of_folds: dict[TrialSpec, NDArray[np.float32]] = {}
        self.rows: list[TrialRecord | FailedTrial] = []
        self.unfinished: list[TrialSpec] = []  # by earlier drivers
        self._refits = any(spec.fold is None for spec in trials)
        self._specs = {spec.id: spec for spec in trials}
        self._trained: dict[str, list[EpochDone]] = {}  # of the trials that have not ended
        folder = recorder.folder
        for spec in trials:
            result = read_result(folder, spec) if folder.resumed else None
            if result:
                self._add(result)
            else:
                self.unfinished.append(spec)
                self._trained[spec.id] = []
        self.progress.restore(self.rows)
        self._waiting = by_cost(self.unfinished)
        if folder.resumed:
            for entry in folder.history():
                if isinstance(entry, EpochDone) and entry.trial in self._trained:
                    add_epoch(self._trained[entry.trial], entry)
            log.info("resuming run %s: %d of %s ended", folder.run, len(self.rows), counted(len(trials), "trial"))

    @property
    def is_done(self) -> bool:
        return not self._trained

    def next_trials(self, queued: int) -> Sequence[TrialSpec]:
        trials, self._waiting = self._waiting, []
        return trials

    def is_ready(self, spec: TrialSpec) -> bool:
        return self._recorder.checkpoints.is_ready(spec.id)

    def assignment(self, spec: TrialSpec, deadline: float) -> Assignment:
        checkpoint = self._recorder.checkpoints.get(spec.id)
        epochs = self.epochs(spec.id)
        return Assignment(spec, checkpoint, self._files.get(spec.model), deadline, epochs=epochs)

    def epochs(self, trial: str) -> Sequence[EpochDone]:
        """Return the epochs that were trained in all attempts at a trial that has not ended."""
        return self._trained[trial]

    def on(self, event: Any, attempt: int) -> None:
        match event:
            case TrialStarted() if event.resumed_after:
                log.info("%s: resumed after %s", event.trial, counted(event.resumed_after, "epoch"))
            case EpochDone():
                add_epoch(self._trained[event.trial], event)
            case TrialResult():
                result = structs.replace(event, record=structs.replace(event.record, attempts=attempt))
                self._add(result)
                chosen = any(tally.chosen is result for tally in self.tallies.values())
                size = sum(map(len, result.files.values()))
                self._recorder.writes.put(partial(self._store, result, with_model=chosen), result.trial, size=size)
            case TrialFailure():
                error = ErrorSummary(
                    code=event.code,
                    message=event.message,
                    details=event.details,
                    retry=is_worth_a_retry(event.code),
                )
                self._end(FailedTrial(id=event.trial, spec=self._specs[event.trial], attempts=attempt, error=error))

    def _store(self, result: TrialResult, *, with_model: bool) -> None:
        folder = self._recorder.folder
        tensorboard = f"trials/{result.trial}/tb/events.out.tfevents.{result.trial}"
        folder.write(tensorboard, result.tensorboard)
        self._recorder.write_history()  # before the result, since a trial with a result is not run again
        store_result(folder, result, with_model=with_model)

    def _add(self, result: TrialResult) -> None:
        spec = result.record.spec
        model = spec.model
        if result.of_fold is not None:
            self.of_folds[spec] = result.of_fold
        if spec.fold is None or not self._refits:
            if model in self.tallies:
                self.tallies[model].add(result)
            else:
                self.tallies[model] = Tally(result)
        self._end(result.record)

    def _end(self, row: TrialRecord | FailedTrial) -> None:
        recorder = self._recorder
        recorder.checkpoints.forget(row.id)
        self._trained.pop(row.id, None)
        self.rows.append(row)
        recorder.writes.put(lambda: recorder.folder.write_json(f"trials/{row.id}/result.json", row), row.id)
        recorder.append(TrialEnded(trial=row.id, status=row.status))
        position = f"[{len(self.rows)}/{len(self._specs)}] {row.id}:"
        if isinstance(row, TrialRecord):
            trained = row.trained_epochs
            epochs = row.spec.epochs
            short = f", after {rounded(trained)} of {epochs} epochs: out of time" if trained < epochs else ""
            balanced = None if row.spec.score == "accuracy" else row.test_balanced_accuracy
            log.info("%s test accuracy %s%s", position, percent(row.test_accuracy) + and_balanced(balanced), short)
        else:
            log.warning("%s failed: %s %s", position, row.error.code, row.error.message)
            log.debug("%s", row.error.details)
