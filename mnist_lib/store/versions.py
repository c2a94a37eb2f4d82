"""Versions of a model: numbered from 1 and never changed. A version exists if and only if its commit record does.

    models/<model>/commits/<n>.json    the record: size and sha256 of every file, and what a listing shows
    models/<model>/versions/<n>/...    the files, and a copy of the record, so that a copied folder can be verified

The folder alone proves nothing: it exists before the commit and for a while after a deletion. `publishing` commits
versions, and `garbage_collection` deletes them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnist_lib.catalog import MODELS
from mnist_lib.errors import IntegrityError, SpecError, TooLargeError
from mnist_lib.model_file import MODEL_NAME
from mnist_lib.objects.protocol import Objects, check_name, concurrently
from mnist_lib.objects.records import RecordLog, seal, unseal

RECORD_COPY = "record.json"  # in the folder of a version


@dataclass(frozen=True)
class Version:
    """A version, as its commit record describes it."""

    model: str
    number: int
    run: str
    committed_at: str  # UTC, ISO 8601
    files: Mapping[str, Mapping[str, Any]]  # name -> {"bytes", "sha256"}
    about: Mapping[str, Any]  # what a listing shows: see `contents`
    # "whole"; "deleting" or "gone", see `garbage_collection`; "abandoned" if its run may no longer publish.
    state: str = "whole"

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


def model_names(objects: Objects) -> list[str]:
    """Return the models of the catalog, then the others that have a folder in the storage, sorted."""
    others = [name for name in objects.folders("models") if MODEL_NAME.fullmatch(name) and name not in MODELS]
    return [*MODELS, *others]


def find(objects: Objects, model: str, number: int, *, deleted: bool = False) -> Version | None:
    """Return a version, or None if it does not exist; with `deleted`, also return one that was deleted.

    Raises IntegrityError if its record is damaged, or SchemaError if a newer version of this program wrote it.
    """
    record = objects.read(commit_record(model, number))
    version = None if record is None else parse_version(record, f"{model}@{number}", model, number)
    return version if version is not None and (deleted or version.state == "whole") else None


def find_all(
    objects: Objects, model: str, *, newest_first: bool = False, deleted: bool = False
) -> Iterator[tuple[int, Version | IntegrityError]]:
    """Yield the number of every version with what `find` returns for it, or with the error if its record is damaged."""

    def found(number: int) -> tuple[int, Version | IntegrityError | None]:
        try:
            return number, find(objects, model, number, deleted=deleted)
        except IntegrityError as error:
            return number, error

    for number, version in concurrently(found, sorted(commits(objects, model).numbers(), reverse=newest_first)):
        if version is not None:
            yield number, version


def read_file(objects: Objects, version: Version, name: str, prefix: str | None = None) -> bytes:
    """Return a file of a version. Raises IntegrityError if it is not what was committed.

    Args:
        prefix: the prefix of the names of the files, if the version is a copy.
    """
    if name not in version.files:
        raise IntegrityError(f"{version.name}: expected a file {name}, got {', '.join(sorted(version.files))}")
    size, sha256 = version.files[name]["bytes"], version.files[name]["sha256"]
    try:
        content = objects.read(f"{_prefix(version) if prefix is None else prefix}{name}", size)
        got = "no file" if content is None else str(len(content))
    except TooLargeError:
        content, got = None, "more"
    if content is not None and len(content) == size:
        got = hashlib.sha256(content).hexdigest()
        if got == sha256:
            return content
        expected = f"sha256 {sha256}"
    else:
        expected = f"{size} bytes"
    raise IntegrityError(
        f"{version.name}: {name}: expected {expected}, got {got}; restore the file, or use another version"
    )


def verify(objects: Objects, version: Version, prefix: str | None = None) -> None:
    """Raise IntegrityError if a file of a version is missing, damaged or unexpected; `prefix`: as in `read_file`."""
    for name in version.files:
        read_file(objects, version, name, prefix)
    prefix = _prefix(version) if prefix is None else prefix
    if objects.read(f"{prefix}{RECORD_COPY}") != record_of(version):
        raise IntegrityError(f"{version.name}: {RECORD_COPY}: expected a copy of the commit record, got something else")
    names = {name.removeprefix(prefix) for name in objects.names(prefix.rstrip("/"))}
    extra = names - {*version.files, RECORD_COPY}
    if extra:
        raise IntegrityError(f"{version.name}: {min(extra)}: expected no such file, got one; delete it")


def verify_copy(objects: Objects) -> Version:
    """Verify a version, copied to the root of `objects`, against its own record, and return it.

    Raises IntegrityError as `verify` does, or if there is no record.
    """
    where, record = objects.where(RECORD_COPY), objects.read(RECORD_COPY)
    if record is None:
        raise IntegrityError(f"{where}: expected the record of a version, got no file; name the folder of a version")
    version = parse_version(record, where)
    verify(objects, version, prefix="")
    return version


def record_of(version: Version) -> bytes:
    """Return a version's record as it was committed."""
    return seal({**asdict(version), "state": "whole"})


def parse_version(record: bytes, name: str, model: str | None = None, number: int | None = None) -> Version:
    """Return the version that a record describes; `name` is for messages. Anybody may have written the record.

    Raises IntegrityError or SchemaError if it is damaged, too new, or describes a version other than `model`, `number`.
    """
    document = unseal(record, name)
    try:
        version = Version(**document)
        texts = (version.model, version.run, version.committed_at, version.state)
        valid = (
            type(version.number) is int
            and number in (None, version.number)
            and model in (None, version.model)
            and isinstance(version.about, dict)
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(f["bytes"], int) and isinstance(f["sha256"], str) for f in version.files.values())
        )
        for file in version.files:
            check_name(file)
    except (TypeError, KeyError, AttributeError, SpecError) as error:
        raise IntegrityError(f"{name}: expected the record of a version, got other fields: {error}") from error
    if not valid:
        raise IntegrityError(f"{name}: expected its own record, got that of {version.name}, or wrong types")
    return version


def replace_state(objects: Objects, version: Version, state: str) -> None:
    """Change the state in a commit record. The record itself is never deleted, so its number is never used again."""
    document = {**asdict(version), "state": state}
    objects.replace(commit_record(version.model, version.number), seal(document))


def version_folder(model: str, number: int) -> str:
    return f"models/{model}/versions/{number}"


def commits(objects: Objects, model: str) -> RecordLog:
    return RecordLog(objects, f"models/{model}/commits")


def commit_record(model: str, number: int) -> str:
    """Return the name of a commit record."""
    return f"models/{model}/commits/{number:08d}.json"


def _prefix(version: Version) -> str:
    return f"{version_folder(version.model, version.number)}/"
