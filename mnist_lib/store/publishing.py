"""How a version is committed. `publish` writes, in this order:

    models/<model>/claims/<n>.json     claims a number: concurrent publishers get different ones
    models/<model>/versions/<n>/...    the files, and a copy of the record
    models/<model>/runs/<run>.json     names the run's version: that of the attempt that creates this record first
    models/<model>/commits/<n>.json    the commit record: from now on, the version exists

A publisher that dies before it writes `runs` leaves a number that is never used. If it dies between `runs` and
`commits`, the next attempt of the same run completes the commit, unless `gc` has given the number up: it creates the
commit record of a deleted version, so that the publisher cannot commit any more.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_lib.clock import now_text
from mnist_lib.documents import Moment, Name
from mnist_lib.errors import ConflictError, IntegrityError, StoreError
from mnist_lib.objects.protocol import MAX_FILE_BYTES, Objects, check_name, check_part, failpoint, require_size
from mnist_lib.objects.records import RecordLog
from mnist_lib.run_documents import MAX_RUN_NAME_LENGTH
from mnist_lib.store.contents import WEIGHTS_FILES
from mnist_lib.store.versions import (
    RECORD_COPY,
    StoredFile,
    Version,
    commit_record,
    find,
    parse_version,
    record_of,
    version_folder,
)

MAX_EARLIER_ATTEMPTS = 1_000  # to look for; a forged record can have any number


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
        ConflictError: `gc` has deleted the version of the run, or what it had stored of it after a day.
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
    decided = objects.read(run_record(model, run))
    if decided is None:
        number = _claim(objects, model, run)
        try:
            record = _store_files(objects, model, number, run, files, about)
        except StoreError:  # or another attempt of this run was faster, and deleted the files while they were written
            decided = objects.read(run_record(model, run))
            if decided is None:
                raise
        else:
            failpoint("publish.before_run")
            if objects.create(run_record(model, run), record):
                decided = record
            else:  # another attempt was faster
                objects.delete_below(version_folder(model, number))
                decided = objects.read(run_record(model, run)) or b""  # found, since it is never deleted
    failpoint("publish.before_commit")
    version = parse_version(decided, f"{model}, run {run}", model)
    if not objects.create(commit_record(model, version.number), decided):
        committed = find(objects, model, version.number)
        if committed is None:
            raise ConflictError(f"run {run}: its version {version.name} was deleted by gc; start another run")
        if committed != version:
            raise IntegrityError(f"{version.name}: expected the version of run {run}, got that of run {committed.run}")
    _delete_earlier_attempts(objects, version)
    return version


def claims(objects: Objects, model: str) -> RecordLog:
    return RecordLog(objects, f"models/{model}/claims")


def run_record(model: str, run: str) -> str:
    """Return the name of the record that says which version a run has published."""
    return f"models/{model}/runs/{run}.json"


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


def _delete_earlier_attempts(objects: Objects, version: Version) -> None:
    """Delete files of killed attempts of the same run. Its version is decided, so none of them can still commit."""
    log, last = claims(objects, version.model), version.number - 1
    for number in range(last, max(0, last - MAX_EARLIER_ATTEMPTS), -1):
        if objects.exists(commit_record(version.model, number)):
            return
        with contextlib.suppress(IntegrityError):
            if log.read(number, Claim).run == version.run:
                objects.delete_below(version_folder(version.model, number))
