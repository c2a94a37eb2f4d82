"""`mnist-jobs COMMAND`, the same as `python -m jobs.COMMAND`."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from jobs.console.options import split_subcommand
from jobs.console.output import entry_point

COMMANDS = {
    "train": "train models, report their accuracy and store them",
    "search": "find good settings: train many configurations, continue the best ones",
    "submit": "run `train` or `search` on a cluster as a job, and follow it",
    "retrain": "run `train` on a schedule, as a daemon or from another scheduler",
    "predict": "predict the classes of pictures with a stored model",
    "review": "correct the labels of pictures in the browser",
    "show": "describe a dataset: its size, classes and pixel values",
    "track": "copy runs to MLflow",
    "doctor": "check this machine and every node for problems that would make a run fail",
    "models": "manage stored models: list, compare, promote, roll back, verify, export",
}


@entry_point
def main(arguments: Sequence[str]) -> int:
    name, others = split_subcommand("mnist-jobs", COMMANDS, arguments)
    return int(module_of(name).main(others))


def module_of(name: str) -> Any:
    """Return the module of a command. Its `OPTIONS` are the types of options, by subcommand; "" is that of none."""
    module = importlib.import_module(f"jobs.{name}")
    return importlib.import_module(f"jobs.{name}.__main__") if hasattr(module, "__path__") else module


if __name__ == "__main__":
    sys.exit(main())
