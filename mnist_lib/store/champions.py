"""Which version of a model is in use: an append-only log of numbered records, `models/<model>/champion/<n>`.

The highest is the champion. To promote and to roll back are to append; nothing is overwritten, so nothing is lost, and
of two who append at once one is first and the other has to look again.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.failpoints import failpoint
from mnist_lib.store.holds import hold
from mnist_lib.store.objects import Objects
from mnist_lib.store.promotion import Decision, Predictions, Rule
from mnist_lib.store.records import seal, unseal
from mnist_lib.store.versions import Version, find, highest, now, verify


@dataclass(frozen=True)
class Champion:
    """One record of the log."""

    number: int  # of the record, from 1
    version: int
    at: str  # UTC, ISO 8601
    kind: str  # "promote" or "rollback"
    why: str
    run: str  # by which it came
    replaced: int | None  # the version before it
    statistics: Mapping[str, Any] = field(default_factory=dict)


def champion(objects: Objects, model: str) -> Champion | None:
    """The newest record; None if there never was one. Whether its version is whole is not asked."""
    newest = highest(lambda number: objects.exists(_record(model, number)))
    return _read(objects, model, newest) if newest else None


def history(objects: Objects, model: str) -> list[Champion]:
    """All records, the oldest first."""
    newest = highest(lambda number: objects.exists(_record(model, number)))
    return [_read(objects, model, number) for number in range(1, newest + 1)]


def champion_at(objects: Objects, model: str, at: str) -> Champion | None:
    """Of a time in UTC, ISO 8601."""
    return next((record for record in reversed(history(objects, model)) if record.at <= at), None)


def promote(objects: Objects, challenger: Version, decide: Rule) -> Decision:
    """Makes a version the champion if the decision over the two versions' predictions is for it.

    The challenger is verified first. A champion that is damaged can neither win nor lose: it has to be rolled back.

    Raises:
        SpecError: the challenger was collected meanwhile.
        IntegrityError: it is not what was committed.
        StoreError: the storage refuses; the champion is unchanged.
    """
    hold(objects, challenger.model, challenger.number)
    verify(objects, challenger)
    mine = Predictions.of(objects, challenger)
    while True:
        current = champion(objects, challenger.model)
        if current is not None and current.version == challenger.number:
            return Decision(False, f"{challenger.name} is the champion already", {})
        try:
            decision = decide(mine, _defender(objects, challenger.model, current))
        except IntegrityError as error:
            return Decision(False, f"the champion is damaged, roll it back first ({error})", {})
        if not decision.promote:
            return decision
        if _append(objects, challenger, current.number + 1 if current else 1, current, "promote", decision):
            return decision
        # Another was promoted meanwhile: it is the one to beat now.


def rollback(objects: Objects, model: str, to: int | None = None) -> Champion:
    """Appends the version before the champion, or version `to`, as the new champion; it is verified first.

    Raises:
        SpecError: there is nothing to go back to.
        IntegrityError: the version to go back to is not what was committed.
    """
    while True:
        newest, log = _readable(objects, model)
        if not newest:
            raise SpecError(f"{model}: there is no champion to roll back; promote a version first")
        current = log[-1] if log and log[-1].number == newest else None
        target = _before(model, log, current) if to is None else to
        if current is not None and target == current.version:
            return current
        hold(objects, model, target)
        version = find(objects, model, target)
        if version is None:
            raise SpecError(f"{model}@{target}: there is no such version")
        verify(objects, version)
        left = f"{model}@{current.version}" if current else f"champion record {newest}, which is damaged"
        decision = Decision(True, f"rolled back from {left}", {})
        if _append(objects, version, newest + 1, current, "rollback", decision):
            appended = champion(objects, model)
            assert appended is not None
            return appended


def line_of_champions(log: Sequence[Champion]) -> list[int]:
    """The versions that roll-backs would go through, the champion last: what was rolled back is in it no more."""
    line: list[int] = []
    for record in log:
        if record.kind == "rollback" and record.version in line:
            del line[line.index(record.version) + 1 :]
        else:
            line.append(record.version)
    return line


def _before(model: str, log: Sequence[Champion], current: Champion | None) -> int:
    """`current` None: its record is damaged, and the one before it is the last that can be read."""
    line = line_of_champions(log)
    if current is None and line:
        return line[-1]
    if len(line) < 2:
        first = f"{model}@{line[-1]} is the first champion" if line else f"no champion record of {model} can be read"
        raise SpecError(f"{first}: there is none to roll back to; name a version with --to")
    return line[-2]


def _readable(objects: Objects, model: str) -> tuple[int, list[Champion]]:
    """-> (the number of the newest record, those that are not damaged): a roll-back has to be possible always."""
    newest, log = highest(lambda number: objects.exists(_record(model, number))), []
    for number in range(1, newest + 1):
        with contextlib.suppress(IntegrityError):
            log.append(_read(objects, model, number))
    return newest, log


def _defender(objects: Objects, model: str, current: Champion | None) -> Predictions | None:
    if current is None:
        return None
    version = find(objects, model, current.version)
    if version is None:
        raise IntegrityError(f"{model}@{current.version}: expected a commit record, got none")
    return Predictions.of(objects, version)


def _append(
    objects: Objects, version: Version, number: int, current: Champion | None, kind: str, decision: Decision
) -> bool:
    """False if there is a record of that number."""
    record = Champion(
        number=number,
        version=version.number,
        at=now(),
        kind=kind,
        why=decision.why,
        run=version.run,
        replaced=current.version if current else None,
        statistics=decision.statistics,
    )
    failpoint(f"{kind}.before_append")
    return objects.create(_record(version.model, number), seal(asdict(record)))


def _read(objects: Objects, model: str, number: int) -> Champion:
    name = f"{model}: champion record {number}"
    document = unseal(objects.read(_record(model, number)) or b"", name)
    try:
        record = Champion(**document)
    except TypeError as error:
        raise IntegrityError(f"{name}: expected a record of a champion, got one with other fields") from error
    if record.number != number:
        raise IntegrityError(f"{name}: expected a record of that number, got {record.number!r}")
    return record


def _record(model: str, number: int) -> str:
    return f"models/{model}/champion/{number:08d}.json"
