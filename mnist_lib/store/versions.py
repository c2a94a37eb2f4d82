"""Versions of a model, numbered from 1, never changed: a version exists if and only if its commit record does.

    models/<model>/claims/<n>          a number is taken: of publishers at once, each gets its own
    models/<model>/versions/<n>/...    the files
    models/<model>/runs/<run>          which version a run's model is: the first attempt to get here decides
    models/<model>/commits/<n>         the record: size and sha256 of every file, and what a listing shows

written in this order. A publisher that dies before `runs` leaves a number that is never used; one that dies between
`runs` and `commits` has its commit completed by the next attempt of the same run.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mnist_lib.errors import IntegrityError, SchemaError
from mnist_lib.store.failpoints import failpoint
from mnist_lib.store.objects import Objects

SCHEMA = 1


@dataclass(frozen=True)
class Version:
    """What a commit record says."""

    model: str
    number: int
    run: str
    committed_at: str  # UTC, ISO 8601
    files: Mapping[str, Mapping[str, Any]]  # name -> {"bytes", "sha256"}
    about: Mapping[str, Any]  # what a listing shows

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


def publish(
    objects: Objects, model: str, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]
) -> tuple[Version, bool]:
    """Stores the files as the next version, unless this run has published its model before -> (version, whether new).

    Raises:
        StoreError: the storage refuses; there is no new version then.
        IntegrityError: what this run published before is not readable.
    """
    published = objects.read(_run(model, run))
    if published is None:
        number = _claim(objects, model, run)
        failpoint("publish.before_files")
        for name, content in files.items():
            objects.create(f"{version_folder(model, number)}/{name}", content)
        record = _record(model, number, run, files, about)
        failpoint("publish.before_run")
        if objects.create(_run(model, run), record):
            published = record
        else:  # another attempt of this run was faster
            objects.delete_below(version_folder(model, number))
            published = objects.read(_run(model, run))
            assert published is not None  # never deleted
    failpoint("publish.before_commit")
    version = _parse(published, f"{model}, run {run}")
    return version, objects.create(_commit(model, version.number), published)


def find(objects: Objects, model: str, number: int) -> Version | None:
    """None if there is no such version.

    Raises:
        IntegrityError, SchemaError: its record is damaged, or of a newer program.
    """
    record = objects.read(_commit(model, number))
    return None if record is None else _parse(record, f"{model}@{number}")


def numbers(objects: Objects, model: str) -> list[int]:
    """Of all versions, ascending."""
    names = objects.names(f"models/{model}/commits")
    return sorted(int(name.rpartition("/")[2].removesuffix(".json")) for name in names)


def read_file(objects: Objects, version: Version, name: str) -> bytes:
    """A file of a version, if it is what was committed.

    Raises:
        IntegrityError: naming version, file, what was expected and what came.
    """
    expected, content = version.files[name], objects.read(f"{version_folder(version.model, version.number)}/{name}")
    if content is None:
        raise IntegrityError(f"{version.name}: {name}: expected {expected['bytes']} bytes, got no file")
    if len(content) != expected["bytes"]:
        raise IntegrityError(f"{version.name}: {name}: expected {expected['bytes']} bytes, got {len(content)}")
    got = hashlib.sha256(content).hexdigest()
    if got != expected["sha256"]:
        raise IntegrityError(f"{version.name}: {name}: expected sha256 {expected['sha256']}, got {got}")
    return content


def verify(objects: Objects, version: Version) -> None:
    """Reads every file of a version.

    Raises:
        IntegrityError: for the first that is missing, damaged, or not of this version.
    """
    for name in version.files:
        read_file(objects, version, name)
    inside = version_folder(version.model, version.number)
    extra = {name.removeprefix(f"{inside}/") for name in objects.names(inside)} - set(version.files)
    if extra:
        raise IntegrityError(f"{version.name}: {min(extra)}: expected no such file, got one; delete it")


def version_folder(model: str, number: int) -> str:
    return f"models/{model}/versions/{number}"


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


def _claim(objects: Objects, model: str, run: str) -> int:
    def claim(number: int) -> str:
        return f"models/{model}/claims/{number:08d}.json"

    number = 1 + highest(lambda n: objects.exists(claim(n)))
    while not objects.create(claim(number), json.dumps({"run": run}).encode()):
        number += 1
    return number


def _record(model: str, number: int, run: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> bytes:
    document = {
        "schema": SCHEMA,
        "model": model,
        "number": number,
        "run": run,
        "committed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
        "about": dict(about),
    }
    return json.dumps(document, indent=2, allow_nan=False).encode()


def _parse(record: bytes, name: str) -> Version:
    """Raises IntegrityError, SchemaError: a record is written by us, but read from where anybody may have written."""
    try:
        document = json.loads(record)
        schema = document["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise SchemaError(f"{name}: its record has schema {schema}, this program knows {SCHEMA}; use a newer one")
        version = Version(**{field: document[field] for field in Version.__dataclass_fields__})
        whole = (
            schema == SCHEMA
            and isinstance(version.number, int)
            and all(isinstance(of["bytes"], int) and isinstance(of["sha256"], str) for of in version.files.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{name}: expected a commit record, got {record[:40]!r}; roll back to another") from error
    if not whole:
        raise IntegrityError(f"{name}: expected a commit record, got one with other fields; roll back to another")
    return version


def _commit(model: str, number: int) -> str:
    return f"models/{model}/commits/{number:08d}.json"


def _run(model: str, run: str) -> str:
    return f"models/{model}/runs/{run}.json"
