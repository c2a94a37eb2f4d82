"""Objects in a bucket: s3://, gs:// or az://, through obstore. Imported only when a storage is a URL.

A request whose answer is lost is sent again, so `create` may find the object that it created itself. It therefore
compares contents. Writers that compete for a name must write different contents; otherwise all of them seem to succeed.
"""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from mnist_lib.documents import complete_lines
from mnist_lib.errors import SpecError, StoreError, TooLargeError
from mnist_lib.objects.lease import is_held, locked
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, check_name, concurrently, require_size
from mnist_lib.wording import MAX_REASON, without_secrets

log = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS_BEFORE_WARNING = 10  # a request that takes longer is logged
SECONDS_BETWEEN_APPENDS = 10.0  # a bucket cannot append: the whole object is sent each time
MAX_ADDED_BYTES = 1 << 28
MAX_SHARE_OF_APPENDS = 0.05  # share of the time spent on appending; large objects are sent less often
# The modules of other errors: the panics of Rust, and those of boto3, which may not be installed.
ERROR_MODULES = ("pyo3_runtime", "botocore.exceptions")
# Variables with an address, and its form. Rust panics at another value, and prints its stack.
ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
ADDRESS = re.compile(r"https?://([!-.0-~]*@)?([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?([/?#][!-~]*)?", re.I | re.A)
NO_SUCH_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist|ContainerNotFound|container does not exist")


