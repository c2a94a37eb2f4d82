"""Apply the corrections in `labels.jsonl` to a dataset, for training and test alike.

They are applied to the arrays, after the index, so that no picture is read again. An image never changes its split.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.corrections import NONE, Correction, CorrectionCounts, UsedLabels, parse_corrections
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.sources.scan import MAX_NAMED, listed
from mnist_lib.data.table import TEST, Table, hash_of_text, indices_of, text_of
from mnist_lib.errors import DataError
from mnist_lib.objects.archives import hash_arrays
from mnist_lib.wording import counted

REMOVED, NO_CLASS = -1, -2  # in place of a label

# The correction that counts for an image: the last one about it.
CORRECTION = np.dtype(
    [
        ("hash", "<u8", 2),
        ("label", np.int64),  # a class, REMOVED or NO_CLASS
        ("stands", np.bool_),  # whether it was not undone
        ("random", np.bool_),  # whether a decision stands that was made since the image was drawn at random
        ("disputed", np.bool_),  # whether only models chose the image for the review
        ("line", np.int64),  # its number in the file, from 1
    ]
)


def with_corrections(
    dataset: Dataset, content: bytes, where: str, *, published: bool, for_training: bool = True
) -> Dataset:
    """Return the dataset with corrected labels, without the images that a correction removes.

    The fingerprint changes with the labels that are different, so corrections that change nothing do not change it.

    Args:
        content: of `labels.jsonl`.
        where: its path or URL, for messages.
        published: whether others know the dataset with the labels that it had before.
        for_training: whether images to train on and others to test on are needed, not just any.

    Raises:
        DataError: a line is damaged, or the label of an image is no class of the dataset; no image is left to train on
            or to test.
    """
    decisions = parse_corrections(content, where)
    corrections = _last_of_each(decisions, dataset.classes)
    before = dataset.table
    shows_class = before.labels < len(dataset.classes)  # corrections do not concern counter-examples
    found = np.where(shows_class, indices_of(before.hashes, corrections["hash"]), -1)
    corrected = found >= 0
    used = np.unique(found[corrected])
    wrong = corrections["line"][used[corrections["label"][used] == NO_CLASS]]
    if len(wrong):
        line = int(wrong.min())
        expected = f"a class of {dataset.name} ({listed(dataset.classes)}) or {NONE}"
        got = f"line {line}: expected {expected}, got {decisions[line - 1].label[:100]!r}"
        raise DataError(f"{where}: {got}; correct the image again, or that line")

    def of_images(field: str) -> NDArray[Any]:
        """Return a field of the correction of each image; 0 for one without a correction."""
        column = np.zeros(len(before), CORRECTION[field])
        column[corrected] = corrections[field][found[corrected]]
        return column

    labels = np.where(corrected, of_images("label"), before.labels)
    changed = labels != before.labels
    stays = labels != REMOVED
    in_test = (before.splits == TEST) & shows_class
    counts = CorrectionCounts(
        applied=int((changed & stays).sum()),
        confirmed=int((of_images("stands") & ~changed).sum()),
        removed=int((~stays).sum()),
        holdout=int((changed & in_test).sum()),
        disputed_holdout=int((changed & in_test & of_images("disputed")).sum()),
        unknown=len(corrections) - len(used),
    )
    fingerprint = _fingerprint(dataset, labels, np.where(before.conflicts, corrected, changed))
    new_labels: Any = labels.astype(before.labels.dtype)
    after = replace(
        before,
        labels=new_labels,
        published=before.labels if published else new_labels,
        reviewed=of_images("random"),
        conflicts=before.conflicts & ~corrected,
    )
    rows = np.flatnonzero(stays & ~after.conflicts)
    rows = rows[np.argsort(after.parts(len(dataset.classes))[rows], kind="stable")]  # decided ones last in their split
    # An image that stays where it is is not copied.
    kept = after.take(slice(len(rows)) if np.array_equal(rows, np.arange(len(rows))) else rows)
    result = dataset.changed(kept, fingerprint)
    train = len(result.train)
    test = len(result.test)
    if not train + test or (for_training and not (train and test)):
        more = "pictures" if dataset.group_by is None else "groups of pictures"
        expected = "expected pictures to train and test on"
        raise DataError(f"{dataset.name}: {expected}, got {train:,} and {test:,}; add more {more}")
    notices = [*dataset.report.notices]
    if not published:
        notices += [*_contradictions(before, np.flatnonzero(after.conflicts)), *_missing_classes(result)]
    return result.reporting(
        notices=(*notices, *_unused(corrections, used, dataset.classes, where)),
        corrections=counts if len(corrections) else None,
        used_labels=UsedLabels.of(content),
        corrected=before.hashes[changed] if changed.any() else None,
    )


def _last_of_each(decisions: Sequence[Correction], classes: Sequence[str]) -> NDArray[np.void]:
    """Return the correction that counts for each image, an array of CORRECTION."""
    last: dict[str, int] = {}
    random: set[str] = set()
    for line, decision in enumerate(decisions, start=1):
        last[decision.image] = line
        if decision.undone:
            random.discard(decision.image)
        elif decision.why == "random":
            random.add(decision.image)
    # A review of a dataset with a class called `NONE` is refused.
    numbers = {name: number for number, name in enumerate(classes)} | {NONE: REMOVED}
    corrections = np.zeros(len(last), CORRECTION)
    for row, (image, line) in enumerate(last.items()):
        decision = decisions[line - 1]
        is_random = image in random
        is_disputed = decision.why != "random" and not is_random
        label = numbers.get(decision.label, NO_CLASS)
        corrections[row] = hash_of_text(image), label, not decision.undone, is_random, is_disputed, line
    return corrections


def _unused(
    corrections: NDArray[np.void], used: NDArray[np.int64], classes: Sequence[str], where: str
) -> Iterator[str]:
    """Yield notices about corrections of images that the dataset does not have, and about a class called `NONE`.

    Args:
        used: the rows of corrections whose image the dataset has.
    """
    if NONE in classes and (corrections["label"][used] == REMOVED).any():
        yield f'{where}: "{NONE}" removes an image, also where a class has this name'
    unknown = np.sort(np.delete(corrections["line"], used))
    if len(unknown):
        named = listed([f"line {line}" for line in unknown])
        yield f"{where}: {counted(len(unknown), 'correction')} of images that the dataset does not have: {named}"


def _fingerprint(dataset: Dataset, labels: NDArray[np.int64], changed: NDArray[np.bool_]) -> str:
    """Return the sha256 of the dataset before corrections and of each change; no image is hashed again."""
    if not changed.any():
        return dataset.fingerprint
    hashes = dataset.table.hashes[changed]
    labels = labels[changed]
    order = np.lexsort((labels, hashes[:, 1], hashes[:, 0]))
    return hashlib.sha256(f"{dataset.fingerprint}{hash_arrays((hashes[order], labels[order]))}".encode()).hexdigest()


def _contradictions(table: Table, rows: NDArray[np.int64]) -> list[str]:
    """Return notices about pictures that are in several classes: the first ones by a file of each class."""
    pictures: dict[bytes, dict[int, str]] = defaultdict(dict)
    for row in rows.tolist():
        file = table.file(row) or text_of(table.hashes[row])
        pictures[table.hashes[row].tobytes()].setdefault(int(table.labels[row]), file)
    named = [[*files.values()] for files in pictures.values()]
    notices = [f"left out, the same picture in several classes: {listed(files)}" for files in named[:MAX_NAMED]]
    if len(named) > MAX_NAMED:
        notices.append(f"left out, in several classes: {len(named) - MAX_NAMED:,} more")
    return notices


def _missing_classes(dataset: Dataset) -> Iterator[str]:
    """Yield a notice about the classes without pictures in a split."""
    for what, split in (("to train on", dataset.train), ("to test on", dataset.test)):
        counts = np.bincount(split.labels, minlength=len(dataset.classes))
        without = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
        if without:
            yield f"{counted(len(without), 'class')} without pictures {what}: {listed(without)}"
