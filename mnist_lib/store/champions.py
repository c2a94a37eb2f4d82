"""Which version of a model is in use for a data set: promotions, refusals and roll-backs append to a log.

Nothing is overwritten: a roll-back appends an older version again, so the champion may not be the newest version. The
log is in `champion_log`, the rule that decides a promotion in `promotion`, and how strict it is in `significance`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnist_lib.clock import now_text
from mnist_lib.errors import ConflictError, IntegrityError, MnistError, SpecError, StoreError
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.results import Accuracy
from mnist_lib.store.champion_log import (
    Champion,
    ChampionLog,
    Found,
    commit_sha256,
    datasets_with_logs,
    pinned_version,
)
from mnist_lib.store.holds import hold, read_hold_state
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.promotion import Compared, Decision, Rule
from mnist_lib.store.significance import MIN_FRESH_IMAGES, Budget
from mnist_lib.store.used_images import UsedImages, store_used
from mnist_lib.store.versions import Version, find, find_all, verify
from mnist_lib.wording import counted

# Predicts some images of the challenger's hold-out, given by their positions, with a stored version: [n, classes].
Predict = Callable[[Version, NDArray[np.intp]], NDArray[np.float32]]


def champion(objects: Objects, model: str, dataset: str) -> Champion | None:
    """Return the newest record, or None. Raises IntegrityError if it is damaged; its version is not verified."""
    found = ChampionLog(objects, model, dataset).newest()
    if found is None:
        return None
    if isinstance(found.record, IntegrityError):
        raise found.record
    return found.record


def champions(objects: Objects, model: str) -> dict[str, Champion | IntegrityError]:
    """Return the newest record of each data set for which a model has a champion, or why it cannot be read."""
    logs = {name: ChampionLog(objects, model, name).newest() for name in datasets_with_logs(objects, model)}
    return {dataset: found.record for dataset, found in logs.items() if found is not None}


def dataset_in_use(objects: Objects, model: str) -> str | None:
    """Return the data set with a champion that the model was trained on last, or None if it has no champion.

    Raises IntegrityError if the record of the newest version is damaged and might be of any of several data sets.
    """
    trained = trained_last(objects, model)
    return trained.dataset if trained else None


@dataclass(frozen=True)
class TrainedLast:
    """The data set with a champion that a model was trained on last."""

    dataset: str
    at: str  # UTC, ISO 8601


def trained_last(objects: Objects, model: str) -> TrainedLast | None:
    """Return what `dataset_in_use` returns, with its time. Raises the same error."""
    with_champion = champions(objects, model)
    for _, version in find_all(objects, model, newest_first=True) if with_champion else ():
        if isinstance(version, IntegrityError):
            if len(with_champion) == 1:
                continue
            raise version
        dataset = version.facts.dataset["name"]
        if dataset in with_champion:
            return TrainedLast(dataset, version.committed_at)
    records = [(record.at, name) for name, record in with_champion.items() if isinstance(record, Champion)]
    return TrainedLast(max(records)[1], max(records)[0]) if records else None  # the version no longer exists


def history(objects: Objects, model: str, dataset: str) -> list[Champion | IntegrityError]:
    """Return all records, oldest first, with an error in place of a damaged one, or of any number of missing ones."""
    return [found.record for found in ChampionLog(objects, model, dataset).history()]


def reign(log: Sequence[Champion | IntegrityError]) -> Champion | None:
    """Return the record that made the current champion: the last one that is not a refusal."""
    records = [record for record in log if isinstance(record, Champion)]
    return next((record for record in reversed(records) if record.kind != "keep"), records[0] if records else None)


def champion_at(objects: Objects, model: str, dataset: str, at: str) -> Champion | None:
    """Return the champion at a time (UTC, ISO 8601), or None. Raises IntegrityError if a damaged record may name it."""
    damage: IntegrityError | None = None
    for record in reversed(history(objects, model, dataset)):
        if isinstance(record, IntegrityError):
            damage = record
        elif record.at > at:
            damage = None  # the damaged record is later than this one
        elif damage is None:
            return record
        else:
            break
    if damage is not None:
        raise damage
    return None


def promote(objects: Objects, challenger: Version, rule: Rule, predict: Predict | None = None) -> Decision:
    """Make a version the champion for the data set that it was trained on, if the rule says so.

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
    promotion = _Promotion(objects, challenger, rule, predict)
    while True:
        try:
            decision = promotion.attempt()
        except IntegrityError as error:
            return Decision(False, f"the champion is damaged; roll it back first ({error})")
        if decision is not None:
            return decision
        # Another decision was made at the same time: compare again, with the current champion.


