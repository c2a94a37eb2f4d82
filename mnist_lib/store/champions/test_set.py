"""The test images of a challenger, and what stored versions answer to them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.documents import Interval
from mnist_lib.errors import SpecError
from mnist_lib.intervals import accuracy_interval
from mnist_lib.objects.protocol import Objects
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.comparison import Compared
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

# Predicts some images, given by their positions, with a stored version: [n, classes].
Predict = Callable[[Version, NDArray[np.intp]], NDArray[np.float32]]


class ChallengerTestSet:
    """The test images of a challenger with its labels. What versions answer to them is predicted once.

    Args:
        predict: predicts images on which a version was not tested; None if that is not possible.
    """

    def __init__(self, objects: Objects, challenger: Version, predict: Predict | None) -> None:
        self._objects = objects
        self._challenger = challenger
        self._predict = predict
        self.predictions = Predictions.read(objects, challenger)
        self._stored = {challenger.number: self.predictions}  # of each version
        self._probabilities = dict[int, NDArray[np.float32]]()  # of each version: [images, its classes]

    def stored(self, version: Version) -> Predictions:
        """Return what a version predicted on its own test images. Raises IntegrityError if that is damaged."""
        if version.number not in self._stored:
            self._stored[version.number] = Predictions.read(self._objects, version)
        return self._stored[version.number]

    def answer(self, version: Version) -> NDArray[np.float32]:
        """Return what a version predicts for the images that it can answer: [images, its classes].

        Raises:
            SpecError: it cannot answer them.
            MnistError: what predicts them fails.
        """
        if version.number not in self._probabilities:
            stored = self.stored(version)
            predicted = None
            unknown = np.flatnonzero(self.is_answered(version) & (stored.rows_for(self.predictions) < 0))
            if len(unknown):
                if self._predict is None:
                    raise SpecError(f"it was not tested on {counted(len(unknown), 'image')} of them")
                predicted = self._predict(version, unknown)
                shape = (len(unknown), len(stored.classes))
                if predicted.shape != shape or not np.isfinite(predicted).all():
                    raise SpecError(f"expected finite probabilities {[*shape]}")
            self._probabilities[version.number] = stored.for_images_of(self.predictions, unknown, predicted)
        return self._probabilities[version.number]

    def is_answered(self, version: Version) -> NDArray[np.bool_]:
        """Return whether a version can answer each image: [images].

        It can answer all or, if its images have another shape, those on which it was tested.
        """
        tested = self._is_tested(version)
        if version.facts.dataset.image_shape == self._challenger.facts.dataset.image_shape:
            return np.ones_like(tested)
        if not tested.any():
            raise SpecError("it was trained on images of another shape, and tested on none of them")
        return tested

    def compared(self, champion: Version, *, balanced: bool) -> Compared:
        """Return the comparison of the challenger with the champion, on the images that the champion can answer."""
        classes = self.predictions.classes
        known = champion.facts.dataset.classes
        answered = self.is_answered(champion)
        shared = None
        common = [name for name in classes if name in known]
        if not {*classes} == {*common} == {*known}:
            of_common = np.isin(self.predictions.labels, [classes.index(name) for name in common])
            shared = self._compared(champion, answered & of_common, common)
        return self._compared(champion, answered, balanced=balanced, shared=shared)

    def accuracy(self, version: Version, selected_from: int) -> tuple[Accuracy, Interval]:
        """Return the accuracy of a version on the images that it can answer, with its 95% interval.

        Args:
            selected_from: as in `accuracy_interval`.
        """
        inside = self.is_answered(version)
        correct = self._is_correct(version)[inside]
        interval = accuracy_interval(correct, groups=self._groups(inside), selected_from=selected_from)
        return Accuracy(int(correct.sum()), len(correct)), interval

    def _compared(
        self, champion: Version, inside: NDArray[np.bool_], names: Sequence[str] | None = None, **more: Any
    ) -> Compared:
        return Compared(
            challenger=self._challenger.name,
            champion=champion.name,
            challenger_right=self._is_correct(self._challenger, names)[inside],
            champion_right=self._is_correct(champion, names)[inside],
            labels=self.predictions.labels[inside],
            classes=self.predictions.classes,
            groups=self._groups(inside),
            tested=self._is_tested(champion)[inside],
            **more,
        )

    def _is_correct(self, version: Version, names: Sequence[str] | None = None) -> NDArray[np.bool_]:
        """Return whether a version is right about each image: [images]. names: the classes that it may answer."""
        stored = self.stored(version)
        return stored.correct_among(self.answer(version), names or stored.classes, self.predictions)

    def _is_tested(self, version: Version) -> NDArray[np.bool_]:
        """Return whether a version was tested on each image: [images]."""
        return np.asarray(self.stored(version).rows_for(self.predictions) >= 0)

    def _groups(self, inside: NDArray[np.bool_]) -> NDArray[np.int32] | None:
        groups = self.predictions.groups
        return None if groups is None else groups[inside]
