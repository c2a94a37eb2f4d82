"""Decide whether a challenger replaces the champion. Both answer the challenger's hold-out.

The rule that decides and its budget are in `promotion`.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.changes import DatasetState, changes_between
from mnist_lib.errors import IntegrityError, MnistError, SpecError, StoreError
from mnist_lib.objects.protocol import Objects
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.appointment import append, next_record
from mnist_lib.store.champions.log import (
    Champion,
    ChampionLog,
    LogEntry,
    UsedImages,
    pinned_version,
    store_used,
)
from mnist_lib.store.champions.promotion import MIN_FRESH_IMAGES, Budget, Compared, Decision, Rule, missing_images
from mnist_lib.store.datasets import read_state
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version, hold, verify
from mnist_lib.wording import counted

# Predicts some images of the challenger's hold-out, given by their positions, with a stored version: [n, classes].
Predict = Callable[[Version, NDArray[np.intp]], NDArray[np.float32]]


def promote(objects: Objects, challenger: Version, rule: Rule, predict: Predict | None = None) -> Decision:
    """Make a version the champion for the dataset that it was trained on, if the rule says so.

    Both are compared on the challenger's hold-out, with the challenger's labels. Where the champion was tested on the
    same images, its stored answers are used. A damaged champion cannot be compared; it has to be rolled back first.

    Args:
        predict: predicts images on which the champion was not tested; None if that is not possible.

    Raises:
        ConflictError: `gc` has deleted the challenger.
        IntegrityError: the challenger is damaged.
        StoreError: the storage fails; the champion is unchanged.
    """
    hold(objects, challenger.model, challenger.number)
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
        self._objects, self._challenger, self._rule, self._predict = objects, challenger, rule, predict
        self._dataset: str = challenger.facts.dataset.name
        self._log = ChampionLog(objects, challenger.model, self._dataset)
        self._predictions = Predictions.read(objects, challenger)
        self._images = self._predictions.images
        self._predicted: dict[int, NDArray[np.float32]] = {}  # by version

    def attempt(self) -> Decision | None:
        """Decide, and record the decision, or return None if another one was recorded meanwhile."""
        challenger, newest = self._challenger, self._log.newest()
        if newest is not None and isinstance(newest.record, IntegrityError):
            raise newest.record
        current = newest.record if newest is not None and isinstance(newest.record, Champion) else None
        if current is not None and current.version == challenger.number:
            return Decision(False, f"{challenger.name} is already the champion", budget=current.budget)
        decision = self._rule.decide_alone(self._predictions)
        if decision is not None and not decision.promote:
            return replace(decision, budget=current.budget if current else None)
        try:
            used = UsedImages.read(self._objects, challenger.model, self._dataset, self._images)
        except IntegrityError as error:
            return Decision(False, f"the images of earlier comparisons are not known ({error})")
        if decision is None and current is None:
            decision = self._rule.decide_first(self._predictions)
        if decision is None and current is not None:
            return self._compare(newest, current, used)
        assert decision is not None
        if not decision.promote:
            return decision
        record = self._record("promote", newest, current, decision)
        if current is None:
            new = {*self._images} - used.by_others(0)
            record = replace(record, period=1, total=self._rule.alpha, used=self._store(1, new))
        return replace(decision, budget=record.budget) if append(self._objects, newest, record, current) else None

    def _compare(self, newest: LogEntry | None, current: Champion, used: UsedImages) -> Decision | None:
        """Compare the challenger with the champion, at the expense of the budget of their dataset."""
        before = self._decided_before(current)
        if before is not None:
            return Decision(False, before.why, before.statistics, before.budget)
        period, budget = self._budget(current, used)
        others = used.by_others(period)
        allowed = np.array([image not in others for image in self._images])
        try:
            right = self._champion_right(current)
        except (IntegrityError, StoreError):
            raise
        except MnistError as error:
            return Decision(False, f"{current.name} stays: it cannot answer the images of this hold-out ({error})")
        predictions, compared = self._predictions, current.compared + 1
        both = Compared(
            *(predictions.name, current.name, predictions.correct, right),
            *(predictions.labels, predictions.classes),
        )
        data = self._training_images(current)
        decision = self._rule.decide_by_data(both, *data)
        if decision is None and (budget.is_used_up or not allowed.any()):
            why = (
                f"not compared with {current.name}, since {budget}: label at least {MIN_FRESH_IMAGES:,} new random"
                f" pictures for the hold-out ({allowed.sum():,} so far), or use --promote always"
            )
            return Decision(False, why, budget=budget)
        if decision is None:
            decision = self._rule.decide(both.take(allowed), budget.next_alpha, missing_images(*data))
            budget = budget.after_comparison()
        new = {image for image, is_allowed in zip(self._images, allowed, strict=True) if is_allowed}
        record = self._record("promote" if decision.promote else "keep", newest, current, decision)
        record = replace(
            record,
            period=period,
            total=budget.total,
            spent=budget.spent,
            comparisons=budget.comparisons,
            compared=compared,
            hold_out=predictions.hold_out,
            used=self._store(period, new - used.of.get(period, frozenset())),
        )
        if decision.promote:
            record = replace(record, selected_from=compared + 1)
        else:
            test = Accuracy(int(right.sum()), len(right))
            record = replace(record, selected_from=current.selected_from, test=test)
        return replace(decision, budget=budget) if append(self._objects, newest, record, current) else None

    def _budget(self, current: Champion, used: UsedImages) -> tuple[int, Budget]:
        """Return the budget that pays for the next comparison, and its number.

        A new one begins when the last one is used up, if enough images have not been used by any decision.
        """
        period, budget = current.period or 1, Budget(self._rule.alpha, current.spent, current.comparisons)
        if not budget.is_used_up or not self._rule.alpha:
            return period, budget
        others = used.by_others(period + 1)
        fresh = sum(image not in others for image in self._images)
        return period + 1, Budget(self._rule.alpha) if fresh >= MIN_FRESH_IMAGES else budget

    def _training_images(self, current: Champion) -> tuple[int, int]:
        """Return how many training images are new or corrected since the champion was trained, and how many it had.

        Both are 0 if the images of one of the two are not known.
        """
        versions = pinned_version(self._objects, current), self._challenger
        fingerprints = [version.facts.dataset.fingerprint for version in versions]
        stored = [read_state(self._objects, self._dataset, fingerprint) for fingerprint in fingerprints]
        try:
            before, after = (DatasetState.read(content or b"", "the state of a dataset") for content in stored)
        except IntegrityError:
            return 0, 0
        changes = changes_between(before, after)
        changed = changes.added["train"], changes.relabelled["train"]
        return sum(sum(of_classes.values()) for of_classes in changed), int((before.split == 0).sum())

    def _champion_right(self, current: Champion) -> NDArray[np.bool_]:
        """Return whether the champion is right about each image of the challenger's hold-out."""
        version = pinned_version(self._objects, current)
        stored = Predictions.read(self._objects, version)
        unknown = np.flatnonzero(stored.rows_for(self._predictions) < 0)
        if not len(unknown):
            return stored.right_for(self._predictions)
        if version.number not in self._predicted:
            if self._predict is None:
                raise SpecError(f"it was not tested on {counted(len(unknown), 'image')} of them")
            predicted = self._predict(version, unknown)
            if predicted.shape != (len(unknown), len(stored.classes)) or not np.isfinite(predicted).all():
                raise SpecError(f"expected finite probabilities [{len(unknown)}, {len(stored.classes)}]")
            self._predicted[version.number] = predicted
        return stored.right_for(self._predictions, self._predicted[version.number])

    def _decided_before(self, current: Champion) -> Champion | None:
        """Return the record of the same comparison, so that a repeated command or a resumed run costs nothing."""
        for found in self._log.newest_first():
            record = found.record
            if isinstance(record, IntegrityError) or record.kind != "keep" or record.version != current.version:
                break
            if record.challenger == self._challenger.number:
                return record if record.hold_out == self._predictions.hold_out else None
            if record.at < self._challenger.committed_at:
                break  # older records are about other challengers
        return None

    def _record(self, kind: str, newest: LogEntry | None, current: Champion | None, decision: Decision) -> Champion:
        predictions = self._predictions
        test = Accuracy(int(predictions.correct.sum()), len(predictions.labels))
        version = self._challenger
        if kind == "keep":
            assert current is not None
            version = pinned_version(self._objects, current)
        record = next_record(kind, self._dataset, newest, current, version, decision)
        return replace(
            record,
            run=self._challenger.run,
            challenger=self._challenger.number if kind == "keep" else None,
            test=test,
        )

    def _store(self, period: int, images: set[bytes]) -> str | None:
        return store_used(self._objects, self._challenger.model, self._dataset, period, images)
