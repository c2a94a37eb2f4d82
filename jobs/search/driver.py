"""A search, from its first configuration to the stored models of the winner. It never imports TensorFlow."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobs.console.exit_codes import TrainingError
from jobs.search.halving import DEFAULTS, Step, winner
from jobs.search.plan import SearchPlan
from jobs.search.space import settings_text
from jobs.search.time_limit import TimeLimit
from jobs.train.display import RunProgress, State, TrialProgress
from jobs.train.recorder import Recorder
from jobs.train.run import Run
from mnist_lib.assignment import Assignment
from mnist_lib.clock import steady_time
from mnist_lib.data.dataset import Dataset
from mnist_lib.history import ConfigurationFailed, Cut, RungDecision, RungScored, SearchDocument, Winner
from mnist_lib.results import Accuracy, EpochDone, RungDone, TrialFailure, TrialStarted
from mnist_lib.run_documents import SearchSummary, Summary
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import SEARCH
from mnist_lib.wording import counted, percent

log = logging.getLogger(__name__)

MIN_GROWTH = 1.05  # `search.json` is written again when there are this many times as many decisions
# Other errors may concern one configuration only, such as a model that fails with some arguments.
CODES_THAT_END_A_SEARCH = ("E-DATA",)


def search(run: Run[SearchPlan]) -> Summary:
    """Search, train the winner with fresh seeds, store the results, and return the summary.

    What earlier drivers of the search have decided and trained is not repeated.

    Raises:
        TrainingError: no configuration could be trained.
        Also raises what `Run.train` raises.
    """
    run = run.with_defaults()
    plan, halving = run.plan, run.plan.halving()
    pool = run.pool("search", halving.configurations * halving.ladder.folds)
    with Recorder(run.folder) as recorder:
        search = Search(plan, recorder, pool.plan.lanes, run.deadline)
        if not search.is_done:
            pool.start_ahead()
            run.drive(search, recorder, pool)
    summary = search.summary(run.data.info)
    search.delete_checkpoints()
    return run.train_trials(plan.finals(summary.settings), summary)


class SearchProgress(RunProgress):
    """The progress of a search. Its table has the configurations in progress, each up to its next rung."""

    is_tested = False

    def __init__(self, configurations: int | None, folds: int) -> None:
        super().__init__()
        self._configurations = configurations  # None if the time decides
        self._folds = folds
        self.tried: set[tuple[int, int]] = set()  # configurations and folds
        self.best: Accuracy | None = None

    def end(self, trial: TrialProgress, state: State) -> None:
        part = part_of_search(trial.id)
        assert part is not None
        self.tried.add(part)
        del self.trials[trial.id]

    def totals(self) -> list[str]:
        if self._configurations is None:
            parts = [f"{counted(len({number for number, _ in self.tried}), 'configuration')} tried"]
        else:
            folds = "" if self._folds == 1 else f"{self._folds * self._configurations} folds of "
            parts = [f"{len(self.tried)} of {folds}{counted(self._configurations, 'configuration')} tried"]
        return parts if self.best is None else [*parts, f"best so far {percent(self.best.score)}"]


class Search:
    """The configurations of a search, as what the loop of its run trains: their next steps, scores and decisions.

    Its state follows from the scores in the history of its run, and from the recorded cut.

    Args:
        deadline: the value of `wall()` at which the final trials must have ended.
        wall: returns the time, see `steady_time`.
    """

    def __init__(
        self,
        plan: SearchPlan,
        recorder: Recorder,
        lanes: int,
        deadline: float = math.inf,
        wall: Callable[[], float] = steady_time,
    ) -> None:
        self._plan, self.halving = plan, plan.halving()
        self._recorder, self._folder = recorder, recorder.folder
        self.progress = SearchProgress(plan.planned_configurations(self.halving), self.halving.ladder.folds)
        self.settings = plan.proposals()
        self.cut: Cut | None = None
        # The highest score of each configuration after any epoch; with folds, on those that are known so far.
        self._so_far: dict[int, Accuracy] = {}
        self._failures: list[str] = []
        self._lanes, self._time = lanes, TimeLimit(plan.options, lanes, deadline, wall)
        self._steps: dict[str, Step] = {}  # of each trial that was submitted and has no score yet
        self._written = 0  # decisions in the stored document
        if self._folder.resumed:
            self._resume()

    def _resume(self) -> None:
        """Record the scores of earlier drivers, and drop what they have dropped.

        Raises IntegrityError if the history or `search.json` is damaged.
        """
        if document := self._folder.search():
            self.cut = document.cut
        scores: dict[tuple[int, int, int], Accuracy | None] = {}  # by configuration, fold and epoch
        for entry in self._folder.history():
            part = part_of_search(entry.trial)
            if part is not None and isinstance(entry, RungScored):
                score = entry.validation if entry.validation and entry.validation.total else None
                scores[*part, entry.epoch] = score
            elif isinstance(entry, TrialStarted):
                self._time.note_start(entry)
            elif part is not None and isinstance(entry, EpochDone):
                self._time.restore(entry)
                self._note(part[0], entry.validation)
        numbers = [*self._so_far, *(number for number, *_ in scores)]
        if self.cut and self.cut.configurations:
            self.halving.restrict(self.cut.configurations)
        failed = {number for (number, *_), score in scores.items() if score is None}
        if not any(scores.values()):
            scores.clear()  # if every configuration has failed, for example on a broken node, try them again
        steps: list[Step] = []
        last = max(numbers, default=0) // self.halving.ladder.bracket  # nothing is known of later brackets
        while (step := self.halving.next_step()) and step.bracket <= last:
            key = step.configuration, step.fold, self.halving.epochs_of(step)
            if key in scores:
                self._score(step, scores[key])
                self.progress.tried.add((step.configuration, step.fold))
            else:
                steps.append(step)
        self.halving.put_back([*steps, *([step] if step else [])])
        for number in failed:
            self._so_far.pop(number, None)
        if best := self.halving.best():
            self.progress.best = best[1]
        self._look_at_the_clock()
        if self.is_done:
            self._write_decisions()  # the earlier driver may have ended before it wrote them
        log.info("resuming: %s known", counted(len(scores), "score"))

    @property
    def is_done(self) -> bool:
        return self.halving.is_complete or (self.cut is not None and self.cut.over)

    @property
    def expects_more(self) -> bool:
        return not self.is_done

    @property
    def _tried(self) -> set[int]:
        """The configurations that have been trained for at least an epoch, or have failed."""
        return self.halving.tried | self._so_far.keys()

    def trial(self, number: int, fold: int = 0) -> TrialSpec:
        """Return the trial of a configuration or, with folds, that of one of its folds."""
        spec, folds = self._plan.trial(self.settings(number), number), self._plan.options.folds
        return spec if folds is None else spec.in_folds(folds)[fold]

    def best(self) -> tuple[int, Accuracy] | None:
        """Return the best configuration and its score; before the first rung is complete, the best one so far."""
        so_far = winner(self._so_far)
        # With folds, the first configurations with all of them would otherwise win against all others.
        begun = self.halving.ladder.folds > 1 and not self.halving.decisions
        return so_far if begun else self.halving.best() or so_far

    def _best_trial(self) -> str | None:
        best = self.best()
        return self.trial(best[0]).id if best else None

    # Results

    def summary(self, dataset: Dataset | None = None) -> SearchSummary:
        """Return what the summary of the run says about the search. `dataset`: see `SearchPlan.train_flags`.

        Raises TrainingError if there is no winner.
        """
        best = self.best()
        if best is None:
            codes = {failure.partition(" ")[0] for failure in self._failures}
            why = f" (the first: {self._failures[0]})" if self._failures else ""
            message = f"no configuration could be trained{why}; change --vary"
            raise TrainingError(message, *(codes if len(codes) == 1 else ()))
        number, score = best
        settings = self.settings(number)
        measure = f"{'validation' if self._plan.options.folds is None else 'out-of-fold'} {score.score_name}"
        log.info("the best of the search: %s, with %s %s", settings_text(settings), percent(score.score), measure)
        return SearchSummary(
            settings=dict(settings),
            configurations=len(self._tried),
            epochs=self.halving.epochs,
            validation=score,
            defaults=self.halving.highest_scores().get(DEFAULTS) or self._so_far.get(DEFAULTS),
            train=tuple(self._plan.train_flags(settings, dataset)),
            folds=self._plan.options.folds,
        )

    def document(self) -> SearchDocument:
        """Return what `search.json` holds: no times or host names, so that equal searches have equal files."""
        compared = {number for decision in self.halving.decisions for number in decision.scores}
        unfinished = {number: score for number, score in self._so_far.items() if number not in compared}
        best = self.best()
        return SearchDocument(
            space=self._plan.variation.document(),
            strategy=self._plan.options.strategy,
            rungs=self.halving.ladder.rungs,
            configurations={number: dict(self.settings(number)) for number in sorted(compared | unfinished.keys())},
            decisions=list(self.halving.decisions),
            unfinished=dict(sorted(unfinished.items())),
            cut=self.cut,
            best=None if best is None else Winner(configuration=best[0], validation=best[1]),
        )

    def delete_checkpoints(self) -> None:
        """Delete what is left of configurations that the search did not complete."""
        for trial in {name.split("/")[1] for name in self._folder.names("trials")}:
            if part_of_search(trial) is not None:
                self._folder.delete_below(f"trials/{trial}")

    # Lanes

    def next_trials(self, queued: int) -> Sequence[TrialSpec]:
        """Return as many steps as there are lanes, so that none is idle while there is something to train."""
        trials: list[TrialSpec] = []
        while queued + len(trials) < self._lanes and (step := self.halving.next_step()):
            spec = self.trial(step.configuration, step.fold)
            self._steps[spec.id] = step
            self.progress.add(spec, self._epochs_of(spec.id))
            trials.append(spec)
        return trials

    def is_ready(self, spec: TrialSpec) -> bool:
        return self._recorder.checkpoints.is_ready(spec.id, self._epochs_of(spec.id))

    def assignment(self, spec: TrialSpec, deadline: float) -> Assignment:
        checkpoint, until = self._recorder.checkpoints.get(spec.id), self._epochs_of(spec.id)
        return Assignment(spec, checkpoint, self._plan.files.get(spec.model), until=until)

    def _epochs_of(self, trial: str) -> int:
        """Return after how many epochs the current step of a trial ends."""
        return self.halving.epochs_of(self._steps[trial])

    def _look_at_the_clock(self) -> None:
        """Drop the brackets for which no time is left, and end the search when the final trials must begin."""
        cut = self._time.cut(self.halving, self.cut, self._best_trial)
        if cut is None:
            return
        self.cut = cut
        if cut.over:
            tried = counted(len(self._tried), "configuration")
            log.info("the search ends after %s, so that the winner can be trained in time", tried)
        elif cut.configurations:
            self.halving.restrict(cut.configurations)
            log.info("the time is enough for %s", counted(cut.configurations, "configuration"))
        self._write_decisions()

    # Events

    def on(self, event: Any, attempt: int) -> None:
        match event:
            case TrialStarted():
                self._time.note_start(event)
            case EpochDone():
                self._time.note(event)
                if part := part_of_search(event.trial):
                    self._note(part[0], event.validation)
            case RungDone():
                self._end_step(event.trial, event.validation, event.epoch)
            case TrialFailure():
                self._fail(event)
        self._look_at_the_clock()

    def _note(self, number: int, score: Accuracy | None) -> None:
        """Note a score of a configuration. If no rung is completed in time, these scores decide."""
        if score and _rank(score) >= _rank(self._so_far.get(number, score)):
            self._so_far[number] = score

    def _score(self, step: Step, score: Accuracy | None) -> RungDecision | None:
        """Record the score of a step, and return the decision if it completes its rung."""
        decision = self.halving.record(step, score)
        if self.halving.ladder.folds > 1:
            self._note(step.configuration, self.halving.score(step))
        return decision

    def _fail(self, failure: TrialFailure) -> None:
        trial, reason = failure.trial, f"{failure.code} {failure.message}"
        if failure.code in CODES_THAT_END_A_SEARCH:
            raise TrainingError(f"{trial}: {failure.message}", failure.code)
        log.warning("%s failed: %s", trial, reason)
        log.debug("%s", failure.details)
        self._failures.append(reason)
        self._so_far.pop(self._steps[trial].configuration, None)  # it would fail again, so it cannot win
        self._recorder.checkpoints.forget(trial)  # it does not go on: another trial can be read
        self._recorder.append(ConfigurationFailed(trial=trial, reason=reason))
        self._end_step(trial, None, self._epochs_of(trial))

    def _end_step(self, trial: str, score: Accuracy | None, epoch: int) -> None:
        """Record the score of a step, and the decision if it completes its rung, before any survivor continues."""
        self._time.end_step(trial)
        status = "failed" if score is None else "rung"
        self._recorder.append(RungScored(trial=trial, epoch=epoch, validation=score, status=status))
        decision = self._score(self._steps.pop(trial), score)
        if decision is not None:
            self._decided(decision)

    def _decided(self, decision: RungDecision) -> None:
        # A large document is not rewritten after each decision: decisions can be computed from the recorded scores.
        if self.is_done or len(self.halving.decisions) > MIN_GROWTH * self._written:
            self._write_decisions()
        for number in decision.scores.keys() - {*decision.survivors}:
            for fold in range(self.halving.ladder.folds):
                trial = self.trial(number, fold).id
                self._recorder.checkpoints.forget(trial)
                self._recorder.writes.put(partial(self._delete, trial), trial)
        best = self.halving.best()
        self.progress.best = best[1] if best else None
        trained = f"{counted(len(decision.scores), 'configuration')} trained for {counted(decision.epochs, 'epoch')}"
        go_on = f", {len(decision.survivors)} of them go on" if decision.survivors else ""
        most = "none" if best is None else f"{percent(best[1].score)} (configuration {best[0]})"
        log.info("bracket %d: %s%s; best so far: %s", decision.bracket + 1, trained, go_on, most)

    def _delete(self, trial: str) -> None:
        self._recorder.write_history()  # with the scores by which its configuration does not go on
        self._folder.delete_below(f"trials/{trial}")

    def _write_decisions(self) -> None:
        document, self._written = self.document(), len(self.halving.decisions)
        self._recorder.writes.put(partial(self._store_decisions, document), SEARCH, in_place_of="decisions")

    def _store_decisions(self, document: SearchDocument) -> None:
        self._recorder.write_history(flush=True)  # scores must be stored before the decisions based on them
        self._folder.write_json(SEARCH, document)


def part_of_search(trial: str) -> tuple[int, int] | None:
    """Return the configuration and the fold of a trial, by its name: 0 without folds, and None for a final trial."""
    match = re.search(r"-c([0-9]{1,9})(?:-f([0-9]{1,9}))?$", trial)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _rank(score: Accuracy) -> tuple[int, float]:
    return score.total, score.score  # a score on more folds replaces one on fewer
