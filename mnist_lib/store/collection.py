"""What need not be kept (`gc`): old versions, and what publishers left that died.

A version leaves in steps, each of which a later `gc` completes: it is condemned (see `holds`), its record says
"deleting" and with that it exists no more, its files go, its record says "gone". The record stays: a number is never
used again, and a run whose version is gone does not publish another.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.champions import history, line_of_champions, number_of_champions
from mnist_lib.store.holds import condemn, holds_of
from mnist_lib.store.log import seal
from mnist_lib.store.objects import Objects, failpoint
from mnist_lib.store.publishing import Claim, claims, run_record
from mnist_lib.store.versions import Version, commit_record, commits, parse_version, replace_state, version_folder

# A publisher stores its files within seconds; after this time it is dead, and its run is told so if it is not.
UNFINISHED_FOR = timedelta(days=1)


@dataclass(frozen=True)
class Collected:
    """What `gc` did, or with `dry_run` would do. Names as in "keras@3"."""

    deleted: Sequence[str]
    kept: Sequence[str]
    completed: Sequence[str]  # versions whose publisher died just before their commit
    swept: Sequence[str]  # numbers whose publisher died before, with their files
    damaged: Sequence[str]  # whose record or claim cannot be read: not touched


def collect(objects: Objects, model: str, keep: int, *, dry_run: bool = False) -> Collected:
    """Deletes all but the newest `keep` versions, the champion, and the `keep` that it could be rolled back to.

    Raises:
        StoreError: the storage refuses; the same again goes on where this ended.
        IntegrityError: the newest record of a champion is damaged: nothing is deleted.
    """
    needed = _Needed(objects, model, keep)
    needed.versions()  # before anything is touched
    committed = sorted(commits(objects, model).numbers())
    unfinished = sorted({*claims(objects, model).numbers()} - {*committed})
    completed, swept, damaged = _finish(objects, model, unfinished, dry_run=dry_run)
    versions: list[Version] = []
    for number in committed:
        name = f"{model}@{number}"
        try:
            versions.append(parse_version(objects.read(commit_record(model, number)) or b"", name, model, number))
        except IntegrityError:
            damaged.append(name)
    whole = [version for version in versions if version.state == "whole"]
    stays = needed.versions() | {version.number for version in whole[-keep:]}
    deleted = [version.name for version in whole if version.number not in stays]
    kept = [version.name for version in whole if version.number in stays]
    if not dry_run:
        objects.delete_leftovers(f"models/{model}")
        for version in versions:
            if version.state == "deleting":
                _delete(objects, version)
            elif version.name in deleted and not _collect(objects, version, needed):
                deleted.remove(version.name)
                kept.append(version.name)
    return Collected(deleted, kept, completed, swept, damaged)


class _Needed:
    """The champion, and those it could be rolled back to; looked up again when the log has grown."""

    def __init__(self, objects: Objects, model: str, keep: int) -> None:
        self._objects, self._model, self._keep = objects, model, keep
        self._last, self._versions = -1, set[int]()

    def versions(self) -> set[int]:
        last = number_of_champions(self._objects, self._model)
        if last != self._last:
            log = history(self._objects, self._model)
            if log and isinstance(log[-1], IntegrityError):
                raise IntegrityError(f"{log[-1]}; roll back first: which version is in use is not known")
            self._last, self._versions = last, {*line_of_champions(log)[-self._keep - 1 :]}
        return self._versions


def _collect(objects: Objects, version: Version, needed: _Needed) -> bool:
    """False if somebody needs the version meanwhile."""
    holds = holds_of(objects, version.model, version.number)
    if holds.held or version.number in needed.versions():
        return False
    failpoint("gc.before_condemn")
    if not condemn(objects, version.model, version.number, holds):
        return False
    if version.number in needed.versions():  # it became one after all: the hold was older than it looked
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
    """Of numbers that were taken and not committed -> (the completed, the swept, the damaged)."""
    completed, swept, damaged = [], [], []
    for number in unfinished:
        name, folder = f"{model}@{number}", version_folder(model, number)
        try:
            record = _decide(objects, model, number, dry_run=dry_run)
            decided = None if record is None else parse_version(record, name, model)
        except (IntegrityError, SpecError, ValueError, TypeError):
            damaged.append(name)
            continue
        if decided is None or record is None:
            continue  # it may be at it still
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


def _decide(objects: Objects, model: str, number: int, *, dry_run: bool) -> bytes | None:
    """What the run of this number published; None: it still may. One that did not for a day may not any more."""
    claim = claims(objects, model).read(number, Claim)
    decided = objects.read(run_record(model, claim.run))
    if decided is not None or datetime.now(UTC) - datetime.fromisoformat(claim.at) < UNFINISHED_FOR:
        return decided
    abandoned = seal(asdict(Version(model, number, claim.run, claim.at, {}, {}, state="abandoned")))
    if dry_run:
        return abandoned
    failpoint("gc.before_sweep")
    objects.create(run_record(model, claim.run), abandoned)
    return objects.read(run_record(model, claim.run))
