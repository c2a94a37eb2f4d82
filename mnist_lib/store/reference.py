"""The reference of a dataset: its last run whose dataset raised no objection or was accepted by a person.

A folder may be incomplete for a night, or hold a stray picture or an archive that was unpacked in the wrong place. A
model that was trained on it is stored, but is not promoted before a person has accepted the change, and the next run is
compared with the reference again. So one bad night has no effect on later runs.
"""

import contextlib
from typing import Any

import numpy as np

from mnist_lib.data.changes import DatasetState
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.scan import listed
from mnist_lib.data.table import indices_of
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, concurrently
from mnist_lib.run_documents import Summary
from mnist_lib.store.datasets import LastRun, earlier_runs, last_run, read_state, write_last_run
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted

MAX_SHARE_GONE = 0.2  # of the pictures of the reference
MIN_STATE = 8  # hexadecimal digits of a fingerprint, by which a person names a state


def reference_of(objects: Objects, dataset: str) -> LastRun | None:
    """Return the reference of a dataset, or None if there is none yet, or if its record is damaged.

    Records of earlier releases lack the shape of the images, which is also in the summary of the run.
    """
    last = last_run(objects, dataset)
    if last is not None and last.image_shape is None:
        return next((_run_of(summary) for summary in earlier_runs(objects, last.run, 1)), last)
    return last


def with_reference_shape(request: DataRequest, objects: Objects) -> DataRequest:
    """Return the request with the image shape of the reference, unless the request names another shape.

    Otherwise a new release or further pictures could change the shape, and new versions could not be compared with the
    champion.
    """
    if request.entry is not None or (request.image_size is not None and request.channels is not None):
        return request
    reference = reference_of(objects, request.name)
    return request.shaped(reference.image_shape if reference else None)


def objections(reference: LastRun, before: DatasetState | None, dataset: Dataset) -> tuple[str, ...]:
    """Return the reasons not to promote a model that was trained on a dataset, as phrases; none if it may be promoted.

    A reason is that classes or more than a fifth of the pictures are gone, that folders train and test have come or
    gone, or that the images have another shape. A picture that a person has corrected does not count as gone.

    Args:
        before: the images of the reference; None if they are not known.
    """
    if dataset.fingerprint == reference.fingerprint:
        return ()
    found = []
    if before is not None:
        of_people = dataset.report.corrected
        corrected = indices_of(before.hashes, before.hashes[:0] if of_people is None else of_people) >= 0
        present = {dataset.classes[label] for label in np.unique(dataset.table.labels) if label < len(dataset.classes)}
        classes = [before.classes[label] for label in np.unique(before.labels[~corrected])]
        missing = [name for name in classes if name not in present]
        kept = int((~corrected).sum())
        gone = int((~corrected & (indices_of(before.hashes, dataset.table.hashes) < 0)).sum())
        if missing:
            are = "is" if len(missing) == 1 else "are"
            found.append(f"{len(missing):,} of {counted(len(classes), 'class')} {are} gone ({listed(missing)})")
        if gone and gone == kept:
            found.append(f"all {counted(gone, 'picture')} are gone; for another dataset, use --dataset-name")
        elif gone > MAX_SHARE_GONE * len(before.hashes):
            found.append(f"{gone:,} of {counted(len(before.hashes), 'picture')} are gone")
    if reference.has_test_folder not in (None, dataset.report.has_test_folder):
        found.append(f"folders train and test have {'appeared' if dataset.report.has_test_folder else 'disappeared'}")
    if (shape := reference.image_shape) is not None and shape != dataset.image_shape:
        new, old = (" x ".join(map(str, each)) for each in (dataset.image_shape, shape))
        found.append(f"images are {new}, not {old}")
    return tuple(found)


def record_last_run(folder: RunFolder, summary: Summary) -> None:
    """Record a complete run as the reference, unless its dataset raised objections, or a later run is recorded."""
    objects, dataset = folder.objects, summary.dataset
    known = last_run(objects, dataset.name)
    if not dataset.objections and (known is None or known.at < summary.ended):
        write_last_run(objects, dataset.name, _run_of(summary))


def accept(objects: Objects, dataset: str, state: str) -> LastRun:
    """Accept a state of a dataset: make the newest run with it the reference, and return the record of that run.

    Args:
        state: the fingerprint of the dataset of the run, or its first digits.

    Raises:
        SpecError: `state` is too short or does not name exactly one state, or the pictures of the state are not known.
    """

    def read(run: str) -> Summary | None:
        with contextlib.suppress(IntegrityError, SpecError):
            return RunFolder(objects, run).summary()
        return None

    runs = [run for run in concurrently(objects, read, objects.folders("runs")) if run and run.dataset.name == dataset]
    states = dict[str, LastRun]()  # the newest first
    for run in sorted(runs, key=lambda run: run.ended, reverse=True):
        states.setdefault(run.dataset.fingerprint, _run_of(run))
    named = [found for fingerprint, found in states.items() if fingerprint.startswith(state)]
    if len(named) != 1 or len(state) < MIN_STATE:
        known = listed([fingerprint[:12] for fingerprint in states]) or f"none, since {dataset} has no run"
        raise SpecError(f"state: expected at least {MIN_STATE} digits of one of {known}, got {state}")
    if read_state(objects, dataset, named[0].fingerprint) is None:
        raise SpecError(f"state: expected one whose list of pictures is stored, got {state}, whose list gc has deleted")
    write_last_run(objects, dataset, named[0])
    return named[0]


def _run_of(run: Summary) -> LastRun:
    shape: Any = run.dataset.image_shape  # of three numbers
    return LastRun(run.run, run.dataset.fingerprint, run.ended, shape, run.dataset.has_test_folder)
