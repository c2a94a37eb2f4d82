"""The folder of prepared images: where it is, which of its files are in use, and how a node gets what it lacks."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from mnist_lib.data.images import PREPARED, ImageArray, Images, PixelFile
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.errors import DataError, DataFolderError

FETCH_BYTES = 16 << 20  # size of a part of a file that a node gets from another
UNUSED_SECONDS = 3_600.0  # minimum age of a file that is removed: a run that has just begun does not protect it yet
INDEX_SUFFIX, LOCK_SUFFIX, USED_SUFFIX = ".index", ".lock", ".used"
FETCH_LOCK = f"fetch{LOCK_SUFFIX}"

log = logging.getLogger(__name__)

_used: dict[Path, int] = {}  # by folder: the descriptor of the file that names the files that this process uses


def require_space(folder: Path, size: int) -> None:
    """Raise DataError if a folder has less free space than a number of bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _no_space(folder, f"{size / 1e9:,.2f} GB of", f"{free / 1e9:,.2f} GB")


def _no_space(folder: Path, expected: str, got: str) -> DataError:
    advice = "free some, name another folder with --data-dir or TFDS_DATA_DIR, or choose a smaller --image-size"
    return DataError(f"{folder}: expected {expected} free space for images, got {got}; {advice}")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn each OSError in a block that writes images into a folder into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(folder, "more", "none") from error
        reason = error.strerror or error
        raise DataError(f"{folder}: images cannot be written ({reason}); name another --data-dir") from error


def prepared_folders(data_dir: Path | None = None) -> list[Path]:
    """Return the folders in which prepared images may be: in that of prepared datasets, and among the temporary files.

    Args:
        data_dir: the folder of prepared datasets; by default that of TFDS.
    """
    folders = []
    with contextlib.suppress(DataFolderError):
        folders.append((data_dir or default_data_dir()) / PREPARED)
    temporary = _temporary_folder()
    return [*folders, temporary] if _is_private(temporary) else folders


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir(), f"mnist_lib-{os.getuid()}")


def _is_private(folder: Path) -> bool:
    """Return whether a folder exists and belongs to this user alone, so that nobody else has written its files."""
    with contextlib.suppress(OSError):
        status = folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return False


def prepared_folder(data_dir: Path | None = None) -> Path:
    """Return the first of `prepared_folders` that can be written, after making it.

    Raises:
        DataFolderError: none can be written.
    """
    for folder in prepared_folders(data_dir):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                folder.chmod(0o700)  # others of this machine may not see the user's pictures
            if os.access(folder, os.W_OK):
                return folder
    temporary = _temporary_folder()
    with contextlib.suppress(OSError):
        temporary.mkdir(mode=0o700)
    if _is_private(temporary):
        return temporary
    raise DataFolderError(
        f"{temporary}: expected a folder for images that belongs to this user alone, got none; name one that can be"
        " written with --data-dir"
    )


def pixel_file(images: ImageArray) -> PixelFile | None:
    """Return where the pixels of images are, or None if they are in memory, as those in this package."""
    return images.file if isinstance(images, Images) and images.held is None else None


def is_temporary(images: ImageArray) -> bool:
    """Return whether images are among the temporary files, since no other folder could be written."""
    file = pixel_file(images)
    return file is not None and file.folder == _temporary_folder()


def protect(file: PixelFile) -> None:
    """Keep a file from being removed until this process ends, if its folder can be written."""
    folder = file.folder
    with contextlib.suppress(OSError):
        if folder not in _used:
            _names_in_use(folder)  # removes what ended processes have left
            path = folder / uuid.uuid4().hex
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # it stays open, and the kernel unlocks it when this process ends
            path.replace(path.with_suffix(USED_SUFFIX))
            _used[folder] = descriptor
        os.write(_used[folder], f"{file.path.name}\n".encode())


def protect_images(images: ImageArray) -> None:
    """Keep the file of images from being removed until this process ends, if its folder can be written."""
    file = pixel_file(images)
    if file is not None:
        protect(file)


def remove_unused(folder: Path) -> None:
    """Remove old files that no index names and no process uses, also those of earlier versions of this package."""
    try:
        used = _names_in_use(folder).union(*map(_names_in_index, folder.glob(f"*{INDEX_SUFFIX}")))
    except OSError as error:  # as of another user: what it names is not known
        log.debug("%s: %s", folder, error)
        return
    oldest = time.time() - UNUSED_SECONDS
    for path in folder.iterdir():
        if path.suffix not in (INDEX_SUFFIX, LOCK_SUFFIX, USED_SUFFIX) and path.name not in used:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _names_in_use(folder: Path) -> set[str]:
    """Return the names of the files that processes use, and remove what ended processes have left.

    Raises:
        OSError: a file that names others cannot be read.
    """
    names = set[str]()
    for path in folder.glob(f"*{USED_SUFFIX}"):
        try:
            with path.open("r+") as file:  # NFS refuses to lock a file that is only read
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    names.update(file.read().split())
                else:
                    path.unlink()
        except FileNotFoundError:  # another process has removed it
            continue
    return names


def _names_in_index(path: Path) -> set[str]:
    """Return the words of the first line of an index, one of which is the name of its file of pixels."""
    with path.open("rb") as file:
        return {*file.readline(1_000).decode(errors="replace").split()}


def on_this_node(images: ImageArray, read: Callable[[Path, int, int], Any] | None) -> ImageArray:
    """Return images whose file this node has, after getting what it lacks of it, and protect the file.

    An interrupted transfer goes on where it was. If several processes of a node need a file, one of them gets it.

    Args:
        read: calls `read_part` on the node that prepared the images; None: this node did.

    Raises:
        DataError: the file cannot be read there, or written here.
    """
    file = pixel_file(images)
    if isinstance(images, Images) and file is not None and read is not None and not file.is_complete():
        data_dir = file.folder.parent
        images = Images(_fetched(file, prepared_folder(data_dir if data_dir.is_dir() else None), read), images.rows)
    protect_images(images)
    return images


def _fetched(there: PixelFile, folder: Path, read: Callable[[Path, int, int], Any]) -> PixelFile:
    here = replace(there, folder=folder)
    protect(here)
    with writing(folder), filelock.FileLock(folder / FETCH_LOCK, mode=0o666):
        remove_unused(folder)
        # At its offset, not at the end: on a shared disk it may be the same file, whose new size is not seen yet.
        here.path.touch()
        with here.path.open("r+b", buffering=0) as file:
            offset = file.seek(0, os.SEEK_END)
            require_space(folder, here.bytes - offset)
            while offset < here.bytes:
                offset += file.write(read(there.path, offset, min(FETCH_BYTES, here.bytes - offset)))
            os.fsync(file.fileno())
    return here
