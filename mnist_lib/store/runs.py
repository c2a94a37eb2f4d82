"""The folder of one run: `<storage>/runs/<run>/`. `summary.json` comes last: with it, the run is complete."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_lib.errors import SpecError
from mnist_lib.store.atomic import told_as_store_error, write_file

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def check_run_name(run: str) -> None:
    """Raises SpecError for what cannot be a folder's name on every storage."""
    if not NAME.fullmatch(run):
        raise SpecError(
            f"run_name: expected up to 100 letters, digits, '.', '_' or '-', the first a letter or digit, got {run!r}"
        )


class RunFolder:
    """Creates the folder; what an unfinished run of that name left there is begun again.

    Raises:
        SpecError: a finished run has that name.
        StoreError: from here and from every method, the folder cannot be written.
    """

    def __init__(self, storage: Path, run: str) -> None:
        self.storage, self.run = storage, run
        self.path = storage / "runs" / run
        if (self.path / "summary.json").exists():
            raise SpecError(f"run_name: {run!r} is finished: see {self.path}; choose another --run-name")
        with told_as_store_error(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "history.jsonl").unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        with told_as_store_error(self.path):
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, text.encode())

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(document, indent=2, allow_nan=False) + "\n")

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """One line of `history.jsonl`."""
        with told_as_store_error(self.path), (self.path / "history.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
