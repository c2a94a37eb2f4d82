"""The pictures of a dataset of the user's own, as a table with a row for each. They are listed, not read."""

import bisect
import hashlib
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mnist_lib.data.csv_file import read_csv
from mnist_lib.data.groups import BY_COLUMN, BY_FILE, groups_of
from mnist_lib.data.request import MAX_CLASSES, TABLE, DataRequest
from mnist_lib.data.sources.scan import FolderScan, holds, listed
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


FILE_NAME, LABEL, SPLIT, GROUP = "file_name", "label", "split", "group"  # columns

MAX_HEADER_BYTES = 10_000


class LabelRow(NamedTuple):
    line: int  # number in the file, from 1
    path: str  # relative to the folder of the table, as it is written
    label: str
    split: str  # as in `Listing`
    group: str  # "" without a group


def list_table(folder: Path, name: str, group_by: str | None = None, none: str | None = None) -> Listing:
    """List the pictures that a table names, without reading them.

    Args:
        name: that of the table, in the folder.
        group_by, none: as in `DataRequest`; by default, the column of groups forms them, if there is one.

    Raises:
        DataMissingError: there is no such folder.
        DataError: there is no such table, or a row is wrong; or as for `list_folder`.
    """
    scan = FolderScan.of(folder)
    where = folder / name
    rows = [*_rows(folder, name)]
    splits: dict[str, str] = {}  # by path
    groups: dict[str, str] = {}
    found: dict[str, dict[str, None]] = defaultdict(dict)  # by label; a picture in two rows counts once
    for row in rows:
        picture = scan.picture(row.path)
        if picture is None:
            continue
        path, status = picture
        if (splits.setdefault(path, row.split), groups.setdefault(path, row.group)) != (row.split, row.group):
            raise _wrong(where, row.line, f"{path} with one split and one group", "others than in an earlier row")
        found[row.label][found_picture(path, status)] = None
    if not found and rows:
        raise _wrong(where, rows[0].line, f"the path of a picture, relative to {folder}", f"{rows[0].path!r}")
    is_given = "test" in splits.values()

    def splits_of(paths: Sequence[str]) -> list[str]:
        return [splits[path] if is_given or splits[path] != "train" else "" for path in paths]

    about = ("table", [row[2:] for row in rows], none)
    listing = Listing.of(scan, {label: [*lines] for label, lines in found.items()}, none, splits_of, about)
    listing = replace(listing, table=name)
    listing.check(where, "classes", "add rows with other labels", "the split train")
    if group_by is None and any(groups.values()):
        group_by = BY_COLUMN
    if group_by is None:
        return listing
    if group_by != BY_COLUMN:
        return listing.with_groups(group_by, groups_of(group_by, folder, listing.paths, depth=0))
    for row in rows:
        if not row.group:
            raise _wrong(where, row.line, f"a group in the column {GROUP}", "none")
    return listing.with_groups(BY_COLUMN, [groups[path] for path in listing.paths])


def _rows(folder: Path, name: str) -> Iterator[LabelRow]:
    where = folder / name
    for line, row in read_csv(folder, name, (FILE_NAME, LABEL), "write it, or name another dataset"):
        path = row[FILE_NAME].strip()
        label = row[LABEL].strip()
        group = row.get(GROUP, "").strip()
        split = row.get(SPLIT, "").strip()
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path:
            raise _wrong(where, line, f"the path of a picture in {folder}, relative to it", f"{path[:100]!r}")
        if not is_class_name(label):
            raise _wrong(where, line, "a label that can be printed, in UTF-8", f"{label[:100]!r}")
        if split and split.lower() not in SPLITS:
            raise _wrong(where, line, "train, validation or test as split", f"{split[:100]!r}")
        yield LabelRow(line, path, label, SPLITS.get(split.lower(), ""), group)


def _wrong(where: Path, line: int, expected: str, got: str) -> DataError:
    return DataError(f"{where}, line {line}: expected {expected}, got {got}; correct the row")


