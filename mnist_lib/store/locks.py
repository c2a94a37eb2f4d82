"""The locks of runs and of promotions, and that of `gc`, which works alone.

A run or a promotion takes its own lock and then looks for that of `gc`, which takes its lock and then looks for theirs.
So whichever is second notices the other; if both begin at the same time, both may give up.
"""

import contextlib
import uuid
from collections.abc import Iterator

from mnist_lib.errors import BusyError
from mnist_lib.objects.protocol import Objects, concurrently

UNFINISHED = "unfinished"  # folder: the locks, and the run to resume for each set of terms
GC_LOCK = "gc.lock"


def lock_of_run(run: str) -> str:
    return f"{UNFINISHED}/{run}.lock"


def delete_lock(objects: Objects, name: str) -> None:
    """Delete a lock that has been released: the files of a lease, or the file on a disk."""
    objects.delete_below(name)
    objects.delete(name)


def require_no_gc(objects: Objects) -> None:
    """Raise BusyError if `gc` is under way. Whoever calls this holds a lock in `UNFINISHED`."""
    if objects.is_locked(GC_LOCK):
        raise BusyError(
            f"{objects.where(GC_LOCK)}: expected no lock, got that of jobs.models gc, which works alone; wait for it"
        )


@contextlib.contextmanager
def promoting(objects: Objects) -> Iterator[None]:
    """Keep `gc` from beginning until the context ends. Raises BusyError if it is under way."""
    name = lock_of_run(f"promotion-{uuid.uuid4().hex}")
    try:
        with objects.lock(name):
            require_no_gc(objects)
            yield
    finally:
        delete_lock(objects, name)


@contextlib.contextmanager
def collecting(objects: Objects) -> Iterator[None]:
    """Hold the lock of `gc` until the context ends. Raises BusyError if a run or a promotion is under way."""
    with objects.lock(GC_LOCK):
        names = sorted({"/".join(name.split("/")[:2]) for name in objects.names(UNFINISHED)})
        locks = [name for name in names if name.endswith(".lock")]
        for name, is_locked in zip(locks, concurrently(objects, objects.is_locked, locks), strict=True):
            if is_locked:
                raise BusyError(
                    f"{objects.where(name)}: expected no run and no promotion under way, got one that holds this lock;"
                    " collect after its end"
                )
        yield
