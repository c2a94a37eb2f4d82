"""The logs of champions: `models/<model>/champions/<dataset>/<n>.json`, one record for each decision, oldest first.

The newest record names the champion of a model for a dataset. Each record contains the sha256 of the commit record of
that version and of the record before it. `head.json` contains the number and the sha256 of the newest record. So
`verify` notices a record that was deleted or replaced. The head is written after the record: it may be behind, never
ahead.

The images that were counted for a shadow are in `models/<model>/counted/<dataset>/<sha256>.npz`. Each file holds the
hashes of the images of one night.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.request import stored_name
from mnist_lib.data.split import ImageHashes
from mnist_lib.documents import Count, Interval, Json, Moment, Name, Number, Sha256, Share, Text
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import npz, read_npz
from mnist_lib.objects.protocol import Objects, concurrently
from mnist_lib.objects.records import RecordLog, read_record, seal, unseal
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.promotion import COMPARISONS_SHARE, Budget
from mnist_lib.store.champions.shadow import Shadow
from mnist_lib.store.versions import Version, find, model_names, record_of

MAX_COUNTED_BYTES = 1 << 31  # 100 million images
Kind = Literal["promote", "keep", "rollback"]  # "keep": the champion was compared with a version that was refused


@dataclass(frozen=True)
class Champion:
    """A decision, and the champion since then."""

    EARLIER_FIELDS: ClassVar = ("period", "spent", "used")  # of budgets that began anew, with the images they had used

    model: Name
    dataset: Name
    number: Number  # of the record in its log
    version: Number  # the champion
    at: Moment  # UTC, ISO 8601
    kind: Kind
    why: Text
    run: Name  # the run that published the version that was judged
    replaced: Number | None  # the champion before; None in the first record, or if the previous record is damaged
    challenger: Number | None = None  # of "keep": the version that was refused
    commit_sha256: Sha256 | None = None  # of the commit record of `version`
    previous_sha256: Sha256 | None = None  # of the record before; None in a first record
    total: Share = 0.0  # of the significance of all comparisons
    comparisons: Count = 0  # number of comparisons at its expense so far, with this decision
    compared: Count = 0  # versions that were compared for this dataset in all, also by more data
    selected_from: Number = 1  # number of versions of which the champion is the best
    hold_out: Sha256 | None = None  # identifies the images and labels of a comparison
    test: Accuracy | None = None  # of the champion on the hold-out of this decision
    statistics: Mapping[str, Json] = field(default_factory=dict)
    shadow: Shadow | None = None  # with its evidence; the champion itself if that promoted it in this record
    shadows: Count = 0  # number of all shadows so far
    test_ci95: Interval | None = None  # of `test`, with regard to groups and selection; None in earlier records

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def challenged_by(self) -> Shadow | None:
        """The shadow that is compared with the champion, or None."""
        return self.shadow if self.shadow is not None and self.shadow.version != self.version else None

    @property
    def budget(self) -> Budget | None:
        return Budget(self.total, self.comparisons) if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the champion's accuracy. It allows for the selection of the champion."""
        return self.test_ci95 or (self.test.interval(self.selected_from) if self.test else None)


@dataclass(frozen=True)
class Head:
    """The record `head.json`: the newest record of a log, or an earlier one."""

    number: Number
    record_sha256: Sha256


@dataclass(frozen=True)
class LogEntry:
    """A record that was read, or the reason why it cannot be, with what the next record must contain."""

    number: int
    record: Champion | IntegrityError
    sha256: str | None  # of its content when it was written, as far as that is known


