"""JSON documents: each is a type, which is written as it is, and decoded once.

A type is a frozen dataclass or a `Document`. Fields that the type does not have are ignored, so a document may gain
fields without a new schema; a field that older documents lack has a default.
"""

import contextlib
import functools
import json
import re
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mnist_lib.errors import IntegrityError, MnistError, SchemaError
from mnist_lib.wording import one_line

T = TypeVar("T")

_EXAMINING = threading.Lock()

Count = Annotated[int, Meta(ge=0, le=10**12)]
Number = Annotated[int, Meta(ge=1, le=10**12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Interval = tuple[Share, Share]  # lower and upper limit
Rate = Annotated[float, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=1e11)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]*\Z", max_length=200)]  # of a model, a run or a trial
VersionName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,199}@[0-9]{1,8}\Z", description="a version, such as keras@3")
]
Text = Annotated[str, Meta(max_length=100_000)]
Texts = Annotated[dict[str, Text], Meta(max_length=100)]  # such as the versions of packages
Moment = Annotated[str, Meta(pattern=r"\A2[01][0-9]{2}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}Z\Z")]  # see `environment`
Json = Any


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document or a part of one. A field with its default is left out, unless the default is `written`."""


def written(default: Any) -> Any:
    """Return the default of a field that older documents lack. A document that has this value has the field, too."""
    return msgspec.field(default_factory=lambda: default)


def encode(document: object, *, indent: int | None = None) -> bytes:
    """Return a document as JSON in ASCII. Raises ValueError for NaN, which JSON does not have.

    Halves of surrogate pairs, as in the name of a file that is not UTF-8, become "?": `decode` would refuse them.
    """
    text = json.dumps(builtins_of(document), allow_nan=False, ensure_ascii=False).encode(errors="replace")
    if indent is not None:
        text = msgspec.json.format(text, indent=indent)  # in a tenth of the time that `json.dumps` takes for it
    return re.sub(r"[^\n -~]+", lambda letters: json.dumps(letters[0])[1:-1], text.decode()).encode()


def builtins_of(document: object) -> Any:
    """Return a document as dictionaries, lists, texts and numbers."""
    return msgspec.to_builtins(document)


def complete_lines(content: bytes) -> bytes:
    """Return lines, each a JSON object, with their line ends, and without an incomplete last one."""
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return content
    try:
        decode(content[end:], dict[str, msgspec.Raw], "the last line")
    except IntegrityError:
        return content[:end]
    return content + b"\n"


@contextlib.contextmanager
def reading(name: str, what: str = "an intact file") -> Iterator[None]:
    """Turn what goes wrong while the stored file `name` is read into an IntegrityError; errors of this program stay."""
    try:
        yield
    except MnistError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = one_line(error).replace(" - at `", " at `")
        raise IntegrityError(f"{name}: expected {what}, got other content: {kind}{reason}") from error


def decode(content: bytes, kind: type[T], name: str, what: str = "JSON") -> T:
    """Return a document as a value of `kind`.

    Args:
        name: of the file, for messages.
        what: the document that is expected, for messages.

    Raises:
        IntegrityError: the document is not a `kind`; the message has the path of the first field that is wrong.
    """
    with reading(name, what):
        found: T = _decoder(kind).decode(content)  # type: ignore[arg-type]  # a type is hashable
        return found


def convert(value: object, kind: type[T], name: str) -> T:
    """Return a part of a document, which has been decoded as `Json`, as a value of `kind`.

    Raises IntegrityError, as `decode` does. `name`: of the file and the part, for messages.
    """
    with reading(name, kind.__name__):
        _decoder(kind)  # type: ignore[arg-type]  # so that msgspec knows the type
        return msgspec.convert(value, kind)


def decode_upgraded(
    content: bytes, kind: type[T], schema: int, name: str, upgrade: Callable[[dict[str, Any]], dict[str, Any]]
) -> T:
    """Return a document of this schema, or one of the schema before after `upgrade` has converted it.

    Raises IntegrityError as `decode` does, or SchemaError if a newer version of this program wrote it.
    """
    got = require_schema(content, schema, name)
    if got == schema:
        return decode(content, kind, name)
    document = decode(content, dict[str, Any], name)
    with reading(name):
        document = {**upgrade(document), "schema": schema}
    return convert(document, kind, name)


class _Schema(msgspec.Struct):
    schema: int = 0


def require_schema(content: bytes, schema: int, name: str, what: str = "JSON") -> int:
    """Return the schema of a document.

    Raises SchemaError if it is newer than `schema`, or IntegrityError if the document is not a JSON object.
    """
    got = decode(content, _Schema, name, what).schema
    if got > schema:
        raise SchemaError(f"{name}: expected schema {schema} or older, got {got}; install a newer version")
    return got


def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    # While msgspec 0.22 examines a dataclass, another thread that uses the same one ends in a segmentation fault.
    with _EXAMINING:
        return _new_decoder(kind)


_new_decoder = functools.lru_cache(msgspec.json.Decoder)
