"""Who needs a version, and who deletes it: `models/<model>/holds/<version>/<n>`, a log that each appends to in turn.

A promotion must not put in use what `gc` is deleting. Both append before they act, and of two who append at once one
is second and has to look again: so a version that is held stays, and one that is given up cannot be held.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.objects import Objects
from mnist_lib.store.records import seal, unseal
from mnist_lib.store.versions import highest, now

# A promotion ends within seconds, or died. What it decided, the log of champions holds.
LASTS = timedelta(hours=1)


@dataclass(frozen=True)
class Hold:
    """The newest record of a version's log."""

    number: int  # 0 of an empty log
    held: bool
    given_up: bool


def newest_hold(objects: Objects, model: str, version: int) -> Hold:
    number = highest(lambda n: objects.exists(_record(model, version, n)))
    if not number:
        return Hold(0, held=False, given_up=False)
    content = objects.read(_record(model, version, number))
    try:
        record = unseal(content or b"", f"{model}@{version}: hold {number}")
    except IntegrityError:  # nothing is deleted for it, and nobody kept from appending the next
        return Hold(number, held=True, given_up=False)
    age = datetime.now(UTC) - datetime.fromisoformat(record["at"])
    return Hold(number, record["kind"] == "hold" and age < LASTS, record["kind"] == "give up")


def hold(objects: Objects, model: str, version: int) -> None:
    """Nobody deletes the version for an hour.

    Raises:
        SpecError: it is being deleted.
    """
    while True:
        newest = newest_hold(objects, model, version)
        if newest.given_up:
            raise SpecError(f"{model}@{version} was collected by gc: name another version; see: jobs.models list")
        if _append(objects, model, version, newest.number + 1, "hold"):
            return


def give_up(objects: Objects, model: str, version: int, newest: Hold) -> bool:
    """Nobody can hold the version any more. False if there is a newer record than `newest`."""
    return newest.given_up or _append(objects, model, version, newest.number + 1, "give up")


def _append(objects: Objects, model: str, version: int, number: int, kind: str) -> bool:
    # The token makes each record another's: see `bucket`.
    return objects.create(_record(model, version, number), seal({"kind": kind, "at": now(), "token": uuid.uuid4().hex}))


def _record(model: str, version: int, number: int) -> str:
    return f"models/{model}/holds/{version:08d}/{number:08d}.json"
