"""Sealed records, and logs of them: `<folder>/00000001.json` and so on, each written once and never changed.

A sealed record contains its own sha256, so damage is noticed when it is read. To append is to create the next number:
of several concurrent writers, one succeeds. The others must read the log and decide again instead of merely retrying.
"""

import bisect
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

from mnist_lib.documents import builtins_of, decode, encode, require_schema
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, Objects

T = TypeVar("T")

RECORD_SCHEMA = 1
SEALED = re.compile(rb'\{\n  "schema": %d,(.*),\n  "sha256": "([0-9a-f]{64})"\n\}' % RECORD_SCHEMA, re.DOTALL)
MAX_DIGITS = 12  # of a number; our own have eight
TOKEN = "token"  # the field that makes equal records of two writers differ


class RecordLog:
    """An append-only log of records. Every method raises StoreError if the storage fails."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects = objects
        self._folder = folder

    def last(self) -> int:
        """Return the number of the newest record, or 0 if the log is empty."""
        return max(self.numbers(), default=0)

    def probe_last(self, known: int = 0) -> int:
        """Return `last()` in O(log n) requests if n records follow the record `known`. The log must have no gaps."""
        return known + last_number(lambda number: self._objects.exists(self.name(known + number)))

    def read(self, number: int, kind: type[T]) -> T:
        """Return a record. Raises IntegrityError or SchemaError if it cannot be read as `kind`."""
        return read_record(self._objects, self.name(number), kind)

    def append(self, number: int, record: object) -> bool:
        """Append a record, or return False if it exists. Raises IntegrityError if something else has its name."""
        name = self.name(number)
        # Competing writers must write different contents: see `bucket`.
        if self._objects.create(name, seal(record, unique=True)):
            return True
        if self._objects.read(name) is None:
            raise IntegrityError(f"{self._objects.where(name)}: expected a record, got something else; remove it")
        return False

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of all records, sorted as text."""
        for name in self._objects.names(self._folder):
            number = name.removeprefix(f"{self._folder}/").removesuffix(".json")
            if number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS and self.name(int(number)) == name:
                yield int(number)

    def name(self, number: int) -> str:
        """Return the name of the object that a record is stored in."""
        return f"{self._folder}/{number:08d}.json"


def last_number(exists: Callable[[int], bool]) -> int:
    """Return the last of the numbers 1, 2, ... that exist without a gap, or 0, by doubling and then bisecting."""
    high = 1
    while exists(high):
        high *= 2
    low = high // 2  # exists, or is 0
    return low + bisect.bisect_left(range(low + 1, high), True, key=lambda number: not exists(number))


def read_record(objects: Objects, name: str, kind: type[T], limit: int = MAX_RECORD_BYTES) -> T:
    """Return a stored record. Raises IntegrityError or SchemaError if it is missing or cannot be read as `kind`."""
    content = objects.read(name, limit)
    if content is None:
        raise IntegrityError(f"{name}: expected a record, got no file; restore it from a copy")
    return unseal(content, name, kind)


def seal(record: object, *, unique: bool = False) -> bytes:
    """Return a record as it is stored. Raises ValueError for NaN, which JSON does not have.

    Args:
        unique: make the content differ from that of an equal record.
    """
    fields = builtins_of(record)
    text = encode({**fields, TOKEN: uuid.uuid4().hex} if unique else fields, indent=2)
    # Dumping the document again with these two fields would return the same bytes, but take as long again.
    sha256 = hashlib.sha256(text).hexdigest()
    return b'{\n  "schema": %d,%b,\n  "sha256": "%b"\n}' % (RECORD_SCHEMA, text[1:-2], sha256.encode())


def unseal(content: bytes, name: str, kind: type[T]) -> T:
    """Return a record as a value of `kind`; `name` is for messages.

    Raises:
        IntegrityError: the content is not such a record, or has been changed, even if only in whitespace or the order
            of its fields.
        SchemaError: a newer version of this program wrote it.
    """
    require_schema(content, RECORD_SCHEMA, name, "a record")
    sealed = SEALED.fullmatch(content)
    if sealed is None or hashlib.sha256(b"{%b\n}" % sealed[1]).hexdigest() != sealed[2].decode():
        got = "none" if sealed is None else sealed[2].decode()
        raise IntegrityError(f"{name}: expected a record whose sha256 matches, got {got}; restore it from a copy")
    return decode(content, kind, name, "a record of this kind")
