"""Find the pictures below a folder without reading them, and report what is left out."""

import difflib
import logging
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mnist_lib.catalog import PICTURE_SUFFIXES
from mnist_lib.errors import DataError, DataMissingError

log = logging.getLogger(__name__)

IGNORED = ("thumbs.db", "desktop.ini")  # hidden files are ignored, too
UNREADABLE = "cannot be read"  # why something is left out
MAX_NAMED = 5  # files or classes in one message


def find_pictures(named: Iterable[Path]) -> list[Path]:
    """Return the named files, with each folder replaced by the picture files below it, sorted.

    What is left out is logged. What cannot be read, and a folder without pictures, is returned itself, so that reading
    it raises an error.
    """
    return [found for path in named for found in (_pictures_in(path) if holds(path.is_dir) else [path])]


def _pictures_in(top: Path) -> list[Path]:
    scan = FolderScan(top)
    found = [path for path, _ in scan.pictures(Path())]
    for notice in scan.notices(without=UNREADABLE):
        log.warning("%s: %s", top, notice)
    return sorted(top / path for path in (*found, *scan.unreadable())) or [top]


def listed(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


class FolderScan:
    """Finds the folders and pictures below a folder, and remembers what is left out."""

    def __init__(self, root: Path) -> None:
        self.root, self._inside = root, root.resolve()
        self._prefix = len(str(root).rstrip("/")) + 1  # length of the root's path and a slash
        self._left_out: dict[str, dict[str, None]] = defaultdict(dict)  # reason -> paths, each once
        self._notices: list[str] = []

    @classmethod
    def of(cls, folder: Path) -> "FolderScan":
        """Return a scan of a folder. Raises DataMissingError if there is none, DataError if that is unknown."""
        try:
            if not folder.is_dir():
                raise DataMissingError(f"expected a folder of pictures, got {folder}, not a folder; {_advice(folder)}")
        except OSError as error:
            raise _refused(folder, error) from error
        return cls(folder)

    def notice(self, text: str) -> None:
        self._notices.append(text)

    def leave_out(self, reason: str, paths: Sequence[str]) -> None:
        if paths:
            self._left_out[reason] |= dict.fromkeys(paths)

    def notices(self, without: str = "") -> Iterator[str]:
        yield from self._notices
        for reason, paths in self._left_out.items():
            if reason != without:
                yield f"left out, {reason}: {len(paths):,} ({listed([*paths])})"

    def unreadable(self) -> tuple[str, ...]:
        return tuple(self._left_out.get(UNREADABLE, ()))

    def folders(self, top: str) -> list[str]:
        """Return the names of the folders in a folder, without hidden ones or links."""
        names = []
        for entry in self._entries(top):
            if holds(entry.is_dir):
                if entry.is_symlink():
                    self.leave_out("a link to a folder", [self._relative(Path(entry.path))])
                else:
                    names.append(entry.name)
        return names

    def own_pictures(self, top: str) -> list[str]:
        """Return the pictures directly in a folder."""
        pictures = [entry for entry in self._entries(top) if entry.name.lower().endswith(PICTURE_SUFFIXES)]
        return [self._relative(Path(entry.path)) for entry in pictures if holds(entry.is_file)]

    def pictures(self, top: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Yield each picture below a folder, with its status, in the order in which the system lists them.

        There may be a million, so little is done for each, and a caller that needs only a few can stop early.
        """
        unreadable, pending = list[str](), [os.fspath(self.root / top)]
        while pending:
            parent = pending.pop()
            folders, links, skipped = list[str](), list[str](), list[tuple[str, str]]()
            try:
                with os.scandir(parent) as entries:
                    for entry in entries:
                        name = entry.name
                        path = entry.path[self._prefix :]
                        if _may_be_picture(name) and (status := _status_of_file(entry)) is not None:
                            yield path, status
                        elif holds(entry.is_dir):
                            if holds(entry.is_symlink):
                                links.append(path)
                            elif not _is_hidden(name):
                                folders.append(entry.path)
                        elif not _is_hidden(name) and name.lower() not in IGNORED:
                            status, reason = self._status(entry.path)
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

    def picture(self, path: str) -> tuple[str, os.stat_result] | None:
        """Return the path of a picture, as the disk has it, and its status; leave out any other file, and return None.

        Args:
            path: relative to the folder, as a person or a program for tables may have written it.
        """
        forms = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")), path.replace("\\", "/"))
        path = next((form for form in forms if os.path.lexists(f"{self.root}/{form}")), path)
        status, reason = self._status(f"{self.root}/{path}")
        if status is None:
            self.leave_out(reason, [path])
            return None
        return path, status

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
        except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of links
            return None, "a link to nothing" if holds(Path(path).is_symlink) else UNREADABLE
        return (status, "") if stat.S_ISREG(status.st_mode) else (None, "not a file")

    def _entries(self, top: str) -> list[os.DirEntry[str]]:
        try:
            entries = sorted(os.scandir(self.root / top), key=lambda entry: entry.name)
        except OSError as error:
            raise _refused(self.root / top, error) from error
        return [entry for entry in entries if not _is_hidden(entry.name)]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _may_be_picture(name: str) -> bool:
    """Return whether a name is plainly that of a picture, as nearly all names in a folder are."""
    return name.endswith(PICTURE_SUFFIXES) and name[0] not in "._"


def _status_of_file(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a file that is not a link, or None for anything else."""
    try:
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None
    except OSError:
        return None


def _advice(folder: Path) -> str:
    """Return what to do if there is no folder of that name."""
    beside = [path.name for path in folder.parent.glob("*") if holds(path.is_dir)]
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f"did you mean {folder.parent / near[0]}?" if near else "check --dataset"


def holds(question: Callable[[], bool]) -> bool:
    """Return the answer to a question about a path, or False if asking fails, as without permission."""
    try:
        return question()
    except OSError:
        return False


def _refused(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder} cannot be read ({error.strerror}); check its path and permissions")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
