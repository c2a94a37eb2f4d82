"""The decisions of people about pictures: stored in `labels.jsonl`, each durably before it is confirmed.

A decision that is sent again, since its confirmation was lost, is not stored again.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mnist_lib.clock import now_text
from mnist_lib.data.corrections import NONE, Correction, ImageHash, LabelsFile, Reason, parse_corrections
from mnist_lib.data.request import ClassName
from mnist_lib.documents import Count
from mnist_lib.errors import SpecError
from mnist_lib.wording import counted


class DecisionError(SpecError):
    """A decision does not fit the pictures, the classes or the decisions before it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a person says about an image.

    Args:
        label: a class, or `NONE`.
        replaced: the label before, if nothing is stored about the image; None if it is new.
        seen: the number of decisions about it that were stored when it was shown.
    """

    image: ImageHash
    label: ClassName
    why: Reason
    replaced: ClassName | None = None
    seen: Count = 0


@dataclass(frozen=True)
class Tally:
    """What was decided, by number of pictures."""

    reviewed: int = 0
    corrected: int = 0  # had another label
    removed: int = 0  # belong to no class
    added: int = 0  # are new in the dataset

    def text(self, where: str) -> str:
        """Return the numbers as a sentence. `where`: the file of the labels."""
        named = {"corrected": self.corrected, "removed": self.removed, "added to the dataset": self.added}
        parts = ", ".join(f"{count:,} {what}" for what, count in named.items() if count)
        stored = f" Labels: {where}" if self.reviewed else ""
        return f"Reviewed {counted(self.reviewed, 'picture')}{f': {parts}' if parts else ''}.{stored}"


class Labels:
    """The labels of a dataset that people have given. Several threads may call its methods."""

    def __init__(self, file: LabelsFile, user: str) -> None:
        self.user, self._file = user, file
        self._content = b""  # content of the file when it was last read
        self._lines: dict[str, list[Correction]] = {}  # what was read and, after it, what was stored since, by image
        self._num_read = Counter[str]()  # how many lines about each image were read
        self._stored: dict[str, Correction] = {}  # the last decision that this process has stored, by image
        self._writing = threading.Lock()

    @property
    def where(self) -> str:
        return self._file.where

    def refresh(self) -> set[str]:
        """Read the decisions stored since the last call, and return their images. Raises DataError or StoreError."""
        with self._writing:
            content = self._file.content()
            if not content.startswith(self._content):  # somebody has edited the file
                self._content = b""
                self._lines.clear()
                self._num_read.clear()
            new = defaultdict[str, list[Correction]](list)
            for correction in parse_corrections(content[len(self._content) :], self.where):
                new[correction.image].append(correction)
            self._content = content
            for image, corrections in new.items():  # among them what this process has stored
                self._lines[image] = self._lines.get(image, [])[: self._num_read[image]] + corrections
                self._num_read[image] = len(self._lines[image])
            return {*new}

    def count(self, image: str) -> int:
        """Return how many decisions about an image are stored."""
        return len(self._lines.get(image, ()))

    def last(self, image: str) -> Correction | None:
        """Return the last decision about an image, or None if there is none."""
        return self._lines[image][-1] if self.count(image) else None

    def label(self, image: str) -> str | None:
        """Return the label that an image was given, which may be `NONE`, or None if it was given none."""
        last = self.last(image)
        return None if last is None else last.label

    def is_reviewed(self, image: str, *, at_random: bool = False) -> bool:
        """Return whether the last decision about an image stands. `at_random`: and the image was drawn at random"""
        last = self.last(image)
        return last is not None and not last.undone and (last.why == "random" or not at_random)

    def is_decided(self, image: str, label: str, why: Reason) -> bool:
        """Return whether the last decision about an image is this label, given by the same person for this reason."""
        last = self.last(image)
        return last is not None and not last.undone and (last.label, last.by, last.why) == (label, self.user, why)

    def decide(self, *decisions: Decision) -> None:
        """Store decisions, except those that were sent before. Raises StoreError."""
        with self._writing:
            corrections = list[Correction]()
            for decision in decisions:
                is_decided = self.is_decided(decision.image, decision.label, decision.why)
                if is_decided and self.count(decision.image) > decision.seen:
                    continue
                last = self.last(decision.image)
                before = decision.replaced if last is None else _restored(last) if last.undone else last.label
                corrections.append(self._correction(decision.image, decision.label, before, decision.why))
            self._add(corrections)

    def undo(self, image: str, *, seen: int) -> str | None:
        """Take back the last decision about an image. Return the label that it has again, or None for a new picture.

        Args:
            seen: as in `Decision`.

        Raises:
            DecisionError: there is none, or it is that of somebody else.
            StoreError: it cannot be stored.
        """
        with self._writing:
            last = self.last(image)
            if last is None:
                raise DecisionError("expected a decision to undo, got none")
            if last.undone and self.count(image) > seen:
                return _restored(last)  # it was sent twice
            if last.undone or last.by != self.user:
                got = "that has been undone" if last.undone else f"of {last.by}"
                raise DecisionError(f"expected a decision of {self.user} to undo, got one {got}")
            undone = self._correction(image, last.replaced or NONE, last.label, last.why, undone=True)
            self._add([undone])
            return _restored(undone)

    def tally(self) -> Tally:
        """Count what this process has stored."""
        with self._writing:  # another request may store a decision meanwhile
            stored = [correction for correction in self._stored.values() if not correction.undone]
        replaced = [correction.replaced for correction in stored if correction.label != NONE]
        changed = sum(correction.label not in (NONE, correction.replaced) for correction in stored)
        added = replaced.count(None)
        return Tally(len(stored), corrected=changed - added, removed=len(stored) - len(replaced), added=added)

    def _correction(
        self, image: str, label: str, replaced: str | None, why: Reason, undone: bool = False
    ) -> Correction:
        at, by = now_text(), self.user
        return Correction(image=image, label=label, at=at, by=by, replaced=replaced, why=why, undone=undone)

    def _add(self, corrections: Sequence[Correction]) -> None:
        if corrections:
            self._file.add(corrections)
        for correction in corrections:
            self._lines.setdefault(correction.image, []).append(correction)
            self._stored[correction.image] = correction


def _restored(undone: Correction) -> str | None:
    """Return the label that an image has again, or None if it is new."""
    return None if undone.label == NONE else undone.label
