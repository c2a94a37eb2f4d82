"""Apply the corrections in `labels.jsonl` to a dataset, for training and test alike.

They are applied to the arrays, after the cache, so that no picture is read again. An image never changes its split.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.archives import hash_arrays
from mnist_lib.data.corrections import NONE, Correction, CorrectionCounts, UsedLabels, parse_corrections
from mnist_lib.data.listing import MAX_NAMED, listed
from mnist_lib.data.split import Dataset, ImageHashes, Labels, Split, Undecided, hash_of_text, indices_of, random_ranks
from mnist_lib.errors import DataError
from mnist_lib.wording import counted

REMOVED, NO_CLASS = -1, -2  # in place of a label


def with_corrections(dataset: Dataset, content: bytes, where: str, *, published: bool) -> Dataset:
    """Return the dataset with corrected labels, without the images that a correction removes.

    The fingerprint changes with the labels that are different, so corrections that change nothing do not change it.

    Args:
        content: of `labels.jsonl`.
        where: its path or URL, for messages.
        published: whether others know the dataset with the labels that it had before.

    Raises:
        DataError: a line is damaged, or the label of an image is no class of the dataset; no image is left to train on
            or to test.
    """
    corrections = _Corrections.of(parse_corrections(content, where), dataset.classes)
    parts = [_Part.of(dataset.train, corrections), _Part.of(dataset.test, corrections)]
    undecided = _Part.of(dataset.undecided.split, corrections) if dataset.undecided else None
    every = [*parts, *([undecided] if undecided else [])]
    corrections.check(every, dataset, where)
    train, test = parts
    result = replace(
        dataset,
        train=train.result,
        test=test.result,
        ranks=_ranks(dataset, train),
        fingerprint=_fingerprint(dataset, parts, undecided),
        published_test_labels=dataset.test.labels[test.stays] if published and test.changed.any() else None,
        undecided=None,
        corrections=_counts(corrections, every, dataset) if len(corrections) else None,
        labels=UsedLabels.of(content),
    )
    if dataset.undecided and undecided:
        result = _with_decided(result, dataset.undecided, undecided)
        if dataset.version == dataset.fingerprint[:8]:  # a folder has no other version
            result = replace(result, version=result.fingerprint[:8])
    if not len(result.train) or not len(result.test):
        got = f"{len(result.train):,} and {len(result.test):,}"
        raise DataError(f"{dataset.name}: expected pictures to train and test on, got {got}; add more pictures")
    notices = [*dataset.notices]
    if dataset.undecided and undecided:
        notices += [*_contradictions(dataset.undecided, undecided), *_missing_classes(result)]
    return replace(result, notices=(*notices, *corrections.notices(every, dataset.classes, where)))


@dataclass(frozen=True)
class _Corrections:
    """The correction that counts for each image, sorted by hash."""

    hashes: ImageHashes  # [n, 2]
    labels: NDArray[np.int64]  # [n]: a class, REMOVED or NO_CLASS
    disputed: NDArray[np.bool_]  # [n]
    lines: NDArray[np.int64]  # [n]: numbers in the file, from 1
    names: Mapping[int, str]  # the label in each line

    @classmethod
    def of(cls, corrections: Sequence[Correction], classes: Sequence[str]) -> "_Corrections":
        last = {correction.image: number for number, correction in enumerate(corrections, start=1)}
        numbers = {name: number for number, name in enumerate(classes)}
        numbers[NONE] = REMOVED  # a review of a dataset with a class of this name is refused
        hashes = np.array([hash_of_text(image) for image in last], np.uint64).reshape(len(last), 2)
        lines = np.array([*last.values()], np.int64)
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        chosen = [corrections[line - 1] for line in lines[order]]
        labels = [numbers.get(correction.label, NO_CLASS) for correction in chosen]
        disputed = [correction.why == "disputed" for correction in chosen]
        names = {int(line): corrections[line - 1].label for line in lines}
        return cls(hashes[order], np.array(labels, np.int64), np.array(disputed, bool), lines[order], names)

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, hashes: ImageHashes) -> NDArray[np.int64]:
        """Return the position of the correction of each image, or -1 if it has none. hashes: [images, 2]."""
        return indices_of(hashes, self.hashes)

    def check(self, parts: Sequence["_Part"], dataset: Dataset, where: str) -> None:
        """Raise DataError if the label of an image is no class, with the number of the first such line."""
        used = self._used(parts)
        wrong = used[self.labels[used] == NO_CLASS]
        if not len(wrong):
            return
        line = int(self.lines[wrong].min())
        expected = f"a class of {dataset.name} ({listed(dataset.classes)}) or {NONE}"
        got = f"{self.names[line][:100]!r}"
        raise DataError(f"{where}: line {line}: expected {expected}, got {got}; correct the image again, or that line")

    def notices(self, parts: Sequence["_Part"], classes: Sequence[str], where: str) -> Iterator[str]:
        """Yield notices about corrections of images that the dataset does not have, and about a class called `NONE`."""
        used = self._used(parts)
        if NONE in classes and (self.labels[used] == REMOVED).any():
            yield f'{where}: "{NONE}" removes an image, also where a class has this name'
        unknown = np.setdiff1d(np.arange(len(self)), used)
        if len(unknown):
            lines = [f"line {line}" for line in np.sort(self.lines[unknown])[: MAX_NAMED + 1]]
            named = ", ".join(lines[:MAX_NAMED]) + (
                f" and {len(unknown) - MAX_NAMED:,} more" if lines[MAX_NAMED:] else ""
            )
            yield f"{where}: {counted(len(unknown), 'correction')} of images that the dataset does not have: {named}"

    def _used(self, parts: Sequence["_Part"]) -> NDArray[np.int64]:
        return np.unique(np.concatenate([part.found[part.found >= 0] for part in parts]))


@dataclass(frozen=True)
class _Part:
    """A split and its corrections."""

    split: Split
    found: NDArray[np.int64]  # [images]: positions of corrections, or -1
    labels: NDArray[np.int64]  # [images]: corrected, or REMOVED
    disputed: NDArray[np.bool_]  # [images]: whether the correction was made because a model disputed the label

    @classmethod
    def of(cls, split: Split, corrections: _Corrections) -> "_Part":
        found = corrections.find(split.hashes)
        labels, disputed, corrected = split.labels.astype(np.int64), np.zeros(len(split), bool), found >= 0
        labels[corrected] = corrections.labels[found[corrected]]
        disputed[corrected] = corrections.disputed[found[corrected]]
        return cls(split, found, labels, disputed)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Whether an image has another label, or is removed: [images]."""
        return np.asarray(self.labels != self.split.labels)

    @property
    def stays(self) -> NDArray[np.bool_]:
        """Whether an image is not removed: [images]."""
        return np.asarray(self.labels != REMOVED)

    @property
    def result(self) -> Split:
        if not self.changed.any():
            return self.split
        if not self.stays.all():
            return self.take(self.stays)
        return replace(self.split, labels=self._in_type_of_split(self.labels), known_hashes=self.split.hashes)

    def take(self, chosen: NDArray[np.bool_]) -> Split:
        """Return the chosen images with their corrected labels. None of them may be removed."""
        labels = self._in_type_of_split(self.labels[chosen])
        return replace(replace(self.split, known_hashes=self.split.hashes).take(chosen), labels=labels)

    def _in_type_of_split(self, labels: NDArray[np.int64]) -> Any:
        return labels.astype(self.split.labels.dtype)


