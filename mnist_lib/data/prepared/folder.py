"""The folder of shards: where it is, which of its files are in use, and how a node gets those that it lacks."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.prepared.journal import JOURNAL_SUFFIX, Journal
from mnist_lib.data.shards import PREPARED, ImageArray, Images, Shards
from mnist_lib.errors import DataError, DataFolderError, DataReadError

FETCH_BYTES = 16 << 20  # size of a part of a file that a node gets from another
UNUSED_SECONDS = 3_600.0  # minimum age of a shard that is removed: a run that has just begun does not protect it yet
USED_SUFFIX, PART_SUFFIX = ".used", ".part"
LOCK = ".lock"  # of a transfer

log = logging.getLogger(__name__)

_used: dict[Path, int] = {}  # by folder: the descriptor of the file that names the shards that this process uses


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


def shards_folders(data_dir: Path | None = None) -> list[Path]:
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


def shards_folder(data_dir: Path | None = None) -> Path:
    """Return the first of `shards_folders` that can be written, after making it.

    Raises:
        DataFolderError: none can be written.
    """
    for folder in shards_folders(data_dir):
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


def shards_of(images: ImageArray) -> Shards | None:
    """Return where the pixels of images are, or None if they are in memory, as those in this package."""
    source = images.source if isinstance(images, Images) else None
    return source if isinstance(source, Shards) else None


def is_temporary(images: ImageArray) -> bool:
    """Return whether the files of images are among the temporary files, since no other folder could be written."""
    shards = shards_of(images)
    return shards is not None and shards.folder == _temporary_folder()


def protect(folder: Path, names: Sequence[str]) -> None:
    """Keep shards of a folder from being removed until this process ends, if the folder can be written."""
    with contextlib.suppress(OSError):
        if folder not in _used:
            _names_in_use(folder)  # removes what ended processes have left
            path = folder / f"{uuid.uuid4().hex}{PART_SUFFIX}"
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # it stays open, and the kernel unlocks it when this process ends
            path.replace(path.with_suffix(USED_SUFFIX))
            _used[folder] = descriptor
        os.write(_used[folder], "".join(f"{name}\n" for name in names).encode())


def protect_images(images: ImageArray) -> None:
    """Keep the files of images from being removed until this process ends, if their folder can be written."""
    shards = shards_of(images)
    if shards is not None:
        protect(shards.folder, shards.names)


def remove_unused(folder: Path) -> None:
    """Remove old shards that no index or journal names and no process uses, and what killed processes have left."""
    try:
        used = _names_in_use(folder) | {name for index in folder.glob("*.npz") for name in _indexed(index)}
        used |= {shard.name for path in folder.glob(f"*{JOURNAL_SUFFIX}") for shard in Journal(path).shards}
    except OSError as error:  # as of another user: what it names is not known
        log.debug("%s: %s", folder, error)
        return
    oldest = time.time() - UNUSED_SECONDS
    for path in folder.iterdir():
        is_unfinished = path.suffix == PART_SUFFIX or (path.name.startswith(".") and path.name != LOCK)
        if (is_unfinished or len(path.name) == 64) and path.name not in used:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _names_in_use(folder: Path) -> set[str]:
    """Return the names of the shards that processes use, and remove what ended processes have left.

    Raises:
        OSError: a file that names shards cannot be read.
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


def _indexed(index: Path) -> list[str]:
    """Return the names of the shards in an index, see `write_index`; none if it is damaged, or of another kind."""
    with index.open("rb") as file, contextlib.suppress(ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return [digest.tobytes().hex() for digest in np.load(file)["shards"]]
    return []


def on_this_node(images: ImageArray, read: Callable[[Path, int, int], Any] | None) -> ImageArray:
    """Return images whose files this node has, after getting those that it lacks, and protect these.

    An interrupted transfer goes on where it was. If several processes of a node need a file, one of them gets it.

    Args:
        read: calls `read_part` on the node that prepared the images; None: this node did.

    Raises:
        DataError: what was received is damaged, or cannot be written.
    """
    shards = shards_of(images)
    if isinstance(images, Images) and shards is not None and read is not None and not shards.is_complete():
        data_dir = shards.folder.parent
        images = Images(_fetched(shards, shards_folder(data_dir if data_dir.is_dir() else None), read), images.rows)
    protect_images(images)
    return images


def _fetched(shards: Shards, folder: Path, read: Callable[[Path, int, int], Any]) -> Shards:
    here = replace(shards, folder=folder)
    protect(folder, here.names)
    with writing(folder):
        here.touch()
        with filelock.FileLock(folder / LOCK, mode=0o666):
            remove_unused(folder)
            missing = [*here.missing()]
            require_space(folder, sum(size - _size(_part(here.path(name))) for name, size in missing))
            for name, size in missing:
                _fetch(shards.path(name), here.path(name), size, read)
    return here


def _part(path: Path) -> Path:
    return path.with_suffix(PART_SUFFIX)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(there: Path, path: Path, size: int, read: Callable[[Path, int, int], Any]) -> None:
    part = _part(path)
    with part.open("ab") as file:
        while (offset := file.tell()) < size:
            file.write(read(there, offset, min(FETCH_BYTES, size - offset)))
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != path.name:
        part.unlink()
        raise DataReadError(f"{path}: expected the same bytes as in {there}, got others; run again")
    part.replace(path)
