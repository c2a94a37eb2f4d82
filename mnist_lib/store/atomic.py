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
    """Replaces what was there, in one instant."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
    _sync_folder(path.parent)


def write_new_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Creates the folder with all its files, in one instant; False, and nothing done, if there is one already."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        unfinished.chmod(0o755)
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)
        unfinished.rename(folder)  # refused by the operating system when a folder with files stands there
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    _sync_folder(folder.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
