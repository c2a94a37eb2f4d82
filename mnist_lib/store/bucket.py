"""Objects in a bucket: s3://, gs://, az://, through obstore. Imported only where a storage is a URL.

A request that was answered, with the answer lost, is sent again: a `create` may then find what it made itself. So
whoever finds the name taken compares, and contents that decide something are made unique by their writers.
"""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from mnist_lib.errors import StoreError
from mnist_lib.store.objects import check_name

log = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS_UNTIL_TOLD = 10  # that a request waits
SECONDS_BETWEEN_APPENDS = 10  # a bucket cannot append: the whole object is sent again
ABSENT = re.compile(r"NoSuchBucket|bucket does not exist|ContainerNotFound|container does not exist")


class BucketObjects:
    """Credentials are those of the environment, of the workload's identity or of the machine's, never in the URL."""

    def __init__(self, url: str, store: Any = None) -> None:
        """`store`: obstore's own, in place of the one that the URL names."""
        self._url = url.rstrip("/")
        self._appended: dict[str, bytearray] = {}
        self._unsent: set[str] = set()
        self._sent_at = 0.0
        with self._reported(""):
            self._store = store if store is not None else _open(self._url)

    def read(self, name: str) -> bytes | None:
        check_name(name)
        try:
            return self._do(name, lambda: bytes(obstore.get(self._store, name).bytes()))
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """By reading: the answer to a HEAD request does not tell a bucket that is not there from an object."""
        return self.read(name) is not None

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._put(name, content, "create")
        except AlreadyExistsError:
            return self.read(name) == content
        return True

    def replace(self, name: str, content: bytes) -> None:
        self._put(name, content, "overwrite")

    def append(self, name: str, content: bytes) -> None:
        """Kept, and sent at intervals."""
        if name not in self._appended:
            self._appended[name] = bytearray(self.read(name) or b"")
        self._appended[name].extend(content)
        self._unsent.add(name)
        if time.monotonic() - self._sent_at > SECONDS_BETWEEN_APPENDS:
            self.flush()

    def flush(self) -> None:
        for name in self._unsent:
            self.replace(name, bytes(self._appended[name]))
        self._unsent.clear()
        self._sent_at = time.monotonic()

    def names(self, prefix: str) -> Iterator[str]:
        if prefix:
            check_name(prefix)
        pages = self._do(prefix, lambda: list(obstore.list(self._store, prefix or None)))
        found = [entry["path"] for page in pages for entry in page]
        yield from sorted(found)

    def delete(self, name: str) -> None:
        check_name(name)
        with contextlib.suppress(FileNotFoundError):
            self._do(name, lambda: obstore.delete(self._store, name))

    def delete_below(self, prefix: str) -> None:
        for name in self.names(prefix):
            self.delete(name)

    def delete_leftovers(self, prefix: str) -> None:
        """There are none: a request is whole or it was not."""

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # of two drivers of a run, the first to publish a model decides

    def where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _put(self, name: str, content: bytes, mode: Any) -> None:
        check_name(name)
        # In one request: of several parts, the last would decide, without a condition.
        self._do(name, lambda: obstore.put(self._store, name, content, mode=mode, use_multipart=False))

    def _do(self, name: str, request: Callable[[], T]) -> T:
        waiting = threading.Timer(SECONDS_UNTIL_TOLD, log.warning, ("still waiting for %s", self.where(name)))
        waiting.daemon = True
        waiting.start()
        try:
            with self._reported(name):
                return request()
        finally:
            waiting.cancel()

    @contextlib.contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if ABSENT.search(str(error)):
                raise StoreError(f"{self._url}: there is no such bucket; make it, or use another --storage") from error
            raise
        except (BaseError, ValueError, OSError) as error:
            reason, what_to_do = _reason(error), "name another with --storage"
            if isinstance(error, PermissionDeniedError | UnauthenticatedError) or reason.startswith(("401", "403")):
                what_to_do = "give credentials that may read, write and list there, where the provider's tools look"
            raise StoreError(f"{self.where(name)} cannot be read or written ({reason}); {what_to_do}") from error


def _open(url: str) -> Any:
    options: Any = {
        "client_options": {"connect_timeout": "3s", "timeout": "60s", "allow_http": True},
        "retry_config": {
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=30),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2.0},
        },
    }
    if url.startswith("s3://") and "AWS_ACCESS_KEY_ID" not in os.environ:
        # Profiles of ~/.aws are boto3's to read; where it is not installed, obstore looks in all other places.
        with contextlib.suppress(ImportError):
            from obstore.auth.boto3 import Boto3CredentialProvider

            with contextlib.suppress(ValueError):  # it found none
                options["credential_provider"] = Boto3CredentialProvider()
    return from_url(url, **options)


def _reason(error: Exception) -> str:
    """The status, or what the network said: obstore tells all that it tried, over many lines."""
    text = str(error).partition("\n\nDebug source:")[0]
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return f"{status[1]}, {code[1]}" if code else status[1]
    return " ".join(text.split())[:300]
