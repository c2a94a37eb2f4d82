"""Versions of a model: numbered from 1 and never changed. A version exists if and only if its commit record does.

    models/<model>/commits/<n>.json    the record: size and sha256 of every file, and what a listing shows
    models/<model>/versions/<n>/...    the files, and a copy of the record, so that a copied folder can be verified

The folder alone proves nothing: it exists before the commit and for a while after a deletion. `publishing` commits
and deletes versions.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeGuard

from mnist_lib.catalog import MODELS
from mnist_lib.data.request import ClassNames, ImageShape
from mnist_lib.documents import (
    Count,
    Document,
    Interval,
    Json,
    Moment,
    Name,
    Number,
    Sha256,
    Share,
    Text,
    VersionName,
    convert,
)
from mnist_lib.errors import ConflictError, IntegrityError
from mnist_lib.model_file import MODEL_NAME
from mnist_lib.objects.protocol import MAX_FILE_BYTES, Objects, concurrently
from mnist_lib.objects.records import RecordLog, seal, unseal
from mnist_lib.results import Accuracy

RECORD_COPY = "record.json"  # in the folder of a version
LATEST = "latest"  # as in keras@latest: the newest version
NUMBER = re.compile("[0-9]{1,8}", re.ASCII)  # of a version


class StoredFile(Document, frozen=True, kw_only=True):
    bytes: Count
    sha256: Sha256


class DatasetFacts(Document, frozen=True, kw_only=True):
    """The dataset that a version was trained and tested on."""

    name: Name
    version: Text
    fingerprint: Text
    test: Count  # images
    image_shape: ImageShape
    classes: ClassNames
    group_by: Text | None = None  # as in `DataRequest`
    none: Text | None = None  # as in `DataRequest`
    made_up: tuple[Text, ...] = ()  # as in `Dataset`


@dataclass(frozen=True)
class About:
    """What a listing shows of a version."""

    trial: Text
    dataset: DatasetFacts
    test: Accuracy
    weights_sha256: Sha256
    validation: Accuracy | None = None
    test_ci95: Interval | None = None
    test_balanced_accuracy: Share | None = None  # only if trials were compared by it
    init_from: VersionName | None = None  # the version whose weights its training started from, if any

    @property
    def interval(self) -> Interval:
        """The 95% interval of the test accuracy, for another test set of this size."""
        return self.test_ci95 or self.test.interval()


@dataclass(frozen=True)
class Version:
    """A version, as its commit record describes it."""

    model: Name
    number: Number
    run: Name
    committed_at: Moment  # UTC, ISO 8601
    files: Mapping[str, StoredFile]  # by name
    about: Mapping[str, Json]  # as stored; see `facts`
    deleted: bool = False  # the record remains, so that its number is not used again

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"

    @cached_property
    def facts(self) -> About:
        """What a listing shows. Raises IntegrityError if the field `about` of the record is not valid."""
        return convert(self.about, About, f"{self.name}: its record: $.about")


def model_names(objects: Objects) -> list[str]:
    """Return the models of the catalog, then the others that have a folder in the storage, sorted."""
    stored = (name for name in objects.folders("models") if MODEL_NAME.fullmatch(name))
    return [*MODELS, *(name for name in stored if name not in MODELS)]


def find(objects: Objects, model: str, number: int, *, deleted: bool = False) -> Version | None:
    """Return a version, or None if it does not exist; with `deleted`, also return one that was deleted.

    Raises IntegrityError if its record is damaged, or SchemaError if a newer version of this program wrote it.
    """
    record = objects.read(commit_record(model, number))
    version = None if record is None else unseal(record, f"{model}@{number}", Version)
    return version if version is not None and (deleted or not version.deleted) else None


def require_version(objects: Objects, model: str, number: int) -> Version:
    """Return the version with that number, or raise IntegrityError if it is damaged or does not exist."""
    version = find(objects, model, number)
    if version is None:
        raise IntegrityError(f"{model}@{number}: expected a commit record, got none; roll back to another version")
    return version


def require_not_deleted(objects: Objects, version: Version) -> None:
    """Raise ConflictError if `gc` has deleted a version."""
    if find(objects, version.model, version.number) is None:
        raise ConflictError(f"{version.name} was deleted by gc; name another version (see: jobs.models list)")


def find_all(
    objects: Objects, model: str, *, newest_first: bool = False, deleted: bool = False
) -> Iterator[tuple[int, Version | IntegrityError]]:
    """Yield the number of every version with what `find` returns for it, or with the error if its record is damaged."""

    def found(number: int) -> tuple[int, Version | IntegrityError | None]:
        try:
            return number, find(objects, model, number, deleted=deleted)
        except IntegrityError as error:
            return number, error

    numbers = RecordLog(objects, f"models/{model}/commits").numbers()
    for number, version in concurrently(objects, found, sorted(numbers, reverse=newest_first)):
        if version is not None:
            yield number, version


def find_named(objects: Objects, name: str) -> Version | None:
    """Return the version of a name such as keras@3, also if it was deleted, or None if its record is missing.

    Raises IntegrityError if its record is damaged.
    """
    model, _, number = name.partition("@")
    return find(objects, model, int(number), deleted=True)


def chain(objects: Objects, name: str | None) -> list[Version]:
    """Return the version of that name, the version whose weights its training started from, and so on; [] for None.

    A version that was deleted is among them, since its record remains. The chain ends where a record is missing.

    Raises IntegrityError if a record is damaged.
    """
    found: dict[str, Version] = {}
    while name is not None and name not in found:
        version = find_named(objects, name)
        if version is None:
            break
        found[name], name = version, version.facts.init_from
    return [*found.values()]


def readable_versions(objects: Objects) -> Iterator[Version]:
    """Yield the versions of all models, except those with damaged records."""
    for model in model_names(objects):
        for _, version in find_all(objects, model):
            if is_readable(version):
                yield version


def is_readable(version: Version | IntegrityError) -> TypeGuard[Version]:
    """Return whether a version's record is intact and, unless the version was deleted, has what a listing shows."""
    try:
        return isinstance(version, Version) and (version.deleted or version.facts is not None)
    except IntegrityError:
        return False


