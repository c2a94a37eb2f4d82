"""The command that resumes a run, from any folder."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from jobs.console.options import flags_of
from jobs.train.options import TrainOptions
from mnist_lib.model_file import with_folder

Options = TypeVar("Options", bound=TrainOptions)


def absolute(options: Options) -> Options:
    """Return the options with absolute paths, for a command in another folder."""
    folder = options.data().folder
    dataset = options.dataset if folder is None else str(folder)
    given = options.weights
    weights = given and {name: str(Path(str(path)).expanduser().absolute()) for name, path in given.items()}
    return replace(options, dataset=dataset, models=tuple(map(with_folder, options.models)), weights=weights)


def resume_command(options: TrainOptions, run: str, storage: str) -> list[str]:
    """Return the words of the command, with the options that are not taken from the storage."""
    command = ["python", "-m", options.COMMAND, "--resume", run, "--storage", storage]
    return command + flags_of(absolute(options).outside)