class ChampionLog:
    """The log of a model and a dataset. Every method raises StoreError if the storage fails."""

    def __init__(self, objects: Objects, model: str, dataset: str) -> None:
        self._objects, self._model, self._dataset = objects, model, dataset
        self._folder = f"models/{model}/champions/{dataset}"
        self._log = RecordLog(objects, self._folder)

    def newest(self) -> LogEntry | None:
        """Return the newest record. Raises SchemaError if a newer version of this program wrote the head."""
        head = self._head()  # before the log, which may grow meanwhile
        last = self._log.last()
        if isinstance(head, Head) and head.number > last and not self._objects.exists(self._log.name(head.number)):
            return LogEntry(head.number, self._missing(head.number), head.record_sha256)
        if not last:
            return None
        found = self._read(last)
        return self._compared_with(head, found)

    def newest_first(self) -> Iterator[LogEntry]:
        """Yield the records, the newest first."""
        for number in range(self._log.last(), 0, -1):
            yield self._read(number)

    def history(self) -> list[LogEntry]:
        """Return all records, oldest first, with an error in place of a damaged one or of missing ones."""
        head, found, last = self._head(), list[LogEntry](), 0
        numbers = sorted(self._log.numbers())
        for number, record in zip(numbers, concurrently(self._objects, self._read, numbers), strict=True):
            if number > last + 1:  # one error for the whole gap, which may be huge
                found.append(LogEntry(last + 1, self._missing(last + 1), None))
            found.append(self._compared_with(head, record))
            last = number
        if isinstance(head, Head) and head.number > last:
            found.append(LogEntry(head.number, self._missing(head.number), head.record_sha256))
        return found

    def append(self, after: LogEntry | None, record: Champion) -> bool:
        """Append a record whose number and chain follow from `after`, or return False if its number is taken."""
        if after is not None and after.sha256 is not None:
            head = self._head()
            if not isinstance(head, Head) or head.number < after.number:  # its writer died, or has not written it yet
                self._write_head(after.number, after.sha256)
        if not self._log.append(record.number, record):
            return False
        content = self._objects.read(self._log.name(record.number)) or b""
        self._write_head(record.number, hashlib.sha256(content).hexdigest())
        return True

    def damage(self) -> list[IntegrityError]:
        """Return what is wrong with the log, the chain of its records, its head, and what it refers to."""
        head, history = self._head(), self.history()
        wrong = [found.record for found in history if isinstance(found.record, IntegrityError)]
        if isinstance(head, IntegrityError):
            wrong.append(head)
        elif head is None and len(history) > 1:
            wrong.append(IntegrityError(f"{self._head_name}: expected a record, got no file; restore it from a copy"))
        for before, found in zip([None, *history], history, strict=False):
            record = found.record
            if isinstance(record, IntegrityError):
                continue
            expected = record.previous_sha256
            if before is not None and before.sha256 is not None and before.sha256 != expected:
                wrong.append(self._replaced(before.number))
            elif before is None and expected is not None:
                wrong.append(IntegrityError(f"{self._folder}: expected the record before the first one, got no file"))
        return [*wrong, *self._wrong_shadows(history), *self._damaged_references(history)]

    def _wrong_shadows(self, history: Sequence[LogEntry]) -> Iterator[IntegrityError]:
        """Yield an error for each record whose shadow cannot follow from those before, or was promoted too early."""
        before: Shadow | None = None
        for found in history:
            record = found.record
            if isinstance(record, IntegrityError) or record.shadow is None:
                continue
            shadow, name = record.shadow, self._log.name(found.number)
            if before is not None and not shadow.follows(before):
                yield IntegrityError(f"{name}: expected counts that follow from the records before, got others")
            before = shadow
            needed = shadow.needed(record.total * (1 - COMPARISONS_SHARE) / COMPARISONS_SHARE)
            if shadow.version == record.version and shadow.evidence < needed:
                got = f"{shadow.evidence:.3g}"
                yield IntegrityError(f"{name}: expected evidence of {needed:.3g} for {record.name}, got {got}")

    def _damaged_references(self, history: Sequence[LogEntry]) -> list[IntegrityError]:
        wrong: dict[str, IntegrityError] = {}
        for found in history:
            record = found.record
            if isinstance(record, IntegrityError) or record.commit_sha256 is None:
                continue
            try:
                pinned_version(self._objects, record, deleted=True)
                if record.shadow and record.shadow.counted:
                    _read_counted(self._objects, _counted_name(record.model, record.dataset, record.shadow.counted))
            except IntegrityError as error:
                wrong[str(error)] = error
        return [*wrong.values()]

    def _read(self, number: int) -> LogEntry:
        name = self._log.name(number)
        content = self._objects.read(name)
        if content is None:
            return LogEntry(number, self._missing(number), None)
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            record = unseal(content, name, Champion)
            if (record.model, record.dataset, record.number) != (self._model, self._dataset, number):
                got = f"{record.number} of {record.model} for {record.dataset}"
                raise IntegrityError(
                    f"{name}: expected champion {number} of {self._model} for {self._dataset}, got {got}"
                )
        except IntegrityError as error:
            return LogEntry(number, error, sha256)
        return LogEntry(number, record, sha256)

    def _compared_with(self, head: Head | IntegrityError | None, found: LogEntry) -> LogEntry:
        """Return a record, or an error if it is not the one that the head names."""
        if not isinstance(head, Head) or head.number != found.number or head.record_sha256 == found.sha256:
            return found
        record = self._replaced(found.number) if isinstance(found.record, Champion) else found.record
        return LogEntry(found.number, record, head.record_sha256)

    @property
    def _head_name(self) -> str:
        return f"{self._folder}/head.json"

    def _head(self) -> Head | IntegrityError | None:
        try:
            return read_record(self._objects, self._head_name, Head) if self._objects.exists(self._head_name) else None
        except IntegrityError as error:
            return error

    def _write_head(self, number: int, sha256: str) -> None:
        self._objects.replace(self._head_name, seal(Head(number, sha256)))

    def _missing(self, number: int) -> IntegrityError:
        return IntegrityError(f"{self._log.name(number)}: expected a record, got no file; restore it from a copy")

    def _replaced(self, number: int) -> IntegrityError:
        name = self._log.name(number)
        return IntegrityError(f"{name}: expected the record that was written, got another; restore it from a copy")