def read_file(
    objects: Objects, version: Version, name: str, prefix: str | None = None, limit: int = MAX_FILE_BYTES
) -> bytes:
    """Return a file of a version. Raises IntegrityError if it is not what was committed.

    Args:
        limit: the maximum size of a file of this kind, in bytes.
        prefix: the prefix of the names of the files, if the version is a copy.
    """
    if name not in version.files:
        raise IntegrityError(f"{version.name}: expected a file {name}, got {', '.join(sorted(version.files))}")
    content = objects.read(f"{_prefix(version) if prefix is None else prefix}{name}", limit)
    expected = version.files[name].sha256
    got = "no file" if content is None else hashlib.sha256(content).hexdigest()
    if content is None or got != expected:
        advice = "restore the file, or use another version"
        raise IntegrityError(f"{version.name}: {name}: expected sha256 {expected}, got {got}; {advice}")
    return content


def verify(objects: Objects, version: Version, prefix: str | None = None) -> None:
    """Raise IntegrityError if a file of a version is missing or damaged; `prefix`: as in `read_file`."""
    for name in version.files:
        read_file(objects, version, name, prefix)
    if objects.read(f"{_prefix(version) if prefix is None else prefix}{RECORD_COPY}") != record_of(version):
        raise IntegrityError(f"{version.name}: {RECORD_COPY}: expected a copy of the commit record, got something else")


def verify_copy(objects: Objects) -> Version:
    """Verify a version, copied to the root of `objects`, against its own record, and return it.

    Raises IntegrityError as `verify` does, or if there is no record.
    """
    where, record = objects.where(RECORD_COPY), objects.read(RECORD_COPY)
    if record is None:
        raise IntegrityError(f"{where}: expected the record of a version, got no file; name the folder of a version")
    version = unseal(record, where, Version)
    verify(objects, version, prefix="")
    return version


def record_of(version: Version) -> bytes:
    """Return a version's record as it was committed."""
    return seal(replace(version, deleted=False))


def version_folder(model: str, number: int) -> str:
    return f"models/{model}/versions/{number}"


def commit_record(model: str, number: int) -> str:
    """Return the name of a commit record."""
    return f"models/{model}/commits/{number:08d}.json"


def _prefix(version: Version) -> str:
    return f"{version_folder(version.model, version.number)}/"
