"""What need not be kept: old versions, and what publishers left that died.

A version leaves in steps, each of which a later `gc` completes: its number is given up (see `holds`), its record says
"deleting" and with that it exists no more, its files go, its record says "gone". The record stays: a number is never
used again, and a run whose version is gone does not publish another.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.champions import history, line_of_champions
from mnist_lib.store.failpoints import failpoint
from mnist_lib.store.holds import give_up, newest_hold
from mnist_lib.store.objects import Objects
from mnist_lib.store.records import seal, unseal
from mnist_lib.store.versions import (
    Version,
    claim_record,
    claimed,
    commit_record,
    numbers,
    parse_version,
    replace_state,
    run_record,
    version_folder,
)

# A publisher stores its files within seconds; after this time it is dead, and its run is told so if it is not.
UNFINISHED_FOR = timedelta(days=1)


@dataclass(frozen=True)
class Collection:
    """What `gc` did, or with `dry_run` would do. Names as in "keras@3"."""

    collected: Sequence[str]
    kept: Sequence[str]
    completed: Sequence[str]  # versions whose publisher died just before their commit
    swept: Sequence[str]  # numbers whose publisher died before, with their files
    damaged: Sequence[str]  # whose record cannot be read: not touched


def collect(objects: Objects, model: str, keep: int, *, dry_run: bool = False) -> Collection:
    """Deletes all but the newest `keep` versions, the champion, and the `keep` that it could be rolled back to.

    Raises:
        StoreError: the storage refuses; the same again goes on where this ended.
        IntegrityError: the log of champions is damaged: nothing is deleted.
    """
    needed = _needed(objects, model, keep)
    committed = numbers(objects, model)
    completed, swept = _sweep(objects, model, sorted({*claimed(objects, model)} - {*committed}), dry_run=dry_run)
    versions, damaged = _read_all(objects, model, committed)
    whole = [version for version in versions if version.state == "whole"]
    needed |= {version.number for version in whole[-keep:]}
    collected = [version.name for version in whole if version.number not in needed]
    kept = [version.name for version in whole if version.number in needed]
    if not dry_run:
        for version in versions:
            if version.state == "deleting":
                _delete(objects, version)
            elif version.name in collected and not _collect(objects, version, keep):
                collected.remove(version.name)
                kept.append(version.name)
    return Collection(collected, kept, completed, swept, damaged)


def _needed(objects: Objects, model: str, keep: int) -> set[int]:
    return {*line_of_champions(history(objects, model))[-keep - 1 :]}


def _collect(objects: Objects, version: Version, keep: int) -> bool:
    """False if somebody needs the version meanwhile."""
    newest = newest_hold(objects, version.model, version.number)
    if newest.held or version.number in _needed(objects, version.model, keep):
        return False
    failpoint("gc.before_give_up")
    if not give_up(objects, version.model, version.number, newest):
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


def _read_all(objects: Objects, model: str, committed: Sequence[int]) -> tuple[list[Version], list[str]]:
    versions, damaged = [], []
    for number in committed:
        name = f"{model}@{number}"
        try:
            versions.append(parse_version(objects.read(commit_record(model, number)) or b"", name, number))
        except IntegrityError:
            damaged.append(name)
    return versions, damaged


def _sweep(objects: Objects, model: str, unfinished: Sequence[int], *, dry_run: bool) -> tuple[list[str], list[str]]:
    """Of numbers that were taken and not committed -> (the completed, the deleted)."""
    completed, swept = [], []
    for number in unfinished:
        name = f"{model}@{number}"
        try:
            decided = _decide(objects, model, number, dry_run=dry_run)
            version = None if decided is None else parse_version(decided, name)
        except (IntegrityError, SpecError):
            continue
        if version is not None and version.number == number and version.state == "whole":
            completed.append(name)
            if not dry_run:
                objects.create(commit_record(model, number), decided or b"")
        elif version is not None and any(True for _ in objects.names(version_folder(model, number))):
            swept.append(name)
            if not dry_run:
                objects.delete_below(version_folder(model, number))
    return completed, swept


def _decide(objects: Objects, model: str, number: int, *, dry_run: bool) -> bytes | None:
    """What the run of this number published; None: it still may. One that did not for a day may not any more."""
    claim = unseal(objects.read(claim_record(model, number)) or b"", f"claim {number} of {model}")
    decided = objects.read(run_record(model, claim["run"]))
    if decided is not None or datetime.now(UTC) - datetime.fromisoformat(claim["at"]) < UNFINISHED_FOR:
        return decided
    given_up = seal(asdict(Version(model, number, claim["run"], claim["at"], {}, {}, state="given up")))
    if dry_run:
        return given_up
    failpoint("gc.before_sweep")
    objects.create(run_record(model, claim["run"]), given_up)
    return objects.read(run_record(model, claim["run"]))
