"""The pictures of a folder: CLASS/picture, or train/CLASS/picture and test/CLASS/picture. They are listed, not read.

`find_pictures` lists those of any other folder. Both report what they leave out.
"""

import difflib
import functools
import hashlib
import itertools
import logging
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mnist_lib.catalog import PICTURE_SUFFIXES
from mnist_lib.data.groups import BY_FILE, groups_of
from mnist_lib.data.request import MAX_CLASSES, DataRequest
from mnist_lib.errors import DataError, DataMissingError
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
IGNORED = ("thumbs.db", "desktop.ini")  # hidden files are ignored, too
UNREADABLE = "cannot be read"  # why something is left out
MAX_NAMED = 5  # files or classes in one message


class PictureFile(NamedTuple):
    path: str  # relative to the folder
    label: int  # the number of classes, if it is a counter-example
    split: str  # "train", "validation" or "test"; "" if its group decides, or without groups its pixels
    group: str = ""  # the name of its group; "" without groups


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures of a folder. `state` changes when a picture or its group is added, removed, renamed or changed."""

    classes: tuple[str, ...]
    # For each class: its pictures, sorted, relative to the folder. Last come counter-examples, if there are some.
    paths: tuple[Sequence[str], ...]
    splits: Mapping[str, str]  # the split of each top folder, as in `PictureFile`; none if pixels or groups decide
    groups: Sequence[str]  # the group of each picture, in the order of `paths`; none without groups
    notices: tuple[str, ...]  # about what is left out
    unreadable: tuple[str, ...]  # paths of folders and pictures that are left out since they cannot be read
    state: str

    @functools.cached_property
    def files(self) -> tuple[PictureFile, ...]:
        """The pictures in the order of `paths`. A run of a prepared dataset does without them."""
        groups = iter(self.groups)
        return tuple(
            PictureFile(path, label, self.split(path), next(groups, ""))
            for label, paths in enumerate(self.paths)
            for path in paths
        )

    @property
    def class_files(self) -> tuple[PictureFile, ...]:
        """Those of `files` that are in a class."""
        return tuple(file for file in self.files if file.label < len(self.classes))

    def split(self, path: str) -> str:
        """Return the split of a picture, as in `PictureFile`."""
        return self.splits.get(path.partition("/")[0], "")


def listing_of(request: DataRequest) -> Listing:
    """List the pictures of a requested folder of this machine. Raises the errors of `list_folder`."""
    assert request.folder is not None
    return list_folder(request.folder, group_by=request.group_by, none=request.none)


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
    try:
        if not folder.is_dir():
            raise DataMissingError(f"expected a folder of pictures, got {folder}, not a folder; {_advice(folder)}")
    except OSError as error:
        raise _refused(folder, error) from error
    scan, digest = _Scan(folder), hashlib.sha256()
    tops = _splits(scan)
    if "test" not in tops.values():
        tops = {top: "" if split == "train" else split for top, split in tops.items()}
    found: dict[str, list[str]] = defaultdict(list)  # class -> path and state of each picture, as one text
    for top in tops:
        for name in scan.folders(top):
            kind = unicodedata.normalize("NFC", name)
            if not kind.isprintable() or not kind.strip():
                scan.leave_out("a class whose name cannot be printed", [repr(name)])
                continue
            found[kind] += (
                f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                for path, status in itertools.islice(scan.pictures(Path(top, name)), per_class)
            )
        scan.leave_out("outside of a class folder", scan.own_pictures(top))
    empty = [name for name, lines in found.items() if not lines]
    named = sorted((name for name, lines in found.items() if lines), key=_natural)
    if none is not None and none not in named:
        raise DataError(f"none: expected a class folder of {folder} with pictures, got {none}; known: {listed(named)}")
    named = [name for name in named if name != none]
    scan.leave_out(f"a class after the first {MAX_CLASSES:,}", named[MAX_CLASSES:])
    classes, paths, groups = tuple(named[:MAX_CLASSES]), list[list[str]](), list[str]()
    digest.update(repr((tops, none) if none is not None else tops).encode(errors="surrogateescape"))
    for name in (*classes, *([] if none is None else [none])):
        lines = sorted(found.pop(name))
        digest.update(os.fsencode(f"{name}\0{len(lines)}\0" + "\n".join(lines)))
        paths.append([line.partition("\0")[0] for line in lines])
    if group_by is not None:
        groups = groups_of(group_by, folder, [*itertools.chain(*paths)], depth=1 if "" in tops else 2)
        digest.update("\n".join(groups).encode(errors="surrogateescape"))
    notices = [f"left out, without pictures: {counted(len(empty), 'class')} ({listed(empty)})"] if empty else []
    if group_by != BY_FILE and _holds((folder / BY_FILE).is_file):
        notices.append(f"{BY_FILE} is not used; to form groups with it, use --group-by {BY_FILE}")
    listing = Listing(
        classes=classes,
        paths=tuple(paths),
        splits={} if "" in tops else tops,
        groups=groups,
        notices=(*notices, *scan.notices()),
        unreadable=scan.unreadable(),
        state=digest.hexdigest(),
    )
    _check_classes(folder, listing)
    return listing


def _advice(folder: Path) -> str:
    """Return what to do if there is no folder of that name."""
    beside = [path.name for path in folder.parent.glob("*") if _holds(path.is_dir)]
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f"did you mean {folder.parent / near[0]}?" if near else "check --dataset"


def find_pictures(named: Iterable[Path]) -> list[Path]:
    """Return the named files, with each folder replaced by the picture files below it, sorted.

    What is left out is logged. What cannot be read, and a folder without pictures, is returned itself, so that reading
    it raises an error.
    """
    return [found for path in named for found in (_pictures_in(path) if _holds(path.is_dir) else [path])]


def real_folders(named: Iterable[Path]) -> dict[Path, str]:
    """Return the real path of each of the named paths that is a folder, so that no link leads a reader out of it."""
    return {path: os.path.realpath(path) for path in named if _holds(path.is_dir)}


def _pictures_in(top: Path) -> list[Path]:
    scan = _Scan(top)
    found = [path for path, _ in scan.pictures(Path())]
    for notice in scan.notices(without=UNREADABLE):
        log.warning("%s: %s", top, notice)
    return sorted(top / path for path in (*found, *scan.unreadable())) or [top]


def listed(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


class _Scan:
    """Finds the folders and pictures below a folder, and remembers what is left out."""

    def __init__(self, root: Path) -> None:
        self._root, self._inside = root, root.resolve()
        self._prefix = len(str(root).rstrip("/")) + 1  # length of the root's path and a slash
        self._left_out: dict[str, dict[str, None]] = defaultdict(dict)  # reason -> paths, each once

    def leave_out(self, reason: str, paths: Sequence[str]) -> None:
        if paths:
            self._left_out[reason] |= dict.fromkeys(paths)

    def notices(self, without: str = "") -> Iterator[str]:
        for reason, paths in self._left_out.items():
            if reason != without:
                yield f"left out, {reason}: {len(paths):,} ({listed([*paths])})"

    def unreadable(self) -> tuple[str, ...]:
        return tuple(self._left_out.get(UNREADABLE, ()))

    def folders(self, top: str) -> list[str]:
        """Return the names of the folders in a folder, without hidden ones or links."""
        names = []
        for entry in self._entries(top):
            if _holds(entry.is_dir):
                if entry.is_symlink():
                    self.leave_out("a link to a folder", [self._relative(Path(entry.path))])
                else:
                    names.append(entry.name)
        return names

    def own_pictures(self, top: str) -> list[str]:
        """Return the pictures directly in a folder."""
        pictures = [entry for entry in self._entries(top) if entry.name.lower().endswith(PICTURE_SUFFIXES)]
        return [self._relative(Path(entry.path)) for entry in pictures if _holds(entry.is_file)]

    def pictures(self, top: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Yield each picture below a folder, with its status, in the order in which the system lists them.

        There may be a million, so little is done for each, and a caller that needs only a few can stop early.
        """
        unreadable, pending = list[str](), [os.fspath(self._root / top)]
        while pending:
            parent = pending.pop()
            folders, links, skipped = list[str](), list[str](), list[tuple[str, str]]()
            try:
                with os.scandir(parent) as entries:
                    for entry in entries:
                        name, path = entry.name, entry.path[self._prefix :]
                        if _may_be_picture(name) and (status := _status_of_file(entry)) is not None:
                            yield path, status
                        elif _holds(entry.is_dir):
                            if _holds(entry.is_symlink):
                                links.append(path)
                            elif not _is_hidden(name):
                                folders.append(entry.path)
                        elif not _is_hidden(name) and name.lower() not in IGNORED:
                            status, reason = self._status(entry)
                            if status is not None:
                                yield path, status
                            else:
                                skipped.append((path, reason))
            except OSError:
                unreadable.append(parent[self._prefix :])
            self.leave_out("a link to a folder", sorted(links))
            for path, reason in sorted(skipped):
                self.leave_out(reason, [path])
            pending += sorted(folders, reverse=True)
        self.leave_out(UNREADABLE, unreadable)

    def _status(self, entry: os.DirEntry[str]) -> tuple[os.stat_result | None, str]:
        """Return the status of a picture, or None and the reason why it is left out."""
        if not entry.name.lower().endswith(PICTURE_SUFFIXES):
            return None, f"not a picture that can be read ({Path(entry.name).suffix.lower() or 'no suffix'})"
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                path = Path(entry.path)
                status = path.stat()
                if not path.resolve().is_relative_to(self._inside):
                    return None, "a link out of the folder"
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            return None, "a link to nothing" if _holds(entry.is_symlink) else UNREADABLE
        return (status, "") if stat.S_ISREG(status.st_mode) else (None, "not a file")

    def _entries(self, top: str) -> list[os.DirEntry[str]]:
        try:
            entries = sorted(os.scandir(self._root / top), key=lambda entry: entry.name)
        except OSError as error:
            raise _refused(self._root / top, error) from error
        return [entry for entry in entries if not _is_hidden(entry.name)]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _may_be_picture(name: str) -> bool:
    """Return whether a file of this name is one of those that make up nearly all of a folder."""
    return name.endswith(PICTURE_SUFFIXES) and name[0] not in "._"


