"""Files and folders outside of the store, for others: whole or absent."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.store.local import sync


def require_free(target: Path) -> None:
    """Raises SpecError when something is there already."""
    if os.path.lexists(target):
        raise SpecError(f"{target}: expected nothing there yet; remove it, or name another place")


@contextlib.contextmanager
def whole_at(target: Path) -> Iterator[Path]:
    """A place beside `target` to write a file or a folder to. It is moved there at the end; after an exception it is
    gone.

    Raises:
        StoreError: it cannot be written.
    """
    if not target.parent.is_dir():  # TensorFlow would make it
        raise StoreError(f"{target}: expected a folder {target.parent}; name another place")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        for path in [temporary, *temporary.rglob("*")]:
            sync(path)
        temporary.rename(target)
        sync(target.parent)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror or error}); name another place") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
