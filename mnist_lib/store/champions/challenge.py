"""Decide whether a challenger replaces the champion. Both answer the challenger's test images.

The rule that decides and its budget are in `promotion`.
"""

from dataclasses import replace
from functools import cached_property

from mnist_lib.data.changes import DatasetState, changes_between
from mnist_lib.errors import DataReadError, IntegrityError, MnistError, StoreError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import append, next_record
from mnist_lib.store.champions.log import Champion, ChampionLog
from mnist_lib.store.champions.promotion import Budget, Decision, Rule, missing_images
from mnist_lib.store.champions.test_set import ChallengerTestSet, Predict
from mnist_lib.store.contents import read_manifest
from mnist_lib.store.datasets import read_state
from mnist_lib.store.versions import Version, require_not_deleted, require_version, verify


def promote(objects: Objects, challenger: Version, rule: Rule, predict: Predict | None = None) -> Decision:
    """Make a version the champion for the dataset that it was trained on, if the rule says so.

    Both are compared on the challenger's test images, with the challenger's labels. Where the champion was tested on
    the same images, its stored answers are used. A damaged champion cannot be compared; it has to be rolled back first.

    Args:
        predict: predicts test images on which the champion was not tested; None if that is not possible.

    Raises:
        ConflictError: `gc` has deleted the challenger.
        IntegrityError: the challenger is damaged.
        StoreError: the storage fails; the champion is unchanged.
    """
    require_not_deleted(objects, challenger)
    verify(objects, challenger)
    challenge = _Challenge(objects, challenger, rule, predict)
    while True:
        try:
            decision = challenge.attempt()
        except IntegrityError as error:
            return Decision(False, f"the champion is damaged; roll it back first ({error})")
        if decision is not None:
            return decision
        # Another decision was made at the same time: compare again, with the current champion.


class _Challenge:
    """A challenger, and what has been found out about it."""

    def __init__(self, objects: Objects, challenger: Version, rule: Rule, predict: Predict | None) -> None:
        self._objects = objects
        self._challenger = challenger
        self._rule = rule
        self._test_set = ChallengerTestSet(objects, challenger, predict)
        self._dataset: str = challenger.facts.dataset.name
        self._log = ChampionLog(objects, challenger.model, self._dataset)

    @cached_property
    def _is_balanced(self) -> bool:
        """Return whether trials were compared by balanced accuracy when the challenger was trained."""
        return read_manifest(self._objects, self._challenger).spec.score == "balanced-accuracy"

    def attempt(self) -> Decision | None:
        """Decide, and record the decision, or return None if another one was recorded meanwhile."""
        challenger = self._challenger
        predictions = self._test_set.predictions
        last = self._log.last()
        current = self._log.read(last) if last else None
        require_not_deleted(self._objects, challenger)  # after the log was read, to which `gc` appends first
        if isinstance(current, IntegrityError):
            raise current
        if current is not None and current.version == challenger.number:
            return Decision(False, f"{challenger.name} is already the champion", budget=current.budget)
        decision = self._rule.decide_alone(predictions)
        if decision is None and current is not None:
            return self._compare(last, current)
        if decision is None:
            decision = self._rule.decide_first(predictions, balanced=self._is_balanced)
        if not decision.promote:
            return replace(decision, budget=current.budget if current else None)
        record = next_record("promote", self._dataset, last, current, challenger, decision)
        test, interval = self._test_set.accuracy(challenger, record.selected_from)
        record = replace(record, test=test, test_ci95=interval, total=record.total or self._rule.alpha)
        return replace(decision, budget=record.budget) if append(self._objects, record) else None

    def _compare(self, last: int, current: Champion) -> Decision | None:
        """Compare the challenger with the champion, at the expense of the budget of their dataset."""
        before = self._decided_before(last, current)
        if before is not None:
            return Decision(False, before.why, before.statistics, before.budget)
        champion = require_version(self._objects, current.model, current.version)
        try:
            self._test_set.answer(champion)
        except (IntegrityError, StoreError, DataReadError):
            raise
        except MnistError as error:
            return Decision(False, f"{current.name} stays: it cannot answer the images of this hold-out ({error})")
        decision, budget = self._decide(current, champion)
        winner = self._challenger if decision.promote else champion
        selected_from = current.compared + 2 if decision.promote else current.selected_from
        test, interval = self._test_set.accuracy(winner, selected_from)
        record = next_record("promote" if decision.promote else "keep", self._dataset, last, current, winner, decision)
        record = replace(
            record,
            run=self._challenger.run,
            challenger=None if decision.promote else self._challenger.number,
            total=budget.total,
            comparisons=budget.comparisons,
            compared=current.compared + 1,
            selected_from=selected_from,
            test=test,
            test_ci95=interval,
        )
        return replace(decision, budget=budget) if append(self._objects, record) else None

    def _decide(self, current: Champion, champion: Version) -> tuple[Decision, Budget]:
        """Return the decision, and what is left of the significance after it."""
        both = self._test_set.compared(champion, balanced=self._is_balanced)
        budget = Budget(self._rule.alpha, current.comparisons)
        new, before = self._training_images(champion)
        by_data = self._rule.decide_by_data(both, new, before)
        if by_data is not None and by_data.promote:
            return by_data, budget
        decision = self._rule.decide(both, budget.next_alpha, missing_images(new, before))
        if by_data is not None and not decision.promote and by_data.why not in decision.why:
            decision = replace(decision, why=f"{decision.why}; {by_data.why}")
        return decision, budget.after_comparison()

    def _state(self, version: Version) -> DatasetState | None:
        """Return the images and labels of the dataset that a version was trained on, or None if they are not known."""
        content = read_state(self._objects, version.facts.dataset.name, version.facts.dataset.fingerprint)
        try:
            return DatasetState.read(content or b"", "the state of a dataset")
        except IntegrityError:
            return None

    def _training_images(self, champion: Version) -> tuple[int, int]:
        """Return how many training images are new or corrected since the champion was trained, and how many it had.

        Both are 0 if the images of one of the two are not known.
        """
        before = self._state(champion)
        after = self._state(self._challenger)
        if before is None or after is None:
            return 0, 0
        changes = changes_between(before, after)
        changed = changes.added["train"], changes.relabelled["train"]
        return sum(sum(of_classes.values()) for of_classes in changed), int((before.split == 0).sum())

    def _decided_before(self, last: int, current: Champion) -> Champion | None:
        """Return the record of the same comparison, so that a repeated command or a resumed run costs nothing."""
        for number in range(last, 0, -1):
            record = self._log.read(number)
            if isinstance(record, IntegrityError) or record.version != current.version or record.kind != "keep":
                break
            if record.challenger == self._challenger.number:
                return record
            if record.at < self._challenger.committed_at:
                break  # older records are about other challengers
        return None