class BucketObjects:
    """Objects below a URL. Credentials come from the environment or the machine's identity, never from the URL."""

    max_concurrent_requests = 16

    def __init__(self, url: str, store: Any = None) -> None:
        """`store`: an obstore store to use instead of opening the URL."""
        self._url = url.rstrip("/")
        self._appended_name = ""  # the object that was appended to last
        self._appended = bytearray()  # its whole content
        self._is_sent = True
        self._send_at = 0.0
        with self._store_errors(""):
            self._store = store if store is not None else _open(self._url)

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        return self._with_version(name, limit)[0]

    def _get(self, name: str, limit: int) -> tuple[bytes, Any]:
        """Return the content of an object, and the mode of a `_put` that fails if it has changed since."""
        found = obstore.get(self._store, name)  # has received the size, but not yet the content
        require_size(self.where(name), found.meta["size"], limit)
        return bytes(found.bytes()), _version(found.meta)

    def _with_version(self, name: str, limit: int = MAX_ADDED_BYTES) -> tuple[bytes | None, Any]:
        """Return what `_get` does, or if there is no object, None and the mode. Raises TooLargeError as `read`."""
        check_name(name)
        try:
            return self._request(name, partial(self._get, name, limit))
        except FileNotFoundError:
            return None, "create"

    def exists(self, name: str) -> bool:
        """Begin to read the object: a HEAD request does not distinguish a missing bucket from a missing object."""
        check_name(name)
        try:
            self._request(name, lambda: obstore.get(self._store, name))
        except FileNotFoundError:
            return False
        return True

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._put(name, content, "create")
        except AlreadyExistsError:
            with contextlib.suppress(TooLargeError):
                return self.read(name, len(content)) == content
            return False
        return True

    def replace(self, name: str, content: bytes) -> None:
        self._put(name, content, "overwrite")

    def append(self, name: str, content: bytes) -> None:
        if name != self._appended_name:
            self.flush()
            self._appended = bytearray(self.read(name, MAX_ADDED_BYTES) or b"")
            self._appended_name = name
        self._appended.extend(content)
        self._is_sent = False
        if time.monotonic() > self._send_at:
            self.flush()

    def add(self, name: str, content: bytes) -> None:
        tried = None
        while True:
            before, mode = self._with_version(name)
            if tried is not None and before is not None and before.startswith(tried):
                return  # the answer to the last attempt was lost
            tried = complete_lines(before or b"") + content
            with contextlib.suppress(AlreadyExistsError, PreconditionError):
                self._put(name, tried, mode)
                return

    def flush(self) -> None:
        if self._is_sent:
            return
        begin = time.monotonic()
        self.replace(self._appended_name, bytes(self._appended))
        self._is_sent = True
        now = time.monotonic()
        self._send_at = now + max(SECONDS_BETWEEN_APPENDS, (now - begin) / MAX_SHARE_OF_APPENDS)

    def names(self, prefix: str) -> Iterator[str]:
        if prefix:
            check_name(prefix)
        pages = self._request(prefix, lambda: list(obstore.list(self._store, prefix or None)))
        yield from sorted(entry["path"] for page in pages for entry in page)

    def folders(self, prefix: str) -> list[str]:
        check_name(prefix)
        found = self._request(prefix, lambda: obstore.list_with_delimiter(self._store, prefix))
        return sorted(folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"])

    def tags(self) -> dict[str, list[Any]]:
        """Return, by name, each object's size and a tag that changes with its content. A name may be any text."""
        pages = self._request("", lambda: list(obstore.list(self._store)))
        return {entry["path"]: [entry["size"], entry["e_tag"]] for page in pages for entry in page}

    def content(self, name: str, limit: int) -> bytes:
        """Return the content of an object whose name may be any text. Raises TooLargeError as `read`."""
        return self._request(name, partial(self._get, name, limit))[0]

    def delete(self, name: str) -> None:
        check_name(name)
        with contextlib.suppress(FileNotFoundError):
            self._request(name, lambda: obstore.delete(self._store, name))

    def delete_below(self, prefix: str) -> None:
        for _ in concurrently(self, self.delete, [*self.names(prefix)]):
            pass

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        return locked(self, name)

    def is_locked(self, name: str) -> bool:
        return is_held(self, name)

    def where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _put(self, name: str, content: bytes, mode: Any) -> None:
        """Write an object. `mode`: that of obstore, or that of `_with_version`."""
        check_name(name)
        # In one request: a multipart upload is unconditional, so the last writer would win.
        self._request(name, lambda: obstore.put(self._store, name, content, mode=mode, use_multipart=False))

    def _request(self, name: str, request: Callable[[], T]) -> T:
        warning = threading.Timer(SECONDS_BEFORE_WARNING, log.warning, ("still waiting for %s", self.where(name)))
        warning.daemon = True
        warning.start()
        try:
            with self._store_errors(name):
                return request()
        finally:
            warning.cancel()

    @contextlib.contextmanager
    def _store_errors(self, name: str) -> Iterator[None]:
        """Turn the bucket's errors into StoreErrors, except for an object that exists, is missing or has changed."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError, SpecError):
            raise
        except FileNotFoundError as error:
            if NO_SUCH_BUCKET.search(str(error)):
                raise StoreError(f"{self._url}: there is no such bucket; create it or name another") from error
            raise
        except BaseException as error:
            if not (isinstance(error, BaseError | ValueError | OSError) or type(error).__module__ in ERROR_MODULES):
                raise
            reason, advice = _reason(error), "name another with --storage"
            if isinstance(error, PermissionDeniedError | UnauthenticatedError) or reason.startswith(("401", "403")):
                advice = "configure credentials that may read, write and list, as for the provider's own tools"
            raise StoreError(f"{self.where(name)} cannot be read or written ({reason}); {advice}") from error


def _version(found: Any) -> Any:
    """Return what identifies the version of an object: S3 and Azure compare the tag, Google Cloud the number."""
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


def _check_endpoints() -> None:
    """Raise SpecError if a variable with the address of an S3 service has another form."""
    for name in ENDPOINTS:
        if not ADDRESS.fullmatch(os.environ.get(name, "https://host")):
            # The value is not shown, since it can contain a password.
            raise SpecError(
                f"{name}: expected an address such as https://host:9000, got another text; correct or unset it"
            )


def _open(url: str) -> Any:
    _check_endpoints()
    options: Any = {
        "client_options": {"connect_timeout": "3s", "timeout": "60s", "allow_http": True},
        "retry_config": {
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=30),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2.0},
        },
    }
    if url.startswith("s3://") and "AWS_ACCESS_KEY_ID" not in os.environ:
        # Only boto3 reads the profiles in ~/.aws. Without it, obstore looks for credentials in all other places.
        with contextlib.suppress(ImportError):
            from obstore.auth.boto3 import Boto3CredentialProvider

            with contextlib.suppress(ValueError):  # boto3 found no credentials
                options["credential_provider"] = Boto3CredentialProvider()
    return from_url(url, **options)


def _reason(error: BaseException) -> str:
    """Return the HTTP status or the network error as one line; obstore's own text has many lines."""
    text = str(error).partition("\n\nDebug source:")[0]
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return f"{status[1]}, {code[1]}" if code else status[1]
    return without_secrets(" ".join(text.split()))[:MAX_REASON]  # AWS_ENDPOINT_URL can contain a password
