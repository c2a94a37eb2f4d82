"""What became of each slot of a schedule: `schedules/<name>/journal/<n>.json`, appended to in turn, never changed.

The newest entry tells all that a process needs which knows nothing else: whether a slot is open, and up to which one
all are settled. Of two who append at once, one has to look again; so of two who want to start a slot, one does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from mnist_lib.clock import moment_of, text_of
from mnist_lib.store.objects import Objects
from mnist_lib.store.records import RecordLog

OPEN = {
    "started": "an attempt at it was begun",
    "interrupted": "its attempt ended before its work was done; there will be another",
}
SETTLED = {
    "enrolled": "the schedule begins here",
    "done": "its run is complete",
    "failed": "there will be no other attempt",
    "unchanged": "there was nothing new to train with",
    "skipped": "it had no run",
    "replaced": "its run was stopped for the next one",
}


@dataclass(frozen=True)
class Entry:
    """Times are UTC, ISO 8601, by the clock of who appended it."""

    kind: str  # of `OPEN` or `SETTLED`
    slot: str  # when it was due
    at: str
    host: str
    run: str = ""
    begun: str = ""  # since when a process is at it, or was
    attempt: int = 0
    failures: int = 0  # attempts that ended by themselves before their work was done
    missed: int = 0  # slots before this one that have no entry and no run
    exit_code: int | None = None
    why: str = ""  # one line
    fingerprint: str | None = None  # of what it is trained with; None where that cannot be told
    results: Mapping[str, Any] = field(default_factory=dict)  # of a run that is done, by model
    last_done: Mapping[str, Any] | None = None  # {"slot", "run", "fingerprint"} of the newest slot that is done

    def __post_init__(self) -> None:
        if self.kind not in {**OPEN, **SETTLED}:
            raise ValueError(f"kind {self.kind!r}")
        for text in (self.slot, self.at, self.begun or self.at):
            moment_of(text)

    def followed(self, kind: str, now: datetime, host: str, **fields: Any) -> "Entry":
        """What comes next of this slot."""
        return replace(self, kind=kind, at=text_of(now), host=host, **fields)

    @property
    def is_open(self) -> bool:
        return self.kind in OPEN

    @property
    def due(self) -> datetime:
        return moment_of(self.slot)


class Journal:
    """Raises StoreError when the storage refuses, IntegrityError for a damaged entry."""

    def __init__(self, objects: Objects, schedule: str) -> None:
        self._log = RecordLog(objects, f"schedules/{schedule}/journal")
        self._last: tuple[int, Entry | None] = (0, None)  # that was seen

    def last(self) -> tuple[int, Entry | None]:
        """The number of the newest entry, 0 of none, and that."""
        number = self._log.probe_last(known=self._last[0])
        if number != self._last[0]:
            self._last = (number, self._log.read(number, Entry))
        return self._last

    def append(self, last: int, entry: Entry) -> bool:
        """False if `last` is the newest no more."""
        return self._log.append(last + 1, asdict(entry))

    def backwards(self, most: int | None = None) -> Iterator[Entry]:
        """The newest entries, or all, the newest first."""
        last = self._log.probe_last()
        for number in range(last, 0 if most is None else max(last - most, 0), -1):
            yield self._log.read(number, Entry)
