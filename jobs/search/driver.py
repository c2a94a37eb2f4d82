"""A search, from its first configuration to the stored models of the winner. It never imports TensorFlow."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec import structs

from cluster.deadlines import Clock, Limits
from cluster.fan_out import FanOut, LostAttempt
from cluster.lanes import Cluster
from cluster.nodes import LanePlan
from cluster.ray_lanes import RayLanes
from cluster.session import end_children, end_of_node
from jobs.console.exit_codes import TrainingError
from jobs.console.signals import stoppable
from jobs.search.findings import Findings, configuration_of
from jobs.search.options import SearchOptions
from jobs.search.time_limit import TimeLimit
from jobs.train import worker
from jobs.train.checkpoints import Checkpoints
from jobs.train.dataset import RunDataset
from jobs.train.driver import lane_plan, record_start, train_on
from jobs.train.planning import connected
from jobs.train.recorder import ADVICE, check_start
from jobs.train.reporting import load_in_background
from jobs.train.write_queue import WriteQueue
from mnist_lib.assignment import Assignment
from mnist_lib.clock import steady_time
from mnist_lib.environment import package_versions
from mnist_lib.results import Accuracy, CheckpointTaken, EpochDone, HistoryEntry, RungDone, Started, TrialFailure
from mnist_lib.run_documents import AttemptDied, ConfigurationFailed, RungDecision, RungScored, Summary
from mnist_lib.search.halving import Step
from mnist_lib.search.space import settings_text
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import SEARCH, RunFolder
from mnist_lib.wording import counted, percent

log = logging.getLogger(__name__)

KEY = "search"  # of all writes of a search
MIN_GROWTH = 1.05  # `search.json` is written again when there are this many times as many decisions
# Other errors may concern one configuration only, such as a model that fails with some arguments.
CODES_THAT_END_A_SEARCH = ("E-DATA",)


def search(options: SearchOptions, begin: float, folder: RunFolder, code: Mapping[str, Any], advice: str) -> Summary:
    """Search, train the winner with fresh seeds, store the results, and return the summary.

    What earlier drivers of the search have decided and trained is not repeated.

    Args:
        begin, code, advice: as in `jobs.train.driver.train_trials`.

    Raises:
        TrainingError: no configuration could be trained.
        Also raises what `train_trials` raises.
    """
    deadline = options.deadline(begin - folder.seconds_worked())
    if options.report:
        load_in_background()
    with connected(options) as cluster_seconds, stoppable(advice, end_children, end_of_node()):
        data = RunDataset(folder, options, options.grid())
        record_start(folder, begin, cluster_seconds)
        with contextlib.closing(WriteQueue()) as writes:
            plan = lane_plan(options, options.halving().configurations)
            running = Search(options, folder, writes, plan.lanes, deadline)
            if not running.is_over:
                limits, resources = options.limits(), options.resources(plan.cpus, plan.gpus)
                lanes = RayLanes(worker.run_lane, plan, limits, [data.images], resources, options.pace())
                running.run(lanes, limits, plan, wait=data.facts)
        finals = options.finals(running.found.settings(running.winner()))
        running.delete_checkpoints()
        return train_on(data, options, finals, begin, deadline, folder, code, running.found.summary())


class Search:
    """A search on a cluster: gives lanes their next steps, and records scores and decisions.

    Args:
        deadline: the value of `wall()` at which the final trials must have ended.
        wall: returns the time, see `steady_time`.
    """

    def __init__(
        self,
        options: SearchOptions,
        folder: RunFolder,
        writes: WriteQueue,
        lanes: int,
        deadline: float = math.inf,
        wall: Callable[[], float] = steady_time,
    ) -> None:
        self._options, self._folder, self._writes, self._lanes = options, folder, writes, lanes
        self.found, self._time = Findings(options), TimeLimit(options, lanes, deadline, wall)
        self._versions, self._checkpoints = package_versions(), Checkpoints(folder, writes, KEY)
        self._steps: dict[str, Step] = {}  # of each trial that was submitted and has no score yet
        self._written = 0  # decisions in the stored document
        if folder.resumed:
            self._resume()

    def _resume(self) -> None:
        history = [*self._folder.history()]
        known = self.found.restore(self._folder, history)
        self._time.restore(history)
        self._look_at_the_clock()
        if self.is_over:
            self._write_decisions()  # the earlier driver may have ended before it wrote them
        log.info("resuming: %s known", counted(known, "score"))

    @property
    def is_over(self) -> bool:
        return self.found.is_over

    def winner(self) -> int:
        """Return the best configuration. Raises TrainingError if there is none."""
        number, score = self.found.winner()
        settings = settings_text(self.found.settings(number))
        log.info("the best of the search: %s, with %s validation accuracy", settings, percent(score.value))
        return number

    def delete_checkpoints(self) -> None:
        """Delete what is left of configurations that the search did not complete."""
        for trial in {name.split("/")[1] for name in self._folder.names("trials")}:
            if configuration_of(trial) is not None:
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

    def _submit(self, fan_out: FanOut) -> None:
        """Queue as many steps as there are lanes, so that none is idle while there is something to train."""
        while fan_out.queued < self._lanes and (step := self.found.halving.next_step()):
            spec = self.found.trial(step.configuration)
            self._steps[spec.id] = step
            if self._folder.resumed and spec.id not in self._checkpoints:
                self._checkpoints.expect(spec.id)
            fan_out.submit([spec])

    def _payload(self, spec: TrialSpec, deadline: float) -> Assignment | None:
        if not self._checkpoints.is_ready(spec.id):
            return None
        source, until = self._options.model_files.get(spec.model), self._epochs(spec.id)
        return Assignment(spec, self._checkpoints.get(spec.id), source, until=until)

    def _epochs(self, trial: str) -> int:
        """Return after how many epochs the current step of a trial ends."""
        return self.found.halving.epochs_of(self._steps[trial])

    def _look_at_the_clock(self) -> None:
        """Drop the brackets for which no time is left, and end the search when the final trials must begin."""
        cut = self._time.cut(self.found)
        if cut is None:
            return
        self.found.cut = cut
        if cut.over:
            tried, most = len(self.found.tried), self.found.halving.configurations
            log.info("the search ends after %d of %d configurations, so that the winner can be trained", tried, most)
        else:
            self.found.halving.restrict(cut.brackets)
            log.info("the time is enough for %d of %d brackets", cut.brackets, self.found.halving.brackets)
        self._write_decisions()

    # Events

    def _record(self, event: object) -> None:
        check_start(event, self._versions)
        match event:
            case Started():
                self._note(event)
            case EpochDone():
                self._time.note(event)
                self.found.note_epoch(event.trial, event.validation)
                self._note(event)
            case CheckpointTaken():
                self._keep(event.trial, event.epoch, event.content)
            case RungDone():
                self._time.note(event)
                self._end(event.trial, event.validation, event.epoch, event.content)
            case TrialFailure():
                if event.code in CODES_THAT_END_A_SEARCH:
                    raise TrainingError(f"{event.trial}: {event.message}", event.code)
                log.debug("%s", event.details)
                self._fail(event.trial, f"{event.code} {event.message}")
            case LostAttempt():
                self._note(AttemptDied(trial=event.trial, attempt=event.attempt, reason=str(event.death)))
                cause = event.death.cause
                if event.final:
                    self._fail(event.trial, f"{cause.code} {event.death}{ADVICE.get(cause.code, '')}")
                else:
                    log.warning("attempt %d of %s died (%s)", event.attempt, event.trial, cause.text)

    def _fail(self, trial: str, reason: str) -> None:
        log.warning("%s failed: %s", trial, reason)
        self.found.note_failure(trial, reason)
        self._note(ConfigurationFailed(trial=trial, reason=reason))
        self._end(trial, None, self._epochs(trial))

    def _end(self, trial: str, score: Accuracy | None, epoch: int, checkpoint: bytes = b"") -> None:
        """Record the score of a step, and the decision if it completes its rung, before any survivor continues."""
        self._time.forget(trial)
        if len(checkpoint):
            self._keep(trial, epoch, checkpoint)
        status = "failed" if score is None else "rung"
        self._note(RungScored(trial=trial, epoch=epoch, validation=score, status=status))
        decision = self.found.halving.record(self._steps.pop(trial), score)
        if decision is not None:
            self._decided(decision)

    def _decided(self, decision: RungDecision) -> None:
        # A large document is not rewritten after each decision: decisions can be computed from the recorded scores.
        if self.is_over or len(self.found.halving.decisions) > MIN_GROWTH * self._written:
            self._write_decisions()
        for number in decision.scores.keys() - {*decision.survivors}:
            trial = self.found.trial(number).id
            self._checkpoints.forget(trial)
            self._write(partial(self._folder.delete_below, f"trials/{trial}"))
        best = self.found.halving.best()
        trained = f"{counted(len(decision.scores), 'configuration')} trained for {counted(decision.epochs, 'epoch')}"
        go_on = f", {len(decision.survivors)} of them go on" if decision.survivors else ""
        most = "none" if best is None else f"{percent(best[1].value)} ({self.found.trial(best[0]).id})"
        log.info("bracket %d: %s%s; best so far: %s", decision.bracket + 1, trained, go_on, most)

    # Writes

    def _write(self, write: Callable[[], None], size: int = 0) -> None:
        """Queue a write. Writes are made in this order, so no document is stored before the data that it refers to."""
        self._writes.put(write, KEY, size=size)

    def _note(self, entry: HistoryEntry) -> None:
        entry = structs.replace(entry, at=round(self._time.wall(), 3))
        self._write(partial(self._folder.append_history, entry))

    def _keep(self, trial: str, epoch: int, content: bytes) -> None:
        self._checkpoints.put(trial, content)
        self._write(partial(self._checkpoints.store, trial, epoch, content), size=len(content))

    def _write_decisions(self) -> None:
        document, self._written = self.found.document(), len(self.found.halving.decisions)
        self._write(self._folder.flush)  # scores must be stored before the decisions based on them
        self._write(partial(self._folder.write_json, SEARCH, document))
