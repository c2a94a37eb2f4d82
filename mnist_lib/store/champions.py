"""The log of champions: which version of a model is in use. Promotions and roll-backs append to it.

The newest record of `models/<model>/champion/` names the champion. Nothing is overwritten: a roll-back appends an older
version again, so the champion may not be the newest version. The rule that decides a promotion is in `promotion`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from mnist_lib.clock import now_text
from mnist_lib.documents import Json, Moment, Name, Number, Text
from mnist_lib.errors import ConflictError, IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, concurrently, failpoint
from mnist_lib.objects.records import RecordLog
from mnist_lib.store.contents import Predictions
from mnist_lib.store.holds import hold, read_hold_state
from mnist_lib.store.promotion import Decision, Rule
from mnist_lib.store.versions import Version, find, verify

Kind = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Champion:
    """A record of the log of champions."""

    model: Name
    number: Number  # of the record in the log
    version: Number
    at: Moment  # UTC, ISO 8601
    kind: Kind
    why: Text
    run: Name  # the run that published the version
    replaced: Number | None  # the champion before; None in the first record, or if the previous record is damaged
    statistics: Mapping[str, Json] = field(default_factory=dict)


def champion(objects: Objects, model: str) -> Champion | None:
    """Return the newest record, or None. Raises IntegrityError if it is damaged; its version is not verified."""
    last = number_of_champions(objects, model)
    return _read(objects, model, last) if last else None


def number_of_champions(objects: Objects, model: str) -> int:
    """Return the number of records in the log."""
    return _log(objects, model).last()


def history(objects: Objects, model: str) -> list[Champion | IntegrityError]:
    """Return all records, oldest first, with an error in place of a damaged one, or of any number of missing ones."""

    def read(number: int) -> Champion | IntegrityError:
        try:
            return _read(objects, model, number)
        except IntegrityError as error:
            return error

    log, found, last = _log(objects, model), list[Champion | IntegrityError](), 0
    numbers = sorted(log.numbers())
    for number, record in zip(numbers, concurrently(read, numbers), strict=True):
        if number > last + 1:  # not one error each: a file may have any number as its name
            missing = log.name(last + 1)
            found.append(IntegrityError(f"{missing}: expected a record, got no file; restore it from a copy"))
        found.append(record)
        last = number
    return found


def champion_at(objects: Objects, model: str, at: str) -> Champion | None:
    """Return the champion at a time (UTC, ISO 8601), or None. Raises IntegrityError if a damaged record may name it."""
    damage: IntegrityError | None = None
    for record in reversed(history(objects, model)):
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


def promote(objects: Objects, challenger: Version, rule: Rule) -> Decision:
    """Make a version the champion if the rule says so.

    A damaged champion cannot be compared, so it has to be rolled back before another version can be promoted.

    Raises:
        ConflictError: `gc` has deleted the challenger.
        IntegrityError: the challenger is damaged.
        StoreError: the storage fails; the champion is unchanged.
    """
    hold(objects, challenger.model, challenger.number)
    verify(objects, challenger)
    predictions = Predictions.read(objects, challenger)
    while True:
        try:
            current = champion(objects, challenger.model)
            if current is not None and current.version == challenger.number:
                return Decision(False, f"{challenger.name} is already the champion", {})
            decision = rule.decide(predictions, _predictions_of(objects, current))
        except IntegrityError as error:
            return Decision(False, f"the champion is damaged; roll it back first ({error})", {})
        if not decision.promote:
            return decision
        if _append(objects, challenger, current.number + 1 if current else 1, current, "promote", decision):
            return decision
        # Another version was promoted at the same time: compare with that one.


def rollback(objects: Objects, model: str, to: int | None = None) -> Champion:
    """Make version `to` the champion or, by default, the version that was the champion before the current one.

    Of equal roll-backs that run concurrently, one takes effect. Repeating a roll-back with `to` changes nothing.

    Raises:
        SpecError: there is no version to roll back to.
        ConflictError: `gc` has deleted that version.
        IntegrityError: that version is damaged.
    """
    target = to
    while True:
        last, log = number_of_champions(objects, model), history(objects, model)
        if not log:
            raise SpecError(f"{model}: expected a champion to roll back, got none; promote a version first")
        current = log[-1] if isinstance(log[-1], Champion) else None
        if target is None:
            target = _version_before(model, log)
        version = find(objects, model, target)
        if version is None:
            raise SpecError(f"{model}@{target}: there is no such version; see: jobs.models list {model}")
        hold(objects, model, target)
        verify(objects, version)
        disqualification = Predictions.read(objects, version).disqualification
        if disqualification is not None:
            raise SpecError(f"{version.name} {disqualification}; name another version with --to")
        if current is not None and current.version == target:
            return current
        left = f"{model}@{current.version}" if current else f"champion record {last}, which is damaged"
        decision = Decision(True, f"rolled back from {left}", {})
        appended = _append(objects, version, last + 1, current, "rollback", decision)
        if appended is not None:
            return appended


def rollback_line(log: Sequence[Champion | IntegrityError]) -> list[int]:
    """Return the versions that repeated roll-backs would go through, the current champion last."""
    line: list[int] = []
    for record in log:
        if isinstance(record, IntegrityError):
            continue
        if record.kind == "rollback" and record.version in line:
            del line[line.index(record.version) + 1 :]
        else:
            line.append(record.version)
    return line


def _version_before(model: str, log: Sequence[Champion | IntegrityError]) -> int:
    line = rollback_line(log)
    if isinstance(log[-1], IntegrityError) and line:
        return line[-1]  # the last known champion
    if len(line) < 2:
        first = f"{model}@{line[-1]} is the first champion" if line else f"no champion record of {model} can be read"
        raise SpecError(f"{first}, so there is none to roll back to; name a version with --to")
    return line[-2]


def _predictions_of(objects: Objects, current: Champion | None) -> Predictions | None:
    if current is None:
        return None
    version = find(objects, current.model, current.version)
    if version is None:
        raise IntegrityError(f"{current.model}@{current.version}: expected a commit record, got none")
    return Predictions.read(objects, version)


def _append(
    objects: Objects, version: Version, number: int, current: Champion | None, kind: Kind, decision: Decision
) -> Champion | None:
    """Append a record, or return None if that number is taken.

    If `gc` considered the hold expired and condemned the version, restore the champion and raise ConflictError.
    """
    record = Champion(
        model=version.model,
        number=number,
        version=version.number,
        at=now_text(),
        kind=kind,
        why=decision.why,
        run=version.run,
        replaced=current.version if current else None,
        statistics=decision.statistics,
    )
    failpoint(f"{kind}.before_append")
    log = _log(objects, version.model)
    if not log.append(number, asdict(record)):
        return None
    if read_hold_state(objects, version.model, version.number).condemned:
        if current is not None:
            why = f"{version.name} was deleted by gc at the same time"
            restored = replace(
                current, number=number + 1, at=now_text(), kind="rollback", why=why, replaced=version.number
            )
            log.append(number + 1, asdict(restored))
        raise ConflictError(f"{version.name} was deleted by gc at the same time; name another version")
    return record


def _read(objects: Objects, model: str, number: int) -> Champion:
    log = _log(objects, model)
    record = log.read(number, Champion)
    if (record.model, record.number) != (model, number):
        got = f"{record.number} of {record.model}"
        raise IntegrityError(f"{log.name(number)}: expected champion {number} of {model}, got {got}")
    return record


def _log(objects: Objects, model: str) -> RecordLog:
    return RecordLog(objects, f"models/{model}/champion")
