"""What a search has found so far: scores, decisions, the best configuration, and what was cut for lack of time."""

import re
from collections.abc import Iterable, Iterator

from jobs.console.exit_codes import TrainingError
from jobs.search.options import SearchOptions
from mnist_lib.documents import decode
from mnist_lib.errors import IntegrityError
from mnist_lib.results import Accuracy, EpochDone, HistoryEntry
from mnist_lib.run_documents import Cut, RungScored, SearchDocument, SearchSummary, Winner
from mnist_lib.search.halving import Step
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import HISTORY, SEARCH, RunFolder

History = Iterable[HistoryEntry]


class Findings:
    """The state of a search, which follows from the scores in the history of its run, and from the recorded cut."""

    def __init__(self, options: SearchOptions) -> None:
        self._options = options
        self.halving = options.halving()
        self.settings = options.proposals(self.halving)
        self.cut: Cut | None = None
        self._so_far: dict[int, Accuracy] = {}  # the highest score of each configuration after any epoch
        self._failures: list[str] = []

    @property
    def is_over(self) -> bool:
        return self.halving.is_complete or (self.cut is not None and self.cut.over)

    @property
    def tried(self) -> set[int]:
        """The configurations that have been trained for at least an epoch, or have failed."""
        return self.halving.tried | self._so_far.keys()

    def trial(self, number: int) -> TrialSpec:
        """Return the trial of a configuration."""
        return self._options.trial(self.settings(number), number)

    def best(self) -> tuple[int, Accuracy] | None:
        """Return the best configuration and its score; before the first rung is complete, the best one so far."""
        so_far = max(self._so_far.items(), key=lambda item: (item[1].value, -item[0]), default=None)
        return self.halving.best() or so_far

    def winner(self) -> tuple[int, Accuracy]:
        """Return the best configuration and its score. Raises TrainingError if there is none."""
        best = self.best()
        if best is None:
            codes = {failure.partition(" ")[0] for failure in self._failures}
            why = f" (the first: {self._failures[0]})" if self._failures else ""
            raise TrainingError(
                f"no configuration could be trained{why}; change --vary or --space", *(codes if len(codes) == 1 else ())
            )
        return best

    # From events

    def note_epoch(self, trial: str, validation: Accuracy | None) -> None:
        """Record the score of an epoch. If no rung is completed in time, these scores decide."""
        number = configuration_of(trial)
        if number is not None and validation and validation.value >= self._so_far.get(number, validation).value:
            self._so_far[number] = validation

    def note_failure(self, trial: str, reason: str) -> None:
        """Note that the training of a configuration has failed; it would fail again, so it cannot win."""
        self._failures.append(reason)
        self._cannot_win(trial)

    def _cannot_win(self, trial: str) -> None:
        if (number := configuration_of(trial)) is not None:
            self._so_far.pop(number, None)

    # From and to documents

    def restore(self, folder: RunFolder, history: History) -> int:
        """Record the scores of earlier drivers, drop what they have dropped, and return the number of known scores.

        Raises IntegrityError if `history.jsonl` or `search.json` is damaged.
        """
        if content := folder.read(SEARCH):
            self.cut = decode(content, SearchDocument, f"{folder.where}/{SEARCH}").cut
        scores: dict[tuple[str, int], Accuracy | None] = {}
        for entry in history:
            if isinstance(entry, RungScored):
                score = entry.validation if entry.validation and entry.validation.total else None
                scores[entry.trial, entry.epoch] = score
        for epoch in epochs_of(history):
            self.note_epoch(epoch.trial, epoch.validation)
        numbers = [configuration_of(trial) for trial, _ in scores] + [*self._so_far]
        unknown = [number for number in numbers if number is not None and number >= self.halving.configurations]
        if unknown:
            got = f"configurations 0 to {self.halving.configurations - 1}, got {max(unknown)}"
            raise IntegrityError(f"{folder.where}/{HISTORY}: expected {got}; restore the file from a copy")
        for (trial, _), score in scores.items():
            if score is None:
                self._cannot_win(trial)
        if not any(scores.values()):
            scores.clear()  # if every configuration has failed, for example on a broken node, try them again
        steps: list[Step] = []
        while step := self.halving.next_step():
            key = self.trial(step.configuration).id, self.halving.epochs_of(step)
            if key in scores:
                self.halving.record(step, scores[key])
            else:
                steps.append(step)
        self.halving.put_back(steps)
        if self.cut is not None:
            self.halving.restrict(self.cut.brackets)
        return len(scores)

    def document(self) -> SearchDocument:
        """Return what `search.json` holds: no times or host names, so that equal searches have equal files."""
        compared = {number for decision in self.halving.decisions for number in decision.scores}
        unfinished = {number: score for number, score in self._so_far.items() if number not in compared}
        best = self.best()
        return SearchDocument(
            space=self._options.variation.document(),
            strategy=self._options.strategy,
            rungs=self.halving.ladder.rungs,
            configurations={number: dict(self.settings(number)) for number in sorted(compared | unfinished.keys())},
            decisions=list(self.halving.decisions),
            unfinished=dict(sorted(unfinished.items())),
            cut=self.cut,
            best=None if best is None else Winner(configuration=best[0], validation=best[1]),
        )

    def summary(self) -> SearchSummary:
        """Return what the summary of the run says about the search. Raises TrainingError if there is no winner."""
        number, score = self.winner()
        return SearchSummary(
            settings=dict(self.settings(number)),
            configurations=len(self.tried),
            epochs=self.halving.epochs,
            validation=score,
            train=tuple(self._options.train_flags(self.settings(number))),
        )


def configuration_of(trial: str) -> int | None:
    """Return the number of the configuration that a trial belongs to, or None for a final trial."""
    match = re.search(r"-c([0-9]{1,9})$", trial)
    return int(match[1]) if match else None


def epochs_of(history: History) -> Iterator[EpochDone]:
    """Yield the epochs of configurations in the history of a run."""
    for entry in history:
        if isinstance(entry, EpochDone) and configuration_of(entry.trial) is not None:
            yield entry
