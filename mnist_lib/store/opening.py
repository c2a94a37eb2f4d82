"""Begin a run, or resume an unfinished one: by its name or by its terms, and only with the same terms.

If an error, such as a mistake in the model, ends a run before a trial has begun, the run is deleted to free its name.

A run or a promotion takes its own lock and then looks for the lock of `gc`; `gc` takes its lock and then looks for
those of runs and promotions. So whichever is second notices the other; if both begin at once, both may give up.
"""

import contextlib
import hashlib
import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mnist_lib.documents import Name, encode
from mnist_lib.environment import as_file_name, now_text
from mnist_lib.errors import BusyError, IntegrityError, SpecError
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, Objects, check_part, concurrently
from mnist_lib.objects.records import read_record, seal
from mnist_lib.store.history import DriverConnected, LanesPlanned
from mnist_lib.store.runs import CONFIGURATION, RUN_RECORD, BegunRun, Command, RunFolder, Terms

UNFINISHED = "unfinished"  # folder: the locks, and the run to resume for each set of terms
GC_LOCK = "gc.lock"
MAX_TERMS_BYTES = MAX_DOCUMENT_BYTES // 4  # 16,000 trials; a trial's row in the summary is up to four times as long
MAX_DIFFERENCES = 5  # in one message


def lock_of_run(run: str) -> str:
    return f"{UNFINISHED}/{run}.lock"


def delete_lock(objects: Objects, name: str) -> None:
    """Delete a lock that has been released: the files of a lease, or the file on a disk."""
    objects.delete_below(name)
    objects.delete(name)


def require_no_gc(objects: Objects) -> None:
    """Raise BusyError if `gc` is under way. The caller must hold a lock in `UNFINISHED`."""
    if objects.is_locked(GC_LOCK):
        raise BusyError(
            f"{objects.where(GC_LOCK)}: expected no lock, got that of jobs.models gc; wait until it has ended"
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
                    " run gc again after its end"
                )
        yield


@dataclass(frozen=True)
class UnfinishedRun:
    """The record, one for each set of terms, that names the unfinished run to resume."""

    run: Name


@contextlib.contextmanager
def open_run(
    objects: Objects,
    name: str | None,
    *,
    dataset: str,
    terms: Terms,
    configuration: str,
    command: Command,
    is_final: Callable[[Exception], bool] = lambda error: False,
) -> Iterator[RunFolder]:
    """Begin or resume a run, and lock it for this process.

    Args:
        name: None to resume the unfinished run with these terms or, if there is none, to begin one named after the time
            and the dataset.
        configuration, command: stored when the run is begun; the configuration is YAML.
        is_final: returns whether the same command would raise this error again. If such an error is raised before a
            trial has begun, the run is deleted.

    Raises:
        SpecError: the run of that name has other terms.
        BusyError: another process of this machine is working on it, or `gc` is under way.
        IntegrityError: its record is damaged.
    """
    check_part("dataset", dataset)
    with contextlib.ExitStack() as afterwards, contextlib.ExitStack() as locks:
        folder = None if name else _resume_unnamed(objects, terms, locks)
        names = iter([name]) if name else _new_names(dataset)
        while folder is None:
            run = next(names)
            try:
                locks.enter_context(objects.lock(lock_of_run(run)))
            except BusyError:
                if name:
                    raise
                continue  # another run of this dataset was begun in the same second
            require_no_gc(objects)
            folder = _begin(objects, BegunRun(run, now_text(), terms, command), configuration)
            folder = folder or (_resume(objects, run, terms) if name else None)
        if not name:
            objects.replace(_pointer(terms), seal(UnfinishedRun(folder.run)))
        try:
            yield folder
        except Exception as error:
            if is_final(error) and _is_untouched(folder):
                _delete(folder)
                _forget(objects, folder.run, terms, afterwards)
            raise
        if folder.is_complete:
            _forget(objects, folder.run, terms, afterwards)


def _forget(objects: Objects, run: str, terms: Terms, afterwards: contextlib.ExitStack) -> None:
    """Delete what marks a run as unfinished: its pointer and, after the lock of the run has been released, the lock."""
    if _unfinished_run(objects, terms) == run:
        objects.delete(_pointer(terms))
    afterwards.callback(delete_lock, objects, lock_of_run(run))


def run_to_resume(objects: Objects, name: str | None, terms: Terms) -> str | None:
    """Return the run that `open_run` would resume, or None if it would begin one."""
    run = name or _unfinished_run(objects, terms)
    return run if run and RunFolder(objects, run).has(RUN_RECORD) else None


def _is_untouched(folder: RunFolder) -> bool:
    """Return whether none of the trials of a run has begun. Raises IntegrityError if its history is damaged."""
    if folder.is_complete or folder.names("trials"):
        return False
    return all(isinstance(entry, DriverConnected | LanesPlanned) for entry in folder.history())


def _begin(objects: Objects, begun: BegunRun, configuration: str) -> RunFolder | None:
    """Begin a run, or return None if the name is taken."""
    run, record = begun.run, seal(begun, unique=True)
    if len(record) > MAX_TERMS_BYTES:
        expected = f"at most {MAX_TERMS_BYTES:,} bytes for the terms of all trials together"
        raise SpecError(f"seeds: expected {expected}, got {len(record):,}; divide the seeds among several runs")
    if not objects.create(f"runs/{run}/{RUN_RECORD}", record):
        return None
    folder = RunFolder(objects, run)
    folder.write(CONFIGURATION, configuration.encode())
    return folder


def _delete(folder: RunFolder) -> None:
    """Delete a run, its record after everything else."""
    for name in folder.objects.names(f"runs/{folder.run}"):
        if name != f"runs/{folder.run}/{RUN_RECORD}":
            folder.objects.delete(name)
    folder.objects.delete_below(f"runs/{folder.run}")


def _resume(objects: Objects, run: str, terms: Terms) -> RunFolder:
    folder = RunFolder(objects, run, resumed=True)
    if differences := _differing(folder.begun().terms, json.loads(encode(terms))):
        more = len(differences) - MAX_DIFFERENCES
        listed = "; ".join(differences[:MAX_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")
        raise SpecError(f"run_name: expected the terms of run {run!r}, got {listed}; choose another --run-name")
    return folder


def _resume_unnamed(objects: Objects, terms: Terms, locks: contextlib.ExitStack) -> RunFolder | None:
    run = _unfinished_run(objects, terms)
    if run is None:
        return None
    try:
        locks.enter_context(objects.lock(lock_of_run(run)))
        require_no_gc(objects)
        folder = _resume(objects, run, terms)
        return None if folder.is_complete else folder
    except (BusyError, IntegrityError, SpecError):
        return None  # so a new run is begun


def _unfinished_run(objects: Objects, terms: Terms) -> str | None:
    """Return the newest run with these terms that was begun without a name and is not complete."""
    try:
        return read_record(objects, _pointer(terms), UnfinishedRun).run
    except IntegrityError:
        return None


def _new_names(dataset: str) -> Iterator[str]:
    name = f"{as_file_name(now_text())}-{dataset}"
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _pointer(terms: Terms) -> str:
    return f"{UNFINISHED}/{hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:32]}.json"


def _differing(before: Terms, after: Terms) -> list[str]:
    """Return each difference once, as text such as "code abd instead of abc", even if several trials share it."""
    found: dict[str, None] = {}
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= dict.fromkeys(_differing(old, new))
        elif old != new:
            found[f"{name} {_short(new)} instead of {_short(old)}"] = None
    return list(found)


def _short(value: Any) -> str:
    return "set" if isinstance(value, dict) else "none" if value is None else str(value)[:40]
