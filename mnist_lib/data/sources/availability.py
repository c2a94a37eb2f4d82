"""Check within seconds, and without TensorFlow, whether a run can get a dataset."""

import hashlib
import os
import queue
import socket
import tempfile
import threading
import urllib.parse
import urllib.request
from importlib import metadata
from pathlib import Path

from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.listing import label_table_of, list_folder, listing_of
from mnist_lib.errors import DataChecksumError, DataMissingError
from mnist_lib.wording import counted

REMEDY = "connect to a network, or name the folder of the original *-ubyte.gz files with --data-source DIR"
CONNECT_SECONDS = 5.0  # timeout of a connection to the host that serves a download
# The files of each dataset that is not part of this package. TFDS would download any that are absent.
ORIGINAL_FILES = tuple(
    f"{split}-{content}-ubyte.gz" for split in ("train", "t10k") for content in ("images-idx3", "labels-idx1")
)


def default_data_dir() -> Path:
    """Return the folder that TFDS uses by default, or one among the temporary files for a user without a home."""
    try:
        return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    except RuntimeError:
        return temporary_folder()


def temporary_folder() -> Path:
    """Return the folder of this user among the temporary files, for what can be prepared nowhere else."""
    return Path(tempfile.gettempdir(), f"mnist_lib-{os.getuid()}")


def describe_availability(request: DataRequest) -> str:
    """Describe where a run would get a dataset, without reading it.

    Raises:
        DataMissingError: a run could not get the dataset.
        DataError: a folder has too few pictures.
    """
    if request.folder is not None:
        listing = listing_of(request)
        pictures, classes = counted(len(listing.paths), "picture"), counted(len(listing.classes), "class")
        kind = "folder" if request.table is None else "table"
        return f"{request.name} is {request.dataset}, a {kind} of {pictures} in {classes}"
    if request.entry is None:
        return f"{request.name} is read from {request.dataset}"
    name, entry, source = request.dataset, request.entry, request.data_source
    if entry.embedded:
        return f"{name} is part of this package"
    data_dir = request.data_dir or default_data_dir()
    if source is not None:
        _require_files(name, source)
    if any(data_dir.glob(f"{request.tfds_name}/*/dataset_info.json")):
        return f"{name} is prepared in {data_dir}"
    require_obtainable(request, data_dir)
    return f"{name} can be prepared from {source or entry.url}"


def check_availability(request: DataRequest) -> None:
    """Check within seconds that a run could get the dataset. Raises the errors of `describe_availability`."""
    if request.folder is not None and label_table_of(request) is None:
        list_folder(request.folder, per_class=1)  # the worker lists them all, which takes seconds for a million
    else:
        describe_availability(request)


def require_obtainable(request: DataRequest, data_dir: Path) -> None:
    """Check that a dataset that is not prepared in `data_dir` can be prepared there. Not checked outside the catalog.

    Raises:
        DataMissingError: the source lacks a file, or no source is given and the host cannot be reached.
    """
    name, entry = request.dataset, request.entry
    if request.data_source is not None:
        _require_files(name, request.data_source)
    elif entry is not None:
        url = urllib.parse.urlsplit(entry.url)
        # Behind a proxy, this machine can reach only the proxy.
        proxy = None if urllib.request.proxy_bypass(url.netloc) else urllib.request.getproxies().get(url.scheme)
        reason = _unreachable(urllib.parse.urlsplit(proxy) if proxy else url)
        if reason:
            raise missing_data(name, f"not prepared in {data_dir}, and {url.hostname} cannot be reached ({reason})")


def check_source(request: DataRequest, source: Path) -> None:
    """Check that a folder contains the original files of a dataset, as published.

    Raises:
        DataMissingError: a file does not exist.
        DataChecksumError: a file differs from the published one.
    """
    name = request.dataset
    _require_files(name, source)
    package = str(metadata.distribution("tensorflow-datasets").locate_file("tensorflow_datasets"))
    published = Path(package, "url_checksums", f"{request.tfds_name}.txt").read_text()
    for line in published.splitlines():
        _, _, checksum, filename = line.split("\t")
        with (source / filename).open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != checksum:
            where = source / filename
            raise DataChecksumError(f"{name}: {where}: expected sha256 {checksum}, got {got}; fetch it again")


def _require_files(name: str, source: Path) -> None:
    if not source.is_dir():
        raise missing_data(name, f"--data-source {source} is not a folder on {socket.gethostname()}")
    for file in ORIGINAL_FILES:
        if not (source / file).is_file():
            raise missing_data(name, f"the file {source / file} does not exist on {socket.gethostname()}")


def _unreachable(url: urllib.parse.SplitResult) -> str | None:
    """Return why the host of the URL cannot be reached, or None if it can. TFDS itself would retry for minutes."""
    port = url.port or {"https": 443}.get(url.scheme, 80)
    result: queue.Queue[str | None] = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection((str(url.hostname), port), timeout=CONNECT_SECONDS).close()
            result.put(None)
        except OSError as error:
            result.put(str(error))

    threading.Thread(target=connect, daemon=True).start()  # in a thread, since a DNS look-up has no timeout
    try:
        return result.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        return f"no answer within {CONNECT_SECONDS:.0f} s"


def missing_data(name: str, reason: str) -> DataMissingError:
    """Return the error for a dataset that is not available, with the two remedies that every command offers."""
    return DataMissingError(f"{name}: {reason}; {REMEDY}")
