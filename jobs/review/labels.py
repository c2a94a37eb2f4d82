"""The decisions of people about pictures: stored in `labels.jsonl`, each durably before it is confirmed.

A decision that is sent again, since its confirmation was lost, is not stored again.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass

from mnist_lib.data.corrections import NONE, Correction, ImageHash, LabelsFile, Reason, parse_corrections
from mnist_lib.data.request import ClassName
from mnist_lib.documents import Count
from mnist_lib.environment import now_text
from mnist_lib.errors import SpecError
from mnist_lib.wording import counted


class DecisionError(SpecError):
    """A decision does not fit the pictures, the classes or the decisions before it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a person says about an image.

    Args:
        label: a class, or `NONE`.
        replaced: the image's label in the dataset, used if no decision about it is stored; None for a new image.
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
        self.user = user
        self._file = file
        self._content = b""  # content of the file when it was last read
        self._lines = dict[str, list[Correction]]()  # what was read and, after it, what was stored since, by image
        self._stored = dict[str, Correction]()  # the last decision that this process has stored, by image
        self._writing = threading.Lock()

    @property
    def where(self) -> str:
        return self._file.where

    def refresh(self) -> set[str]:
        """Read the file, and return the images about which others have stored decisions since the last call.

        Raises DataError or StoreError.
        """
        with self._writing:
            content = self._file.content()
            if content == self._content:
                return set()
            lines = defaultdict[str, list[Correction]](list)
            for correction in parse_corrections(content, self.where):
                lines[correction.image].append(correction)
            changed = {image for image, corrections in lines.items() if corrections != self._lines.get(image)}
            self._content = content
            self._lines = dict(lines)
            return changed

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
        """Return whether the last decision about an image stands and, if `at_random`, the image was drawn at random."""
        last = self.last(image)
        return last is not None and not last.undone and (last.why == "random" or not at_random)

    def decide(self, decision: Decision) -> None:
        """Store a decision, unless it was sent before. Raises StoreError."""
        with self._writing:
            last = self.last(decision.image)
            if last is None:
                replaced = decision.replaced
            else:
                is_equal = (last.label, last.by, last.why) == (decision.label, self.user, decision.why)
                if is_equal and not last.undone and self.count(decision.image) > decision.seen:
                    return
                replaced = _restored(last) if last.undone else last.label
            self._store(decision.image, decision.label, replaced, decision.why)

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
                raise DecisionError(f"to undo, expected a decision of {self.user}, got one {got}")
            return _restored(self._store(image, last.replaced or NONE, last.label, last.why, undone=True))

    def tally(self) -> Tally:
        """Count what this process has stored."""
        decisions = [*self._stored.values()]  # copied in one step: another thread may store a decision meanwhile
        stored = [correction for correction in decisions if not correction.undone]
        in_classes = [correction for correction in stored if correction.label != NONE]
        added = sum(correction.replaced is None for correction in in_classes)
        changed = sum(correction.label != correction.replaced for correction in in_classes)
        removed = len(stored) - len(in_classes)
        return Tally(len(stored), corrected=changed - added, removed=removed, added=added)

    def _store(self, image: str, label: str, replaced: str | None, why: Reason, *, undone: bool = False) -> Correction:
        correction = Correction(
            image=image, label=label, at=now_text(), by=self.user, replaced=replaced, why=why, undone=undone
        )
        self._file.add([correction])
        self._lines.setdefault(image, []).append(correction)
        self._stored[image] = correction
        return correction


def _restored(undone: Correction) -> str | None:
    """Return the label that an image has again, or None if it is new."""
    return None if undone.label == NONE else undone.label
