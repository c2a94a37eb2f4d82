"""The pictures of a folder: CLASS/picture, or train/CLASS/picture and test/CLASS/picture. They are listed, not read."""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_lib.catalog import PICTURE_SUFFIXES
from mnist_lib.errors import DataError, DataMissingError
from mnist_lib.wording import counted

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
IGNORED = ("thumbs.db", "desktop.ini", "labels.jsonl")  # hidden files are ignored, too
MAX_CLASSES = 10_000
NAMED = 5  # files or classes in one message


@dataclass(frozen=True)
class PictureFile:
    path: str  # relative to the folder
    label: int
    split: str  # "train", "validation" or "test"; "" if its pixels decide


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder. `state` changes when a picture is added, removed, renamed or written."""

    classes: tuple[str, ...]
    files: tuple[PictureFile, ...]
    notices: tuple[str, ...]  # about what is left out
    state: str


def list_folder(folder: Path) -> Listing:
    """List the pictures of a folder, without reading them.

    Raises:
        DataMissingError: there is no such folder.
        DataError: it has fewer than two classes with pictures, or a class has no pictures to train on.
    """
    if not folder.is_dir():
        raise DataMissingError(f"expected a folder of pictures, got {folder}, which is not one; check --dataset")
    tops = _folders(folder)
    splits = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
    if len(splits) < len(tops) or "train" not in splits.values() or not any(_folders(folder / t) for t in splits):
        splits = {"": ""}  # the folders in it are classes
    has_test = "test" in splits.values()
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)  # class -> (path, split)
    skipped, digest = _Skipped(), hashlib.sha256()
    for top, split in splits.items():
        for name in _folders(folder / top):
            kind = _class_name(name, folder)
            found[kind] += []
            for path in _pictures(folder, folder / top / name, skipped):
                found[kind].append((path, "" if split == "train" and not has_test else split))
        skipped.add_all("outside of a class folder", _own_pictures(folder, folder / top))
    empty = [name for name, files in found.items() if not files]
    classes = tuple(sorted((name for name, files in found.items() if files), key=_natural))
    files = [PictureFile(p, label, s) for label, name in enumerate(classes) for p, s in sorted(found[name])]
    for file in files:
        status = (folder / file.path).stat()
        row = f"{file.path}\0{file.label}\0{file.split}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"
        digest.update(row.encode("utf-8", "surrogateescape"))
    notices = [f"{counted(len(empty), 'class')} without pictures left out: {some(empty)}"] if empty else []
    _check_classes(folder, classes, files)
    return Listing(classes, tuple(files), (*notices, *skipped.notices()), digest.hexdigest())


class _Skipped:
    """Files that are left out of a dataset, by reason."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, path: str) -> None:
        self._files[reason].append(path)

    def add_all(self, reason: str, paths: Sequence[str]) -> None:
        if paths:
            self._files[reason] += paths

    def notices(self) -> Iterator[str]:
        for reason, paths in self._files.items():
            yield f"{counted(len(paths), 'file')} left out, {reason}: {some(paths)}"


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if not _is_hidden(entry.name) and entry.is_dir())


def _own_pictures(root: Path, folder: Path) -> list[str]:
    entries = [
        entry for entry in os.scandir(folder) if entry.is_file() and entry.name.lower().endswith(PICTURE_SUFFIXES)
    ]
    return sorted(Path(entry.path).relative_to(root).as_posix() for entry in entries if not _is_hidden(entry.name))


def _pictures(root: Path, folder: Path, skipped: _Skipped) -> Iterator[str]:
    """Yield the path of each picture below the folder, relative to the root."""
    inside = root.resolve()
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            path = Path(top, name)
            if _is_hidden(name) or name.lower() in IGNORED:
                continue
            relative = path.relative_to(root).as_posix()
            if not name.lower().endswith(PICTURE_SUFFIXES):
                skipped.add(f"not a picture that can be read ({path.suffix.lower() or 'no suffix'})", relative)
            elif path.is_symlink() and not path.resolve().is_relative_to(inside):
                skipped.add("a link out of the folder", relative)
            elif not path.exists():
                skipped.add("a link to nothing", relative)
            else:
                yield relative


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _class_name(name: str, folder: Path) -> str:
    name = unicodedata.normalize("NFC", name)
    if not name.isprintable():
        raise DataError(f"{folder}: expected class names of printable characters, got {name!r}; rename the folder")
    return name


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts]


def _check_classes(folder: Path, classes: Sequence[str], files: Sequence[PictureFile]) -> None:
    if not 2 <= len(classes) <= MAX_CLASSES:
        got = f"{len(classes):,}" + (f" ({classes[0]})" if classes else "")
        raise DataError(
            f"{folder}: expected a folder with pictures for each of 2 to {MAX_CLASSES:,} classes, got {got}"
            "; sort the pictures into folders named after their classes"
        )
    trained = {file.label for file in files if file.split in ("train", "")}
    untrained = [name for label, name in enumerate(classes) if label not in trained]
    if untrained:
        raise DataError(
            f"{folder}: expected pictures to train on for each class, got none for {some(untrained)}"
            "; add some to the train folder, or remove the class from the others"
        )


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
