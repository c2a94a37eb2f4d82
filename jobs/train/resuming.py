"""The command that resumes a run: the one that began it, with its name and with absolute paths."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, load_mapping, parse
from jobs.console.terminal import Drawn
from jobs.train.options import TrainOptions
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.model_file import with_folder
from mnist_lib.objects.storage import open_storage
from mnist_lib.settings import values_of
from mnist_lib.store.runs import CONFIGURATION, RunFolder, check_run_name
from mnist_lib.wording import printable, without_secrets


def configuration(options: TrainOptions) -> dict[str, Any]:
    """Return the options of a run as in a --config file for any folder, without those that concern one process."""
    absolute = {
        "dataset": DataRequest(dataset=options.dataset).dataset,  # unlike that of `options.data`, it reads no file
        "models": [*map(with_folder, options.models)],
        "weights": options.weights
        and {name: Path(str(path)).expanduser().absolute() for name, path in options.weights.items()},
    }
    values = {**values_of(options, "stored"), **absolute}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))  # YAML has neither tuples nor paths
    return {name: value for name, value in plain.items() if value is not None}


def flags_by_default(
    configuration: Mapping[str, Any], options_type: type[TrainOptions], dataset: str
) -> tuple[list[str], list[str]]:
    """Return a configuration as flags: those that differ from the defaults for a dataset, and the others."""
    defaults = flags_of({**values_of(options_type(dataset=dataset)), "dataset": options_type.dataset})
    flags = flags_of(configuration)
    return [flag for flag in flags if flag not in defaults], [flag for flag in flags if flag in defaults]


def resume_command(options: TrainOptions, run: str) -> list[str]:
    """Return the words of the command that resumes a run with these options. Secrets in URLs are replaced."""
    flags, _ = flags_by_default(configuration(options), type(options), options.dataset)
    return ["python", "-m", options.COMMAND, f"--run-name={run}", *map(without_secrets, flags)]


def stored_command(
    run: str, storage: str, options_types: Sequence[type[TrainOptions]], arguments: Sequence[str] = ()
) -> str:
    """Return the command that resumes a run with its stored options, to be printed and pasted.

    Others may write to the storage, so people decide whether to trust its files, code and addresses: each option is on
    a line of its own.

    Args:
        options_types: those of the commands that may have begun the run.
        arguments: a command line, whose options replace the stored ones.

    Raises:
        SpecError: there is no such run.
        UsageError: the run is one of another command.
        IntegrityError: its record or its configuration is damaged.
    """
    check_run_name(run)
    folder = RunFolder(open_storage(storage), run)
    content = folder.read(CONFIGURATION)
    if content is None:
        raise SpecError(f"resume: expected the name of a run in {folder.objects.where('runs')}, got {run!r}")
    command = folder.begun().command
    types = {options_type.COMMAND: options_type for options_type in options_types}
    if command not in types:
        expected = f"expected a run of {', '.join(types)}, got one of {command}"
        raise UsageError(f"resume: {expected}; use python -m {command} --resume")
    try:
        stored = {**load_mapping(content, CONFIGURATION), "storage": storage}
        words = resume_command(parse(command, types[command], arguments, stored), run)
    except (UsageError, SpecError) as error:
        raise IntegrityError(f"{folder.where}: {error}") from error
    text = " \\\n  ".join([shlex.join(words[:3]), *map(shlex.quote, words[3:])])
    return Drawn(printable(text, keep="\n"))  # not broken into lines otherwise
