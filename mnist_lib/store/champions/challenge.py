"""Decide whether a challenger replaces the champion. Both answer the challenger's hold-out.

The rule that decides and its budget are in `promotion`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.changes import DatasetState, changes_between, unknown_rows
from mnist_lib.data.split import Dataset
from mnist_lib.errors import ConflictError, DataReadError, IntegrityError, MnistError, StoreError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import append, next_record
from mnist_lib.store.champions.comparison import Compared
from mnist_lib.store.champions.evidence import balanced_weights
from mnist_lib.store.champions.hold_out import HoldOut, Predict, checked
from mnist_lib.store.champions.log import (
    Champion,
    ChampionLog,
    LogEntry,
    commit_sha256,
    counted_images,
    pinned_version,
    store_counted,
)
from mnist_lib.store.champions.promotion import Budget, Decision, Rule, missing_images
from mnist_lib.store.champions.shadow import MAX_NIGHTS, Shadow
from mnist_lib.store.contents import origins, read_manifest
from mnist_lib.store.datasets import read_state
from mnist_lib.store.versions import Version, hold, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Night:
    """The dataset of a run, on whose new pictures champion and shadow are compared.

    Args:
        dataset: without images.
        predict: predicts images of the dataset, given by their rows.
    """

    dataset: Dataset
    predict: Predict


def promote(
    objects: Objects, challenger: Version, rule: Rule, predict: Predict | None = None, night: Night | None = None
) -> Decision:
    """Make a version the champion for the dataset that it was trained on, if the rule says so.

    Both are compared on the challenger's hold-out, with the challenger's labels. Where the champion was tested on the
    same images, its stored answers are used. A damaged champion cannot be compared; it has to be rolled back first.

    Args:
        predict: predicts images of the hold-out on which the champion was not tested; None if that is not possible.
        night: None if no run has trained the challenger just now: the shadow stays as it is.

    Raises:
        ConflictError: `gc` has deleted the challenger.
        IntegrityError: the challenger is damaged.
        StoreError: the storage fails; the champion is unchanged.
    """
    hold(objects, challenger)
    verify(objects, challenger)
    challenge = _Challenge(objects, challenger, rule, predict, night)
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

    def __init__(
        self, objects: Objects, challenger: Version, rule: Rule, predict: Predict | None, night: Night | None
    ) -> None:
        self._objects, self._challenger, self._rule = objects, challenger, rule
        self._hold_out, self._night = HoldOut(objects, challenger, predict), night
        self._dataset: str = challenger.facts.dataset.name
        self._log = ChampionLog(objects, challenger.model, self._dataset)

    @cached_property
    def _is_balanced(self) -> bool:
        """Return whether trials were compared by balanced accuracy when the challenger was trained."""
        return read_manifest(self._objects, self._challenger).spec.get("score") == "balanced-accuracy"

    @cached_property
    def _weights(self) -> Mapping[str, float]:
        """The weight of a bet on an image of each class; empty if all images count the same."""
        return balanced_weights(self._hold_out.predictions.images_by_class) if self._is_balanced else {}

    def attempt(self) -> Decision | None:
        """Decide, and record the decision, or return None if another one was recorded meanwhile."""
        challenger, newest = self._challenger, self._log.newest()
        if newest is not None and isinstance(newest.record, IntegrityError):
            raise newest.record
        current = newest.record if newest is not None and isinstance(newest.record, Champion) else None
        if current is not None and current.version == challenger.number:
            return Decision(False, f"{challenger.name} is already the champion", budget=current.budget)
        decision = self._rule.decide_alone(self._hold_out.predictions)
        if decision is not None and not decision.promote:
            return replace(decision, budget=current.budget if current else None)
        if decision is None and current is None:
            decision = self._rule.decide_first(self._hold_out.predictions, balanced=self._is_balanced)
        if decision is None and current is not None:
            return self._compare(newest, current)
        assert decision is not None
        if not decision.promote:
            return decision
        record = self._record("promote", newest, current, decision)
        if current is None:
            record = replace(record, total=self._rule.comparisons_alpha)
        return replace(decision, budget=record.budget) if append(self._objects, newest, record, current) else None

    def _compare(self, newest: LogEntry | None, current: Champion) -> Decision | None:
        """Compare the challenger with the champion, at the expense of the budget of their dataset."""
        before = self._decided_before(current)
        if before is not None:
            instead = before.version if before.kind == "promote" else None
            return Decision(False, before.why, before.statistics, before.budget, instead)
        try:
            self._hold_out.answer(pinned_version(self._objects, current))
        except (IntegrityError, StoreError, DataReadError):
            raise
        except MnistError as error:
            return Decision(False, f"{current.name} stays: it cannot answer the images of this hold-out ({error})")
        decision, promoted, shadow = self._decide(current)
        budget, compared = decision.budget or Budget(0.0), current.compared + 1
        record = self._record("promote" if decision.promote else "keep", newest, current, decision, promoted)
        record = replace(
            record,
            total=budget.total,
            comparisons=budget.comparisons,
            compared=compared,
            hold_out=self._hold_out.predictions.hold_out,
        )
        if decision.promote:
            champion = promoted
            selected_from = compared + 1
            record = replace(record, shadow=shadow if decision.instead else None)
        else:
            champion = pinned_version(self._objects, current)
            selected_from = current.selected_from
            if self._night and self._rule.alpha and (shadow is None or shadow.nights >= MAX_NIGHTS):
                record, shadow = replace(record, shadows=current.shadows + 1), self._next_shadow(current)
            record = replace(record, shadow=shadow)
        test, interval = self._hold_out.accuracy(champion, selected_from)
        record = replace(record, test=test, test_ci95=interval, selected_from=selected_from)
        decision = replace(decision, promote=decision.promote and not decision.instead)
        return decision if append(self._objects, newest, record, current) else None

    def _decide(self, current: Champion) -> tuple[Decision, Version, Shadow | None]:
        """Return the decision, the version to promote, and the shadow with what it has shown tonight."""
        both = self._hold_out.compared(pinned_version(self._objects, current), balanced=self._is_balanced)
        budget, data = Budget(self._rule.comparisons_alpha, current.comparisons), self._training_images(current)
        by_data = self._rule.decide_by_data(both, *data)
        if by_data is not None and by_data.promote:
            return replace(by_data, budget=budget), self._challenger, None
        shadow = self._shadow_tonight(current)
        if shadow and self._night and (decision := shadow.decide(self._rule, current.model, current.name)):
            return replace(decision, budget=budget), pinned_version(self._objects, current, shadow), shadow
        decision = self._rule.decide(both, budget.next_alpha, missing_images(*data))
        if not decision.promote:
            texts = by_data.why if by_data else "", shadow.text(self._rule, current.model) if shadow else ""
            more = [text for text in texts if text not in decision.why]
            decision = replace(decision, why="; ".join([decision.why, *more]))
        return replace(decision, budget=budget.after_comparison()), self._challenger, shadow

    def _shadow_tonight(self, current: Champion) -> Shadow | None:
        """Return the shadow with the pictures that have arrived, or None if there is none, or it cannot answer."""
        shadow, night = current.challenged_by, self._night
        if shadow is None or night is None:
            return shadow
        dataset = night.dataset
        try:
            known = counted_images(self._objects, current.model, self._dataset, dataset.hashes)
        except IntegrityError as error:
            log.warning("no new picture is counted for %s@%d: %s", current.model, shadow.version, error)
            return shadow  # another shadow would need the file, too
        try:
            versions = pinned_version(self._objects, current, shadow), pinned_version(self._objects, current)
            hold(self._objects, versions[0])
            verify(self._objects, versions[0])
            states = [state for state in map(self._state, versions) if state is not None]
            starts = [v for v in origins(self._objects, [v.name for v in versions], []) if v not in versions]
            earlier = [state for state in map(self._state, starts) if state is not None]
            rows = unknown_rows(dataset, states + earlier, known) if len(states) == 2 else np.empty(0, np.intp)
            ours, theirs = (self._are_right(night, version, rows) for version in versions)
            new = Compared(versions[0].name, current.name, ours, theirs, dataset.labels[rows], dataset.classes)
            shadow = shadow.after(new.by_class)
            if shadow.decide(self._rule, current.model, current.name):
                self._hold_out.answer(versions[0])  # as long as its errors concern it alone
        except MnistError as error:
            if isinstance(error, StoreError | DataReadError) and not isinstance(error, ConflictError):
                raise
            log.warning("%s@%d can no longer be compared with the champion: %s", current.model, shadow.version, error)
            return None
        file = store_counted(self._objects, current.model, self._dataset, dataset.hashes[rows])
        return replace(shadow, counted=file)

    def _are_right(self, night: Night, version: Version, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return whether a version is right about each of some images of tonight's dataset."""
        if not len(rows):
            return np.empty(0, np.bool_)
        stored = self._hold_out.stored(version)
        answers = checked(night.predict(version, rows), len(rows), stored).argmax(axis=1)
        return stored.is_right(answers, night.dataset.labels[rows], night.dataset.classes)

    def _next_shadow(self, current: Champion) -> Shadow:
        sha256, number = commit_sha256(self._challenger), current.shadows + 1
        version, weights = self._challenger.number, self._weights
        return Shadow(version=version, commit_sha256=sha256, number=number, weights=weights)

    def _state(self, version: Version) -> DatasetState | None:
        """Return the images and labels of the dataset that a version was trained on, or None if they are not known."""
        content = read_state(self._objects, version.facts.dataset.name, version.facts.dataset.fingerprint)
        try:
            return DatasetState.read(content or b"", "the state of a dataset")
        except IntegrityError:
            return None

    def _training_images(self, current: Champion) -> tuple[int, int]:
        """Return how many training images are new or corrected since the champion was trained, and how many it had.

        Both are 0 if the images of one of the two are not known.
        """
        before, after = map(self._state, (pinned_version(self._objects, current), self._challenger))
        if before is None or after is None:
            return 0, 0
        changes = changes_between(before, after)
        changed = changes.added["train"], changes.relabelled["train"]
        return sum(sum(of_classes.values()) for of_classes in changed), int((before.split == 0).sum())

    def _decided_before(self, current: Champion) -> Champion | None:
        """Return the record of the same comparison, so that a repeated command or a resumed run costs nothing."""
        for found in self._log.newest_first():
            record = found.record
            if isinstance(record, IntegrityError) or record.version != current.version:
                break
            if record.kind == "promote" and record.run == self._challenger.run and self._night:
                return record  # this run has promoted the shadow
            if record.kind != "keep":
                break
            if record.challenger == self._challenger.number:
                return record if record.hold_out == self._hold_out.predictions.hold_out else None
            if record.at < self._challenger.committed_at:
                break  # older records are about other challengers
        return None

    def _record(
        self,
        kind: str,
        newest: LogEntry | None,
        current: Champion | None,
        decision: Decision,
        promoted: Version | None = None,
    ) -> Champion:
        """Return the record of a decision. `promoted`: by default, the challenger."""
        version = promoted or self._challenger
        if kind == "keep":
            assert current is not None
            version = pinned_version(self._objects, current)
        record = next_record(kind, self._dataset, newest, current, version, decision)
        test, interval = self._hold_out.accuracy(self._challenger, record.selected_from)
        number = self._challenger.number if kind == "keep" else None
        return replace(record, run=self._challenger.run, challenger=number, test=test, test_ci95=interval)
