"""The folder of one run: `<storage>/runs/<run>/`. `summary.json` comes last: with it, the run is complete."""

import itertools
import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_lib.errors import SpecError
from mnist_lib.store.atomic import make_folders, told_as_store_error, write_file

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def check_run_name(run: str) -> None:
    """Raises SpecError for what cannot be a folder's name on every storage."""
    if not NAME.fullmatch(run):
        raise SpecError(
            f"run_name: expected up to 100 letters, digits, '.', '_' or '-', the first a letter or digit, got {run!r}"
        )


def check_writable(storage: Path) -> None:
    """Raises StoreError at once, not after the training, when nothing can be stored there."""
    with told_as_store_error(storage):
        make_folders(storage)
        tempfile.TemporaryFile(dir=storage).close()


class RunFolder:
    """Raises StoreError, in every method, when the folder cannot be written."""

    def __init__(self, storage: Path, run: str) -> None:
        self.storage, self.run = storage, run
        self.path = storage / "runs" / run

    @classmethod
    def create(cls, storage: Path, run: str) -> "RunFolder":
        """Begins anew what an unfinished run of that name left.

        Raises:
            SpecError: a finished run has that name.
        """
        folder = cls(storage, run)
        if (folder.path / "summary.json").exists():
            raise SpecError(f"run_name: {run!r} is finished: see {folder.path}; choose another --run-name")
        with told_as_store_error(folder.path):
            make_folders(folder.path)
            (folder.path / "history.jsonl").unlink(missing_ok=True)
            shutil.rmtree(folder.path / "trials", ignore_errors=True)
        return folder

    @classmethod
    def create_unnamed(cls, storage: Path, dataset: str) -> "RunFolder":
        """Under a name that no other run has: the time and the dataset, and a number where that is taken."""
        name = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{dataset}"
        for number in itertools.count(1):
            folder = cls(storage, name if number == 1 else f"{name}-{number}")
            with told_as_store_error(folder.path):
                make_folders(folder.path.parent)
                try:
                    folder.path.mkdir()
                except FileExistsError:
                    continue
            return folder
        raise AssertionError("unreachable: the numbers do not end")

    def write_text(self, name: str, text: str) -> None:
        with told_as_store_error(self.path):
            make_folders((self.path / name).parent)
            write_file(self.path / name, text.encode())

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(document, indent=2, allow_nan=False) + "\n")

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """One line of `history.jsonl`."""
        with told_as_store_error(self.path), (self.path / "history.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
