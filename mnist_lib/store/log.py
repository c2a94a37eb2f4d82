"""Records that are appended one after the other, `<folder>/00000001.json` and on, and never changed.

To append is to create the next number if it is not there: of writers at once one succeeds, the others look again.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mnist_lib.errors import IntegrityError, SchemaError
from mnist_lib.store.objects import Objects

T = TypeVar("T")


class Log:
    """Raises StoreError when the storage refuses."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects, self._folder = objects, folder

    def last(self) -> int:
        """The number of the newest record, 0 of an empty log."""
        return max(self.numbers(), default=0)

    def last_of_many(self, known: int = 0) -> int:
        """The same by O(log n) requests, if no record is missing; n are those after `known`, which there is."""
        return known + last_number(lambda number: self._objects.exists(self.name(known + number)))

    def read(self, number: int, kind: Callable[..., T]) -> T:
        """The record as `kind(**fields)`.

        Raises:
            IntegrityError, SchemaError: it is damaged, missing, or of a newer program.
        """
        name = self.name(number)
        document = unseal(self._objects.read(name) or b"", name)
        document.pop("token", None)
        try:
            return kind(**document)
        except (TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{name}: expected a record of other fields: {error}") from error

    def append(self, number: int, document: dict[str, Any]) -> bool:
        """False if there is a record of that number. The token makes each record another's: see `bucket`.

        Raises:
            IntegrityError: there is something else of that name, which would be in the way for ever.
        """
        name = self.name(number)
        if self._objects.create(name, seal({**document, "token": uuid.uuid4().hex})):
            return True
        if self._objects.read(name) is None:
            raise IntegrityError(f"{self._objects.where(name)}: expected a record or nothing, got neither; remove it")
        return False

    def numbers(self) -> Iterator[int]:
        """Of all records, in order."""
        for name in self._objects.names(self._folder):
            number = name.rpartition("/")[2].removesuffix(".json")
            if number.isascii() and number.isdigit():
                yield int(number)

    def name(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"


def last_number(exists: Callable[[int], bool]) -> int:
    """The last of the numbers from 1 on that exist, without a gap; 0 if none does. By doubling, then halving."""
    high = 1
    while exists(high):
        high *= 2
    low = high // 2  # exists, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


RECORD_SCHEMA = 1


def seal(document: Mapping[str, Any]) -> bytes:
    return _text({"schema": RECORD_SCHEMA, **document, "sha256": _sha256(document)})


def unseal(content: bytes, name: str) -> dict[str, Any]:
    """What was sealed.

    Raises:
        IntegrityError, SchemaError: naming the record, what was expected and what came.
    """
    try:
        document: dict[str, Any] = json.loads(content)
        schema, sha256 = document.pop("schema"), document.pop("sha256", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{name}: expected a record, got {len(content)} bytes that are none") from error
    if isinstance(schema, int) and schema > RECORD_SCHEMA:
        raise SchemaError(
            f"{name}: its record has schema {schema}, this program knows {RECORD_SCHEMA}; use a newer one"
        )
    try:
        whole = seal(document) == content  # whitespace and the order of fields included
    except ValueError:  # NaN, which JSON does not have
        whole = False
    if not whole:
        raise IntegrityError(f"{name}: expected a record whose sha256 is its own, got {str(sha256)[:64]!r} in it")
    return document


def _sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(document)).hexdigest()


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode()
