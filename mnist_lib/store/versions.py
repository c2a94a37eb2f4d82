"""Versions of a model, numbered from 1, never changed: a version exists if and only if its commit record does.

    models/<model>/claims/<n>          a number is taken: of publishers at once, each gets its own
    models/<model>/versions/<n>/...    the files, and a copy of the record, for when the folder travels alone
    models/<model>/runs/<run>          which version a run's model is: the first attempt to get here decides
    models/<model>/commits/<n>         the record: size and sha256 of every file, and what a listing shows

written in this order. A publisher that dies before `runs` leaves a number that is never used; one that dies between
`runs` and `commits` has its commit completed by the next attempt of the same run, or by `gc`.
"""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnist_lib.errors import IntegrityError, SpecError, StoreError
from mnist_lib.store.failpoints import failpoint
from mnist_lib.store.objects import Objects, check_name, check_part
from mnist_lib.store.records import seal, unseal

RECORD = "record.json"  # in the folder of a version
LONGEST_RUN = 100


@dataclass(frozen=True)
class Version:
    """What a commit record says."""

    model: str
    number: int
    run: str
    committed_at: str  # UTC, ISO 8601
    files: Mapping[str, Mapping[str, Any]]  # name -> {"bytes", "sha256"}
    about: Mapping[str, Any]  # what a listing shows
    state: str = "whole"  # the others are of `collection`

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


