"""Records as somebody who can write to the storage changes them: with another content and the hash that fits it."""

import json
from pathlib import Path
from typing import Any

from mnist_lib.objects.records import seal


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields of a record without its schema and its hash."""
    document: dict[str, Any] = json.loads(path.read_bytes())
    return {name: value for name, value in document.items() if name not in ("schema", "sha256")}


def reseal(path: Path, change: dict[str, Any]) -> None:
    path.write_bytes(seal({**fields_of(path), **change}))