def _status_of_file(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a file that is not a link, or None for anything else."""
    try:
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None
    except OSError:
        return None


def _holds(question: Callable[[], bool]) -> bool:
    """Return the answer to a question about a path, or False if asking fails, as without permission."""
    try:
        return question()
    except OSError:
        return False


def _refused(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder} cannot be read ({error.strerror}); check its path and permissions")


def _splits(scan: _Scan) -> dict[str, str]:
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


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts]


def _check_classes(folder: Path, listing: Listing) -> None:
    classes, unreadable = listing.classes, listing.unreadable
    if len(classes) < 2:
        got = f"{len(classes):,}" + (f" ({classes[0]})" if classes else "")
        got += f", and {len(unreadable):,} that cannot be read ({listed(unreadable)})" if unreadable else ""
        raise DataError(
            f"{folder}: expected 2 to {MAX_CLASSES:,} class folders with pictures, got {got}"
            "; sort the pictures into folders named after their classes"
        )
    untrained = [
        name
        for name, paths in zip(classes, listing.paths, strict=False)  # also those of counter-examples
        if not any(listing.split(path) in ("train", "") for path in paths)
    ]
    if untrained:
        raise DataError(
            f"{folder}: expected pictures to train on for each class, got none for {listed(untrained)}"
            "; add some to the train folder, or remove the class from the other folders"
        )
