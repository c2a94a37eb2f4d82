"""`mnist-jobs COMMAND`, the same as `python -m jobs.COMMAND`."""

import importlib
import sys
from collections.abc import Sequence

from jobs.console.options import split_subcommand
from jobs.console.output import entry_point

COMMANDS = {
    "show": "describe a dataset: its size, classes and pixel values",
    "train": "train models, report their accuracy and store them",
    "search": "find good settings: train many configurations, continue the best ones",
    "submit": "run `train` or `search` on a cluster as a job, and follow it",
    "retrain": "run `train` on a schedule, as a daemon or from another scheduler",
    "predict": "predict the classes of pictures with a stored model",
    "review": "correct the labels of pictures in the browser",
    "track": "copy runs to MLflow",
    "doctor": "check this machine and every node for problems that would make a run fail",
    "models": "manage stored models: list, compare, promote, roll back, verify, export",
}


@entry_point
def main(arguments: Sequence[str]) -> int:
    name, others = split_subcommand("mnist-jobs", COMMANDS, arguments)
    module = importlib.import_module(f"jobs.{name}")
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"jobs.{name}.__main__")
    return int(module.main(others))


if __name__ == "__main__":
    sys.exit(main())
