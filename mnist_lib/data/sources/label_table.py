"""List the pictures of a table of labels: a CSV file with the columns file_name and label, as imagefolder of Hugging
Face has it, and, if wanted, split and group.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mnist_lib.data.csv_file import read_csv
from mnist_lib.data.groups import BY_COLUMN, groups_of
from mnist_lib.data.sources.listing import SPLITS, Listing, found_picture, is_class_name
from mnist_lib.data.sources.scan import FolderScan
from mnist_lib.errors import DataError

FILE_NAME, LABEL, SPLIT, GROUP = "file_name", "label", "split", "group"  # columns


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
        path, label, group = row[FILE_NAME].strip(), row[LABEL].strip(), row.get(GROUP, "").strip()
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
