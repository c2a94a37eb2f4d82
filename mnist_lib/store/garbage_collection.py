"""`gc`: deletes old versions, and files left by publishers that were killed.

A version is deleted in four steps, and a later `gc` completes them if needed: it is condemned (see `holds`); its record
becomes "deleting", so that the version no longer exists; its files are deleted; its record becomes "gone". The record
is never deleted, so that its number is not used again and its run does not publish another version.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mnist_lib.clock import moment_of
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.objects.records import seal
from mnist_lib.store.champions import history, number_of_champions, rollback_line
from mnist_lib.store.holds import condemn, read_hold_state
from mnist_lib.store.publishing import Claim, claims, run_record
from mnist_lib.store.versions import Version, commit_record, find_all, parse_version, replace_state, version_folder

# A publisher stores its files within seconds. After a day it counts as dead; if it is alive, it can no longer commit.
ABANDONED_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Collected:
    """What `gc` did or, after a dry run, would do: names of versions such as "keras@3"."""

    deleted: Sequence[str]
    kept: Sequence[str]
    completed: Sequence[str]  # committed for a publisher that died just before its commit
    swept: Sequence[str]  # never committed; the files that a dead publisher left are deleted
    damaged: Sequence[str]  # not changed, because their record or claim cannot be read


def collect(objects: Objects, model: str, keep: int, *, dry_run: bool = False) -> Collected:
    """Delete all versions but the newest `keep`, the champion, and up to `keep` former champions to return to.

    Raises:
        StoreError: the storage fails; calling it again continues the work.
        IntegrityError: the newest champion record is damaged; nothing is deleted.
    """
    needed = _NeededVersions(objects, model, keep)
    needed.numbers()  # raises before anything is changed
    committed = dict(find_all(objects, model, deleted=True))
    unfinished = sorted({*claims(objects, model).numbers()} - committed.keys())
    completed, swept, damaged = _finish(objects, model, unfinished, dry_run=dry_run)
    damaged += [f"{model}@{number}" for number, version in committed.items() if isinstance(version, IntegrityError)]
    versions = [version for version in committed.values() if isinstance(version, Version)]
    whole = [version for version in versions if version.state == "whole"]
    stays = needed.numbers() | {version.number for version in whole[-keep:]}
    deleted = [version.name for version in whole if version.number not in stays]
    kept = [version.name for version in whole if version.number in stays]
    if not dry_run:
        objects.delete_leftovers(f"models/{model}")
        for version in versions:
            if version.state == "deleting":
                _delete(objects, version)
            elif version.name in deleted and not _delete_unless_needed(objects, version, needed):
                deleted.remove(version.name)
                kept.append(version.name)
    return Collected(deleted, kept, completed, swept, damaged)


class _NeededVersions:
    """The champion and the versions that it could be rolled back to; read again whenever the log has grown."""

    def __init__(self, objects: Objects, model: str, keep: int) -> None:
        self._objects, self._model, self._keep = objects, model, keep
        self._last, self._numbers = -1, set[int]()

    def numbers(self) -> set[int]:
        last = number_of_champions(self._objects, self._model)
        if last != self._last:
            log = history(self._objects, self._model)
            if log and isinstance(log[-1], IntegrityError):
                raise IntegrityError(f"{log[-1]}; the champion is unknown: roll back first")
            self._last, self._numbers = last, {*rollback_line(log)[-self._keep - 1 :]}
        return self._numbers


def _delete_unless_needed(objects: Objects, version: Version, needed: _NeededVersions) -> bool:
    """Delete a version, unless it is held or is needed by now; return whether it was deleted."""
    state = read_hold_state(objects, version.model, version.number)
    if state.held or version.number in needed.numbers():
        return False
    failpoint("gc.before_condemn")
    if not condemn(objects, version.model, version.number, state):
        return False
    if version.number in needed.numbers():  # it was promoted, and its hold only seemed expired because clocks differ
        return False
    failpoint("gc.before_record")
    replace_state(objects, version, "deleting")
    _delete(objects, version)
    return True


def _delete(objects: Objects, version: Version) -> None:
    failpoint("gc.before_files")
    objects.delete_below(version_folder(version.model, version.number))
    failpoint("gc.before_gone")
    replace_state(objects, version, "gone")


def _finish(
    objects: Objects, model: str, unfinished: Sequence[int], *, dry_run: bool
) -> tuple[list[str], list[str], list[str]]:
    """Commit or delete versions that are claimed but not committed; return the names completed, swept and damaged."""
    completed, swept, damaged = [], [], []
    for number in unfinished:
        name, folder = f"{model}@{number}", version_folder(model, number)
        try:
            record = _run_record(objects, model, number, dry_run=dry_run)
            decided = None if record is None else parse_version(record, name, model)
        except (IntegrityError, SpecError):  # SpecError: the claim names no run
            damaged.append(name)
            continue
        if decided is None or record is None:
            continue  # its publisher may still be alive
        if decided.number == number and decided.state == "whole":
            completed.append(name)
            if not dry_run:
                objects.create(commit_record(model, number), record)
        else:
            if any(True for _ in objects.names(folder)):
                swept.append(name)
            if not dry_run:
                objects.delete_below(folder)
    return completed, swept, damaged


def _run_record(objects: Objects, model: str, number: int, *, dry_run: bool) -> bytes | None:
    """Return the run record of the run that claimed a number, or None if that run may still publish.

    If the claim is a day old and nothing was published, this creates a record that prevents the run from publishing.
    """
    claim = claims(objects, model).read(number, Claim)
    record = run_record(model, claim.run)
    decided = objects.read(record)
    if decided is not None or datetime.now(UTC) - moment_of(claim.at) < ABANDONED_AFTER:
        return decided
    abandoned = seal(asdict(Version(model, number, claim.run, claim.at, {}, {}, state="abandoned")))
    if dry_run:
        return abandoned
    failpoint("gc.before_sweep")
    objects.create(record, abandoned)
    return objects.read(record)
