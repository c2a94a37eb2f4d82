"""Who needs a version, and who deletes it: `models/<model>/holds/<version>/`, a log that each appends to in turn.

A promotion must not put in use what `gc` is deleting. Both append before they act, and of two who append at once one
is second and has to look again: so a version that is held stays, and one that is condemned cannot be held.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mnist_lib.clock import now_text
from mnist_lib.errors import ConflictError, IntegrityError
from mnist_lib.store.log import Log
from mnist_lib.store.objects import Objects

# A promotion ends within seconds, or died; what it decided, the log of champions holds. Clocks may differ by less.
LASTS = timedelta(hours=1)


@dataclass(frozen=True)
class Hold:
    kind: str  # "hold" or "condemn"
    at: str  # UTC, ISO 8601, by the clock of who appended it


@dataclass(frozen=True)
class Holds:
    """What the log of a version says at one time."""

    last: int  # number of its newest record
    held: bool
    condemned: bool


def holds_of(objects: Objects, model: str, version: int) -> Holds:
    log = _log(objects, model, version)
    last = log.last()
    if not last:
        return Holds(0, held=False, condemned=False)
    try:
        record = log.read(last, Hold)
        age = datetime.now(UTC) - datetime.fromisoformat(record.at)
    except (
        IntegrityError,
        ValueError,
        TypeError,
    ):  # nothing is deleted because of it, and nobody kept from appending the next
        return Holds(last, held=True, condemned=False)
    return Holds(last, held=record.kind == "hold" and age < LASTS, condemned=record.kind == "condemn")


def hold(objects: Objects, model: str, version: int) -> None:
    """Nobody deletes the version for an hour.

    Raises:
        ConflictError: it is being deleted.
    """
    while True:
        holds = holds_of(objects, model, version)
        if holds.condemned:
            raise ConflictError(f"{model}@{version} was collected by gc: name another version; see: jobs.models list")
        if _log(objects, model, version).append(holds.last + 1, {"kind": "hold", "at": now_text()}):
            return


def condemn(objects: Objects, model: str, version: int, holds: Holds) -> bool:
    """Nobody can hold the version any more. False if there is a newer record than `holds` knows."""
    document = {"kind": "condemn", "at": now_text()}
    return holds.condemned or _log(objects, model, version).append(holds.last + 1, document)


def _log(objects: Objects, model: str, version: int) -> Log:
    return Log(objects, f"models/{model}/holds/{version:08d}")