def list_folder(
    folder: Path, per_class: int | None = None, group_by: str | None = None, none: str | None = None
) -> Listing:
    """List the pictures of a folder, without reading them.

    Args:
        per_class: how many pictures of each class to list, in each split; by default all.
        group_by, none: as in `DataRequest`; by default, the pictures have no groups, and all folders are classes.

    Raises:
        DataMissingError: there is no such folder.
        DataError: it cannot be listed, has fewer than two classes with pictures, or a class without pictures to train
            on, or the groups do not fit, see `groups_of`.
    """
    scan = FolderScan.of(folder)
    tops = _splits(scan)
    if "test" not in tops.values():
        tops = {top: "" if split == "train" else split for top, split in tops.items()}
    found: dict[str, list[str]] = defaultdict(list)
    for top in tops:
        for name in scan.folders(top):
            kind = unicodedata.normalize("NFC", name)
            if not is_class_name(kind):
                scan.leave_out("a class whose name cannot be printed", [repr(name)])
                continue
            found[kind] += (
                found_picture(path, status)
                for path, status in itertools.islice(scan.pictures(Path(top, name)), per_class)
            )
        scan.leave_out("outside of a class folder", scan.own_pictures(top))
    if group_by != BY_FILE and holds((folder / BY_FILE).is_file):
        scan.notice(f"{BY_FILE} is not used; to form groups with it, use --group-by {BY_FILE}")

    def splits_of(paths: Sequence[str]) -> list[str]:
        if "" in tops:  # there may be a million
            return [""] * len(paths)
        return [tops[path.partition("/")[0]] for path in paths]

    listing = Listing.of(scan, found, none, splits_of, (tops, none) if none is not None else tops)
    if group_by is not None:
        depth = 1 if "" in tops else 2
        listing = listing.with_groups(group_by, groups_of(group_by, folder, listing.paths, depth))
    advice = "sort the pictures into folders named after their classes"
    listing.check(folder, "class folders", advice, "the train folder")
    return listing


def _splits(scan: FolderScan) -> dict[str, str]:
    """Return the folders of classes, and the split of each; {"": ""} if the pixels decide."""
    tops = scan.folders("")
    given = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS and scan.folders(top)}
    named = [top for top in tops if top.lower() in SPLITS]
    if not given or (len(named) == 1 and len(tops) > 1):  # one folder among others, such as toys/train, is a class
        return {"": ""}
    if "train" not in given.values():
        raise DataError(f"expected a train folder beside {listed([*given])}, got none; add it, or rename these")
    flat = [top for top in named if top not in given]
    if flat:
        raise DataError(f"{flat[0]}: expected a folder for each class, got none; sort its pictures into folders")
    scan.leave_out("outside of a class folder", scan.own_pictures(""))
    scan.leave_out("beside train and test", [top for top in tops if top not in given])
    return given


def listing_of(request: DataRequest) -> Listing:
    """List the pictures of a requested folder or table of this machine. Raises the errors of the lists."""
    assert request.folder is not None
    table = label_table_of(request)
    if table is not None:
        return list_table(request.folder, table, request.group_by, request.none)
    return list_folder(request.folder, group_by=request.group_by, none=request.none)


def label_table_of(request: DataRequest) -> str | None:
    """Return the name of the table of labels in a requested folder, or None if its folders are the classes."""
    if request.table is not None or request.folder is None:
        return request.table
    return TABLE if _has_labels(request.folder / TABLE) else None


def _has_labels(path: Path) -> bool:
    """Return whether a file names labels of files in its header, and not something else about them.

    Of one that cannot be read, it is supposed, so that reading it is an error.
    """
    if not holds(path.is_file):
        return False
    try:
        with path.open("rb") as file:
            header = file.readline(MAX_HEADER_BYTES)
    except OSError:
        return True
    return FILE_NAME.encode() in header and LABEL.encode() in header
