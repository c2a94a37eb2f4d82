"""The folder of prepared images: where it is, which of its files are in use, and how a node gets what it lacks."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from mnist_lib.data.images import PREPARED, ImageArray, Images, PixelFile, require_space, writing
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.availability import default_data_dir, temporary_folder
from mnist_lib.errors import DataError, DataFolderError
from mnist_lib.wording import Progress

LINE_BYTES = 200  # of a progress file: a line is padded, so that it replaces all of the one before
FETCH_BYTES = 16 << 20  # size of a part of a file that a node gets from another
UNUSED_SECONDS = 7 * 86_400.0  # since the last time when somebody has read a file that is removed
INDEX_SUFFIX, LOCK_SUFFIX = ".index", ".lock"
FETCH_LOCK = f"fetch{LOCK_SUFFIX}"


def prepared_folders(data_dir: Path | None = None) -> list[Path]:
    """Return the folders in which prepared images may be: in that of prepared datasets, and among the temporary files.

    Args:
        data_dir: the folder of prepared datasets; by default that of TFDS.
    """
    temporary = temporary_folder()
    folders = [data_dir or default_data_dir(), *([temporary] if _is_ours(temporary) else [])]
    return [folder / PREPARED for folder in folders]


def _is_ours(folder: Path) -> bool:
    """Return whether a folder belongs to this user or does not exist: among temporary files, anybody can make one."""
    try:
        return folder.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return True


def prepared_folder(data_dir: Path | None = None) -> Path:
    """Return the first of `prepared_folders` that can be written, after making it for this user alone.

    Raises:
        DataFolderError: none can be written.
    """
    for folder in prepared_folders(data_dir):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise DataFolderError(f"{folder}: expected a folder that can be written, got none; name another with --data-dir")


def remove_unused(folder: Path) -> None:
    """Remove files that no index names and nobody has read for a week, also those of earlier versions of this package.

    `PixelFile` notes in the time of a file that it is read.
    """
    used = set[str]()
    for path in folder.glob(f"*{INDEX_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:  # its first line names its file of pixels
            used.update(file.readline(1_000).decode(errors="replace").split())
    oldest = time.time() - UNUSED_SECONDS
    for path in folder.iterdir():
        if path.suffix not in (INDEX_SUFFIX, LOCK_SUFFIX) and path.name not in used:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def on_this_node(images: ImageArray, read: Callable[[Path, int, int], Any] | None) -> ImageArray:
    """Return images whose file this node has, after getting what it lacks of it.

    An interrupted transfer goes on where it was. If several processes of a node need a file, one of them gets it.

    Args:
        read: calls `read_part` on the node that prepared the images; None: this node did.

    Raises:
        DataError: the file cannot be read there, or written here.
    """
    if not isinstance(images, Images) or read is None or images.file.is_complete():
        return images
    data_dir = images.file.folder.parent
    folder = prepared_folder(data_dir if data_dir.is_dir() else None)
    return Images(_fetched(images.file, folder, read), images.rows)


def _fetched(there: PixelFile, folder: Path, read: Callable[[Path, int, int], Any]) -> PixelFile:
    here = replace(there, folder=folder)
    with writing(folder), filelock.FileLock(folder / FETCH_LOCK, mode=0o666):
        here.path.touch()
        remove_unused(folder)
        # At its offset, not at the end: on a shared disk it may be the same file, whose new size is not seen yet.
        with here.path.open("r+b", buffering=0) as file:
            offset = file.seek(0, os.SEEK_END)
            require_space(folder, here.bytes - offset)
            while offset < here.bytes:
                offset += file.write(read(there.path, offset, min(FETCH_BYTES, here.bytes - offset)))
            os.fsync(file.fileno())
    return here


class ProgressFile:
    """A file in which a task writes how far it is, for a process of the same node that waits for it.

    There is none if it cannot be written, or for a dataset of the catalog, which takes seconds.
    """

    def __init__(self, request: DataRequest) -> None:
        self.path: Path | None = None
        if request.entry is None:
            with contextlib.suppress(OSError, DataError):
                # Beside the images, where it is removed in time if this process is killed.
                descriptor, name = tempfile.mkstemp(dir=prepared_folder(request.data_dir))
                os.close(descriptor)
                self.path = Path(name)

    def write(self, progress: str) -> None:
        if self.path is not None and isinstance(progress, Progress):
            with contextlib.suppress(OSError), self.path.open("r+b", buffering=0) as file:
                file.write(progress.line().encode()[:LINE_BYTES].ljust(LINE_BYTES))

    def read(self) -> Progress | None:
        """Return the last progress, or None."""
        with contextlib.suppress(OSError, ValueError):
            return Progress.read(self.path.read_text().strip()) if self.path else None
        return None

    def remove(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
