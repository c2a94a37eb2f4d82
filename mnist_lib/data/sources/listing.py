"""The pictures of a dataset of the user's own, as a table with a row for each. They are listed, not read."""

import bisect
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mnist_lib.data.request import MAX_CLASSES
from mnist_lib.data.sources.scan import FolderScan, listed
from mnist_lib.errors import DataError
from mnist_lib.wording import counted

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures of a dataset, sorted by class and path, and what is left out."""

    classes: tuple[str, ...]
    paths: Sequence[str]  # [n], relative to the folder
    labels: Sequence[int]  # [n]; the number of classes, if it is a counter-example
    splits: Sequence[str]  # [n], "train", "validation", "test"; "" if its group decides, or without groups its pixels
    groups: Sequence[str] = ()  # [n], names; none without groups
    group_by: str | None = None  # as in `DataRequest`
    table: str | None = None  # the name of the file with the labels; None if they are names of folders
    notices: tuple[str, ...]  # about what is left out
    unreadable: tuple[str, ...]  # paths of folders and pictures that are left out since they cannot be read
    state: str = ""  # changes when a picture, its split or its group is added, removed, renamed or changed
    version: str = ""  # of a published dataset: its images keep their order, by which they are for validation

    @classmethod
    def of(
        cls,
        scan: FolderScan,
        found: dict[str, list[str]],
        none: str | None,
        splits_of: Callable[[Sequence[str]], Sequence[str]],
        about: object,
    ) -> "Listing":
        """Return the listing of what was found.

        Args:
            found: by class, what `found_picture` returns for each picture.
            none: the class of the counter-examples, or None.
            splits_of: returns the split of each path.
            about: what else changes the state.

        Raises:
            DataError: no picture has the class `none`.
        """
        empty = [name for name, lines in found.items() if not lines]
        named = sorted((name for name, lines in found.items() if lines), key=_natural)
        if none is not None and none not in named:
            expected = f"none: expected a class of {scan.root} with pictures"
            raise DataError(f"{expected}, got {none}; known: {listed(named)}")
        named = [name for name in named if name != none]
        scan.leave_out(f"a class after the first {MAX_CLASSES:,}", named[MAX_CLASSES:])
        classes, digest = tuple(named[:MAX_CLASSES]), hashlib.sha256()
        digest.update(repr(about).encode(errors="surrogateescape"))
        lines_by_class = [sorted(found[name]) for name in (*classes, *([] if none is None else [none]))]
        for name, lines in zip((*classes, none), lines_by_class, strict=False):
            digest.update(os.fsencode(f"{name}\0{len(lines)}\0" + "\n".join(lines)))
        paths = [line.partition("\0")[0] for line in itertools.chain(*lines_by_class)]
        notices = [f"left out, without pictures: {counted(len(empty), 'class')} ({listed(empty)})"] if empty else []
        return cls(
            classes=classes,
            paths=paths,
            labels=[label for label, lines in enumerate(lines_by_class) for _ in lines],
            splits=splits_of(paths),
            notices=(*notices, *scan.notices()),
            unreadable=scan.unreadable(),
            state=digest.hexdigest(),
        )

    @property
    def in_classes(self) -> int:
        """The number of pictures without counter-examples, which come last."""
        return bisect.bisect_left(self.labels, len(self.classes))

    def with_groups(self, group_by: str, groups: Sequence[str]) -> "Listing":
        names = "\n".join((self.state, *groups)).encode(errors="surrogateescape")
        return replace(self, group_by=group_by, groups=groups, state=hashlib.sha256(names).hexdigest())

    def check(self, where: object, classes: str, advice: str, train: str) -> None:
        """Raise DataError if there are fewer than two classes, or none of the pictures of one is to train on.

        Args:
            where, classes, advice: for a message about the number of classes.
            train: where pictures to train on can be added, for the other message.
        """
        if len(self.classes) < 2:
            got = f"{len(self.classes):,}" + (f" ({self.classes[0]})" if self.classes else "")
            if self.unreadable:
                got += f", and {len(self.unreadable):,} that cannot be read ({listed(self.unreadable)})"
            raise DataError(f"{where}: expected 2 to {MAX_CLASSES:,} {classes} with pictures, got {got}; {advice}")
        pairs = {*zip(self.labels, self.splits, strict=True)}
        trained = {label for label, split in pairs if is_to_train(split)}
        untrained = [name for label, name in enumerate(self.classes) if label not in trained]
        if untrained:
            raise DataError(
                f"{where}: expected pictures to train on for each class, got none for {listed(untrained)}; add some to"
                f" {train}, or remove the class from the other splits"
            )


def found_picture(path: str, status: os.stat_result) -> str:
    """Return the path and the state of a picture, which changes with its file, as one text."""
    return f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def is_to_train(split: str) -> bool:
    """Return whether pictures of a split, as in `Listing`, may be trained on."""
    return split in ("train", "")


def is_class_name(name: str) -> bool:
    return bool(name.strip()) and name.isprintable()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts]
