"""The folder of one run: `<storage>/runs/<run>/`. `summary.json` comes last: with it, the run is complete."""

import itertools
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.store.objects import LocalObjects

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def check_run_name(run: str) -> None:
    """Raises SpecError for what cannot be a folder's name on every storage."""
    if not NAME.fullmatch(run):
        raise SpecError(
            f"run_name: expected up to 100 letters, digits, '.', '_' or '-', the first a letter or digit, got {run!r}"
        )


def check_writable(storage: Path) -> None:
    """Raises StoreError at once, not after the training, when nothing can be stored there."""
    objects = LocalObjects(storage)
    objects.replace(".writable", b"")
    objects.delete(".writable")


class RunFolder:
    """Raises StoreError, in every method, when the folder cannot be written."""

    def __init__(self, storage: Path, run: str) -> None:
        self.objects, self.run = LocalObjects(storage), run
        self.path = storage / "runs" / run

    @classmethod
    def create(cls, storage: Path, run: str, configuration: str) -> "RunFolder":
        """Begins anew what an unfinished run of that name left.

        Raises:
            SpecError: a finished run has that name.
        """
        folder = cls(storage, run)
        if folder.objects.exists(folder._name("summary.json")):
            raise SpecError(f"run_name: {run!r} is finished: see {folder.path}; choose another --run-name")
        folder.objects.delete_below(folder._name(""))
        folder.objects.replace(folder._name("config.yaml"), configuration.encode())
        return folder

    @classmethod
    def create_unnamed(cls, storage: Path, dataset: str, configuration: str) -> "RunFolder":
        """Under a name that no other run has: the time and the dataset, and a number where that is taken."""
        name = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{dataset}"
        for number in itertools.count(1):
            folder = cls(storage, name if number == 1 else f"{name}-{number}")
            if folder.objects.create(folder._name("config.yaml"), configuration.encode()):
                return folder
        raise AssertionError("unreachable: the numbers do not end")

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        content = json.dumps(document, indent=2, allow_nan=False) + "\n"
        self.objects.replace(self._name(name), content.encode())

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """One line of `history.jsonl`."""
        path = self.path / "history.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror}); name another with --storage") from error

    def _name(self, name: str) -> str:
        return f"runs/{self.run}/{name}"