def datasets_with_logs(objects: Objects, model: str) -> list[str]:
    """Return the datasets for which a model has or had a champion, sorted."""
    return objects.folders(f"models/{model}/champions")


def champion_dataset(objects: Objects, dataset: str | None, model: str | None) -> str | None:
    """Return the name of a dataset if it has or had a champion of a model, otherwise None.

    Args:
        model: None for any model; a version, such as keras@3, is no model.
    """
    if dataset is None:
        return None
    name, models = stored_name(dataset), [each for each in model_names(objects) if model in (None, each)]
    return name if any(name in datasets_with_logs(objects, each) for each in models) else None


def pinned_version(
    objects: Objects, record: Champion, shadow: Shadow | None = None, *, deleted: bool = False
) -> Version:
    """Return the version that a record names. Raises IntegrityError if it is missing, or is not the one of that time.

    Args:
        shadow: of the record, to return its version instead.
        deleted: also return it if `gc` has deleted it.
    """
    pinned = shadow or record
    name = f"{record.model}@{pinned.version}"
    version = find(objects, record.model, pinned.version, deleted=deleted)
    if version is None:
        raise IntegrityError(f"{name}: expected a commit record, got none; roll back to another version")
    got = commit_sha256(version)
    if pinned.commit_sha256 not in (None, got):
        raise IntegrityError(
            f"{name}: expected the commit record with sha256 {pinned.commit_sha256}, which was recorded"
            f", got {got}; restore it from a copy, or roll back to another version"
        )
    return version


def commit_sha256(version: Version) -> str:
    """Return the sha256 of a commit record as it was written, even if `gc` has marked it as deleted since."""
    return hashlib.sha256(record_of(version)).hexdigest()


def counted_images(objects: Objects, model: str, dataset: str, hashes: ImageHashes) -> frozenset[bytes]:
    """Return which of some images were counted for a shadow. Raises IntegrityError if a file is damaged."""
    among = {row.tobytes() for row in hashes}

    def read(name: str) -> set[bytes]:
        return {image for row in _read_counted(objects, name) if (image := row.tobytes()) in among}

    names = [name for name in objects.names(f"models/{model}/counted/{dataset}") if name.endswith(".npz")]
    return frozenset().union(*concurrently(objects, read, names))


def store_counted(objects: Objects, model: str, dataset: str, hashes: ImageHashes) -> str | None:
    """Store hashes of images, [n, 2]; return the name of the file without suffix, or None if there are none."""
    if not len(hashes):
        return None
    content = npz({"hashes": np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 16)})
    sha256 = hashlib.sha256(content).hexdigest()
    objects.create(_counted_name(model, dataset, sha256), content)
    return sha256


def _counted_name(model: str, dataset: str, sha256: str) -> str:
    return f"models/{model}/counted/{dataset}/{sha256}.npz"


def _read_counted(objects: Objects, name: str) -> NDArray[np.uint8]:
    content = objects.read(name, MAX_COUNTED_BYTES)
    if content is None or hashlib.sha256(content).hexdigest() != name.rpartition("/")[2].removesuffix(".npz"):
        got = "no file" if content is None else "another"
        raise IntegrityError(f"{name}: expected a file with this sha256, got {got}; restore it from a copy")
    hashes = read_npz(content, name, {"hashes": MAX_COUNTED_BYTES})["hashes"]
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (16,):
        raise IntegrityError(f"{name}: expected uint8 [n, 16], got {hashes.dtype.name} {hashes.shape}")
    return hashes
