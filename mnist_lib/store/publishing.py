"""How a version comes to be. Written in this order:

    models/<model>/claims/<n>.json     a number is taken: of publishers at once, each gets its own
    models/<model>/versions/<n>/...    the files, and the record
    models/<model>/runs/<run>.json     which version a run's model is: the first attempt to get here decides
    models/<model>/commits/<n>.json    the record: with it, the version exists

A publisher that dies before `runs` leaves a number that is never used; one that dies between `runs` and `commits` has
its commit completed by the next attempt of the same run, or by `gc`.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_lib.clock import now_text
from mnist_lib.errors import ConflictError, IntegrityError, StoreError
from mnist_lib.store.log import Log
from mnist_lib.store.objects import Objects, check_name, check_part, failpoint
from mnist_lib.store.versions import (
    RECORD,
    Version,
    commit_record,
    find,
    parse_version,
    record_of,
    version_folder,
)

LONGEST_RUN = 100


@dataclass(frozen=True)
class Claim:
    """Who took a number, and when."""

    run: str
    at: str  # UTC, ISO 8601


def publish(objects: Objects, model: str, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Version:
    """Stores the files as the next version; if this run has published its model before, that is the version.

    Raises:
        SpecError: the name of the model, of the run or of a file is not valid.
        StoreError: the storage refuses; there is no new version then.
        ConflictError: the run was abandoned, or its version collected, meanwhile.
        IntegrityError: what this run published before is damaged.
    """
    check_part("model", model)
    check_part("run", run, LONGEST_RUN)
    for name in files:
        check_name(name)
    decided = objects.read(run_record(model, run))
    if decided is None:
        number = _claim(objects, model, run)
        record = _store_files(objects, model, number, run, files, about)
        failpoint("publish.before_run")
        if objects.create(run_record(model, run), record):
            decided = record
        else:  # another attempt of this run was faster
            objects.delete_below(version_folder(model, number))
            decided = objects.read(run_record(model, run)) or b""  # never deleted
    failpoint("publish.before_commit")
    version = parse_version(decided, f"{model}, run {run}", model)
    if version.state != "whole":
        raise ConflictError(f"run {run}: it was abandoned while it stored {model}; start another run")
    if not objects.create(commit_record(model, version.number), decided):
        committed = find(objects, model, version.number)
        if committed is None:
            raise ConflictError(f"run {run}: its version {version.name} was collected by gc; start another run")
        if committed != version:
            raise IntegrityError(f"{version.name}: expected that of run {run}, got that of run {committed.run}")
    _delete_earlier_attempts(objects, version)
    return version


def claims(objects: Objects, model: str) -> Log:
    return Log(objects, f"models/{model}/claims")


def run_record(model: str, run: str) -> str:
    return f"models/{model}/runs/{run}.json"


def _claim(objects: Objects, model: str, run: str) -> int:
    log = claims(objects, model)
    number = log.last_of_many() + 1
    # A commit without its claim: the claim was lost, not the version.
    while objects.exists(commit_record(model, number)) or not log.append(number, {"run": run, "at": now_text()}):
        number += 1
    return number


def _store_files(
    objects: Objects, model: str, number: int, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]
) -> bytes:
    """-> the record of the version that they are."""
    hashes = {name: {"bytes": len(of), "sha256": hashlib.sha256(of).hexdigest()} for name, of in files.items()}
    record = record_of(Version(model, number, run, now_text(), hashes, dict(about)))
    folder = version_folder(model, number)
    failpoint("publish.before_files")
    if any(True for _ in objects.names(folder)):
        raise IntegrityError(f"{objects.where(folder)}: expected nothing there; move that folder away")
    try:
        for name, content in {**files, RECORD: record}.items():
            objects.create(f"{folder}/{name}", content)
    except StoreError:
        with contextlib.suppress(StoreError):  # the first is told
            objects.delete_below(folder)
        raise
    return record


def _delete_earlier_attempts(objects: Objects, version: Version) -> None:
    """What they left of the same run. Only now: its version is decided, none of them can commit."""
    log, number = claims(objects, version.model), version.number - 1
    while number and not objects.exists(commit_record(version.model, number)):
        with contextlib.suppress(IntegrityError):
            if log.read(number, Claim).run == version.run:
                objects.delete_below(version_folder(version.model, number))
        number -= 1
