"""Another test of a stored version: on labelled images that a user chooses, apart from those it was trained on.

It is no test for a promotion, which compares two versions on the hold-out of a dataset.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_lib.catalog import DATASETS
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import Table, indices_of
from mnist_lib.documents import Interval
from mnist_lib.errors import DataError
from mnist_lib.intervals import accuracy_interval, units_of
from mnist_lib.objects.protocol import Objects
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_file
from mnist_lib.pictures.sandbox import Sandboxes
from mnist_lib.report.evidence import Mistake, StoredTrial
from mnist_lib.report.summary import recall_by_class
from mnist_lib.results import Accuracy, mean_score
from mnist_lib.run_documents import Recall
from mnist_lib.store.contents import origins
from mnist_lib.store.datasets import trained_images
from mnist_lib.store.images import load_dataset
from mnist_lib.store.versions import DatasetFacts, Version
from mnist_lib.wording import counted, interval_text, percent

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class AnotherTest:
    """The answers of a version for the labelled images of another dataset, or of a newer state of its own."""

    version: str
    dataset: str
    classes: tuple[str, ...]  # the rows and columns of `confusion`, in the order of the version
    test: Accuracy  # on the images that it was not trained on
    accuracy: float | None  # on these; None without images
    interval: Interval
    balanced_accuracy: float | None  # the mean of the recalls; None without images
    trained_on: Accuracy  # on the images that it was trained or validated on, which are counted apart
    recall: tuple[Recall, ...]  # of each class
    confusion: list[list[int]]  # images by label and answer
    unknown: dict[str, int]  # images by class that the version does not know; they are left out
    unread: int  # pictures without one digit, for a version of a dataset of digits; they are left out
    left_out: tuple[str, ...]  # notices about pictures that cannot be read, and about links out of the folder
    groups: int | None  # number of groups, each of which counts as one unit; None if the images have no groups
    mistakes: list[dict[str, Any]]  # the most confident ones: file, label, answer, probability

    def lines(self) -> list[str]:
        """Return what was found as text, without the tables."""
        new = f"{self.version} on {self.dataset}: "
        if self.test.total:
            new += f"{self.test.correct:,} of {counted(self.test.total, 'image')} correct, {percent(self.test.value)}"
            of = f", of {counted(self.groups, 'group')}" if self.groups is not None else ""
            new += f" (95% interval {interval_text(self.interval)}{of})"
        else:
            new += "no image that it was not trained on"
        lines = [new]
        if self.trained_on.total:
            were = f"{counted(self.trained_on.total, 'image')} on which it was trained, counted apart"
            lines.append(f"{were}: {self.trained_on.correct:,} correct")
        if self.unknown:
            of_each = ", ".join(f"{name} ({count:,})" for name, count in self.unknown.items())
            lines.append(f"left out, since {self.version} does not know these classes: {of_each}")
        if self.unread:
            lines.append(f"left out, since no digit can be cut out of them: {counted(self.unread, 'picture')}")
        lines += self.left_out
        return lines


def another_test(
    objects: Objects,
    version: Version,
    predict: "Callable[[Any], NDArray[np.float32]]",
    request: DataRequest,
    progress: Callable[[str], object] = lambda text: None,
) -> tuple[AnotherTest, StoredTrial]:
    """Test a version on a folder of pictures, or on the test split of another dataset.

    Args:
        predict: takes images, and returns the probabilities of the classes of the version: [n, classes].

    Returns:
        what was found, and more about the answers for the images that the version was not trained on.

    Raises:
        DataError: the dataset cannot be read, or has no class that the version knows.
    """
    facts = version.facts.dataset
    dataset = load_dataset(request.shaped(facts.image_shape), objects, progress, for_training=False)
    train = len(dataset.train)
    test = len(dataset.test)
    rows = np.arange(0 if request.folder is not None else train, train + test)
    of_classes = dataset.table.take(rows)
    labels = _labels_of(version, dataset, of_classes)
    if (labels < 0).all():
        expected = f"{dataset.name}: expected classes of {version.name}, such as {facts.classes[0]}"
        raise DataError(f"{expected}, got {', '.join(dataset.classes)[:300]}; rename the folders of the classes")
    unknown = np.bincount(of_classes.labels[labels < 0], minlength=len(dataset.classes))
    rows = rows[labels >= 0]
    labels = labels[labels >= 0]
    unread = 0
    images = dataset.table.images
    if request.folder is not None and facts.name in DATASETS:
        read = _as_predicted(request.folder, dataset.table.take(rows), facts)
        is_read = np.array([image is not None for image in read])
        unread = int((~is_read).sum())
        rows = rows[is_read]
        labels = labels[is_read]
        images = np.zeros((train + test, *facts.image_shape), np.uint8)
        images[rows] = np.reshape([image for image in read if image is not None], (-1, *facts.image_shape))
    probabilities = predict(images[rows])
    is_known = np.zeros(len(rows), bool)
    for hashes in trained_images(objects, origins(objects, [version.name], [])).values():
        is_known |= indices_of(dataset.table.hashes[rows], hashes) >= 0
    new = np.flatnonzero(~is_known)
    correct = probabilities.argmax(axis=1) == labels
    groups = None if dataset.group_by is None else dataset.table.groups[rows[new]]
    answered = StoredTrial.of(probabilities[new], labels[new])
    recall = recall_by_class(correct[new], labels[new], len(facts.classes), groups)
    about = dataset.table.take(rows[new])
    tested = Table.of(images[rows[new]], labels[new], about.hashes, files=about.files)
    found = AnotherTest(
        version=version.name,
        dataset=dataset.name,
        classes=facts.classes,
        test=Accuracy(int(correct[new].sum()), len(new)),
        accuracy=float(correct[new].mean()) if len(new) else None,
        interval=accuracy_interval(correct[new], groups=groups),
        balanced_accuracy=mean_score(each.correct / each.total for each in recall if each.total),
        trained_on=Accuracy(int(correct[is_known].sum()), int(is_known.sum())),
        recall=recall,
        confusion=answered.confusion.tolist(),
        unknown={dataset.classes[i]: int(unknown[i]) for i in np.flatnonzero(unknown)},
        unread=unread,
        left_out=tuple(text for text in dataset.report.notices if text.startswith("left out")),
        groups=None if groups is None else int(units_of(len(new), groups).max(initial=-1)) + 1,
        mistakes=[_mistake(each, tested, facts.classes) for each in answered.mistakes],
    )
    return found, answered


def _labels_of(version: Version, dataset: Dataset, images: Table) -> "NDArray[Any]":
    """Return the class of the version for images of a dataset, [images]; -1 if it knows none of that name."""
    numbers = {name: number for number, name in enumerate(version.facts.dataset.classes)}
    return np.array([numbers.get(name, -1) for name in dataset.classes])[images.labels]


def _mistake(mistake: Mistake, tested: Table, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "file": tested.file(mistake.image),
        "label": classes[mistake.label],
        "answer": classes[mistake.predicted],
        "probability": mistake.probability,
    }


def _as_predicted(folder: Path, pictures: Table, facts: DatasetFacts) -> "list[NDArray[np.uint8] | None]":
    """Read pictures as `jobs.predict` does for a version of the catalog's digits; None for one that it refuses."""
    layout = Layout.of(facts.name, Shape(*facts.image_shape))
    paths = [folder / str(pictures.file(row)) for row in range(len(pictures))]
    with Sandboxes(len(paths)) as sandboxes:
        read = sandboxes.map(partial(read_file, layout=layout), paths)
        return [picture.image if isinstance(picture, Picture) else None for picture in read]
