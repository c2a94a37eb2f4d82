"""A file or folder that is written outside of any storage: complete, or absent."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mnist_lib.errors import OutputError, SpecError


@contextlib.contextmanager
def atomic_output(target: Path) -> Iterator[Path]:
    """Yield a path for an output of a command, as `replacement`. Raises OutputError if it cannot be written."""
    if not target.parent.is_dir():  # TensorFlow would create it
        raise OutputError(f"{target}: expected a folder {target.parent}, got none; name another place")
    try:
        with replacement(target) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror or error}); name another place") from error


@contextlib.contextmanager
def replacement(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or a folder to. It becomes `target`, or is deleted on an exception.

    Raises:
        OSError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        for path in [temporary, *temporary.rglob("*")]:
            sync(path)
        temporary.rename(target)
        sync(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def require_absent(target: Path) -> None:
    """Raise SpecError if something exists at that path."""
    if os.path.lexists(target):
        raise SpecError(f"{target}: expected nothing at this path, got a file or folder; remove it, or name another")


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
