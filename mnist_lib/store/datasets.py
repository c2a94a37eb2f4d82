"""What a storage knows of the datasets of its runs, in `datasets/<name>/`:

last.json                     the last complete run whose dataset raised no objections or was accepted, see `reference`
states/<fingerprint>.npz      the images and labels of a run, see `data.changes`
hashes                        the hash of each picture, by the hash of its file, see `data.table`
labels.jsonl                  corrections, if the dataset is not a folder, see `data.corrections`
"""

import contextlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.changes import MAX_STATE_BYTES, DatasetState
from mnist_lib.data.corrections import UsedLabels
from mnist_lib.data.request import DataRequest, ImageShape
from mnist_lib.data.table import NO_RECORDS, TRAIN, ImageHashes, indices_of, lines_of, parse_records
from mnist_lib.documents import Name, Sha256, Text, VersionName, complete_lines, decode, encode
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import read_record, seal
from mnist_lib.run_documents import Summary
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version, readable_versions

FOLDER = "datasets"
RUN_DATA = "data.json"  # in the folder of a run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastRun:
    """The record `last.json`: the last run whose dataset raised no objection, or was accepted. See `reference`."""

    run: Name
    fingerprint: Sha256  # of the dataset
    at: Text  # when the run ended, UTC, ISO 8601
    image_shape: ImageShape | None = None  # None in earlier records, which name the last run, accepted or not
    has_test_folder: bool | None = None  # whether the folder says which pictures are for the test; None: not known


@dataclass(frozen=True)
class RunData:
    """`runs/<run>/data.json`: what a run began with, and uses again when it is resumed."""

    labels: UsedLabels
    since: LastRun | None  # the last run of the dataset when this run began
    init_from: tuple[VersionName, ...] = ()  # the versions from which its trials start
    image_shape: ImageShape | None = None  # of the images of its dataset; None in earlier records
    unreadable: tuple[Text, ...] | None = None  # paths that could not be read; None in earlier records


def last_run(objects: Objects, dataset: str) -> LastRun | None:
    """Return the last complete run of a dataset, or None if there is none or its record is damaged."""
    name = _last(dataset)
    try:
        return read_record(objects, name, LastRun) if objects.exists(name) else None
    except IntegrityError as error:
        log.warning("what has changed in %s is not known: %s", dataset, error)
        return None


def earlier_runs(objects: Objects, run: str, count: int) -> list[Summary]:
    """Return the summaries of a run, of the earlier run that its dataset was compared with, and so on: newest first."""
    found: list[Summary] = []
    name: str | None = run
    with contextlib.suppress(IntegrityError, SpecError):  # the history ends where it cannot be read
        while name and len(found) < count and (summary := RunFolder(objects, name).summary()):
            found.append(summary)
            name = summary.dataset.changes.since if summary.dataset.changes else None
    return found


def write_last_run(objects: Objects, dataset: str, run: LastRun) -> None:
    objects.replace(_last(dataset), seal(run))


def read_state(objects: Objects, dataset: str, fingerprint: str) -> bytes | None:
    """Return the content of the state with that fingerprint, or None if there is none."""
    return objects.read(_state(dataset, fingerprint), MAX_STATE_BYTES)


def store_state(objects: Objects, dataset: str, fingerprint: str, content: bytes) -> None:
    if not objects.exists(_state(dataset, fingerprint)):
        objects.replace(_state(dataset, fingerprint), content)


def recorded_hashes(objects: Objects, request: DataRequest) -> NDArray[np.void]:
    """Return the hashes that are recorded for the pictures of a folder, an array of RECORD; none of other datasets.

    Raises:
        IntegrityError: the file is damaged.
    """
    if request.folder is None and request.url is None:
        return NO_RECORDS
    name = _hashes(request.name)
    return parse_records(complete_lines(objects.read(name, MAX_STATE_BYTES) or b""), objects.where(name))


def record_hashes(objects: Objects, dataset: str, new: NDArray[np.void] | None) -> None:
    """Append new hashes of pictures to the recorded ones. `new`: an array of RECORD, or None"""
    if new is not None and len(new):
        objects.add(_hashes(dataset), lines_of(new))


def trained_images(objects: Objects, versions: Iterable[Version]) -> dict[str, ImageHashes]:
    """Return the hashes of the images that versions were trained or validated on, [n, 2], by the name of the version.

    Each image is listed once, under the first version that has it, since the versions of a chain share most of their
    images. A version whose images are not known is left out, with a warning.
    """
    found, known = dict[str, ImageHashes](), np.empty((0, 2), np.uint64)
    for version in versions:
        dataset = version.facts.dataset
        try:
            content = read_state(objects, dataset.name, dataset.fingerprint)
            state = DatasetState.read(content or b"", f"the images of {version.name}")
        except (IntegrityError, SpecError) as error:
            log.warning("it is not known whether test images are new to %s: %s", version.name, error)
        else:
            trained = state.hashes[state.split == TRAIN]
            found[version.name] = trained[indices_of(trained, known) < 0]
            known = np.concatenate([known, found[version.name]])
    return found


def begun_with(folder: RunFolder) -> RunData | None:
    """Return what a run began with, or None if that is not recorded yet. Raises IntegrityError if it is damaged."""
    content = folder.read(RUN_DATA)
    return None if content is None else decode(content, RunData, f"{folder.where}/{RUN_DATA}")


def begin_with(folder: RunFolder, data: RunData) -> None:
    """Record what a run begins with."""
    folder.require_same(RUN_DATA, encode(data, indent=2).decode(), "corrections")


def collect_states(objects: Objects, gone: Collection[str] = (), *, dry_run: bool = False) -> list[str]:
    """Delete the states that neither the last run of a dataset, nor a version needs.

    Args:
        gone: the names of versions that count as deleted, although they may exist in a dry run.

    Returns:
        the names of the deleted objects, or of those that would be deleted.
    """
    needed = {version.facts.dataset.fingerprint for version in readable_versions(objects) if version.name not in gone}
    deleted = []
    for dataset in objects.folders(FOLDER):
        last = last_run(objects, dataset)
        if last is None:
            continue  # a damaged record: what is needed is not known
        for name in objects.names(f"{FOLDER}/{dataset}/states"):
            fingerprint = name.rpartition("/")[2].removesuffix(".npz")
            if fingerprint not in {*needed, last.fingerprint}:
                deleted.append(name)
                if not dry_run:
                    objects.delete(name)
    return deleted


def _last(dataset: str) -> str:
    return f"{FOLDER}/{dataset}/last.json"


def _hashes(dataset: str) -> str:
    return f"{FOLDER}/{dataset}/hashes"


def _state(dataset: str, fingerprint: str) -> str:
    return f"{FOLDER}/{dataset}/states/{fingerprint}.npz"
