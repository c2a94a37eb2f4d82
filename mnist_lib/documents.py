"""JSON documents: each is a type, which is written as it is, and read with ranges, since anybody may have written it.

A type is a frozen dataclass or a `Document`. Fields that the type does not have are ignored, so a document may gain
fields without a new schema; a field that older documents lack has a default.
"""

import functools
import json
import re
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mnist_lib.clock import YEARS, moment_of
from mnist_lib.errors import IntegrityError, SchemaError
from mnist_lib.wording import one_line

T = TypeVar("T")

MAX_DEPTH = 8  # of nested objects and lists in a field of type `Json`
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

if TYPE_CHECKING:
    Moment = str
    Json = Any
else:

    class Moment(str):
        """A time as `clock.text_of` writes it."""

    Json = None | bool | int | float | str
    for _ in range(MAX_DEPTH):
        Json = None | bool | int | float | str | list[Json] | dict[str, Json]


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
    return msgspec.to_builtins(document, enc_hook=_plain)


def _plain(value: object) -> str:
    if isinstance(value, Moment):
        return str(value)
    raise TypeError(f"expected a document, got {type(value).__name__}")


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


def decode(content: bytes, kind: type[T], name: str, what: str = "JSON") -> T:
    """Return a document as a value of `kind`.

    Args:
        name: of the file, for messages.
        what: the document that is expected, for messages.

    Raises:
        IntegrityError: the document is not a `kind`; the message has the path of the first field that is wrong.
    """
    try:
        found: T = _decoder(kind).decode(content)  # type: ignore[arg-type]  # a type is hashable
        return found
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name}: expected {what}, got other content: {_reason(error)}") from error


def convert(value: object, kind: type[T], name: str, path: str) -> T:
    """Return a part of a document, which has been decoded as `Json`, as a value of `kind`.

    Raises IntegrityError, as `decode` does. `path`: where the part is in the document, such as "$.spec".
    """
    try:
        _decoder(kind)  # type: ignore[arg-type]  # so that msgspec knows the type
        return msgspec.convert(value, kind, dec_hook=_decode_text)
    except ValueError as error:
        raise IntegrityError(f"{name}: expected {kind.__name__}: {_reason(error).replace('`$', f'`{path}')}") from error


def require_schema(content: bytes, schema: int, name: str, what: str = "JSON") -> dict[str, msgspec.Raw]:
    """Return the fields of a document, not decoded.

    Raises:
        IntegrityError: it is not a JSON object.
        SchemaError: it has a newer schema.
    """
    fields = decode(content, dict[str, msgspec.Raw], name, what)
    found = bytes(fields.get("schema", b""))
    if re.fullmatch(rb"[0-9]{1,9}", found) and int(found) > schema:
        got = int(found)
        raise SchemaError(f"{name}: expected schema {schema} or older, got {got}; install a newer version")
    return fields


def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    # While msgspec 0.22 examines a dataclass, another thread that uses the same one ends in a segmentation fault.
    with _EXAMINING:
        return _new_decoder(kind)


@functools.lru_cache
def _new_decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=_decode_text)


def _decode_text(kind: type, value: Any) -> Any:
    if kind is not Moment or not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    if moment_of(value).year not in YEARS:
        raise ValueError(f"expected a year from {YEARS.start} to {YEARS.stop - 1}, got {value[:40]!r}")
    return Moment(value)


def _reason(error: BaseException) -> str:
    return one_line(error).replace(" - at `", " at `")
