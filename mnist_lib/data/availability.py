"""Is a dataset here, or could it be had? Known within seconds, without TensorFlow."""

import hashlib
import os
import queue
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from mnist_lib.catalog import DATASETS
from mnist_lib.errors import DataFolderError, DataMissingError

CONNECT_SECONDS = 5.0  # to see whether the download's host can be reached at all


def default_data_dir() -> Path:
    """Where TFDS itself would look.

    Raises:
        DataFolderError: that is in a home, and there is none.
    """
    try:
        return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    except RuntimeError as error:
        raise DataFolderError("no folder for datasets: this user has no home; name one with --data-dir") from error


def what_is_available(name: str, data_dir: Path | None, source: Path | None) -> str:
    """How a run would get the dataset, for people, as far as can be told without TensorFlow: whether what is there is
    whole, and what it should be, is looked at when it is read. The arguments are those of `prepare`.

    Raises:
        DataMissingError: it would not.
    """
    entry, data_dir = DATASETS[name], data_dir or default_data_dir()
    if any(data_dir.glob(f"{entry.tfds_name}/*/dataset_info.json")):
        return f"{name} is prepared in {data_dir}"
    require_obtainable(name, source, data_dir)
    if entry.embedded:
        return f"{name} lies in the package"
    return f"{name} can be prepared from {source or entry.url}"


def fingerprint_of_prepared(name: str, data_dir: Path | None) -> str | None:
    """sha256 of the examples that a run would read, as they lie in TFDS' folder; None if they are not there.

    It is not that of the decoded images: this one costs no TensorFlow.
    """
    folder = (data_dir or default_data_dir()) / DATASETS[name].tfds_name
    digest = hashlib.sha256()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".json"]
    for path in files:
        with path.open("rb") as file:
            of_file = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {of_file}\n".encode())
    return digest.hexdigest() if files else None


def require_obtainable(name: str, source: Path | None, data_dir: Path) -> None:
    """Raises DataMissingError for a dataset that is not prepared there, and could not be."""
    entry = DATASETS[name]
    if source is not None and not entry.embedded and not source.is_dir():
        raise DataMissingError(f"{name}: --data-source {source} is not a folder on {socket.gethostname()}")
    if source is None and entry.url is not None:
        url = urllib.parse.urlsplit(entry.url)
        # A host behind a proxy is reached when the proxy is.
        proxy = None if urllib.request.proxy_bypass(url.netloc) else urllib.request.getproxies().get(url.scheme)
        why_not = _unreachable(urllib.parse.urlsplit(proxy) if proxy else url)
        if why_not:
            raise missing(name, f"not prepared in {data_dir}, and {url.hostname} cannot be reached ({why_not})")


def _unreachable(url: urllib.parse.SplitResult) -> str | None:
    """Why there is no connection to that host within seconds. TFDS itself would try again for minutes."""
    port = url.port or {"https": 443}.get(url.scheme, 80)
    outcome: queue.Queue[str | None] = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection((str(url.hostname), port), timeout=CONNECT_SECONDS).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(str(error))

    threading.Thread(target=connect, daemon=True).start()  # a look-up of a name has no time-out of its own
    try:
        return outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        return f"no answer within {CONNECT_SECONDS:.0f} s"


def missing(name: str, why: str) -> DataMissingError:
    """With the three ways to get it."""
    return DataMissingError(
        f"{name}: {why}; either run where there is a network, or give a folder with the original *-ubyte.gz files"
        " as --data-source DIR, or use --dataset mnist-mini, which needs neither"
    )