def publish(objects: Objects, model: str, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Version:
    """Stores the files as the next version; if this run has published its model before, that is the version.

    Raises:
        SpecError: a name is none; or the run was given up, or its version collected, meanwhile.
        StoreError: the storage refuses; there is no new version then.
        IntegrityError: what this run published before is not readable.
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
            decided = objects.read(run_record(model, run))
            assert decided is not None  # never deleted
    failpoint("publish.before_commit")
    version = parse_version(decided, f"{model}, run {run}")
    if version.state != "whole":
        raise SpecError(f"run {run}: it was given up while it stored {model}; start another run")
    if (
        not objects.create(commit_record(model, version.number), decided)
        and find(objects, model, version.number) is None
    ):
        raise SpecError(f"run {run}: its version {version.name} was collected by gc; start another run")
    _sweep(objects, version)
    return version


def find(objects: Objects, model: str, number: int) -> Version | None:
    """None if there is no such version, or no more.

    Raises:
        IntegrityError, SchemaError: its record is damaged, or of a newer program.
    """
    record = objects.read(commit_record(model, number))
    version = None if record is None else parse_version(record, f"{model}@{number}", number)
    return version if version is not None and version.state == "whole" else None


def find_all(objects: Objects, model: str) -> Iterator[tuple[int, Version | IntegrityError]]:
    """Every version there is, by its number; in place of one whose record is damaged, what is wrong with it."""
    for number in numbers(objects, model):
        try:
            version = find(objects, model, number)
        except IntegrityError as error:
            yield number, error
        else:
            if version is not None:
                yield number, version


def numbers(objects: Objects, model: str) -> list[int]:
    """Of all commit records, ascending; those that are damaged or gone among them."""
    return _numbers(objects, f"models/{model}/commits")


def claimed(objects: Objects, model: str) -> list[int]:
    return _numbers(objects, f"models/{model}/claims")


def read_file(objects: Objects, version: Version, name: str, folder: str | None = None) -> bytes:
    """A file of a version, if it is what was committed; `folder`: where a copy of the version is.

    Raises:
        IntegrityError: naming version, file, what was expected and what came.
    """
    folder = version_folder(version.model, version.number) if folder is None else folder
    if name not in version.files:
        raise IntegrityError(f"{version.name}: expected a file {name}, got {', '.join(sorted(version.files))}")
    expected, content = version.files[name], objects.read(_join(folder, name))
    if content is None:
        raise IntegrityError(f"{version.name}: {name}: expected {expected['bytes']} bytes, got no file")
    if len(content) != expected["bytes"]:
        raise IntegrityError(f"{version.name}: {name}: expected {expected['bytes']} bytes, got {len(content)}")
    got = hashlib.sha256(content).hexdigest()
    if got != expected["sha256"]:
        raise IntegrityError(f"{version.name}: {name}: expected sha256 {expected['sha256']}, got {got}")
    return content


def verify(objects: Objects, version: Version, folder: str | None = None) -> None:
    """Reads every file of a version; `folder`: where a copy of it is.

    Raises:
        IntegrityError: for the first that is missing, damaged, or not of this version.
    """
    for name in version.files:
        read_file(objects, version, name, folder)
    inside = version_folder(version.model, version.number) if folder is None else folder
    if objects.read(_join(inside, RECORD)) != _sealed(version):
        raise IntegrityError(f"{version.name}: {RECORD}: expected what was committed, got something else")
    names = {name.removeprefix(f"{inside}/") for name in objects.names(inside)}
    extra = names - {*version.files, RECORD}
    if extra:
        raise IntegrityError(f"{version.name}: {min(extra)}: expected no such file, got one; delete it")


def verify_copy(objects: Objects) -> Version:
    """Of a version's folder that was copied to the root of `objects`: what its own record says it is.

    Raises:
        IntegrityError: as `verify` does; or there is no record.
    """
    record = objects.read(RECORD)
    if record is None:
        raise IntegrityError(f"{objects.where(RECORD)}: expected the record of a version, got no file")
    version = parse_version(record, objects.where(RECORD))
    verify(objects, version, folder="")
    return version


def version_folder(model: str, number: int) -> str:
    return f"models/{model}/versions/{number}"


def commit_record(model: str, number: int) -> str:
    return f"models/{model}/commits/{number:08d}.json"


def claim_record(model: str, number: int) -> str:
    return f"models/{model}/claims/{number:08d}.json"


def run_record(model: str, run: str) -> str:
    return f"models/{model}/runs/{run}.json"


def parse_version(record: bytes, name: str, number: int | None = None) -> Version:
    """`number`: under which the record was found.

    Raises:
        IntegrityError, SchemaError: what is stored anybody may have written.
    """
    document = unseal(record, name)
    try:
        version = Version(**document)
        whole = (
            isinstance(version.number, int)
            and number in (None, version.number)
            and all(isinstance(of["bytes"], int) and isinstance(of["sha256"], str) for of in version.files.values())
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{name}: expected the record of a version, got one with other fields") from error
    if not whole:
        raise IntegrityError(f"{name}: expected the record of a version, got that of {version.name}")
    return version


def replace_state(objects: Objects, version: Version, state: str) -> None:
    """Of a commit record, the one thing in it that changes; the record stays, so that none takes its place."""
    document = {**asdict(version), "state": state}
    objects.replace(commit_record(version.model, version.number), seal(document))


def highest(exists: Callable[[int], bool]) -> int:
    """The last of the numbers from 1 on that exist, without a gap; 0 if none does. In the order of log n questions."""
    high = 1
    while exists(high):
        high *= 2
    low = high // 2  # exists, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _claim(objects: Objects, model: str, run: str) -> int:
    # The token makes each claim another's: see `bucket`.
    content = seal({"run": run, "at": now(), "token": uuid.uuid4().hex})
    number = 1 + highest(lambda n: objects.exists(claim_record(model, n)))
    while not objects.create(claim_record(model, number), content):
        number += 1
    return number


def _store_files(
    objects: Objects, model: str, number: int, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]
) -> bytes:
    """-> the record of the version that they are."""
    hashes = {name: {"bytes": len(of), "sha256": hashlib.sha256(of).hexdigest()} for name, of in files.items()}
    record = _sealed(Version(model, number, run, now(), hashes, dict(about)))
    folder = version_folder(model, number)
    failpoint("publish.before_files")
    try:
        for name, content in {**files, RECORD: record}.items():
            objects.create(f"{folder}/{name}", content)
    except StoreError:
        with contextlib.suppress(StoreError):  # the first is told
            objects.delete_below(folder)
        raise
    return record


def _sweep(objects: Objects, version: Version) -> None:
    """Removes what earlier attempts of the same run left. Only now: its version is decided, none of them can commit."""
    number = version.number - 1
    while number and not objects.exists(commit_record(version.model, number)):
        claim = objects.read(claim_record(version.model, number))
        with contextlib.suppress(IntegrityError):
            if claim is not None and unseal(claim, f"claim {number}").get("run") == version.run:
                objects.delete_below(version_folder(version.model, number))
        number -= 1


def _sealed(version: Version) -> bytes:
    return seal({**asdict(version), "state": "whole"})


def _numbers(objects: Objects, prefix: str) -> list[int]:
    names = (name.rpartition("/")[2].removesuffix(".json") for name in objects.names(prefix))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
