"""Say which pictures a dataset of the user's own has: those of a folder, or those that a table of labels names."""

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mnist_lib.data.csv_file import read_csv
from mnist_lib.data.groups import BY_COLUMN, BY_FILE, groups_of
from mnist_lib.data.request import TABLE, DataRequest
from mnist_lib.data.sources.listing import SPLITS, Listing, found_picture, is_class_name
from mnist_lib.data.sources.scan import FolderScan, holds, listed
from mnist_lib.errors import DataError

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
    table = table_of(request)
    if table is not None:
        return list_table(request.folder, table, request.group_by, request.none)
    return list_folder(request.folder, group_by=request.group_by, none=request.none)


def table_of(request: DataRequest) -> str | None:
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
