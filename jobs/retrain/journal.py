"""The journal of a schedule: `schedules/<name>/journal/<n>.json`, entries that are appended and never changed.

The newest entry is all that a new process has to read: it says whether a slot is open and up to which slot all are
settled. When two processes append the same number, one of them fails and has to read the journal again, so
only one process can start a slot.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mnist_lib.data.request import ClassName, Growth
from mnist_lib.documents import Count, Document, Interval, Moment, Number, Share, Text
from mnist_lib.environment import moment_of
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import RecordLog
from mnist_lib.results import Accuracy

# Kinds of entries. After "interrupted" another attempt follows; "enrolled" is the first entry of a schedule.
OPEN = ("started", "interrupted")
Kind = Literal[
    "started", "interrupted", "enrolled", "done", "failed", "unchanged", "skipped", "replaced"
]  # replaced: of earlier releases


class ModelResult(Document, frozen=True, kw_only=True):
    """The result of a model in a complete run."""

    version: Number
    champion: bool
    why: Text | None
    test_accuracy: Share
    trials: Count | None = None
    mean_test_accuracy: Share | None = None
    ci95: Interval | None = None
    # The accuracy of the stored trial as the mean of its classes; only if trials were compared by it.
    balanced_accuracy: Share | None = None
    new_test: Accuracy | None = None  # on the test images that the last run of the dataset did not have
    new_test_accuracy: Share | None = None
    new_test_before: Accuracy | None = None  # the same of earlier runs together, if it is much higher


class DataOfRun(Document, frozen=True, kw_only=True):
    """What is new in the data of a complete run, as numbers of images."""

    name: Text  # of the dataset
    since: Text | None = None  # the last run of the dataset; without one, the next three are missing, too
    added: Count | None = None
    removed: Count | None = None
    relabelled: Count | None = None
    # Classes to which unusually many images were added.
    unusual: dict[ClassName, Growth] = msgspec.field(default_factory=dict)
    objections: tuple[Text, ...] = ()  # why no model was promoted: see `store.reference`
    accept: Text | None = None  # the command with which a person accepts the dataset nevertheless
    newly_damaged: Count | None = None  # pictures that the last run could still read, or did not have
    corrected: Count | None = None  # by `labels.jsonl`, in total
    disputed_holdout: Count | None = None  # of these, test images whose label a model disputed
    label_errors: Count | None = None  # labels of training images that may be wrong


@dataclass(frozen=True)
class DoneSlot:
    slot: Moment
    run: Text
    fingerprint: Text | None


@dataclass(frozen=True)
class Entry:
    """One event of a slot. Times are UTC, ISO 8601, from the clock of the host that appended the entry."""

    kind: Kind
    slot: Moment  # the time at which the slot was due
    at: Moment
    host: Text
    run: Text = ""
    begun: Text = ""  # when the last unbroken period of work on the slot began
    attempt: Count = 0
    failures: Count = 0  # attempts that failed, or whose process died
    missed: Count = 0  # earlier slots that have neither an entry nor a run
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None
    failed_trials: Count = 0
    why: Text = ""  # one line
    fingerprint: Text | None = None  # hash of everything the result depends on; None if it is unknown
    results: Mapping[str, ModelResult] = field(default_factory=dict)  # of a complete run, by model
    data: DataOfRun | None = None  # of a complete run; None if nothing is known of it
    last_done: DoneSlot | None = None  # the newest slot that is done

    @property
    def is_open(self) -> bool:
        return self.kind in OPEN

    @property
    def due(self) -> datetime:
        return moment_of(self.slot)


class Journal:
    """The journal of a schedule. Methods raise StoreError if the storage fails, IntegrityError for a damaged entry."""

    def __init__(self, objects: Objects, schedule: str) -> None:
        self._log = RecordLog(objects, f"schedules/{schedule}/journal")
        self._last: tuple[int, Entry | None] = (0, None)  # the newest entry that was read

    def last(self) -> tuple[int, Entry | None]:
        """Return the number of the newest entry and the entry; (0, None) for an empty journal."""
        number = self._log.probe_last(known=self._last[0])
        if number != self._last[0]:
            self._last = (number, self._log.read(number, Entry))
        return self._last

    def append(self, last: int, entry: Entry) -> bool:
        """Append an entry after number `last`; return False if another process has already done so."""
        return self._log.append(last + 1, entry)

    def newest(self, count: int | None = None) -> Iterator[Entry]:
        """Return the `count` newest entries, or all, the newest first."""
        last = self._log.probe_last()
        for number in range(last, 0 if count is None else max(last - count, 0), -1):
            yield self._log.read(number, Entry)
