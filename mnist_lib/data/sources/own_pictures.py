"""Say which pictures a dataset of the user's own has: those of a folder, or those that a table of labels names."""

from pathlib import Path

from mnist_lib.data.request import TABLE, DataRequest
from mnist_lib.data.sources.class_folders import list_folder
from mnist_lib.data.sources.label_table import FILE_NAME, LABEL, list_table
from mnist_lib.data.sources.listing import Listing
from mnist_lib.data.sources.scan import holds

MAX_HEADER_BYTES = 10_000


def listing_of(request: DataRequest) -> Listing:
    """List the pictures of a requested folder or table of this machine. Raises the errors of the lists."""
    assert request.folder is not None
    table = table_of(request)
    if table is not None:
        return list_table(request.folder, table, request.group_by, request.none)
    return list_folder(request.folder, group_by=request.group_by, none=request.none)


def table_of(request: DataRequest) -> str | None:
    """Return the name of the table of labels in a requested folder, or None if its folders are the classes."""
    if request.table is not None or request.folder is None:
        return request.table
    return TABLE if _has_labels(request.folder / TABLE) else None


def _has_labels(path: Path) -> bool:
    """Return whether a file names labels of files in its header, and not something else about them.

    Of one that cannot be read, it is supposed, so that reading it is an error.
    """
    if not holds(path.is_file):
        return False
    try:
        with path.open("rb") as file:
            header = file.readline(MAX_HEADER_BYTES)
    except OSError:
        return True
    return FILE_NAME.encode() in header and LABEL.encode() in header
