"""Versions of a model, numbered from 1, never changed: a version exists if and only if its commit record does.

    models/<model>/commits/<n>.json    the record: size and sha256 of every file, and what a listing shows
    models/<model>/versions/<n>/...    the files, and a copy of the record, for when the folder travels alone

How they come to be is told in `publishing`, how they go in `collection`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.log import Log, seal, unseal
from mnist_lib.store.objects import Objects, check_name

RECORD = "record.json"  # in the folder of a version


@dataclass(frozen=True)
class Version:
    """What a commit record says."""

    model: str
    number: int
    run: str
    committed_at: str  # UTC, ISO 8601
    files: Mapping[str, Mapping[str, Any]]  # name -> {"bytes", "sha256"}
    about: Mapping[str, Any]  # what a listing shows: see `contents`
    state: str = "whole"  # or "deleting", "gone": see `collection`; or "abandoned": its run may not publish

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


def find(objects: Objects, model: str, number: int) -> Version | None:
    """None if there is no such version, or no more.

    Raises:
        IntegrityError, SchemaError: its record is damaged, or of a newer program.
    """
    record = objects.read(commit_record(model, number))
    version = None if record is None else parse_version(record, f"{model}@{number}", model, number)
    return version if version is not None and version.state == "whole" else None


def find_all(
    objects: Objects, model: str, *, newest_first: bool = False
) -> Iterator[tuple[int, Version | IntegrityError]]:
    """Every version there is, by its number; in place of one whose record is damaged, what is wrong with it."""
    for number in sorted(commits(objects, model).numbers(), reverse=newest_first):
        try:
            version = find(objects, model, number)
        except IntegrityError as error:
            yield number, error
        else:
            if version is not None:
                yield number, version


def read_file(objects: Objects, version: Version, name: str, folder: str | None = None) -> bytes:
    """A file of a version, if it is what was committed; `folder`: where a copy of the version is.

    Raises:
        IntegrityError: naming version, file, what was expected and what came.
    """
    if name not in version.files:
        raise IntegrityError(f"{version.name}: expected a file {name}, got {', '.join(sorted(version.files))}")
    expected, content = version.files[name], objects.read(_join(_folder(version, folder), name))
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
    inside = _folder(version, folder)
    if objects.read(_join(inside, RECORD)) != record_of(version):
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


def record_of(version: Version) -> bytes:
    """As it is committed."""
    return seal({**asdict(version), "state": "whole"})


def parse_version(record: bytes, name: str, model: str | None = None, number: int | None = None) -> Version:
    """`model` and `number`: under which the record was found, as far as that tells.

    Raises:
        IntegrityError, SchemaError: what is stored anybody may have written.
    """
    document = unseal(record, name)
    try:
        version = Version(**document)
        texts = (version.model, version.run, version.committed_at, version.state)
        whole = (
            type(version.number) is int
            and number in (None, version.number)
            and model in (None, version.model)
            and isinstance(version.about, dict)
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(of["bytes"], int) and isinstance(of["sha256"], str) for of in version.files.values())
        )
        for file in version.files:
            check_name(file)
    except (TypeError, KeyError, AttributeError, SpecError) as error:
        raise IntegrityError(f"{name}: expected the record of a version: {error}") from error
    if not whole:
        raise IntegrityError(f"{name}: expected the record of a version, got one of {version.name} or with other types")
    return version


def replace_state(objects: Objects, version: Version, state: str) -> None:
    """Of a commit record, the one thing in it that changes; the record stays, so that none takes its place."""
    document = {**asdict(version), "state": state}
    objects.replace(commit_record(version.model, version.number), seal(document))


def version_folder(model: str, number: int) -> str:
    return f"models/{model}/versions/{number}"


def commits(objects: Objects, model: str) -> Log:
    return Log(objects, f"models/{model}/commits")


def commit_record(model: str, number: int) -> str:
    return f"models/{model}/commits/{number:08d}.json"


def _folder(version: Version, folder: str | None) -> str:
    return version_folder(version.model, version.number) if folder is None else folder


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
