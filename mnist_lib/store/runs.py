"""The folder of one run, `<storage>/runs/<run>/`.

`run.json` is written first, with the run's terms: everything that its result depends on. `summary.json` is written
last; when it exists, the run is complete. Each driver writes the history in files of its own, `history/<n>.jsonl`. It
takes a number by creating the file, so that, after a suspension, it cannot overwrite what another driver has written.
"""

import itertools
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import structs

from mnist_lib.documents import Json, Moment, Name, decode, encode, reading
from mnist_lib.environment import now_text, steady_time
from mnist_lib.errors import ConflictError, SpecError, StoreError
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, MAX_EPOCHS_BYTES, Objects, check_part
from mnist_lib.objects.records import read_record
from mnist_lib.results import HistoryEntry
from mnist_lib.run_documents import MAX_RUN_NAME_LENGTH, Summary, read_summary
from mnist_lib.store.history import DriverConnected, HistoryLine, SearchDocument

RUN_RECORD, CONFIGURATION, HISTORY, SUMMARY = "run.json", "config.yaml", "history", "summary.json"
EARLIER_HISTORY = "history.jsonl"  # that of versions of this program until 2026-12-01
REPORT, PLOTS, SEARCH = "report.html", "plots", "search.json"
INDEX = "index.html"  # lists all runs, at the root of the storage

HISTORY_LINE: Any = HistoryLine  # a union, which is no `type`
MAX_HISTORY_BYTES = 1 << 22  # of a file; each append to a bucket sends the whole file

Terms = Mapping[str, Json]
Command = Literal["jobs.train", "jobs.search"]


@dataclass(frozen=True)
class BegunRun:
    """The record `run.json`."""

    run: Name
    begun: Moment
    terms: Terms
    command: Command


