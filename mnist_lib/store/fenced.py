"""Objects that refuse to be changed by whoever's lease has passed to another.

A process that was suspended, or cut off, does not know that it was given up. What it writes then is asked here first.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager

from mnist_lib.errors import ConflictError, SpecError
from mnist_lib.store.lease import is_over
from mnist_lib.store.objects import Objects, check_part


class FencedObjects:
    """`objects`, for the holder of term `number` of the lease in `folder`.

    Raises:
        ConflictError: by every method that writes, once a later term has begun.
    """

    def __init__(self, objects: Objects, folder: str, number: int) -> None:
        self._objects, self._folder, self._number = objects, folder, number

    def read(self, name: str) -> bytes | None:
        return self._objects.read(name)

    def exists(self, name: str) -> bool:
        return self._objects.exists(name)

    def names(self, prefix: str) -> Iterator[str]:
        return self._objects.names(prefix)

    def where(self, name: str) -> str:
        return self._objects.where(name)

    def lock(self, name: str) -> AbstractContextManager[None]:
        return self._objects.lock(name)

    def create(self, name: str, content: bytes) -> bool:
        self._require_term()
        return self._objects.create(name, content)

    def replace(self, name: str, content: bytes) -> None:
        self._require_term()
        self._objects.replace(name, content)

    def append(self, name: str, content: bytes) -> None:
        self._require_term()
        self._objects.append(name, content)

    def flush(self) -> None:
        self._require_term()
        self._objects.flush()

    def delete(self, name: str) -> None:
        self._require_term()
        self._objects.delete(name)

    def delete_below(self, prefix: str) -> None:
        self._require_term()
        self._objects.delete_below(prefix)

    def delete_leftovers(self, prefix: str) -> None:
        self._require_term()
        self._objects.delete_leftovers(prefix)

    def _require_term(self) -> None:
        if is_over(self._objects, self._folder, self._number):
            raise ConflictError(
                f"{self._objects.where(self._folder)}: lease {self._number} has passed to another process, which goes"
                " on with this; see: jobs.retrain status"
            )


def fence(objects: Objects, lease: str) -> FencedObjects:
    """`lease`: a schedule and the number of a term, as in "nightly:7". Raises SpecError for another form."""
    schedule, colon, number = lease.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit():
        raise SpecError(f"lease: expected a schedule and a number, as in nightly:7, got {lease!r}")
    check_part("lease", schedule)
    return FencedObjects(objects, lease_folder(schedule), int(number))


def lease_folder(schedule: str) -> str:
    return f"schedules/{schedule}/lease"
