"""Holds keep `gc` from deleting a version that is being promoted; they form a log, `models/<model>/holds/<version>/`.

A promotion appends "hold" and `gc` appends "condemn" before it acts, so whichever is second notices the other: a held
version is not deleted, and a condemned one cannot be held. A hold is not a lock: it expires after an hour.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from mnist_lib.clock import moment_of, now_text, text_of
from mnist_lib.documents import Moment
from mnist_lib.errors import ConflictError, IntegrityError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import RecordLog

# A promotion takes seconds; the rest of the hour allows for machines whose clocks differ.
HOLD_DURATION = timedelta(hours=1)


HoldKind = Literal["hold", "condemn"]


@dataclass(frozen=True)
class Hold:
    """A record of the log of holds."""

    kind: HoldKind
    at: Moment  # UTC, ISO 8601, by the clock of the process that appended it


@dataclass(frozen=True)
class HoldState:
    """The state of a version's log of holds at one time."""

    last: int  # number of its newest record
    held: bool
    condemned: bool
    text: str = ""  # why it is held


def hold(objects: Objects, model: str, version: int) -> None:
    """Keep `gc` from deleting a version for an hour. Raises ConflictError if it is being deleted."""
    while True:
        state = read_hold_state(objects, model, version)
        if state.condemned:
            raise ConflictError(f"{model}@{version} was deleted by gc; name another version (see: jobs.models list)")
        if _append(objects, model, version, state, "hold"):
            return


def condemn(objects: Objects, model: str, version: int, state: HoldState) -> bool:
    """Prevent new holds on a version, or return False if its log has grown since `state` was read."""
    return state.condemned or _append(objects, model, version, state, "condemn")


def read_hold_state(objects: Objects, model: str, version: int) -> HoldState:
    """Return whether a version is held. A damaged newest record counts as a hold, so nothing is deleted by mistake."""
    log = _log(objects, model, version)
    last = log.last()
    if not last:
        return HoldState(0, held=False, condemned=False)
    try:
        record = log.read(last, Hold)
    except IntegrityError:
        return HoldState(last, held=True, condemned=False, text="its log of holds is damaged")
    until = moment_of(record.at) + HOLD_DURATION
    held = record.kind == "hold" and datetime.now(UTC) < until
    text = f"held until {text_of(until)}, since a run or a promotion has just compared it"
    return HoldState(last, held=held, condemned=record.kind == "condemn", text=text)


def _append(objects: Objects, model: str, version: int, state: HoldState, kind: HoldKind) -> bool:
    return _log(objects, model, version).append(state.last + 1, Hold(kind, now_text()))


def _log(objects: Objects, model: str, version: int) -> RecordLog:
    return RecordLog(objects, f"models/{model}/holds/{version:08d}")
