"""Named bytes under one root, each written whole or not at all, and never half seen.

What a store needs of a disk or a bucket is little: read, create if absent, replace, list, delete. Creating is the one
operation that decides between writers: of those at once, exactly one is told that it did.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from mnist_lib.errors import SpecError

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
LONGEST_PART = 200  # some storages allow 255 bytes, and temporary files take some of them


class Objects(Protocol):
    """Names are parts joined by "/".

    Every method raises SpecError for a name that is not valid, and StoreError when the storage refuses.
    """

    def read(self, name: str) -> bytes | None:
        """None if there is none of that name."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is one of that name."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """False, and nothing done, if there is one already; when it returns, the object survives a power loss.

        A bucket may say True too where there is exactly this content: a request can have been sent twice.
        """
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Creates it, or puts it in place of what was there, in one instant; durable as `create`."""
        ...

    def append(self, name: str, content: bytes) -> None:
        """Adds to its end, for records of progress: what was added since the last `flush` may be lost."""
        ...

    def flush(self) -> None:
        """Sends what was appended and is still kept back."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Every object below `prefix + "/"`, in order."""
        ...

    def delete(self, name: str) -> None:
        """Nothing if there is none."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Every object below `prefix + "/"`; nothing if there is none."""
        ...

    def delete_leftovers(self, prefix: str) -> None:
        """What writers that died left below `prefix + "/"` a day ago or longer, and that is no object."""
        ...

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Held by one process of this machine at a time, and given back by the kernel if it dies. A bucket has none.

        Raises:
            BusyError: at once, naming the holder.
        """
        ...

    def where(self, name: str) -> str:
        """Its path or URL, for people."""
        ...


def check_part(what: str, part: str, longest: int = LONGEST_PART) -> None:
    """Raises SpecError for what cannot be one part of a name on every storage."""
    if len(part) > longest or not PART.fullmatch(part):
        raise SpecError(
            f"{what}: expected up to {longest} letters, digits, '.', '_' or '-', the first a letter or digit"
            f", got {part[:longest]!r}"
        )


def check_name(name: str) -> None:
    """Raises SpecError for what could lead out of the root, or be another name on another storage."""
    for part in name.split("/"):
        check_part("name of an object", part)


VARIABLE = "MNIST_FAILPOINT"
EXIT_STATUS = 86  # tells a test that the process ended here and nowhere else


def failpoint(name: str) -> None:
    if os.environ.get(VARIABLE) == name:
        os._exit(EXIT_STATUS)  # as a kill would: nothing is flushed, no `finally` runs
