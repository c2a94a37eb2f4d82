"""The folder of one run: `<storage>/runs/<run>/`. `summary.json` comes last: with it, the run is complete."""

import itertools
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.store.objects import Objects, check_part
from mnist_lib.store.publishing import LONGEST_RUN

SUMMARY = "summary.json"
HISTORY = "history.jsonl"


def check_run_name(run: str) -> None:
    """Raises SpecError for what cannot be a folder's name on every storage."""
    check_part("run_name", run, LONGEST_RUN)


def check_writable(objects: Objects) -> None:
    """Raises StoreError at once, not after the training, when nothing can be stored there."""
    name = f"writable-{uuid.uuid4().hex}"
    try:
        if not objects.create(name, b"1") or objects.create(name, b"2"):
            raise StoreError(f"{objects.where(name)}: a second writer was not refused; name another with --storage")
    finally:
        objects.delete(name)


class RunFolder:
    """Raises StoreError, in every method, when the folder cannot be written."""

    def __init__(self, objects: Objects, run: str) -> None:
        self.objects, self.run = objects, run

    @classmethod
    def create(cls, objects: Objects, run: str, configuration: str) -> "RunFolder":
        """Begins anew what an unfinished run of that name left.

        Raises:
            SpecError: a finished run has that name.
        """
        folder = cls(objects, run)
        if objects.exists(folder._name(SUMMARY)):
            raise SpecError(f"run_name: {run!r} is finished: see {folder.where}; choose another --run-name")
        objects.delete_below(f"runs/{run}")
        objects.replace(folder._name("config.yaml"), configuration.encode())
        return folder

    @classmethod
    def create_unnamed(cls, objects: Objects, dataset: str, configuration: str) -> "RunFolder":
        """Under a name that no other run has: the time and the dataset, and a number where that is taken."""
        name = f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}-{dataset}"
        for number in itertools.count(1):
            folder = cls(objects, name if number == 1 else f"{name}-{number}")
            # The comment makes it another's than that of a run with the same options: see `bucket`.
            if objects.create(folder._name("config.yaml"), f"# {uuid.uuid4()}\n{configuration}".encode()):
                return folder
        raise AssertionError("unreachable: the numbers do not end")

    @property
    def where(self) -> str:
        return self.objects.where(f"runs/{self.run}")

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        content = json.dumps(document, indent=2, allow_nan=False) + "\n"
        self.objects.replace(self._name(name), content.encode())

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """One line of `history.jsonl`."""
        self.objects.append(self._name(HISTORY), json.dumps(entry).encode() + b"\n")

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Nothing is written after it."""
        self.objects.flush()
        self.write_json(SUMMARY, summary)

    def _name(self, name: str) -> str:
        return f"runs/{self.run}/{name}"
