"""Apply the corrections in `labels.jsonl` to a dataset, for training and test alike.

They are applied to the arrays, after the index, so that no picture is read again. An image never changes its split.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.corrections import NONE, Correction, CorrectionCounts, UsedLabels, parse_corrections
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.sources.scan import MAX_NAMED, listed
from mnist_lib.data.table import TEST, ImageHashes, Labels, Table, hash_of_text, indices_of, text_of
from mnist_lib.errors import DataError
from mnist_lib.objects.archives import hash_arrays
from mnist_lib.wording import counted

REMOVED, NO_CLASS = -1, -2  # in place of a label


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
    corrections = _Corrections.of(parse_corrections(content, where), dataset.classes)
    before = dataset.table
    shows_class = before.labels < len(dataset.classes)  # corrections do not concern counter-examples
    found = np.where(shows_class, indices_of(before.hashes, corrections.hashes), -1)
    corrected = found >= 0
    used = np.unique(found[corrected])
    corrections.check(used, dataset, where)

    def of_images(values: NDArray[Any]) -> NDArray[Any]:
        """Return a column of the corrections for each image; 0 for one without a correction."""
        column = np.zeros(len(before), values.dtype)
        column[corrected] = values[found[corrected]]
        return column

    labels = np.where(corrected, of_images(corrections.labels), before.labels)
    changed = labels != before.labels
    stays = labels != REMOVED
    in_test = (before.splits == TEST) & shows_class
    counts = CorrectionCounts(
        applied=int((changed & stays).sum()),
        confirmed=int((of_images(corrections.stands) & ~changed).sum()),
        removed=int((~stays).sum()),
        holdout=int((changed & in_test).sum()),
        disputed_holdout=int((changed & in_test & of_images(corrections.disputed)).sum()),
        unknown=len(corrections.labels) - len(used),
    )
    fingerprint = _fingerprint(dataset, labels, np.where(before.conflicts, corrected, changed))
    new_labels: Any = labels.astype(before.labels.dtype)
    after = replace(
        before,
        labels=new_labels,
        published=before.labels if published else new_labels,
        reviewed=of_images(corrections.random),
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
        notices=(*notices, *corrections.notices(used, dataset.classes, where)),
        corrections=counts if len(corrections.labels) else None,
        used_labels=UsedLabels.of(content),
        corrected=before.hashes[changed] if changed.any() else None,
    )


@dataclass(frozen=True)
class _Corrections:
    """The correction that counts for each image."""

    hashes: ImageHashes  # [n, 2]
    labels: NDArray[np.int64]  # [n]: a class, REMOVED or NO_CLASS
    stands: NDArray[np.bool_]  # [n]: whether the last decision was not undone
    random: NDArray[np.bool_]  # [n]: whether a decision stands that was made since the image was drawn at random
    disputed: NDArray[np.bool_]  # [n]: whether only models chose the image for the review
    lines: NDArray[np.int64]  # [n]: numbers in the file, from 1
    names: Sequence[str]  # [n]: the label as it was written

    @classmethod
    def of(cls, corrections: Sequence[Correction], classes: Sequence[str]) -> "_Corrections":
        last, random = dict[str, int](), set[str]()
        for number, correction in enumerate(corrections, start=1):
            last[correction.image] = number
            if correction.undone:
                random.discard(correction.image)
            elif correction.why == "random":
                random.add(correction.image)
        # A review of a dataset with a class called `NONE` is refused.
        numbers = {name: number for number, name in enumerate(classes)} | {NONE: REMOVED}
        chosen = [corrections[line - 1] for line in last.values()]
        return cls(
            hashes=np.array([hash_of_text(image) for image in last], np.uint64).reshape(len(last), 2),
            labels=np.array([numbers.get(correction.label, NO_CLASS) for correction in chosen], np.int64),
            stands=np.array([not correction.undone for correction in chosen], bool),
            random=np.array([image in random for image in last], bool),
            disputed=np.array([each.why != "random" and each.image not in random for each in chosen], bool),
            lines=np.array([*last.values()], np.int64),
            names=[correction.label for correction in chosen],
        )

    def check(self, used: NDArray[np.int64], dataset: Dataset, where: str) -> None:
        """Raise DataError if the label of an image is no class, with the number of the first such line.

        Args:
            used: the indices of corrections whose image the dataset has.
        """
        wrong = used[self.labels[used] == NO_CLASS]
        if not len(wrong):
            return
        first = wrong[self.lines[wrong].argmin()]
        expected = f"a class of {dataset.name} ({listed(dataset.classes)}) or {NONE}"
        got = f"line {self.lines[first]}: expected {expected}, got {self.names[first][:100]!r}"
        raise DataError(f"{where}: {got}; correct the image again, or that line")

    def notices(self, used: NDArray[np.int64], classes: Sequence[str], where: str) -> Iterator[str]:
        """Yield notices about corrections of images that the dataset does not have, and about a class called `NONE`."""
        if NONE in classes and (self.labels[used] == REMOVED).any():
            yield f'{where}: "{NONE}" removes an image, also where a class has this name'
        unknown = np.sort(np.delete(self.lines, used))
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
    """Return a notice for the first pictures that are in several classes and have no correction."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row in rows.tolist():
        same[table.hashes[row].tobytes()].append(row)
    groups = [*same.values()]
    notices = [
        "left out, the same picture in several classes: "
        + listed([table.file(row) or text_of(table.hashes[row]) for row in ordered])
        for ordered in (_one_of_each_first(group, table.labels) for group in groups[:MAX_NAMED])
    ]
    if len(groups) > MAX_NAMED:
        notices.append(f"left out, in several classes: {len(groups) - MAX_NAMED:,} more")
    return notices


def _one_of_each_first(group: Sequence[int], labels: Labels) -> list[int]:
    """Order pictures so that one of each class is among the first, which are named."""
    places, numbers = [], Counter[int]()
    for index in group:
        label = int(labels[index])
        places.append((numbers[label], index))
        numbers[label] += 1
    return [index for _, index in sorted(places)]


def _missing_classes(dataset: Dataset) -> Iterator[str]:
    """Yield a notice about the classes without pictures in a split."""
    for what, split in (("to train on", dataset.train), ("to test on", dataset.test)):
        counts = np.bincount(split.labels, minlength=len(dataset.classes))
        without = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
        if without:
            yield f"{counted(len(without), 'class')} without pictures {what}: {listed(without)}"
