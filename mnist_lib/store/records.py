"""Small JSON documents that vouch for themselves: with their schema, and a hash of all that they say."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mnist_lib.errors import IntegrityError, SchemaError

SCHEMA = 1


def seal(document: Mapping[str, Any]) -> bytes:
    return _text({"schema": SCHEMA, **document, "sha256": _sha256(document)})


def unseal(content: bytes, name: str) -> dict[str, Any]:
    """What was sealed.

    Raises:
        IntegrityError, SchemaError: naming the record, what was expected and what came.
    """
    try:
        document: dict[str, Any] = json.loads(content)
        schema, sha256 = document.pop("schema"), document.pop("sha256", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{name}: expected a record, got {len(content)} bytes that are none") from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise SchemaError(f"{name}: its record has schema {schema}, this program knows {SCHEMA}; use a newer one")
    try:
        whole = seal(document) == content  # whitespace and the order of fields included
    except ValueError:  # NaN, which JSON does not have
        whole = False
    if not whole:
        raise IntegrityError(f"{name}: expected a record whose sha256 is its own, got {str(sha256)[:64]!r} in it")
    return document


def _sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(document)).hexdigest()


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode()
