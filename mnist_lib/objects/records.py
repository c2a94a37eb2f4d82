"""Sealed records, and logs of them: `<folder>/00000001.json` and so on, each written once and never changed.

A sealed record contains its own sha256, so damage is noticed when it is read. To append is to create the next number:
of several concurrent writers, one succeeds. The others must read the log and decide again instead of merely retrying.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mnist_lib.errors import IntegrityError, SchemaError
from mnist_lib.objects.protocol import Objects

T = TypeVar("T")

RECORD_SCHEMA = 1


class RecordLog:
    """An append-only log of records. Every method raises StoreError if the storage fails."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects, self._folder = objects, folder

    def last(self) -> int:
        """Return the number of the newest record, or 0 if the log is empty."""
        return max(self.numbers(), default=0)

    def probe_last(self, known: int = 0) -> int:
        """Return `last()` in O(log n) requests if n records follow the record `known`. The log must have no gaps."""
        return known + last_number(lambda number: self._objects.exists(self.name(known + number)))

    def read(self, number: int, kind: Callable[..., T]) -> T:
        """Return a record as `kind(**fields)`. Raises IntegrityError or SchemaError if it cannot be read."""
        name = self.name(number)
        document = read_record(self._objects, name)
        document.pop("token", None)
        try:
            return kind(**document)
        except (TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{name}: expected a record of this log, got other fields: {error}") from error

    def append(self, number: int, document: Mapping[str, Any]) -> bool:
        """Append a record, or return False if it exists. Raises IntegrityError if a folder, say, has its name."""
        name = self.name(number)
        token = uuid.uuid4().hex  # competing writers must write different contents: see `bucket`
        if self._objects.create(name, seal({**document, "token": token})):
            return True
        if self._objects.read(name) is None:
            raise IntegrityError(f"{self._objects.where(name)}: expected a record, got something else; remove it")
        return False

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of all records, sorted."""
        for name in self._objects.names(self._folder):
            number = name.rpartition("/")[2].removesuffix(".json")
            if number.isascii() and number.isdigit():
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
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


def read_record(objects: Objects, name: str) -> dict[str, Any]:
    """Return the fields of a stored record. Raises IntegrityError or SchemaError if it is missing or cannot be read."""
    content = objects.read(name)
    if content is None:
        raise IntegrityError(f"{name}: expected a record, got no file; restore it from a copy")
    return unseal(content, name)


def seal(document: Mapping[str, Any]) -> bytes:
    """Return a record as it is stored. Raises ValueError for NaN, which JSON does not have."""
    text = _text(document)
    # A second _text() with these two fields would return the same bytes, but double the time of a long listing.
    sha256 = hashlib.sha256(text).hexdigest()
    return b'{\n  "schema": %d,%b,\n  "sha256": "%b"\n}' % (RECORD_SCHEMA, text[1:-2], sha256.encode())


def unseal(content: bytes, name: str) -> dict[str, Any]:
    """Return the fields of a record; `name` is for messages.

    Raises:
        IntegrityError: the content is not a record, or is damaged.
        SchemaError: a newer version of this program wrote it.
    """
    document = parse_object(content, name, "a record")
    schema, sha256 = document.pop("schema", None), document.pop("sha256", None)
    if isinstance(schema, int) and schema > RECORD_SCHEMA:
        raise SchemaError(f"{name}: expected schema {RECORD_SCHEMA} or older, got {schema}; install a newer version")
    try:
        intact = seal(document) == content  # whitespace and the order of fields count
    except (ValueError, RecursionError):  # 1e999 is read as infinity
        intact = False
    if not intact:
        raise IntegrityError(
            f"{name}: expected a record whose sha256 matches, got {str(sha256)[:64]!r}; restore it from a copy"
        )
    return document


def parse_object(content: bytes, name: str, what: str = "JSON") -> dict[str, Any]:
    """Parse a JSON object. Raises IntegrityError for anything else, including NaN and infinity."""
    try:
        document = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name}: expected {what}, got bytes that are not JSON: {error}") from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{name}: expected {what}, got JSON that is not an object")
    return document


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode()
