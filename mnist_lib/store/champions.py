"""Which version of a model is in use: an append-only log, `models/<model>/champion/`, whose newest record tells.

To promote and to roll back are to append; nothing is overwritten, so nothing is lost, and of two who append at once one
is first and the other has to look again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mnist_lib.clock import now_text
from mnist_lib.errors import ConflictError, IntegrityError, SpecError
from mnist_lib.store.contents import Predictions
from mnist_lib.store.holds import hold, holds_of
from mnist_lib.store.log import Log
from mnist_lib.store.objects import Objects, failpoint
from mnist_lib.store.promotion import Decision, Rule
from mnist_lib.store.versions import Version, find, verify


@dataclass(frozen=True)
class Champion:
    """One record of the log."""

    model: str
    number: int  # of the record, from 1
    version: int
    at: str  # UTC, ISO 8601
    kind: str  # "promote" or "rollback"
    why: str
    run: str  # by which it came
    replaced: int | None  # the version before it; None of the first, and where that record is damaged
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers, texts = (self.number, self.version), (self.model, self.at, self.kind, self.why, self.run)
        if not all(type(value) is int and value > 0 for value in numbers) or not all(isinstance(t, str) for t in texts):
            raise ValueError("numbers from 1 and texts")


def champion(objects: Objects, model: str) -> Champion | None:
    """The newest record; None if there never was one. Whether its version is whole is not asked.

    Raises:
        IntegrityError: the record is damaged: which version is in use is not known.
    """
    last = _log(objects, model).last()
    return _read(objects, model, last) if last else None


def number_of_champions(objects: Objects, model: str) -> int:
    """Records in the log."""
    return _log(objects, model).last()


def history(objects: Objects, model: str) -> list[Champion | IntegrityError]:
    """All records, the oldest first; in place of a damaged one, what is wrong with it."""
    return [_read_or_error(objects, model, number) for number in range(1, _log(objects, model).last() + 1)]


def champion_at(objects: Objects, model: str, at: str) -> Champion | None:
    """Of a time in UTC, ISO 8601.

    Raises:
        IntegrityError: a record that may be the one is damaged.
    """
    damage: IntegrityError | None = None
    for record in reversed(history(objects, model)):
        if isinstance(record, IntegrityError):
            damage = record
        elif record.at > at:
            damage = None  # what came before it did not last until then
        elif damage is not None:
            raise damage
        else:
            return record
    if damage is not None:
        raise damage
    return None


def promote(objects: Objects, challenger: Version, rule: Rule) -> Decision:
    """Makes a version the champion if the rule decides so over the two versions' predictions.

    The challenger is verified first. A champion that is damaged can neither win nor lose: it has to be rolled back.

    Raises:
        ConflictError: the challenger was collected meanwhile.
        IntegrityError: it is not what was committed.
        StoreError: the storage refuses; the champion is unchanged.
    """
    hold(objects, challenger.model, challenger.number)
    verify(objects, challenger)
    mine = Predictions.of(objects, challenger)
    while True:
        try:
            current = champion(objects, challenger.model)
            if current is not None and current.version == challenger.number:
                return Decision(False, f"{challenger.name} is the champion already", {})
            decision = rule.decide(mine, _defender(objects, challenger.model, current))
        except IntegrityError as error:
            return Decision(False, f"the champion is damaged, roll it back first ({error})", {})
        if not decision.promote:
            return decision
        if _append(objects, challenger, current.number + 1 if current else 1, current, "promote", decision):
            return decision
        # Another was promoted meanwhile: it is the one to beat now.


def rollback(objects: Objects, model: str, to: int | None = None) -> Champion:
    """Appends the version before the champion, or version `to`, as the new champion; it is verified first.

    With `to`, it can be repeated; without, of two at once the second finds done what it wanted.

    Raises:
        SpecError: there is nothing to go back to.
        ConflictError: the version to go back to was collected.
        IntegrityError: it is not what was committed.
    """
    target = to
    while True:
        log = history(objects, model)
        if not log:
            raise SpecError(f"{model}: there is no champion to roll back; promote a version first")
        current = log[-1] if isinstance(log[-1], Champion) else None
        if target is None:
            target = _before(model, log)
        version = find(objects, model, target)
        if version is None:
            raise SpecError(f"{model}@{target}: there is no such version; see: jobs.models list {model}")
        hold(objects, model, target)
        verify(objects, version)
        disqualification = Predictions.of(objects, version).disqualification
        if disqualification is not None:
            raise SpecError(f"{version.name} {disqualification}; name another version with --to")
        if current is not None and current.version == target:
            return current
        left = f"{model}@{current.version}" if current else f"champion record {len(log)}, which is damaged"
        decision = Decision(True, f"rolled back from {left}", {})
        appended = _append(objects, version, len(log) + 1, current, "rollback", decision)
        if appended is not None:
            return appended


def line_of_champions(log: Sequence[Champion | IntegrityError]) -> list[int]:
    """The versions that roll-backs would go through, the champion last: what was rolled back is in it no more."""
    line: list[int] = []
    for record in log:
        if isinstance(record, IntegrityError):
            continue
        if record.kind == "rollback" and record.version in line:
            del line[line.index(record.version) + 1 :]
        else:
            line.append(record.version)
    return line


def _before(model: str, log: Sequence[Champion | IntegrityError]) -> int:
    line = line_of_champions(log)
    if isinstance(log[-1], IntegrityError) and line:
        return line[-1]  # the last that is known
    if len(line) < 2:
        first = f"{model}@{line[-1]} is the first champion" if line else f"no champion record of {model} can be read"
        raise SpecError(f"{first}: there is none to roll back to; name a version with --to")
    return line[-2]


def _defender(objects: Objects, model: str, current: Champion | None) -> Predictions | None:
    if current is None:
        return None
    version = find(objects, model, current.version)
    if version is None:
        raise IntegrityError(f"{model}@{current.version}: expected a commit record, got none")
    return Predictions.of(objects, version)


def _append(
    objects: Objects, version: Version, number: int, current: Champion | None, kind: str, decision: Decision
) -> Champion | None:
    """None if there is a record of that number.

    Raises:
        ConflictError: `gc` has condemned the version since it was held, an hour ago by some clock; the champion is the
            one before again.
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
    if holds_of(objects, version.model, version.number).condemned:
        if current is not None:
            log.append(number + 1, asdict(_back_to(current, record)))
        raise ConflictError(f"{version.name} was collected by gc meanwhile; name another version")
    return record


def _back_to(before: Champion, record: Champion) -> Champion:
    why = f"{record.model}@{record.version} was collected by gc meanwhile"
    return replace(before, number=record.number + 1, at=now_text(), kind="rollback", why=why, replaced=record.version)


def _read(objects: Objects, model: str, number: int) -> Champion:
    record = _log(objects, model).read(number, Champion)
    if (record.model, record.number) != (model, number):
        got = f"{record.number} of {record.model}"
        raise IntegrityError(f"{_log(objects, model).name(number)}: expected champion {number} of {model}, got {got}")
    return record


def _read_or_error(objects: Objects, model: str, number: int) -> Champion | IntegrityError:
    try:
        return _read(objects, model, number)
    except IntegrityError as error:
        return error


def _log(objects: Objects, model: str) -> Log:
    return Log(objects, f"models/{model}/champion")