class _Promotion:
    """A challenger, and what has been found out about it."""

    def __init__(self, objects: Objects, challenger: Version, rule: Rule, predict: Predict | None) -> None:
        self._objects, self._challenger, self._rule, self._predict = objects, challenger, rule, predict
        self._dataset: str = challenger.facts.dataset["name"]
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
            used = UsedImages.read(self._objects, challenger.model)
        except IntegrityError as error:
            return Decision(False, f"the images of earlier comparisons are not known ({error})")
        if current is None:
            current = self._continued(used)
        if decision is None and current is None:
            decision = self._rule.decide_first(self._predictions)
        if decision is None and current is not None:
            return self._compare(newest, current, used)
        assert decision is not None
        if not decision.promote:
            return decision
        record = self._record("promote", newest, current, decision)
        if current is None:
            period = f"{self._dataset}/1"
            new = {*self._images} - used.by_others("")
            record = replace(record, period=period, total=self._rule.alpha, used=self._store(period, new))
        return self._append(newest, record, current, replace(decision, budget=record.budget))

    def _compare(self, newest: Found | None, current: Champion, used: UsedImages) -> Decision | None:
        """Compare the challenger with the champion, at the expense of the budget of their data set."""
        before = self._decided_before(current)
        if before is not None:
            return Decision(False, before.why, before.statistics, before.budget)
        period, budget = self._budget(current, used)
        others = used.by_others(period)
        allowed = np.array([image not in others for image in self._images])
        if budget.is_used_up or not allowed.any():
            why = (
                f"not compared with {current.name}, since {budget}: label at least {MIN_FRESH_IMAGES:,} new random"
                f" pictures for the hold-out ({allowed.sum():,} so far), or use --promote always"
            )
            return Decision(False, why, budget=budget)
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
        decision = self._rule.decide(both.take(allowed), budget.next_alpha)
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
        return self._append(newest, record, current, replace(decision, budget=budget))

    def _budget(self, current: Champion, used: UsedImages) -> tuple[str, Budget]:
        """Return the budget that pays for the next comparison, and its name.

        A new one begins when the last one is used up, if enough images have not been used by any decision.
        """
        records = [current, *self._records_of_others()]  # a renamed data set shares its budget
        period = current.period or f"{self._dataset}/1"
        shared = [record for record in records if record.period == period]
        spent = max((record.spent for record in shared), default=0.0)
        comparisons = max((record.comparisons for record in shared), default=0)
        budget = Budget(self._rule.alpha, spent, comparisons)
        if not budget.is_used_up or not self._rule.alpha:
            return period, budget
        prefix = f"{self._dataset}/"
        numbers = [record.period.removeprefix(prefix) for record in records if record.period.startswith(prefix)]
        following = f"{prefix}{max(map(int, filter(str.isdigit, numbers)), default=0) + 1}"
        others = used.by_others(following)
        fresh = sum(image not in others for image in self._images)
        return (following, Budget(self._rule.alpha)) if fresh >= MIN_FRESH_IMAGES else (following, budget)

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

    def _continued(self, used: UsedImages) -> Champion | None:
        """Return the champion of a data set of another name to which most images of the hold-out belong, or None."""
        records = [r for r in _newest_records(self._objects, self._challenger.model) if r.dataset != self._dataset]
        half = len(self._images) / 2
        known = {period: sum(image in images for image in self._images) for period, images in used.of.items()}
        found = [record for record in records if known.get(record.period, 0) > half]
        found = found or [record for record in records if self._is_same_data(record)]
        return max(found, key=lambda record: (known.get(record.period, 0), record.at), default=None)

    def _records_of_others(self) -> list[Champion]:
        """Return all records about other data sets of the model that can be read."""
        model = self._challenger.model
        others = [name for name in datasets_with_logs(self._objects, model) if name != self._dataset]
        records = [record for name in others for record in history(self._objects, model, name)]
        return [record for record in records if isinstance(record, Champion)]

    def _is_same_data(self, record: Champion) -> bool:
        """Return whether a champion of an older version of the program was tested on the same dataset."""
        try:
            version = find(self._objects, record.model, record.version)
            return version is not None and version.facts.dataset["fingerprint"] == self._predictions.fingerprint
        except IntegrityError:
            return False

    def _record(self, kind: str, newest: Found | None, current: Champion | None, decision: Decision) -> Champion:
        predictions = self._predictions
        test = Accuracy(int(predictions.correct.sum()), len(predictions.labels))
        version = self._challenger
        if kind == "keep":
            assert current is not None
            version = pinned_version(self._objects, current)
        record = _next_record(kind, self._dataset, newest, current, version, decision)
        return replace(
            record,
            run=self._challenger.run,
            challenger=self._challenger.number if kind == "keep" else None,
            test=test,
        )

    def _store(self, period: str, images: set[bytes]) -> str | None:
        return store_used(self._objects, self._challenger.model, period, images)

    def _append(
        self, newest: Found | None, record: Champion, current: Champion | None, decision: Decision
    ) -> Decision | None:
        return decision if _append(self._objects, newest, record, current) else None


