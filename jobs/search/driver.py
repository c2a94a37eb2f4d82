"""A search, from its first configuration to the stored models of the winner. It never imports TensorFlow."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobs.console.exit_codes import TrainingError
from jobs.search.halving import DEFAULTS, Halving, Step, winner
from jobs.search.plan import MAX_CONFIGURATIONS, SearchPlan
from jobs.search.space import settings_text
from jobs.search.time_limit import TimeLimit
from jobs.train.display import RunProgress, State, TrialProgress
from jobs.train.recorder import Recorder
from jobs.train.run import Run
from mnist_lib.environment import steady_time
from mnist_lib.results import Accuracy, EpochDone, RungDone, TrialFailure, TrialStarted
from mnist_lib.run_documents import SearchSummary, Summary
from mnist_lib.spec import TrialSpec
from mnist_lib.store.history import ConfigurationFailed, Cut, RungDecision, RungScored, SearchDocument, Winner
from mnist_lib.store.runs import SEARCH
from mnist_lib.training.assignment import Assignment
from mnist_lib.wording import counted, percent

log = logging.getLogger(__name__)

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
    summary = search.summary()
    search.delete_checkpoints()
    return run.train_trials(plan.finals(summary.settings), summary)


class SearchProgress(RunProgress):
    """The progress of a search. Its table shows the epochs of each configuration in progress up to its next rung."""

    is_tested = False

    def __init__(self, halving: Halving) -> None:
        super().__init__()
        self._halving = halving
        self.best: tuple[int, Accuracy] | None = None  # as `Halving.best` returns it

    def end(self, trial: TrialProgress, state: State) -> None:
        del self.trials[trial.id]

    def totals(self) -> list[str]:
        count = self._halving.configurations
        # At the maximum, only the time limit decides how many configurations there are, and it has not done so yet.
        of = f" of up to {count:,}" if count < MAX_CONFIGURATIONS else ""
        begun = f"{self._halving.num_begun:,}{of} configurations begun"
        return [begun] if self.best is None else [begun, f"best so far {percent(self.best[1].score)}"]


class Search:
    """The configurations of a search, as the `TrialSource` of its run: their next steps, scores and decisions.

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
        self._plan = plan
        self._recorder = recorder
        self._folder = recorder.folder
        self._lanes = lanes
        self._time = TimeLimit(plan.options, lanes, deadline, wall)
        self.halving = plan.halving()
        self.progress = SearchProgress(self.halving)
        self.settings = plan.proposals()
        self.cut: Cut | None = None
        # The highest score of each configuration after any epoch; with folds, on all folds with a score so far.
        self._so_far: dict[int, Accuracy] = {}
        self._failures: list[TrialFailure] = []
        self._steps: dict[str, Step] = {}  # of each trial that was submitted and has no score yet
        if self._folder.resumed:
            self._resume()

    def _resume(self) -> None:
        """Record the scores of earlier drivers, and drop the configurations that those drivers have dropped.

        Raises IntegrityError if the history or `search.json` is damaged.
        """
        if document := self._folder.search():
            self.cut = document.cut
        scores: dict[tuple[int, int, int], Accuracy | None] = {}  # by configuration, fold and epoch
        for entry in self._folder.history():
            part = part_of_search(entry.trial)
            if part is not None and isinstance(entry, RungScored):
                scores[*part, entry.epoch] = entry.validation
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
            else:
                steps.append(step)
        self.halving.put_back([*steps, *([step] if step else [])])
        for number in failed:
            self._so_far.pop(number, None)
        self.progress.best = self.halving.best()
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
        """Return the trial of a configuration; with folds, the trial of this fold."""
        spec, folds = self._plan.trial(self.settings(number), number), self._plan.options.folds
        return spec if folds is None else spec.in_folds(folds)[fold]

    def best(self) -> tuple[int, Accuracy] | None:
        """Return the best configuration and its score; before the first rung is complete, the best one so far."""
        so_far = winner(self._so_far)
        # With folds, the first configurations that have scores on all folds would otherwise win against all others.
        begun = self.halving.ladder.folds > 1 and not self.halving.decisions
        return so_far if begun else self.halving.best() or so_far

    def _best_trial(self) -> str | None:
        best = self.best()
        return self.trial(best[0]).id if best else None

    # Results

    def summary(self) -> SearchSummary:
        """Return what the summary of the run says about the search. Raises TrainingError if there is no winner."""
        best = self.best()
        if best is None:
            codes = {failure.code for failure in self._failures}
            why = "".join(f" (the first: {first.code} {first.message})" for first in self._failures[:1])
            message = f"no configuration could be trained{why}; change --vary"
            raise TrainingError(message, *(codes if len(codes) == 1 else ()))
        number, score = best
        settings = self.settings(number)
        log.info(
            "the best of the search: %s, with %s %s", settings_text(settings), score.score_name, percent(score.score)
        )
        return SearchSummary(
            settings=dict(settings),
            configurations=len(self._tried),
            epochs=self.halving.epochs,
            validation=score,
            defaults=self.halving.highest_scores().get(DEFAULTS) or self._so_far.get(DEFAULTS),
            train=tuple(self._plan.train_flags(settings)),
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
        """Return trials until as many are queued as there are lanes, so that no lane is idle while a step can begin."""
        trials: list[TrialSpec] = []
        while queued + len(trials) < self._lanes and (step := self.halving.next_step()):
            spec = self.trial(step.configuration, step.fold)
            self._steps[spec.id] = step
            self.progress.add(spec, self._epochs_of(spec.id))
            trials.append(spec)
        return trials

    def is_ready(self, spec: TrialSpec) -> bool:
        return self._recorder.checkpoints.is_ready(spec.id)

    def assignment(self, spec: TrialSpec, deadline: float) -> Assignment:
        checkpoint, until = self._recorder.checkpoints.get(spec.id), self._epochs_of(spec.id)
        return Assignment(spec, checkpoint, self._plan.files.get(spec.model), until=until)

    def _epochs_of(self, trial: str) -> int:
        """Return the number of epochs after which the current step of a trial ends."""
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
        trial = failure.trial
        if failure.code in CODES_THAT_END_A_SEARCH:
            raise TrainingError(f"{trial}: {failure.message}", failure.code)
        reason = f"{failure.code} {failure.message}"
        log.warning("%s failed: %s", trial, reason)
        log.debug("%s", failure.details)
        self._failures.append(failure)
        self._so_far.pop(self._steps[trial].configuration, None)  # it would fail again, so it cannot win
        self._recorder.checkpoints.forget(trial)  # it does not go on, so the checkpoint of another trial can be read
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
        if self.is_done:  # until then, decisions follow from the recorded scores
            self._write_decisions()
        for number in decision.scores.keys() - {*decision.survivors}:
            for fold in range(self.halving.ladder.folds):
                trial = self.trial(number, fold).id
                self._recorder.checkpoints.forget(trial)
                self._recorder.writes.put(partial(self._delete, trial), trial)
        self.progress.best = self.halving.best()
        trained = f"{counted(len(decision.scores), 'configuration')} trained for {counted(decision.epochs, 'epoch')}"
        go_on = f", {len(decision.survivors)} of them go on" if decision.survivors else ""
        best = f"; best so far {percent(self.progress.best[1].score)}" if self.progress.best else ""
        log.info("bracket %d: %s%s%s", decision.bracket + 1, trained, go_on, best)

    def _delete(self, trial: str) -> None:
        self._recorder.write_history()  # the scores by which its configuration was dropped must be stored first
        self._folder.delete_below(f"trials/{trial}")

    def _write_decisions(self) -> None:
        document = self.document()

        def write() -> None:
            self._recorder.write_history(flush=True)  # scores must be stored before the decisions based on them
            self._folder.write_json(SEARCH, document)

        self._recorder.writes.put(write, SEARCH, in_place_of="decisions")


def part_of_search(trial: str) -> tuple[int, int] | None:
    """Return the configuration and the fold (0 without folds) in the name of a trial; None for a final trial."""
    match = re.search(r"-c([0-9]{1,9})(?:-f([0-9]{1,9}))?$", trial)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _rank(score: Accuracy) -> tuple[int, float]:
    return score.total, score.score  # a score on more folds replaces one on fewer
