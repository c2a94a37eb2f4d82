"""`gc`: deletes old versions, and files left by publishers that were killed.

A version is deleted in four steps, and a later `gc` completes them if needed: it is condemned (see `holds`); its record
becomes "deleting", so that the version no longer exists; its files are deleted; its record becomes "gone". The record
is never deleted, so that its number is not used again and its run does not publish another version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mnist_lib.clock import moment_of
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.objects.records import seal
from mnist_lib.store.champions.appointment import needed_versions
from mnist_lib.store.champions.log import log_names
from mnist_lib.store.publishing import Claim, claims, run_record
from mnist_lib.store.versions import (
    Version,
    commit_record,
    condemn,
    find_all,
    is_readable,
    parse_version,
    read_hold_state,
    replace_state,
    version_folder,
)

# A publisher stores its files within seconds. After a day it counts as dead; if it is alive, it can no longer commit.
ABANDONED_AFTER = timedelta(days=1)

FORMER = "a former champion, to which a rollback can return"


@dataclass(frozen=True)
class Collected:
    """What `gc` did or, after a dry run, would do: names of versions such as "keras@3"."""

    deleted: Sequence[str]
    kept: Sequence[str]
    reasons: Mapping[str, str]  # why each of these is kept
    pending: Sequence[str]  # not committed, but the run that claimed the number may still be alive
    completed: Sequence[str]  # committed for a publisher that died just before its commit
    swept: Sequence[str]  # never committed; the files that a dead publisher left are deleted
    damaged: Sequence[str]  # not changed, because their record or claim cannot be read


def collect(objects: Objects, model: str, keep: int, *, dry_run: bool = False) -> Collected:
    """Delete all versions but the newest `keep`, the champions, and up to `keep` former ones for each champion.

    Raises:
        StoreError: the storage fails; calling it again continues the work.
        IntegrityError: the newest champion record of a data set is damaged; nothing is deleted.
    """
    needed = _NeededVersions(objects, model, keep)
    needed.numbers()  # raises before anything is changed
    committed = dict(find_all(objects, model, deleted=True))
    unfinished = sorted({*claims(objects, model).numbers()} - committed.keys())
    completed, swept, damaged, pending = _finish(objects, model, unfinished, dry_run=dry_run)
    versions = [version for version in committed.values() if is_readable(version)]
    damaged += [f"{model}@{number}" for number, version in committed.items() if not is_readable(version)]
    whole = [version for version in versions if version.state == "whole"]
    newest = "the newest version" if keep == 1 else f"one of the {keep:,} newest versions"
    reasons = {version.number: newest for version in whole[-keep:]} | needed.numbers()
    if not dry_run:
        objects.delete_leftovers(f"models/{model}")
    for version in versions:
        if version.state == "deleting" and not dry_run:
            _delete(objects, version)
        elif version.state == "whole" and version.number not in reasons:
            reason = _delete_unless_needed(objects, version, needed, dry_run=dry_run)
            if reason:
                reasons[version.number] = reason
    kept = [version for version in whole if version.number in reasons]
    return Collected(
        deleted=[version.name for version in whole if version.number not in reasons],
        kept=[version.name for version in kept],
        reasons={version.name: reasons[version.number] for version in kept},
        pending=pending,
        completed=completed,
        swept=swept,
        damaged=damaged,
    )


class _NeededVersions:
    """The champions and the versions that they could be rolled back to; read again whenever a log has grown."""

    def __init__(self, objects: Objects, model: str, keep: int) -> None:
        self._objects, self._model, self._keep = objects, model, keep
        self._names: list[str] | None = None
        self._numbers = dict[int, str]()

    def numbers(self) -> dict[int, str]:
        """Return why each of these versions is needed, by number."""
        names = log_names(self._objects, self._model)
        if names != self._names:
            needed = needed_versions(self._objects, self._model, self._keep)
            reasons = {number: f"the champion of {', '.join(of)}" if of else FORMER for number, of in needed.items()}
            self._names, self._numbers = names, reasons
        return self._numbers


def _delete_unless_needed(objects: Objects, version: Version, needed: _NeededVersions, *, dry_run: bool) -> str:
    """Delete a version and return "". If it is held, or needed by now, keep it and return why."""
    state = read_hold_state(objects, version.model, version.number)
    if state.held or version.number in needed.numbers():
        return needed.numbers().get(version.number) or state.held
    if dry_run:
        return ""
    failpoint("gc.before_condemn")
    if not condemn(objects, version.model, version.number, state):
        return "a promotion has just begun to compare it"
    if version.number in needed.numbers():  # it was promoted, and its hold only seemed expired because clocks differ
        return needed.numbers()[version.number]
    failpoint("gc.before_record")
    replace_state(objects, version, "deleting")
    _delete(objects, version)
    return ""


def _delete(objects: Objects, version: Version) -> None:
    failpoint("gc.before_files")
    objects.delete_below(version_folder(version.model, version.number))
    failpoint("gc.before_gone")
    replace_state(objects, version, "gone")


def _finish(
    objects: Objects, model: str, unfinished: Sequence[int], *, dry_run: bool
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Commit or delete versions that are claimed but not committed.

    Returns the names of those completed, swept, damaged, and pending.
    """
    completed, swept, damaged, pending = [], [], [], []
    for number in unfinished:
        name, folder = f"{model}@{number}", version_folder(model, number)
        try:
            record = _run_record(objects, model, number, dry_run=dry_run)
            decided = None if record is None else parse_version(record, name, model)
        except (IntegrityError, SpecError):  # SpecError: the claim names no run
            damaged.append(name)
            continue
        if decided is None or record is None:
            pending.append(name)
            continue
        if decided.number == number and decided.state == "whole":
            completed.append(name)
            if not dry_run:
                objects.create(commit_record(model, number), record)
        else:
            if any(True for _ in objects.names(folder)):
                swept.append(name)
            if not dry_run:
                objects.delete_below(folder)
    return completed, swept, damaged, pending


def _run_record(objects: Objects, model: str, number: int, *, dry_run: bool) -> bytes | None:
    """Return the run record of the run that claimed a number, or None if that run may still publish.

    If the claim is a day old and nothing was published, this creates a record that prevents the run from publishing.
    """
    claim = claims(objects, model).read(number, Claim)
    record = run_record(model, claim.run)
    decided = objects.read(record)
    if decided is not None or datetime.now(UTC) - moment_of(claim.at) < ABANDONED_AFTER:
        return decided
    abandoned = seal(Version(model, number, claim.run, claim.at, {}, {}, state="abandoned"))
    if dry_run:
        return abandoned
    failpoint("gc.before_sweep")
    objects.create(record, abandoned)
    return objects.read(record)