def rollback(objects: Objects, model: str, dataset: str, to: int | None = None) -> Champion:
    """Make version `to` the champion or, by default, the version that was the champion before the current one.

    Of equal roll-backs that run concurrently, one takes effect. Repeating a roll-back with `to` changes nothing.

    Raises:
        SpecError: there is no version to roll back to.
        ConflictError: `gc` has deleted that version.
        IntegrityError: that version is damaged, or is not the one that was the champion.
    """
    target, log = to, ChampionLog(objects, model, dataset)
    while True:
        found = log.history()
        records = [entry.record for entry in found]
        if not found:
            what = f"{model}: expected a champion for {dataset} to roll back"
            raise SpecError(f"{what}, got none; promote a version first")
        current = records[-1] if isinstance(records[-1], Champion) else None
        if target is None:
            target = _version_before(model, records)
        version = find(objects, model, target)
        if version is None:
            raise SpecError(f"{model}@{target}: there is no such version; see: jobs.models list {model}")
        hold(objects, model, target)
        verify(objects, version)
        known = [record for record in records if isinstance(record, Champion)]
        for record in known:
            if record.version == target:
                pinned_version(objects, record)
        predictions = Predictions.read(objects, version)
        if predictions.disqualification is not None:
            raise SpecError(f"{version.name} {predictions.disqualification}; name another version with --to")
        if current is not None and current.version == target:
            return current
        left = current.name if current else f"champion record {found[-1].number}, which is damaged"
        decision = Decision(True, f"rolled back from {left}")
        record = _next_record("rollback", dataset, found[-1], current, version, decision)
        if known and not current:  # a damaged record may have spent as much as any other
            record = _with_budget_of(record, known[-1])
            if record.budget is not None:
                budget = record.budget.after_comparison()
                record = replace(record, spent=budget.spent, comparisons=budget.comparisons)
        test = Accuracy(int(predictions.correct.sum()), len(predictions.labels))
        record = replace(record, test=test, selected_from=record.compared + 1)
        if _append(objects, found[-1], record, current):
            return record


