"""A search, from its first configuration to the stored models of the winner. It never imports TensorFlow."""

import contextlib
import logging
import math
import re
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypedDict

from cluster.connection.session import end_children, end_of_node
from cluster.deadlines import Clock, Limits
from cluster.lanes.fan_out import Died, FanOut
from cluster.lanes.lane import RayLanes
from cluster.lanes.ports import Cluster
from cluster.lanes.resources import LanePlan
from jobs.console.exit_codes import TrainingError
from jobs.console.signals import stoppable
from jobs.search.options import SearchOptions
from jobs.train import worker
from jobs.train.checkpoints import Checkpoints
from jobs.train.dataset import RunDataset
from jobs.train.driver import lane_plan, train_on
from jobs.train.planning import connected
from jobs.train.recorder import ADVICE, require_same_versions
from jobs.train.write_queue import WriteQueue
from mnist_lib.assignment import Assignment
from mnist_lib.documents import Name, Number, Seconds, convert, decode
from mnist_lib.environment import package_versions
from mnist_lib.results import (
    Accuracy,
    CheckpointTaken,
    Counts,
    EpochDone,
    LaneStarted,
    RungDone,
    Started,
    TrialFailure,
)
from mnist_lib.run_documents import Cut, SearchDocument, SearchSummary
from mnist_lib.search.halving import Decision, Step
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import HISTORY, SEARCH, RunFolder
from mnist_lib.wording import counted, percent

log = logging.getLogger(__name__)

START_SECONDS = 20.0  # reserved for the lanes of the final trials, and for storing
GROWTH = 1.05  # factor by which decisions must grow in number before `search.json` is written again
MARGIN = 1.5  # final trials may be slower than those that were measured
CODES_THAT_END_A_SEARCH = ("E-DATA",)  # a model may fail for some arguments only


def search(
    options: SearchOptions, begin: float, folder: RunFolder, code: Mapping[str, Any], advice: str
) -> dict[str, Any]:
    """Search, train the winner with fresh seeds, store the results, and return the summary.

    What earlier drivers of the search have decided and trained is not repeated.

    Args:
        begin, code, advice: as in `jobs.train.driver.train_trials`.

    Raises:
        TrainingError: no configuration could be trained.
        Also raises what `train_trials` raises.
    """
    deadline = options.deadline(begin - folder.seconds_worked())
    with connected(options), stoppable(advice, end_children, end_of_node()):
        data = RunDataset(folder, options, options.grid())
        folder.append_history({"event": "driver", "trial": ""})
        with contextlib.closing(WriteQueue()) as writes:
            plan = lane_plan(options, options.halving().configurations)
            found = Search(options, folder, writes, plan.lanes, deadline)
            if not found.is_over:
                limits, resources = options.limits(), options.resources(plan.cpus, plan.gpus)
                lanes = RayLanes(worker.run_lane, plan, limits, [data.images], resources, options.pace())
                found.run(lanes, limits, plan, wait=data.facts)
        winner = found.winner()
        found.delete_checkpoints()
        return train_on(data, options, options.finals(found.settings(winner)), deadline, folder, code, found.summary())


