"""How a version is committed and deleted. `publish` writes, in this order:

    models/<model>/claims/<n>.json     claims a number: concurrent publishers get different ones
    models/<model>/versions/<n>/...    the files, and a copy of the record
    models/<model>/runs/<run>.json     names the run's version: the first attempt to create this record decides it
    models/<model>/commits/<n>.json    the commit record: from now on, the version exists

A publisher that dies before it writes `runs` leaves a number that is never used, and files that `gc` deletes. If it
dies between `runs` and `commits`, the next attempt of the same run completes the commit.

`collect` deletes old versions, and files left by publishers that were killed. It works alone, see `opening`. It first
marks the commit record of a version as deleted, and then deletes the files; a later `gc` completes this if needed. The
record remains, so that its number is not used again and its run does not publish another version. A number that a dead
publisher has claimed gets such a record, too.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mnist_lib.documents import Moment, Name
from mnist_lib.environment import now_text
from mnist_lib.errors import ConflictError, IntegrityError, StoreError
from mnist_lib.objects.protocol import MAX_FILE_BYTES, Objects, check_name, check_part, failpoint, require_size
from mnist_lib.objects.records import RecordLog, seal, unseal
from mnist_lib.run_documents import MAX_RUN_NAME_LENGTH
from mnist_lib.store.champions.appointment import needed_versions
from mnist_lib.store.contents import WEIGHTS_FILES
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import (
    RECORD_COPY,
    StoredFile,
    Version,
    commit_record,
    find,
    find_all,
    is_readable,
    record_of,
    version_folder,
)

SWEEPS = ("swept", "damaged", "pending")  # what becomes of numbers that were claimed, see `Collection`


@dataclass(frozen=True)
class Claim:
    """A record that claims a version number for a run."""

    run: Name
    at: Moment  # UTC, ISO 8601


def publish(objects: Objects, model: str, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Version:
    """Store files as the next version of a model, or return the version that this run has already published.

    Raises:
        SpecError: the name of the model, the run or a file is invalid.
        StoreError: the storage fails; no version was added.
        ConflictError: `gc` has deleted the version that this run has published or begun.
        IntegrityError: there is no file with weights, or what this run published before is damaged.
    """
    check_part("model", model)
    check_part("run", run, MAX_RUN_NAME_LENGTH)
    for name in files:
        check_name(name)
    if files.keys().isdisjoint(WEIGHTS_FILES):
        got = ", ".join(sorted(files)) or "none"
        raise IntegrityError(
            f"{model}, run {run}: expected a file {' or '.join(WEIGHTS_FILES)}, got {got}; train again"
        )
    run_record = f"models/{model}/runs/{run}.json"  # says which version the run has published
    decided = objects.read(run_record)
    if decided is None:
        number = _claim(objects, model, run)
        decided = _store_files(objects, model, number, run, files, about)
        failpoint("publish.before_run")
        if not objects.create(run_record, decided):  # another attempt was faster
            objects.delete_below(version_folder(model, number))
            decided = objects.read(run_record) or b""  # found, since it is never deleted
    failpoint("publish.before_commit")
    version = unseal(decided, f"{model}, run {run}", Version)
    is_new = objects.create(commit_record(model, version.number), decided)
    if not is_new and find(objects, model, version.number) is None:
        raise ConflictError(f"run {run}: its version {version.name} was deleted by gc; start another run")
    return version


def claims(objects: Objects, model: str) -> RecordLog:
    return RecordLog(objects, f"models/{model}/claims")


def _claim(objects: Objects, model: str, run: str) -> int:
    log = claims(objects, model)
    number = log.probe_last() + 1
    # A claim may have been lost, so also skip numbers that have a commit record.
    while objects.exists(commit_record(model, number)) or not log.append(number, Claim(run, now_text())):
        number += 1
    return number


def _store_files(
    objects: Objects, model: str, number: int, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]
) -> bytes:
    """Write the files of a version and return its record. If the storage fails, delete what was written."""
    for name, content in files.items():
        require_size(name, len(content), MAX_FILE_BYTES)
    hashes = {
        name: StoredFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
    record = record_of(Version(model, number, run, now_text(), hashes, dict(about)))
    folder = version_folder(model, number)
    failpoint("publish.before_files")
    if any(True for _ in objects.names(folder)):
        raise IntegrityError(f"{objects.where(folder)}: expected an empty folder, got files; move them away")
    try:
        for name, content in {**files, RECORD_COPY: record}.items():
            objects.create(f"{folder}/{name}", content)
    except StoreError:
        with contextlib.suppress(StoreError):  # report the first error
            objects.delete_below(folder)
        raise
    return record


@dataclass(frozen=True)
class Collection:
    """What `gc` did or, after a dry run, would do: names of versions such as "keras@3"."""

    deleted: Sequence[str]
    kept: Sequence[str]
    reasons: Mapping[str, str]  # why each of these is kept
    pending: Sequence[str]  # not committed, but the run that claimed the number may be resumed
    swept: Sequence[str]  # never committed; the files that a dead publisher left are deleted
    damaged: Sequence[str]  # not changed, because their record or claim cannot be read


def collect(objects: Objects, model: str, keep: int, *, dry_run: bool = False) -> Collection:
    """Delete old versions, and what dead publishers left.

    These are kept: the newest `keep`, the champions, up to `keep` former champions for each champion, and every version
    that a kept one starts from. The caller must hold the lock of `gc`, see `opening`.

    Raises:
        StoreError: the storage fails; calling it again continues the work.
        IntegrityError: the newest champion record of a dataset is damaged; nothing is deleted.
    """
    committed = dict(find_all(objects, model, deleted=True))
    versions = [version for version in committed.values() if is_readable(version)]
    existing = [version for version in versions if not version.deleted]
    reasons = _reasons_to_keep(objects, model, keep, existing)  # raises before anything is changed
    old = [version for version in existing if version.number not in reasons]
    unfinished = sorted({*claims(objects, model).numbers()} - committed.keys())
    outcomes = {f"{model}@{number}": _sweep(objects, model, number, dry_run=dry_run) for number in unfinished}
    swept, damaged, pending = ([name for name in outcomes if outcomes[name] == each] for each in SWEEPS)
    damaged += [f"{model}@{number}" for number, version in committed.items() if not is_readable(version)]
    if not dry_run:
        _delete(objects, model, old, {str(version.number) for version in versions if version.deleted})
    kept = [version for version in existing if version.number in reasons]
    return Collection(
        deleted=[version.name for version in old],
        kept=[version.name for version in kept],
        reasons={version.name: reasons[version.number] for version in kept},
        pending=pending,
        swept=swept,
        damaged=damaged,
    )


def _reasons_to_keep(objects: Objects, model: str, keep: int, existing: Sequence[Version]) -> dict[int, str]:
    """Return the reason to keep each version that `collect` must not delete, by number."""
    newest = "the newest version" if keep == 1 else f"one of the {keep:,} newest versions"
    reasons = {version.number: newest for version in existing[-keep:]} | needed_versions(objects, model, keep)
    starts = dict[str, str]()  # version -> a version that is kept, which starts from it
    for version in reversed(existing):  # a version starts from an earlier one
        if version.name in starts:
            reasons.setdefault(version.number, f"{starts[version.name]} starts from it")
        if version.number in reasons and version.facts.init_from:
            starts[version.facts.init_from] = version.name
    return reasons


def _delete(objects: Objects, model: str, versions: Sequence[Version], deleted_before: set[str]) -> None:
    """Delete versions, and the files of versions whose deletion an earlier `gc` did not complete."""
    for number in {*objects.folders(f"models/{model}/versions")} & {*deleted_before}:
        objects.delete_below(version_folder(model, int(number)))
    for version in reversed(versions):  # a version starts from an earlier one
        failpoint("gc.before_record")
        objects.replace(commit_record(model, version.number), seal(replace(version, deleted=True)))
        failpoint("gc.before_files")
        objects.delete_below(version_folder(model, version.number))


def _sweep(objects: Objects, model: str, number: int, *, dry_run: bool) -> str:
    """Give up a number that was claimed and not committed, unless its run may be resumed.

    Returns one of `SWEEPS`, or "" if there was nothing to delete.
    """
    folder = version_folder(model, number)
    try:
        claim = claims(objects, model).read(number, Claim)
        deleted = seal(Version(model, number, claim.run, claim.at, {}, {}, deleted=True))
    except IntegrityError:
        return "damaged"
    if RunFolder(objects, claim.run).is_unfinished:
        return "pending"
    has_files = any(True for _ in objects.names(folder))
    failpoint("gc.before_sweep")
    if not dry_run:
        if not objects.create(commit_record(model, number), deleted):  # before its files are deleted
            return ""
        objects.delete_below(folder)
    return "swept" if has_files else ""
