"""A file in which a task writes how far it is, for a process of the same node that waits for it."""

import contextlib
import os
import tempfile
from pathlib import Path

from mnist_lib.data.prepared.folder import PART_SUFFIX, shards_folder
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError
from mnist_lib.wording import Progress

LINE_BYTES = 200  # a line is padded, so that it replaces all of the one before


class ProgressFile:
    """The file, or nothing if it cannot be written, or for a dataset of the catalog, which takes seconds."""

    def __init__(self, request: DataRequest) -> None:
        self.path: Path | None = None
        if request.entry is None:
            with contextlib.suppress(OSError, DataError):
                # Beside the shards, where it is removed in time if this process is killed.
                descriptor, name = tempfile.mkstemp(dir=shards_folder(request.data_dir), suffix=PART_SUFFIX)
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
