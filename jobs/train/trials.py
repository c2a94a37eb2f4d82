"""The trials of a run, which are trained to their results. It starts with the results of the run's earlier drivers."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jobs.console.exit_codes import is_worth_a_retry
from jobs.train.display import RunProgress
from jobs.train.recorder import Recorder
from mnist_lib.assignment import Assignment
from mnist_lib.history import TrialEnded
from mnist_lib.model_file import ModelFile
from mnist_lib.report.aggregation import Tally
from mnist_lib.report.summary import trial_summary
from mnist_lib.results import EpochDone, Epochs, Started, TrialFailure, TrialResult
from mnist_lib.run_documents import FailedTrial, SuccessfulTrial
from mnist_lib.spec import TrialSpec, by_cost
from mnist_lib.store.resumption import read_result, store_result
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
        self._recorder, self._files = recorder, files
        self.progress = RunProgress(trials)
        self.tallies: dict[str, Tally] = {}  # of the trials on all images or, if there are none, of those of folds
        # Probabilities that the trial of a fold has for the images of its fold.
        self.of_folds: dict[TrialSpec, NDArray[np.float32]] = {}
        self.rows: list[SuccessfulTrial | FailedTrial] = []
        self.unfinished: list[TrialSpec] = []  # by earlier drivers
        self._refits = any(spec.fold is None for spec in trials)
        self._specs = {spec.id: spec for spec in trials}
        self._trained: dict[str, Epochs] = {}  # of the trials that have not ended
        folder = recorder.folder
        for spec in trials:
            ended = read_result(folder, spec) if folder.resumed else None
            if ended:
                self._add(*ended)
            else:
                self.unfinished.append(spec)
                self._trained[spec.id] = Epochs()
                if folder.resumed:
                    recorder.checkpoints.expect(spec.id, self._trained[spec.id])
        self.progress.restore(self.rows)
        self._waiting = by_cost(self.unfinished)
        if folder.resumed:
            for entry in folder.history():
                if isinstance(entry, EpochDone) and entry.trial in self._trained:
                    self._trained[entry.trial].add(entry)
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
        checkpoint, epochs = self._recorder.checkpoints.get(spec.id), self.epochs(spec.id)
        return Assignment(spec, checkpoint, self._files.get(spec.model), deadline, epochs=epochs)

    def epochs(self, trial: str) -> Epochs:
        """Return the epochs that were trained in all attempts at a trial that has not ended."""
        return self._trained[trial]

    def on(self, event: Any, attempt: int) -> None:
        match event:
            case Started() if event.resumed_after:
                log.info("%s: resumed after %s", event.trial, counted(event.resumed_after, "epoch"))
            case EpochDone():
                self._trained[event.trial].add(event)
            case TrialResult():
                self._add(event, attempt)
                chosen = any(tally.chosen is event for tally in self.tallies.values())
                size = sum(map(len, event.files.values()))
                write = partial(self._store, event, attempt, with_model=chosen)
                self._recorder.writes.put(write, event.trial, size=size)
            case TrialFailure():
                self._end(event, attempt)

    def _store(self, result: TrialResult, attempts: int, *, with_model: bool) -> None:
        folder, tensorboard = self._recorder.folder, f"trials/{result.trial}/tb/events.out.tfevents.{result.trial}"
        folder.write(tensorboard, result.tensorboard)
        self._recorder.write_history()  # before the result, since a trial with a result is not run again
        store_result(folder, result, attempts, with_model=with_model)

    def _add(self, result: TrialResult, attempts: int) -> None:
        spec, model = result.spec, result.spec.model
        if result.of_fold is not None:
            self.of_folds[spec] = result.of_fold
        if spec.fold is None or not self._refits:
            if model in self.tallies:
                self.tallies[model].add(result)
            else:
                self.tallies[model] = Tally(result)
        self._end(result, attempts)

    def _end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        recorder, retry = self._recorder, isinstance(outcome, TrialFailure) and is_worth_a_retry(outcome.code)
        recorder.checkpoints.forget(outcome.trial)
        self._trained.pop(outcome.trial, None)
        row = trial_summary(self._specs[outcome.trial], outcome, attempts, retry=retry)
        self.rows.append(row)
        recorder.writes.put(
            lambda: recorder.folder.write_json(f"trials/{outcome.trial}/result.json", row), outcome.trial
        )
        recorder.append(TrialEnded(trial=outcome.trial, status=row.status))
        position = f"[{len(self.rows)}/{len(self._specs)}] {outcome.trial}:"
        if isinstance(outcome, TrialResult):
            trained, epochs = outcome.trained_epochs, outcome.spec.epochs
            short = f", after {rounded(trained)} of {epochs} epochs: out of time" if trained < epochs else ""
            balanced = None if outcome.spec.score == "accuracy" else outcome.test_balanced_accuracy
            log.info("%s test accuracy %s%s", position, percent(outcome.test.value) + and_balanced(balanced), short)
        else:
            log.warning("%s failed: %s %s", position, outcome.code, outcome.message)
            log.debug("%s", outcome.details)
