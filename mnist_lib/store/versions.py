"""Versions of a model: `<storage>/models/<model>/versions/<n>/`, numbered from 1, whole or absent, never changed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_lib.store.atomic import make_folders, told_as_store_error, write_new_folder


def publish(storage: Path, model: str, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> int:
    """Stores the files and the manifest, completed by their sizes and sha256, as the next version -> its number.

    Two publishers at once get two versions: the one that comes second to a number takes the next.

    Raises:
        StoreError: the folder cannot be written.
    """
    versions = storage / "models" / model / "versions"
    listed = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    document = json.dumps({**manifest, "files": listed}, indent=2).encode()
    with told_as_store_error(versions):
        make_folders(versions)
        number = 1 + max((int(path.name) for path in versions.iterdir() if path.name.isdigit()), default=0)
        while not write_new_folder(versions / str(number), {**files, "manifest.json": document}):
            number += 1
    return number


def version_folder(storage: Path, model: str, number: int) -> Path:
    return storage / "models" / model / "versions" / str(number)