def _counts(corrections: _Corrections, parts: Sequence[_Part], dataset: Dataset) -> CorrectionCounts:
    in_test = [np.zeros(len(dataset.train), bool), np.ones(len(dataset.test), bool)]
    in_test += [dataset.undecided.for_test == 1] if dataset.undecided else []
    counts, known = Counter[str](), set[int]()
    for part, for_test in zip(parts, in_test, strict=True):
        known |= {*part.found[part.found >= 0].tolist()}
        counts["removed"] += int((~part.stays).sum())
        counts["applied"] += int((part.changed & part.stays).sum())
        counts["confirmed"] += int(((part.found >= 0) & ~part.changed).sum())
        counts["holdout"] += int((part.changed & for_test).sum())
        counts["disputed_holdout"] += int((part.changed & for_test & part.disputed).sum())
    return CorrectionCounts(**counts, unknown=len(corrections) - len(known))


def _ranks(dataset: Dataset, train: _Part) -> NDArray[np.float32] | None:
    if train.stays.all():
        return dataset.ranks
    return (random_ranks(len(dataset.train)) if dataset.ranks is None else dataset.ranks)[train.stays]


def _fingerprint(dataset: Dataset, parts: Sequence[_Part], undecided: _Part | None) -> str:
    """Return the sha256 of the dataset before corrections and of each change; no image is hashed again."""
    changes = [(part.split.hashes[part.changed], part.labels[part.changed]) for part in parts]
    if undecided is not None:
        decided = undecided.found >= 0
        changes.append((undecided.split.hashes[decided], undecided.labels[decided]))
    hashes, labels = (np.concatenate(arrays) for arrays in zip(*changes, strict=True))
    if not len(labels):
        return dataset.fingerprint
    order = np.lexsort((labels, hashes[:, 1], hashes[:, 0]))
    return hashlib.sha256(f"{dataset.fingerprint}{hash_arrays((hashes[order], labels[order]))}".encode()).hexdigest()


def _with_decided(dataset: Dataset, undecided: Undecided, part: _Part) -> Dataset:
    """Add the pictures whose class a correction has decided."""
    decided = (part.found >= 0) & part.stays
    if not decided.any():
        return dataset
    for_test, ranks = undecided.for_test == 1, dataset.ranks
    assert ranks is not None  # a folder always has ranks
    to_train, to_test = part.take(decided & ~for_test), part.take(decided & for_test)
    train, test = _joined(dataset.train, to_train), _joined(dataset.test, to_test)
    return replace(dataset, train=train, test=test, ranks=np.concatenate((ranks, undecided.ranks[decided & ~for_test])))


def _joined(split: Split, more: Split) -> Split:
    if not len(more):
        return split
    labels: Any = np.concatenate((split.labels, more.labels))
    files = None if split.files is None or more.files is None else np.concatenate((split.files, more.files))
    hashes = np.concatenate((split.hashes, more.hashes))
    return Split(np.concatenate((split.images, more.images)), labels, hashes, files)


def _contradictions(undecided: Undecided, part: _Part) -> list[str]:
    """Return a notice for the first pictures that are in several classes and have no correction."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index in np.flatnonzero(part.found < 0).tolist():
        same[part.split.hashes[index].tobytes()].append(index)
    groups = [*same.values()]
    notices = [
        "left out, the same picture in several classes: " + listed([undecided.paths[index] for index in ordered])
        for ordered in (_one_of_each_first(group, part.split.labels) for group in groups[:MAX_NAMED])
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
