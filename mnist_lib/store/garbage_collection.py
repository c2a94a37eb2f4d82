"""`gc`: deletes old versions, and files left by publishers that were killed.

A version is deleted in three steps, and a later `gc` completes them if needed: it is condemned (see `versions`); its
record becomes that of a deleted version; its files are deleted. The record itself remains, so that its number is not
used again and its run does not publish another version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from mnist_lib.clock import moment_of
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.objects.records import seal
from mnist_lib.store.champions.appointment import needed_versions
from mnist_lib.store.publishing import Claim, claims
from mnist_lib.store.versions import (
    Version,
    commit_record,
    condemn,
    find_all,
    is_readable,
    read_hold_state,
    version_folder,
)

# A publisher stores its files within seconds. After a day it counts as dead; if it is alive, it can no longer commit.
ABANDONED_AFTER = timedelta(days=1)

FORMER = "a former champion, to which a rollback can return"


@dataclass(frozen=True)
class Collection:
    """What `gc` did or, after a dry run, would do: names of versions such as "keras@3"."""

    deleted: Sequence[str]
    kept: Sequence[str]
    reasons: Mapping[str, str]  # why each of these is kept
    pending: Sequence[str]  # not committed, but the run that claimed the number may still be alive
    swept: Sequence[str]  # never committed; the files that a dead publisher left are deleted
    damaged: Sequence[str]  # not changed, because their record or claim cannot be read


def collect(objects: Objects, model: str, keep: int, *, dry_run: bool = False) -> Collection:
    """Delete all versions but the newest `keep`, the champions, and up to `keep` former ones for each champion.

    Raises:
        StoreError: the storage fails; calling it again continues the work.
        IntegrityError: the newest champion record of a data set is damaged; nothing is deleted.
    """
    needed = _NeededVersions(objects, model, keep)
    needed.numbers()  # raises before anything is changed
    committed = dict(find_all(objects, model, deleted=True))
    unfinished = sorted({*claims(objects, model).numbers()} - committed.keys())
    swept, damaged, pending = _sweep(objects, model, unfinished, dry_run=dry_run)
    versions = [version for version in committed.values() if is_readable(version)]
    damaged += [f"{model}@{number}" for number, version in committed.items() if not is_readable(version)]
    whole = [version for version in versions if not version.deleted]
    with_files = {*objects.folders(f"models/{model}/versions")} if versions else set()
    newest = "the newest version" if keep == 1 else f"one of the {keep:,} newest versions"
    reasons = {version.number: newest for version in whole[-keep:]} | needed.numbers()
    if not dry_run:
        objects.delete_leftovers(f"models/{model}")
    for version in versions:
        if version.deleted and str(version.number) in with_files and not dry_run:
            objects.delete_below(version_folder(model, version.number))
        elif not version.deleted and version.number not in reasons:
            reason = _delete_unless_needed(objects, version, needed, dry_run=dry_run)
            if reason:
                reasons[version.number] = reason
    kept = [version for version in whole if version.number in reasons]
    return Collection(
        deleted=[version.name for version in whole if version.number not in reasons],
        kept=[version.name for version in kept],
        reasons={version.name: reasons[version.number] for version in kept},
        pending=pending,
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
        names = [*self._objects.names(f"models/{self._model}/champions")]
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
    objects.replace(commit_record(version.model, version.number), seal(replace(version, deleted=True)))
    failpoint("gc.before_files")
    objects.delete_below(version_folder(version.model, version.number))
    return ""


def _sweep(
    objects: Objects, model: str, unfinished: Sequence[int], *, dry_run: bool
) -> tuple[list[str], list[str], list[str]]:
    """Delete what was stored for versions that were claimed a day ago and not committed.

    Returns the names of those swept, damaged, and pending.
    """
    swept, damaged, pending = [], [], []
    for number in unfinished:
        name, folder = f"{model}@{number}", version_folder(model, number)
        try:
            claim = claims(objects, model).read(number, Claim)
            deleted = seal(Version(model, number, claim.run, claim.at, {}, {}, deleted=True))
        except IntegrityError:
            damaged.append(name)
            continue
        if datetime.now(UTC) - moment_of(claim.at) < ABANDONED_AFTER:
            pending.append(name)
            continue
        has_files = any(True for _ in objects.names(folder))
        failpoint("gc.before_sweep")
        if dry_run or objects.create(commit_record(model, number), deleted):  # otherwise it was committed meanwhile
            swept += [name] if has_files else []
            if not dry_run:
                objects.delete_below(folder)
    return swept, damaged, pending
