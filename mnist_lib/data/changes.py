"""The images and labels of a dataset at one time, without pixels; what has changed since then; what is unusual."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Changes, Dataset
from mnist_lib.data.request import ClassNames, CountsBySplit, Growth
from mnist_lib.data.table import ImageHashes, Labels, indices_of
from mnist_lib.documents import decode, encode, reading
from mnist_lib.objects.archives import npz, read_npz
from mnist_lib.results import Accuracy

SPLITS = ("train", "test")
PARTS = np.array((0, 1, 4, 5), np.uint8)  # in a file: train, test, and counter-examples for them, with the label 0
MAX_STATE_BYTES = 1 << 31  # 100 million images
MAX_EARLIER_RUNS = 30
# More images of a class than this many times the mean of earlier runs, and at least so many, are unusual.
UNUSUAL_GROWTH = 3
MIN_UNUSUAL = 20
ALPHA = 0.001  # so many wrong answers are unusual if as many have a smaller probability


@dataclass(frozen=True)
class DatasetState:
    """The images and labels of a dataset, as `states/<fingerprint>.npz` contains them."""

    hashes: ImageHashes  # [images, 2]
    labels: Labels  # [images]
    split: NDArray[np.uint8]  # [images], of PARTS
    classes: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetState":
        table = dataset.table
        labels = table.labels * (table.labels < len(dataset.classes))
        return cls(table.hashes, labels, PARTS[table.parts(len(dataset.classes))], dataset.classes)

    @classmethod
    def read(cls, content: bytes, name: str) -> "DatasetState":
        """Return the state in a file. Raises IntegrityError if it is damaged."""
        with reading(name):
            arrays = read_npz(content, MAX_STATE_BYTES)
            classes = decode(arrays["classes"].tobytes(), ClassNames, name, "names of classes")
            return cls(arrays["hashes"], arrays["labels"], arrays["split"], classes)

    def content(self) -> bytes:
        names = np.frombuffer(encode(list(self.classes)), np.uint8)
        return npz({"hashes": self.hashes, "labels": self.labels, "split": self.split, "classes": names})


def changes_between(before: DatasetState, after: DatasetState) -> Changes:
    """Return what has changed. An image that is in the dataset several times is counted as often.

    Only the first half of a hash is compared: see `indices_of`.
    """
    added, removed, relabelled = CountsBySplit(), CountsBySplit(), CountsBySplit()
    numbers = {name: number for number, name in enumerate(after.classes)}
    renumbered = np.array([numbers.get(name, -1) for name in before.classes])  # a class may have another number now
    for number, name in enumerate(SPLITS):
        old = np.flatnonzero(before.split == number)
        new = np.flatnonzero(after.split == number)
        partner = _partners(before.hashes[old, 0], after.hashes[new, 0])
        known = partner >= 0
        gone = np.ones(len(old), bool)
        gone[partner[known]] = False
        changed = new[known][renumbered[before.labels[old[partner[known]]]] != after.labels[new[known]]]
        added[name] = _by_class(after.labels[new[~known]], after.classes)
        removed[name] = _by_class(before.labels[old[gone]], before.classes)
        relabelled[name] = _by_class(after.labels[changed], after.classes)
    new_test = ~known  # the test split comes last; its new images may be copies, or come from the train split
    new_test[new_test] = indices_of(after.hashes[new[new_test]], before.hashes) < 0
    return Changes(added, removed, relabelled, new_test)


def _partners(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each new key the position of an equal old key, or -1. Each position occurs at most once."""
    if np.array_equal(old, new):
        return np.arange(len(new))
    old_order, new_order = np.argsort(old, kind="stable"), np.argsort(new, kind="stable")
    old_sorted, new_sorted = old[old_order], new[new_order]
    copies = np.arange(len(new)) - np.searchsorted(new_sorted, new_sorted)  # 0 for the first of equal keys, and so on
    place = np.searchsorted(old_sorted, new_sorted) + copies
    found = place < len(old)
    found[found] = old_sorted[place[found]] == new_sorted[found]
    partner = np.full(len(new), -1)
    partner[new_order[found]] = old_order[place[found]]
    return partner


def _by_class(labels: Labels, classes: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return {name: count for name, count in zip(classes, counts, strict=True) if count}


def growth(added: CountsBySplit, earlier: Sequence[CountsBySplit]) -> dict[str, Growth]:
    """Return the classes to which unusually many images were added, given the numbers of new images of each run."""
    counts, *before = (sum(map(Counter, each.values()), Counter[str]()) for each in (added, *earlier))
    found = {}
    for name, count in counts.items() if earlier else ():
        usual = sum(each[name] for each in before) / len(earlier)
        if count >= MIN_UNUSUAL and count > UNUSUAL_GROWTH * usual:
            found[name] = Growth(added=count, usual=usual)
    return found


def fall(new: Accuracy, earlier: Sequence[Accuracy]) -> Accuracy | None:
    """Return the accuracy of earlier runs on their new test images if that of this run is much worse, else None."""
    before = sum(earlier, Accuracy(0, 0))
    wrong, share = new.total - new.correct, new.total / (new.total + before.total)
    is_fall = tail(wrong, wrong + before.total - before.correct, share) < ALPHA
    return before if before.total and is_fall else None


def tail(count: int, trials: int, share: float) -> float:
    """Return the probability of `count` or more successes, if each of `trials` succeeds with probability `share`.

    A count up to the mean is usual, so its probability is given as 1.
    """
    if count <= trials * share or share == 1:
        return 1.0
    log_ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    term = math.exp(log_ways + count * math.log(share) + (trials - count) * math.log1p(-share))
    total = 0.0
    while term > total * 1e-12:  # above the mean, the terms fall
        total += term
        term *= (trials - count) / (count + 1) * share / (1 - share)
        count += 1
    return total
