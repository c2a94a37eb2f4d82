"""Writes that are whole or absent, and still there after a power loss."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mnist_lib.errors import StoreError


@contextlib.contextmanager
def told_as_store_error(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal into one line."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); name another with --storage") from error


def write_file(path: Path, content: bytes) -> None:
    """Replaces what was there, in one instant, readable to whom the umask lets read."""
    _write_synced(path, content)
    _sync_folder(path.parent)


def write_new_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Creates the folder with all its files, in one instant; False, and nothing done, if there is one already."""
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        unfinished.chmod(0o777 & ~_umask())
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(path, content)
        for path in (unfinished, *filter(Path.is_dir, unfinished.rglob("*"))):
            _sync_folder(path)
        unfinished.rename(folder)  # refused by the operating system when a folder with files stands there
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    _sync_folder(folder.parent)
    return True


def make_folders(folder: Path) -> None:
    """With its parents, each of them there after a power loss."""
    if not folder.exists():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _write_synced(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # a temporary file is its owner's alone
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