def rollback_line(log: Sequence[Champion | IntegrityError]) -> list[int]:
    """Return the versions that repeated roll-backs would go through, the current champion last."""
    line: list[int] = []
    for record in log:
        if isinstance(record, IntegrityError):
            continue
        if not line and record.continues is not None and record.replaced is not None:
            line.append(record.replaced)
        if record.kind == "rollback" and record.version in line:
            del line[line.index(record.version) + 1 :]
        elif record.kind != "keep" or not line:
            line.append(record.version)
    return line


def needed_versions(objects: Objects, model: str, keep: int) -> dict[int, list[str]]:
    """Return the versions that `gc` must not delete, each with the data sets for which it is the champion.

    These are the champions, with up to `keep` former ones for each, to which it could be rolled back.

    Raises IntegrityError if the newest record of a log is damaged.
    """
    needed: dict[int, list[str]] = {}
    for dataset in datasets_with_logs(objects, model):
        log = history(objects, model, dataset)
        if log and isinstance(log[-1], IntegrityError):
            raise IntegrityError(f"{log[-1]}; the champion is unknown: roll back first")
        line = rollback_line(log)[-keep - 1 :]
        for number in line:
            needed.setdefault(number, []).extend([dataset] if number == line[-1] else [])
    return needed


def _version_before(model: str, log: Sequence[Champion | IntegrityError]) -> int:
    line = rollback_line(log)
    if isinstance(log[-1], IntegrityError) and line:
        return line[-1]  # the last known champion
    if len(line) < 2:
        first = f"{model}@{line[-1]} is the first champion" if line else f"no champion record of {model} can be read"
        raise SpecError(f"{first}, so there is none to roll back to; name a version with --to")
    return line[-2]


def _newest_records(objects: Objects, model: str) -> list[Champion]:
    return [record for record in champions(objects, model).values() if isinstance(record, Champion)]


def _next_record(
    kind: str, dataset: str, newest: Found | None, current: Champion | None, version: Version, decision: Decision
) -> Champion:
    """Return the record of a decision that spends nothing."""
    record = Champion(
        model=version.model,
        dataset=dataset,
        number=1 if newest is None or newest.is_old else newest.number + 1,
        version=version.number,
        at=now_text(),
        kind=kind,  # type: ignore[arg-type]
        why=decision.why,
        run=version.run,
        replaced=current.version if current else None,
        continues=current.dataset if current and current.dataset != dataset else None,
        commit_sha256=commit_sha256(version),
        previous_sha256=newest.sha256 if newest else None,
        statistics=decision.statistics,
    )
    return _with_budget_of(record, current) if current else record


def _with_budget_of(record: Champion, before: Champion) -> Champion:
    return replace(
        record,
        period=before.period,
        total=before.total,
        spent=before.spent,
        comparisons=before.comparisons,
        compared=before.compared,
        selected_from=before.compared + 1,
    )


def _append(objects: Objects, newest: Found | None, record: Champion, current: Champion | None) -> bool:
    """Append a record, or return False if its number is taken.

    If `gc` considered the hold expired and condemned the version, restore the champion and raise ConflictError.
    """
    failpoint(f"{record.kind}.before_append")
    log = ChampionLog(objects, record.model, record.dataset)
    if not log.append(newest, record):
        return False
    if record.kind != "keep" and read_hold_state(objects, record.model, record.version).condemned:
        why = f"{record.name} was deleted by gc at the same time"
        if current is not None:
            appended = log.newest()
            version = find(objects, current.model, current.version, deleted=True)
            if appended is not None and appended.number == record.number and version is not None:
                restored = _next_record("rollback", record.dataset, appended, record, version, Decision(True, why))
                log.append(appended, replace(restored, test=current.test, selected_from=current.selected_from))
        raise ConflictError(f"{why}; name another version")
    return True
