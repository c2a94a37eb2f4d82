"""What becomes of each trial of a run: takes every event to the log, the run's folder and the tallies, and knows where
a trial goes on."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from cluster.errors import VersionsError
from cluster.lanes.fan_out import Died
from mnist_lib.environment import differing_versions
from mnist_lib.report.summary import trial_row
from mnist_lib.results import CheckpointTaken, EpochDone, LaneStarted, Started, Tally, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.resumption import keep_checkpoint, keep_result, newest_checkpoint, read_result
from mnist_lib.store.runs import RunFolder

log = logging.getLogger(__name__)


# What to do, by the code of a death.
ADVICE = {
    "E-CRASH": "; see what ends processes there (dmesg, Ray's logs), then run it again under another --run-name",
    "E-OOM": "; give a lane more of the node with --cpus-per-trial, or lower --batch-size",
    "E-NODE-LOST": "; see why the nodes go, then run it again under another --run-name",
    "E-SILENT": "; see what keeps that node busy, then run it again under another --run-name",
    "E-TIMEOUT": "; raise --trial-timeout or lower --epochs",
}


class Recorder:
    """Begins with what earlier drivers of the run have left in its folder."""

    def __init__(self, folder: RunFolder, trials: Sequence[TrialSpec]) -> None:
        self.tallies: dict[str, Tally] = {}
        self.rows: list[dict[str, Any]] = []
        self.unfinished: list[TrialSpec] = []
        self._folder = folder
        self._specs = {spec.id: spec for spec in trials}
        self._checkpoints: dict[str, bytes] = {}
        self._epochs: dict[str, int] = {}  # that a trial has reached with its newest checkpoint
        for spec in trials:
            ended = read_result(folder, spec) if folder.resumed else None
            if ended:
                self._add(*ended)
            else:
                self.unfinished.append(spec)
                checkpoint = newest_checkpoint(folder, spec.id) if folder.resumed else None
                if checkpoint:
                    self._checkpoints[spec.id] = checkpoint
        if folder.resumed:
            log.info("resuming run %s: %d of %d trial(s) have ended", folder.run, len(self.rows), len(trials))

    def checkpoints(self, specs: Sequence[TrialSpec]) -> dict[str, bytes]:
        """The newest of each that has one."""
        return {spec.id: self._checkpoints[spec.id] for spec in specs if spec.id in self._checkpoints}

    def take(self, event: object, attempts: Callable[[str], int]) -> None:
        """
        Args:
            attempts: at a trial, so far.

        Raises:
            VersionsError: a worker would train with other packages than are installed here.
        """
        match event:
            case LaneStarted():
                differing = differing_versions(event.versions)
                if differing:
                    raise VersionsError(
                        f"the worker on {event.host} and this process differ: {differing}"
                        "; install requirements/runtime.lock on every node"
                    )
            case Started():
                for notice in event.notices:
                    log.warning("%s: %s", event.trial, notice)
                self._epochs[event.trial] = event.resumed_after
                if event.resumed_after:
                    log.info("%s: goes on after epoch %d", event.trial, event.resumed_after)
                self._folder.append_history({"event": "started", **asdict(event)})
            case EpochDone():
                log.debug("%s: epoch %d, loss %.4f, %s", event.trial, event.epoch, event.loss, _validated(event))
                self._folder.append_history({"event": "epoch", **asdict(event)})
            case CheckpointTaken():
                self._checkpoints[event.trial] = event.content
                self._epochs[event.trial] = event.epoch
                keep_checkpoint(self._folder, event.trial, event.epoch, event.content)
            case TrialResult():
                self._add(event, attempts(event.trial))
                tensorboard = f"trials/{event.trial}/tb/events.out.tfevents.{event.trial}"
                self._folder.write(tensorboard, event.tensorboard)
                self._folder.flush()  # the history first: what has ended is not told again
                chosen = self.tallies[event.spec.model].chosen is event
                keep_result(self._folder, event, attempts(event.trial), with_model=chosen)
            case TrialFailure():
                self._end(event, attempts(event.trial))
            case Died():
                self._take_death(event)

    def _take_death(self, died: Died) -> None:
        self._folder.append_history(
            {"event": "died", "trial": died.item, "attempt": died.attempt, "reason": str(died.death)}
        )
        if died.final:
            kind = died.death.kind
            attempts = "1 attempt" if died.attempt == 1 else f"{died.attempt} attempts"
            message = f"failed after {attempts}: {died.death}{ADVICE.get(kind.code, '')}"
            failure = TrialFailure(trial=died.item, code=kind.code, message=message, details=died.death.traceback)
            self._end(failure, died.attempt)
            return
        how = "beginning it again"
        if died.item in self._checkpoints:
            epoch = self._epochs.get(died.item)  # an attempt that has not started does not know it
            how = "resuming from its checkpoint" if epoch is None else f"resuming at epoch {epoch + 1}"
        where = f" ({died.death.details})" if died.death.details else ""
        log.warning("attempt %d of %s died (%s); %s%s", died.attempt, died.item, died.death.kind.said, how, where)

    def _add(self, result: TrialResult, attempts: int) -> None:
        model = result.spec.model
        if model in self.tallies:
            self.tallies[model].add(result)
        else:
            self.tallies[model] = Tally(result)
        self._end(result, attempts)

    def _end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        self._checkpoints.pop(outcome.trial, None)
        row = trial_row(asdict(self._specs[outcome.trial]), outcome, attempts)
        self.rows.append(row)
        self._folder.write_json(f"trials/{outcome.trial}/result.json", row)
        self._folder.append_history({"event": "ended", "trial": outcome.trial, "status": row["status"]})
        done = f"[{len(self.rows)}/{len(self._specs)}] {outcome.trial}:"
        if isinstance(outcome, TrialResult):
            early = len(outcome.history) < outcome.spec.epochs
            short = f", after {len(outcome.history)} of {outcome.spec.epochs} epochs: time was up" if early else ""
            log.info("%s %.2f%% of the test images right%s", done, 100 * outcome.test.value, short)
        else:
            log.warning("%s failed: %s %s", done, outcome.code, outcome.message)
            log.debug("%s", outcome.details)


def _validated(event: EpochDone) -> str:
    return f"validation accuracy {event.validation.value:.4f}" if event.validation else "no validation"
