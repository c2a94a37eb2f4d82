"""The group of each picture of a folder: pictures of one object, person or source, which have to be in one split.

The hash of a group's name decides its split, so a group keeps its split when pictures or other groups are added.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import re2

from mnist_lib.data.csv_file import read_csv
from mnist_lib.documents import Number, Text
from mnist_lib.errors import DataError, SpecError
from mnist_lib.wording import counted

BY_FOLDER, BY_FILE, BY_COLUMN = "folder", "groups.csv", "column"
GROUPINGS = (BY_FOLDER, BY_FILE, BY_COLUMN)  # any other value is a regular expression
COLUMNS = ("path", "group")  # of the file
MAX_PATTERN = 1_000  # characters


@dataclass(frozen=True, kw_only=True)
class GroupCounts:
    """How many groups the images of a dataset form."""

    by: Text  # as given with `--group-by`
    train: Number  # number of groups of the images for training and validation
    test: Number  # number of groups of the test images


def check_group_by(group_by: str) -> None:
    """Raise SpecError unless the text is one of `GROUPINGS`, or a regular expression with a group."""
    if group_by in GROUPINGS:
        return
    expected = (
        f"group_by: expected {BY_FOLDER}, {BY_FILE}, {BY_COLUMN} or a regular expression with a group in parentheses"
    )
    got = f"got {group_by[:100]!r}"
    try:
        groups = _compile(group_by).groups if len(group_by) <= MAX_PATTERN else 0
    except (re2.error, ValueError) as error:  # ValueError: a character that is not Unicode
        reason = error.args[0].decode(errors="replace") if isinstance(error, re2.error) else error
        raise SpecError(f"{expected}, {got}, which is not valid ({reason}); correct it") from error
    if not groups:
        raise SpecError(f"{expected}, {got}; put the part that names the group into parentheses, as in 'font([0-9]+)'")


def groups_of(group_by: str, folder: Path, paths: Sequence[str], depth: int) -> list[str]:
    """Return the name of the group of each picture.

    Args:
        group_by: as `check_group_by` accepts it.
        paths: of all pictures, relative to the folder of the dataset.
        depth: the number of folders down to a class folder: 1 for CLASS/picture, 2 for train/CLASS/picture; 0 if a
            table names the classes.

    Raises:
        DataError: a picture has no group, or the file of the groups is missing, damaged, or names other pictures.
    """
    if group_by == BY_COLUMN:
        raise DataError(f"{folder}: expected a table of labels with a column of groups, got none; omit --group-by")
    names = [unicodedata.normalize("NFC", path) for path in paths]  # the same on every file system
    if group_by == BY_FOLDER:
        groups = ["".join(name.split("/")[depth:-1][:1]) for name in names]
        advice = "move each picture into a folder below the folder of its class"
    elif group_by == BY_FILE:
        known = _read_file(folder)
        unknown = known.keys() - names
        if unknown:
            raise DataError(
                f"{folder / BY_FILE}: expected paths of pictures of the dataset, relative to {folder}, got"
                f" {counted(len(unknown), 'other path')}, such as {min(unknown)}; correct or remove these rows"
            )
        groups = [known.get(name, "") for name in names]
        advice = f"add a row for each picture to {BY_FILE}"
    else:
        printable = (name.encode(errors="surrogateescape").decode(errors="replace") for name in names)
        groups = [(match[1] or "") if match else "" for match in map(_compile(group_by).search, printable)]
        advice = "change the expression so that it finds a group in each path"
    without = [path for path, group in zip(paths, groups, strict=True) if not group]
    if without:
        got = f"got {counted(len(without), 'picture')} without one, such as {without[0]}"
        raise DataError(f"{folder}: expected a group for each picture by --group-by {group_by}, {got}; {advice}")
    return groups


def _compile(pattern: str) -> Any:
    """Compile an expression, for an engine that needs time in proportion to the length of a name, whatever it is."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def hash_of_group(group: str) -> bytes:
    """Return the hash of a name, of 16 bytes, as those of images have."""
    return hashlib.sha256(b"group\0" + group.encode(errors="surrogateescape")).digest()[:16]


def _read_file(folder: Path) -> dict[str, str]:
    """Return the groups in the file of a folder, by path. Raises DataError if it is missing or damaged."""
    groups: dict[str, str] = {}
    for line, row in read_csv(folder, BY_FILE, COLUMNS, "write it, or omit --group-by"):
        path, group = (row[column] for column in COLUMNS)
        if not path or not group or groups.setdefault(path, group) != group:
            got = f"line {line}: expected a path with one group, got {path[:100]!r} with {group[:100]!r}"
            raise DataError(f"{folder / BY_FILE}: {got}; correct it")
    return groups
