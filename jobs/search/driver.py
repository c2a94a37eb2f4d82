"""A search, from its first configuration to the stored models of the winner. It never imports TensorFlow."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from jobs.console.exit_codes import TrainingError
from jobs.search.findings import Findings, History, configuration_of, epochs_of
from jobs.search.options import SearchOptions
from jobs.train.display import RunProgress, State, TrialProgress
from jobs.train.recorder import Recorder
from jobs.train.run import Run
from jobs.train.write_queue import WriteQueue
from mnist_lib.assignment import Assignment
from mnist_lib.clock import steady_time
from mnist_lib.results import Accuracy, EpochDone, RungDone, TrialFailure, TrialResult
from mnist_lib.run_documents import ConfigurationFailed, Cut, RungDecision, RungScored, SearchDocument, Summary
from mnist_lib.search.halving import Step
from mnist_lib.search.space import settings_text
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import SEARCH, RunFolder
from mnist_lib.wording import counted, percent

log = logging.getLogger(__name__)

MIN_GROWTH = 1.05  # `search.json` is written again when there are this many times as many decisions
# Other errors may concern one configuration only, such as a model that fails with some arguments.
CODES_THAT_END_A_SEARCH = ("E-DATA",)
START_SECONDS = 20.0  # reserved for the lanes of the final trials, and for storing
MARGIN = 1.5  # final trials may be slower than those that were measured
MAX_MEASURED_EPOCHS = 101  # the median of the last ones counts


def search(run: Run[SearchOptions]) -> Summary:
    """Search, train the winner with fresh seeds, store the results, and return the summary.

    What earlier drivers of the search have decided and trained is not repeated.

    Raises:
        TrainingError: no configuration could be trained.
        Also raises what `Run.train` raises.
    """
    options = run.options
    with run.connected():
        plan = run.plan(options.halving().configurations)
        with Search(options, run.folder, plan.lanes, run.deadline) as search:
            if not search.is_over:
                run.drive(search, plan)
        finals = options.finals(search.findings.settings(search.winner()))
        search.delete_checkpoints()
        return run.train_trials(finals, search.findings.summary())


class SearchProgress(RunProgress):
    """The progress of a search. Its table has the configurations in progress, each up to its next rung."""

    is_tested = False

    def __init__(self, configurations: int) -> None:
        super().__init__()
        self._configurations = configurations
        self.tried: set[int] = set()
        self.best: Accuracy | None = None

    def end(self, trial: TrialProgress, state: State) -> None:
        number = configuration_of(trial.id)
        assert number is not None
        self.tried.add(number)
        del self.trials[trial.id]

    def totals(self) -> list[str]:
        parts = [f"{len(self.tried)} of {counted(self._configurations, 'configuration')} tried"]
        return parts if self.best is None else [*parts, f"best so far {percent(self.best.value)}"]


class Search(Recorder):
    """Records the scores and decisions of a search on a cluster, and gives lanes their next steps.

    Args:
        deadline: the value of `wall()` at which the final trials must have ended.
        wall: returns the time, see `steady_time`.
    """

    def __init__(
        self,
        options: SearchOptions,
        folder: RunFolder,
        lanes: int,
        deadline: float = math.inf,
        writes: WriteQueue | None = None,
        wall: Callable[[], float] = steady_time,
    ) -> None:
        self.findings = Findings(options)
        self._shown = SearchProgress(self.findings.halving.configurations)
        super().__init__(folder, self._shown, options.model_files, writes)
        self._lanes, self._time = lanes, TimeLimit(options, lanes, deadline, wall)
        self._steps: dict[str, Step] = {}  # of each trial that was submitted and has no score yet
        self._written = 0  # decisions in the stored document
        if folder.resumed:
            self._resume()

    def _resume(self) -> None:
        history = [*self.folder.history()]
        known = self.findings.restore(self.folder, history)
        self._time.restore(history)
        self._shown.tried |= self.findings.tried
        if best := self.findings.halving.best():
            self._shown.best = best[1]
        self._look_at_the_clock()
        if self.is_over:
            self._write_decisions()  # the earlier driver may have ended before it wrote them
        log.info("resuming: %s known", counted(known, "score"))

    @property
    def is_over(self) -> bool:
        return self.findings.is_over

    @property
    def expects_more(self) -> bool:
        return not self.is_over

    def winner(self) -> int:
        """Return the best configuration. Raises TrainingError if there is none."""
        number, score = self.findings.winner()
        settings = settings_text(self.findings.settings(number))
        log.info("the best of the search: %s, with %s validation accuracy", settings, percent(score.value))
        return number

    def delete_checkpoints(self) -> None:
        """Delete what is left of configurations that the search did not complete."""
        for trial in {name.split("/")[1] for name in self.folder.names("trials")}:
            if configuration_of(trial) is not None:
                self.folder.delete_below(f"trials/{trial}")

    # Lanes

    def next_trials(self, queued: int) -> Sequence[TrialSpec]:
        """Return as many steps as there are lanes, so that none is idle while there is something to train."""
        trials: list[TrialSpec] = []
        while queued + len(trials) < self._lanes and (step := self.findings.halving.next_step()):
            spec = self.findings.trial(step.configuration)
            self._steps[spec.id] = step
            self.progress.add(spec, self._epochs_of(spec.id))
            if self.folder.resumed and spec.id not in self.checkpoints:
                self.checkpoints.expect(spec.id)
            trials.append(spec)
        return trials

    def assignment(self, spec: TrialSpec, ends_by: float) -> Assignment | None:
        if not self.checkpoints.is_ready(spec.id):
            return None
        checkpoint, until = self.checkpoints.get(spec.id), self._epochs_of(spec.id)
        return Assignment(spec, checkpoint, self.files.get(spec.model), until=until)

    def _epochs_of(self, trial: str) -> int:
        """Return after how many epochs the current step of a trial ends."""
        return self.findings.halving.epochs_of(self._steps[trial])

    def _look_at_the_clock(self) -> None:
        """Drop the brackets for which no time is left, and end the search when the final trials must begin."""
        cut = self._time.cut(self.findings)
        if cut is None:
            return
        self.findings.cut = cut
        if cut.over:
            tried, most = len(self.findings.tried), self.findings.halving.configurations
            log.info("the search ends after %d of %d configurations, so that the winner can be trained", tried, most)
        else:
            self.findings.halving.restrict(cut.brackets)
            log.info("the time is enough for %d of %d brackets", cut.brackets, self.findings.halving.brackets)
        self._write_decisions()

    # Events

    def record(self, event: object, attempts: Callable[[str], int]) -> None:
        super().record(event, attempts)
        match event:
            case EpochDone():
                self._time.note(event)
                self.findings.note_epoch(event.trial, event.validation)
            case RungDone():
                self._time.note(event)
                if len(event.content):
                    self.hold(event.trial, event.epoch, event.content)
                self._end_step(event.trial, event.validation, event.epoch)
        self._look_at_the_clock()

    def end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        assert isinstance(outcome, TrialFailure), "only the final trials are measured on the test images"
        trial, reason = outcome.trial, f"{outcome.code} {outcome.message}"
        if outcome.code in CODES_THAT_END_A_SEARCH:
            raise TrainingError(f"{trial}: {outcome.message}", outcome.code)
        log.warning("%s failed: %s", trial, reason)
        log.debug("%s", outcome.details)
        self.findings.note_failure(trial, reason)
        self.append(ConfigurationFailed(trial=trial, reason=reason))
        self._end_step(trial, None, self._epochs_of(trial))

    def _end_step(self, trial: str, score: Accuracy | None, epoch: int) -> None:
        """Record the score of a step, and the decision if it completes its rung, before any survivor continues."""
        self._time.forget(trial)
        status = "failed" if score is None else "rung"
        self.append(RungScored(trial=trial, epoch=epoch, validation=score, status=status))
        decision = self.findings.halving.record(self._steps.pop(trial), score)
        if decision is not None:
            self._decided(decision)

    def _decided(self, decision: RungDecision) -> None:
        # A large document is not rewritten after each decision: decisions can be computed from the recorded scores.
        if self.is_over or len(self.findings.halving.decisions) > MIN_GROWTH * self._written:
            self._write_decisions()
        for number in decision.scores.keys() - {*decision.survivors}:
            trial = self.findings.trial(number).id
            self.checkpoints.forget(trial)
            self.writes.put(partial(self._delete, trial), trial)
        best = self.findings.halving.best()
        self._shown.best = best[1] if best else None
        trained = f"{counted(len(decision.scores), 'configuration')} trained for {counted(decision.epochs, 'epoch')}"
        go_on = f", {len(decision.survivors)} of them go on" if decision.survivors else ""
        most = "none" if best is None else f"{percent(best[1].value)} ({self.findings.trial(best[0]).id})"
        log.info("bracket %d: %s%s; best so far: %s", decision.bracket + 1, trained, go_on, most)

    def _delete(self, trial: str) -> None:
        self.write_history()  # with the scores by which its configuration does not go on
        self.folder.delete_below(f"trials/{trial}")

    def _write_decisions(self) -> None:
        document, self._written = self.findings.document(), len(self.findings.halving.decisions)
        self.writes.put(partial(self._store_decisions, document), SEARCH, in_place_of="decisions")

    def _store_decisions(self, document: SearchDocument) -> None:
        self.write_history(flush=True)  # scores must be stored before the decisions based on them
        self.folder.write_json(SEARCH, document)


class TimeLimit:
    """The time limit of a search.

    Args:
        deadline: the value of `wall()` at which the final trials must have ended.
        wall: returns the time, see `steady_time`.
    """

    def __init__(
        self, options: SearchOptions, lanes: int, deadline: float = math.inf, wall: Callable[[], float] = steady_time
    ) -> None:
        self._options, self._lanes, self._deadline, self.wall = options, lanes, deadline, wall
        self._seen: dict[str, float] = {}  # time of each trial's last epoch
        self._epoch_seconds: deque[float] = deque(
            maxlen=MAX_MEASURED_EPOCHS
        )  # first epochs without, others with validation
        self._seconds_per_epoch: dict[str, float] = {}  # the mean of each trial

    def restore(self, history: History) -> None:
        """Measure the epochs of earlier drivers."""
        self._epoch_seconds.extend(epoch.seconds for epoch in epochs_of(history))

    def note(self, event: EpochDone | RungDone) -> None:
        """Measure the speed of a trial."""
        if isinstance(event, RungDone):
            self._seconds_per_epoch[event.trial] = event.seconds / event.epoch
            return
        # The first epoch of a trial also includes waits, such as for the dataset, so its own time is used.
        seen, now = self._seen.get(event.trial), self.wall()
        self._epoch_seconds.append(event.seconds if seen is None else now - seen)
        self._seen[event.trial] = now

    def forget(self, trial: str) -> None:
        """Forget when a trial was last seen, since it pauses."""
        self._seen.pop(trial, None)

    def cut(self, findings: Findings) -> Cut | None:
        """Return a new cut of the search, or None if no further cut is needed."""
        if math.isinf(self._deadline) or len(self._epoch_seconds) < 2 or (findings.cut and findings.cut.over):
            return None
        left, begun, ladder = self._left(findings), findings.halving.begun, findings.halving.ladder
        if left <= 0 and findings.best() is not None:
            return Cut(brackets=begun, over=True)
        bracket = ladder.epochs_of(ladder.bracket) * statistics.median(self._epoch_seconds) / self._lanes
        if findings.cut is None and begun < findings.halving.brackets and bracket > left:
            return Cut(brackets=begun, over=False)
        return None

    def _left(self, findings: Findings) -> float:
        """Return the seconds until the final trials have to begin."""
        best, rounds = findings.best(), math.ceil(self._options.final_seeds / self._lanes)
        of_best = 0.0 if best is None else self._seconds_per_epoch.get(findings.trial(best[0]).id, 0.0)
        epoch = max(statistics.median(self._epoch_seconds), of_best)
        finals = START_SECONDS + MARGIN * rounds * self._options.epochs * epoch
        return self._deadline - self.wall() - finals