class Search:
    """A search on a cluster: gives lanes their next steps, and records scores and decisions.

    Args:
        deadline: the Unix time at which the final trials must have ended.
        wall: returns the Unix time.
    """

    def __init__(
        self,
        options: SearchOptions,
        folder: RunFolder,
        writes: WriteQueue,
        lanes: int,
        deadline: float = math.inf,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options, self._folder, self._halving = options, folder, options.halving()
        self._writes, self._lanes, self._deadline, self._wall = writes, lanes, deadline, wall
        self.settings = options.proposals(self._halving)
        self._versions = package_versions()
        self._steps: dict[str, Step] = {}  # by trial, those that have been submitted and have no score
        self._checkpoints = Checkpoints(folder)
        self._seen: dict[str, float] = {}  # Unix time of each trial's last epoch
        self._epoch_seconds: deque[float] = deque(maxlen=101)  # including validation, except for first epochs
        self._cut: Cut | None = None
        self._written = 0  # decisions in the stored document
        self._so_far: dict[int, Accuracy] = {}  # the best score of each configuration, rung or not
        self._speeds: dict[int, float] = {}  # seconds of an epoch of each configuration
        self._failures: list[str] = []
        if folder.resumed:
            self._restore()

    @property
    def is_over(self) -> bool:
        return self._halving.is_complete or (self._cut is not None and self._cut["over"])

    def winner(self) -> int:
        """Return the best configuration. Raises TrainingError if there is none."""
        best = self._best()
        if best is None:
            why = f" (the first: {self._failures[0]})" if self._failures else ""
            raise TrainingError(f"no configuration could be trained{why}; change --vary or --space", *self._codes())
        number, score = best
        settings = ", ".join(f"{name} {value}" for name, value in self.settings(number).items())
        log.info("the best of the search: %s, with %s validation accuracy", settings, percent(score.value))
        return number

    def _best(self) -> tuple[int, Accuracy] | None:
        """Return the best configuration and its score; before the first rung is complete, the best one so far."""
        so_far = [(number, score) for number, score in self._so_far.items() if score.total]
        return self._halving.best() or max(so_far, key=lambda item: (item[1].value, -item[0]), default=None)

    def _codes(self) -> list[str]:
        """Return the error code of all failures, if it is the same."""
        codes = {failure.partition(" ")[0] for failure in self._failures}
        return [*codes] if len(codes) == 1 else []

    def delete_checkpoints(self) -> None:
        """Delete what is left of configurations that the search did not complete."""
        for trial in {name.split("/")[1] for name in self._folder.names("trials")}:
            if re.search(r"-c\d+$", trial):  # not a final trial
                self._folder.delete_below(f"trials/{trial}")

    def run(
        self,
        cluster: Cluster,
        limits: Limits,
        plan: LanePlan,
        wait: Callable[[], object] = lambda: None,
        clock: Clock = time,
    ) -> None:
        """Train until the search is complete or out of time.

        Args:
            wait: waits for the dataset, while lanes start.
        """
        fan_out = FanOut(
            cluster,
            limits,
            plan,
            self._payload,
            max_lanes=self._options.max_concurrent,
            is_full=lambda: self._writes.is_full,
            expects_more=lambda: not self.is_over,
            clock=clock,
        )
        with fan_out:
            self._submit(fan_out)
            wait()
            for event in fan_out.events():
                self._record(event)
                self._look_at_the_clock()
                if self.is_over:
                    break
                self._submit(fan_out)

    def _trial(self, number: int) -> TrialSpec:
        return self._options.trial(self.settings(number), number)

    def _submit(self, fan_out: FanOut) -> None:
        """Queue as many steps as there are lanes, so that none is idle while there is something to train."""
        while fan_out.queued < self._lanes and (step := self._halving.next_step()):
            spec = self._trial(step.configuration)
            self._steps[spec.id] = step
            fan_out.submit([spec])

    def _payload(self, spec: TrialSpec, rounds: int) -> Assignment:
        if self._folder.resumed and spec.id not in self._checkpoints:
            self._checkpoints.read(spec.id)
        source = self._options.model_files.get(spec.model)
        until = self._halving.epochs_of(self._steps[spec.id])
        return Assignment(spec, self._checkpoints.get(spec.id), source, until=until)

    # Events

    def _record(self, event: object) -> None:
        match event:
            case LaneStarted():
                require_same_versions(event.host, event.versions, self._versions)
            case Started():
                for notice in event.notices:
                    log.warning("%s: %s", event.trial, notice)
                self._note({"event": "started", **asdict(event)})
            case EpochDone():
                # The first epoch of a trial also includes waits, such as for the dataset, so its own time is used.
                seen, now = self._seen.get(event.trial), self._wall()
                self._epoch_seconds.append(event.seconds if seen is None else now - seen)
                self._seen[event.trial] = now
                self._note_progress(event.trial, event.validation)
                self._note({"event": "epoch", **asdict(event)})
            case CheckpointTaken():
                self._keep(event.trial, event.epoch, event.content)
            case RungDone():
                self._speeds[self._steps[event.trial].configuration] = event.seconds / event.epoch
                self._end(event.trial, event.validation, event.epoch, event.content)
            case TrialFailure():
                if event.code in CODES_THAT_END_A_SEARCH:
                    raise TrainingError(f"{event.trial}: {event.message}", event.code)
                log.debug("%s", event.details)
                self._fail(event.trial, f"{event.code} {event.message}")
                self._end(event.trial, None, self._halving.epochs_of(self._steps[event.trial]))
            case Died():
                self._note({"event": "died", "trial": event.item, "attempt": event.attempt, "reason": str(event.death)})
                if event.final:
                    kind = event.death.kind
                    self._fail(event.item, f"{kind.code} {event.death}{ADVICE.get(kind.code, '')}")
                    self._end(event.item, None, self._halving.epochs_of(self._steps[event.item]))
                else:
                    log.warning("attempt %d of %s died (%s)", event.attempt, event.item, event.death.kind.text)

    def _fail(self, trial: str, reason: str) -> None:
        log.warning("%s failed: %s", trial, reason)
        self._failures.append(reason)
        self._note({"event": "failed", "trial": trial, "reason": reason})

    def _note_progress(self, trial: str, validation: Accuracy | None) -> None:
        """Note the best score of a configuration so far, which decides if no rung is completed in time."""
        number = int(trial.rpartition("-c")[2])
        if validation and validation.value >= self._so_far.get(number, validation).value:
            self._so_far[number] = validation

    def _note(self, entry: Mapping[str, Any]) -> None:
        entry = {"at": round(self._wall(), 3), **entry}
        self._writes.put(partial(self._folder.append_history, entry), "history")

    def _keep(self, trial: str, epoch: int, content: bytes) -> None:
        self._checkpoints.put(trial, content)
        write = partial(self._checkpoints.store, trial, epoch, content)
        # In the queue of the history, so that a checkpoint is written before the entries that refer to it.
        self._writes.put(write, "history", size=len(content))

    def _end(self, trial: str, score: Accuracy | None, epoch: int, checkpoint: bytes = b"") -> None:
        """Record the score of a step, and the decision if it completes its rung, before any survivor continues."""
        step = self._steps.pop(trial)
        self._seen.pop(trial, None)
        if len(checkpoint):
            self._keep(trial, epoch, checkpoint)
        status = "failed" if score is None else "rung"
        validation = None if score is None else asdict(score)
        self._note({"event": "rung", "trial": trial, "epoch": epoch, "validation": validation, "status": status})
        decision = self._halving.record(step, score)
        if decision is not None:
            self._decided(decision)

    def _decided(self, decision: Decision) -> None:
        decisions = len(self._halving.decisions)
        # A large document is not written for each decision, which follows from the recorded scores alone.
        if self.is_over or decisions > GROWTH * self._written:
            self._write_decisions()
        ended = [number for number in decision.scores if number not in decision.survivors]
        for trial in (self._trial(number).id for number in ended):
            self._checkpoints.forget(trial)
            self._writes.put(partial(self._folder.delete_below, f"trials/{trial}"), "history")
        best = self._halving.best()
        trained = f"{counted(len(decision.scores), 'configuration')} trained for {counted(decision.epochs, 'epoch')}"
        go_on = f", {len(decision.survivors)} of them go on" if decision.survivors else ""
        most = "none" if best is None else f"{percent(best[1].value)} ({self._trial(best[0]).id})"
        log.info("bracket %d: %s%s; best so far: %s", decision.bracket + 1, trained, go_on, most)

    def _write_decisions(self) -> None:
        document, self._written = self.document(), len(self._halving.decisions)
        self._writes.put(self._folder.flush, "history")  # the scores come before what follows from them
        self._writes.put(partial(self._folder.write_json, SEARCH, document), "history")

    def document(self) -> dict[str, Any]:
        """Return what `search.json` holds: no times or host names, so that equal searches have equal files."""
        tried = {number for decision in self._halving.decisions for number in decision.scores}
        best = self._best()
        return {
            "schema": 1,
            "space": self._options.variation.document(),
            "strategy": self._options.strategy,
            "rungs": list(self._halving.ladder.rungs),
            "configurations": {str(number): self.settings(number) for number in sorted(tried)},
            "decisions": [
                {
                    "bracket": made.bracket,
                    "rung": made.rung,
                    "epochs": made.epochs,
                    "scores": {str(n): None if score is None else asdict(score) for n, score in made.scores.items()},
                    "survivors": list(made.survivors),
                }
                for made in self._halving.decisions
            ],
            "cut": self._cut,
            "best": None if best is None else {"configuration": best[0], "validation": asdict(best[1])},
        }

    def summary(self) -> SearchSummary:
        """Return what the summary of the run says about a search that has a winner."""
        best = self._best()
        assert best is not None, "call `winner` first"
        return SearchSummary(
            settings=dict(self.settings(best[0])),
            configurations=self._halving.tried,
            epochs=self._halving.epochs,
            validation=Counts(correct=best[1].correct, total=best[1].total),
        )

    # Time

    def _look_at_the_clock(self) -> None:
        """Drop the brackets for which no time is left, and end the search when the final trials must begin."""
        if math.isinf(self._deadline) or len(self._epoch_seconds) < 2:
            return
        left = self._deadline - self._wall() - self._final_seconds()
        begun = self._halving.begun
        if left <= 0 and self._best() is not None:
            self._cut = Cut(brackets=begun, over=True)
            log.info("the search ends here, so that the winner can be trained by the deadline")
            self._write_decisions()
            return
        bracket = self._halving.ladder.epochs_of(self._halving.ladder.bracket) * self._epoch() / self._lanes
        if bracket > left and begun < self._halving.brackets and self._cut is None:
            self._halving.restrict(begun)
            self._cut = Cut(brackets=begun, over=False)
            log.info("no time is left for more than %s", counted(begun, "bracket"))
            self._write_decisions()

    def _epoch(self) -> float:
        return statistics.median(self._epoch_seconds)

    def _final_seconds(self) -> float:
        rounds = math.ceil(self._options.final_seeds / self._lanes)
        best = self._best()
        epoch = max(self._epoch(), 0.0 if best is None else self._speeds.get(best[0], 0.0))
        return START_SECONDS + MARGIN * rounds * self._options.epochs * epoch

    # Resuming

    def _restore(self) -> None:
        """Record the scores of earlier drivers, and drop what they have dropped."""
        if content := self._folder.read(SEARCH):
            self._cut = decode(content, SearchDocument, f"{self._folder.where}/{SEARCH}")["cut"]
        scores: dict[tuple[str, int], Accuracy | None] = {}
        for entry in self._folder.history():
            if entry["event"] == "epoch":
                found = convert(entry, SearchedEpoch, self._history_name, "$")
                if re.search(r"-c\d+$", found["trial"]):
                    self._epoch_seconds.append(found["seconds"])
                    self._note_progress(found["trial"], accuracy_of(found["validation"]))
            elif entry["event"] == "rung":
                rung = convert(entry, SearchedRung, self._history_name, "$")
                scores[rung["trial"], rung["epoch"]] = accuracy_of(rung["validation"])
        if not any(scores.values()):
            scores.clear()  # if every configuration has failed, for example on a broken node, try them again
        steps: list[Step] = []
        while step := self._halving.next_step():
            trial, epochs = self._trial(step.configuration).id, self._halving.epochs_of(step)
            if (trial, epochs) in scores:
                self._halving.record(step, scores[trial, epochs])
            else:
                steps.append(step)
        self._halving.put_back(steps)
        if self._cut is not None:
            self._halving.restrict(self._cut["brackets"])
        self._look_at_the_clock()
        if self.is_over:
            self._write_decisions()  # perhaps the earlier driver could not
        log.info("resuming: %s known", counted(len(scores), "score"))

    @property
    def _history_name(self) -> str:
        return f"{self._folder.where}/{HISTORY}"


class SearchedEpoch(TypedDict):
    """A line of `history.jsonl` about an epoch of a configuration."""

    trial: Name
    seconds: Seconds
    validation: Counts | None


class SearchedRung(TypedDict):
    """A line of `history.jsonl` about the score of a configuration on a rung."""

    trial: Name
    epoch: Number
    validation: Counts | None


def accuracy_of(counts: Counts | None) -> Accuracy | None:
    """Return an accuracy, or None for none. Raises SpecError if there are more correct predictions than images."""
    return Accuracy(**counts) if counts and counts["total"] else None
