"""The decisions of people about pictures: stored in `labels.jsonl`, each durably before it is confirmed.

A decision that is sent again, since its confirmation was lost, is not stored again.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mnist_lib.clock import now_text
from mnist_lib.data.corrections import NONE, Correction, LabelsFile, Reason, parse_corrections
from mnist_lib.errors import SpecError
from mnist_lib.wording import counted


class DecisionError(SpecError):
    """A decision does not fit the pictures, the classes or the decisions before it."""


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
        self._read: dict[str, list[Correction]] = defaultdict(list)  # what was read, by image
        self._unread: list[Correction] = []  # what this process has stored since
        self._lines: dict[str, list[Correction]] = {}  # both, by image
        self._own: dict[str, Correction] = {}  # the last decision of this process, by image
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
                self._read.clear()
                self._lines.clear()
            found = parse_corrections(content[len(self._content) :], self.where)
            self._content = content
            for correction in found:
                self._read[correction.image].append(correction)
                if correction in self._unread:
                    self._unread.remove(correction)
            images = {correction.image for correction in found}
            for image in images:
                unread = [correction for correction in self._unread if correction.image == image]
                self._lines[image] = [*self._read[image], *unread]
            return images

    def count(self, image: str) -> int:
        """Return how many decisions about an image are stored."""
        return len(self._lines.get(image, ()))

    def label(self, image: str) -> str | None:
        """Return the label that an image was given, which may be `NONE`, or None if it was given none."""
        return self._lines[image][-1].label if self.count(image) else None

    def is_reviewed(self, image: str) -> bool:
        return self.count(image) > 0 and not self._lines[image][-1].undone

    def decide(self, image: str, label: str, *, replaced: str | None, why: Reason, seen: int) -> None:
        """Store the label of an image.

        Args:
            replaced: the label of an image about which nothing is stored; None if it is new.
            seen: what `count` was when the image was shown.

        Raises StoreError if it cannot be stored.
        """
        with self._writing:
            if self.count(image) > seen and self.is_decided(image, label):
                return  # it was sent twice
            self._add([self._correction(image, label, self._replaced(image, replaced), why)])

    def decide_all(self, decisions: Iterable[tuple[str, str, str | None, Reason]]) -> None:
        """Store many decisions at once: image, label, replaced label as for `decide`, and the reason."""
        with self._writing:
            self._add(
                [
                    self._correction(image, label, self._replaced(image, replaced), why)
                    for image, label, replaced, why in decisions
                ]
            )

    def is_decided(self, image: str, label: str) -> bool:
        """Return whether the last decision about an image is this label, given by the same person."""
        last = self._lines[image][-1] if self.count(image) else None
        return last is not None and not last.undone and (last.label, last.by) == (label, self.user)

    def undo(self, image: str, *, seen: int) -> str | None:
        """Take back the last decision about an image. Return the label that it has again, or None for a new picture.

        Raises:
            DecisionError: there is none, or it is that of somebody else.
            StoreError: it cannot be stored.
        """
        with self._writing:
            if not self.count(image):
                raise DecisionError("expected a decision to undo, got none")
            last = self._lines[image][-1]
            if last.undone and self.count(image) > seen:
                return self._restored(last)  # it was sent twice
            if last.undone or last.by != self.user:
                got = "that has been undone" if last.undone else f"of {last.by}"
                raise DecisionError(f"expected a decision of {self.user} to undo, got one {got}")
            undone = self._correction(image, last.replaced or NONE, last.label, last.why, undone=True)
            self._add([undone])
            return self._restored(undone)

    def tally(self) -> Tally:
        """Count what this process has stored."""
        own = [correction for correction in self._own.values() if not correction.undone]
        removed = sum(correction.label == NONE for correction in own)
        added = sum(correction.replaced is None and correction.label != NONE for correction in own)
        changed = sum(correction.replaced not in (None, correction.label) for correction in own)
        gone = sum(correction.replaced is not None and correction.label == NONE for correction in own)
        return Tally(reviewed=len(own), corrected=changed - gone, removed=removed, added=added)

    @staticmethod
    def _restored(undone: Correction) -> str | None:
        return None if undone.label == NONE else undone.label

    def _replaced(self, image: str, otherwise: str | None) -> str | None:
        """Return the label that a new decision about an image replaces."""
        if not self.count(image):
            return otherwise
        last = self._lines[image][-1]
        return self._restored(last) if last.undone else last.label

    def _correction(
        self, image: str, label: str, replaced: str | None, why: Reason, undone: bool = False
    ) -> Correction:
        return Correction(
            image=image, label=label, at=now_text(), by=self.user, replaced=replaced, why=why, undone=undone
        )

    def _add(self, corrections: Sequence[Correction]) -> None:
        self._file.add(corrections)
        for correction in corrections:
            self._unread.append(correction)
            self._lines.setdefault(correction.image, []).append(correction)
            self._own[correction.image] = correction