class RunFolder:
    """The files of one run. Every method raises StoreError if the storage fails.

    Args:
        resumed: whether an earlier process began the run.
    """

    def __init__(self, objects: Objects, run: str, *, resumed: bool = False) -> None:
        self.objects, self.run, self.resumed = objects, run, resumed
        self._history_file = ""  # that this process appends to
        self._history_bytes = 0

    @property
    def where(self) -> str:
        return self.objects.where(f"runs/{self.run}")

    def read(self, name: str, limit: int = MAX_DOCUMENT_BYTES) -> bytes | None:
        return self.objects.read(self._name(name), limit)

    def write(self, name: str, content: bytes) -> None:
        self.objects.replace(self._name(name), content)

    def write_json(self, name: str, document: object) -> None:
        self.write(name, _json(document))

    def names(self, prefix: str) -> list[str]:
        """Return the names of all files below a prefix, relative to the run's folder."""
        return [name.removeprefix(self._name("")) for name in self.objects.names(self._name(prefix))]

    def delete(self, name: str) -> None:
        self.objects.delete(self._name(name))

    def delete_below(self, prefix: str) -> None:
        self.objects.delete_below(self._name(prefix))

    def append_history(self, entry: HistoryEntry) -> None:
        """Append a line to the history, with the Unix time."""
        self.append_lines(history_line(entry))

    def append_lines(self, lines: bytes) -> None:
        """Append results of `history_line` to the history."""
        if self._history_file and self._history_bytes < MAX_HISTORY_BYTES:
            self.objects.append(self._history_file, lines)
            self._history_bytes += len(lines)
        else:
            self._history_file = self._create_history_file(lines)
            self._history_bytes = len(lines)

    def _create_history_file(self, lines: bytes) -> str:
        """Create the next file of the history with these lines, and return its name."""
        lines = lines.replace(b"{", b'{"token":"%b",' % uuid.uuid4().hex.encode(), 1)  # see `bucket`
        names = (self._name(f"{HISTORY}/{number:08d}.jsonl") for number in itertools.count(1))
        return next(name for name in names if self.objects.create(name, lines))

    def flush(self) -> None:
        """Write appended content that is still buffered."""
        self.objects.flush()

    def history(self) -> Iterator[HistoryEntry]:
        """Yield the entries of the history, except for an incomplete last line of a driver.

        Raises IntegrityError at the first one that is damaged. The history may have any size, in many files.
        """
        for name in (EARLIER_HISTORY, *self.names(HISTORY)):
            where = self.objects.where(self._name(name))
            lines = (self.read(name, MAX_EPOCHS_BYTES) or b"").split(b"\n")
            for number, line in enumerate(lines[:-1], 1):
                yield decode(line, HISTORY_LINE, f"{where}, line {number}")

    def seconds_worked(self) -> float:
        """Return for how long earlier commands worked on the run, each from its start to its last entry."""
        worked, begin, last = 0.0, 0.0, 0.0
        for entry in self.history() if self.resumed else ():
            if isinstance(entry, DriverConnected):
                worked, begin = worked + last - begin, entry.at - sum(entry.phases.values())
            last = entry.at
        return worked + last - begin

    def complete(self, summary: Summary) -> None:
        """Write the summary, which makes the run complete. Raises ConflictError if another process has written it."""
        self.flush()
        where = self.objects.where(self._name(SUMMARY))
        if not self.objects.create(self._name(SUMMARY), _json(summary)):
            raise ConflictError(f"{where}: expected no summary yet, got that of another process; its results are valid")

    @property
    def is_complete(self) -> bool:
        return self.has(SUMMARY)

    @property
    def is_unfinished(self) -> bool:
        """Whether the run exists and is not complete."""
        return self.has(RUN_RECORD) and not self.is_complete

    def summary(self) -> Summary | None:
        """Return the summary of a complete run, or None if the run is unfinished.

        Raises IntegrityError or SchemaError if it cannot be read.
        """
        content, where = self.read(SUMMARY), self.objects.where(self._name(SUMMARY))
        if content is None:
            return None
        return read_summary(content, where)

    def search(self) -> SearchDocument | None:
        """Return `search.json`, or None if there is none. Raises IntegrityError if it is damaged."""
        content = self.read(SEARCH)
        return None if content is None else decode(content, SearchDocument, f"{self.where}/{SEARCH}")

    def begun(self) -> BegunRun:
        """Return the record of the run. Raises IntegrityError or SchemaError if it cannot be read."""
        return read_record(self.objects, self._name(RUN_RECORD), BegunRun, MAX_DOCUMENT_BYTES)

    def dataset(self) -> str:
        """Return the name of the dataset of the run. Raises IntegrityError or SchemaError if its record is damaged."""
        terms = self.begun().terms
        with reading(self.objects.where(self._name(RUN_RECORD))):
            return str(next(iter(terms["trials"].values()))["dataset"])

    def has(self, name: str) -> bool:
        return self.objects.exists(self._name(name))

    def require_same(self, name: str, value: str, what: str) -> None:
        """Store a value in the run's folder, or raise SpecError if an earlier process has stored a different one."""
        if not self.objects.create(self._name(name), value.encode()) and self.read(name) != value.encode():
            raise SpecError(
                f"run {self.run}: expected the {what} with which it was begun, got another; choose another --run-name"
            )

    def _name(self, name: str) -> str:
        return f"runs/{self.run}/{name}"


def history_line(entry: HistoryEntry) -> bytes:
    """Return a line of the history: an entry with the Unix time."""
    return encode(entry if entry.at else structs.replace(entry, at=round(steady_time(), 3))) + b"\n"


def _json(document: object) -> bytes:
    return encode(document, indent=2) + b"\n"


def check_run_name(run: str) -> None:
    """Raise SpecError unless the name of a run is a valid folder name on every storage."""
    check_part("run_name", run, MAX_RUN_NAME_LENGTH)


def check_writable(objects: Objects) -> None:
    """Raise StoreError if nothing can be stored, ClockError if the clock is wrong.

    StoreError is also raised if two writers could create the same object.
    """
    name = f"writable-{uuid.uuid4().hex}"
    try:
        if not objects.create(name, now_text().encode()) or objects.create(name, b""):
            raise StoreError(
                f"{objects.where(name)}: two writers could both create this object; name another storage with --storage"
            )
    finally:
        objects.delete(name)
