"""The pictures of a folder: CLASS/picture, or train/CLASS/picture and test/CLASS/picture. They are listed, not read.

`find_pictures` lists those of any other folder. Both report what they leave out.
"""

import hashlib
import itertools
import logging
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnist_lib.catalog import PICTURE_SUFFIXES
from mnist_lib.data.groups import BY_FILE, groups_of
from mnist_lib.data.request import MAX_CLASSES
from mnist_lib.errors import DataError, DataMissingError
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
IGNORED = ("thumbs.db", "desktop.ini")  # hidden files are ignored, too
UNREADABLE = "cannot be read"  # why something is left out
MAX_NAMED = 5  # files or classes in one message


@dataclass(frozen=True, slots=True)  # a folder may have a million
class PictureFile:
    path: str  # relative to the folder
    label: int
    split: str  # "train", "validation" or "test"; "" if its group decides, or without groups its pixels
    group: str = ""  # the name of its group; "" without groups


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder. `state` changes when a picture or its group is added, removed, renamed or changed."""

    classes: tuple[str, ...]
    files: tuple[PictureFile, ...]
    notices: tuple[str, ...]  # about what is left out
    unreadable: tuple[str, ...]  # paths of folders and pictures that are left out since they cannot be read
    state: str


def list_folder(folder: Path, per_class: int | None = None, group_by: str | None = None) -> Listing:
    """List the pictures of a folder, without reading them.

    Args:
        per_class: how many pictures of each class to list, in each split; by default all.
        group_by: as in `DataRequest`; by default, the pictures have no groups.

    Raises:
        DataMissingError: there is no such folder.
        DataError: it cannot be listed, has fewer than two classes with pictures, or a class without pictures to train
            on, or the groups do not fit, see `groups_of`.
    """
    try:
        if not folder.is_dir():
            raise DataMissingError(f"expected a folder of pictures, got {folder}, not a folder; check --dataset")
    except OSError as error:
        raise _refused(folder, error) from error
    scan, digest = _Scan(folder), hashlib.sha256()
    splits = _splits(scan)
    has_test = "test" in splits.values()
    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)  # class -> (path, split, state)
    for top, split in splits.items():
        for name in scan.folders(top):
            kind = unicodedata.normalize("NFC", name)
            if not kind.isprintable() or not kind.strip():
                scan.leave_out("a class whose name cannot be printed", [repr(name)])
                continue
            found[kind] += []
            own = "" if split == "train" and not has_test else split
            for path, status in itertools.islice(scan.pictures(Path(top, name)), per_class):
                # As text, since a status would take up five times the memory.
                state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                found[kind].append((path, own, state))
        scan.leave_out("outside of a class folder", scan.own_pictures(top))
    empty = [name for name, files in found.items() if not files]
    named = sorted((name for name, files in found.items() if files), key=_natural)
    scan.leave_out(f"a class after the first {MAX_CLASSES:,}", named[MAX_CLASSES:])
    classes, files = tuple(named[:MAX_CLASSES]), []
    for label, name in enumerate(classes):
        for path, split, state in sorted(found.pop(name)):
            files.append(PictureFile(path, label, split))
            digest.update(os.fsencode(f"{path}\0{label}\0{split}\0{state}\n"))
    if group_by is not None:
        depth = 1 if "" in splits else 2
        groups = groups_of(group_by, folder, [file.path for file in files], depth)
        files = [replace(file, group=group) for file, group in zip(files, groups, strict=True)]
        digest.update("\n".join(groups).encode(errors="surrogateescape"))
    notices = [f"left out, without pictures: {counted(len(empty), 'class')} ({listed(empty)})"] if empty else []
    if group_by != BY_FILE and _holds((folder / BY_FILE).is_file):
        notices.append(f"{BY_FILE} is not used; to form groups with it, use --group-by {BY_FILE}")
    _check_classes(folder, classes, files, scan.unreadable())
    return Listing(classes, tuple(files), (*notices, *scan.notices()), scan.unreadable(), digest.hexdigest())


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
        """Yield each picture below a folder, with its status."""
        unreadable: list[OSError] = []
        for parent, folders, files in os.walk(self._root / top, onerror=unreadable.append):
            links = [name for name in folders if _holds(Path(parent, name).is_symlink)]
            self.leave_out("a link to a folder", [self._relative(Path(parent, name)) for name in sorted(links)])
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            for name in sorted(files):
                if not _is_hidden(name) and name.lower() not in IGNORED:
                    path = f"{parent}/{name}"  # text, since there may be a million, and a Path takes ten times as long
                    status, reason = self._status(path)
                    if status is not None:
                        yield path[self._prefix :], status
                    else:
                        self.leave_out(reason, [path[self._prefix :]])
        self.leave_out(UNREADABLE, [self._relative(Path(error.filename)) for error in unreadable])

    def _status(self, path: str) -> tuple[os.stat_result | None, str]:
        """Return the status of a picture, or None and the reason why it is left out."""
        if not path.lower().endswith(PICTURE_SUFFIXES):
            return None, f"not a picture that can be read ({Path(path).suffix.lower() or 'no suffix'})"
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                status = Path(path).stat()
                if not Path(path).resolve().is_relative_to(self._inside):
                    return None, "a link out of the folder"
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            return None, "a link to nothing" if _holds(Path(path).is_symlink) else UNREADABLE
        return (status, "") if stat.S_ISREG(status.st_mode) else (None, "not a file")

    def _entries(self, top: str) -> list[os.DirEntry[str]]:
        try:
            entries = sorted(os.scandir(self._root / top), key=lambda entry: entry.name)
        except OSError as error:
            raise _refused(self._root / top, error) from error
        return [entry for entry in entries if not _is_hidden(entry.name)]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


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


def _check_classes(
    folder: Path, classes: Sequence[str], files: Sequence[PictureFile], unreadable: Sequence[str]
) -> None:
    if len(classes) < 2:
        got = f"{len(classes):,}" + (f" ({classes[0]})" if classes else "")
        got += f", and {len(unreadable):,} that cannot be read ({listed(unreadable)})" if unreadable else ""
        raise DataError(
            f"{folder}: expected 2 to {MAX_CLASSES:,} class folders with pictures, got {got}"
            "; sort the pictures into folders named after their classes"
        )
    trained = {file.label for file in files if file.split in ("train", "")}
    untrained = [name for label, name in enumerate(classes) if label not in trained]
    if untrained:
        raise DataError(
            f"{folder}: expected pictures to train on for each class, got none for {listed(untrained)}"
            "; add some to the train folder, or remove the class from the other folders"
        )
