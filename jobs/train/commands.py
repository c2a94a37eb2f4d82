"""The commands that train and the annexes of a run, found by name; the command that resumes a run.

The options of a schedule or a submission determine which command it runs.
"""

import importlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, load_mapping, parse, read_config, split_config
from jobs.console.terminal import Drawn
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.model_file import with_folder
from mnist_lib.objects.storage import open_storage
from mnist_lib.settings import options_of, values_of
from mnist_lib.store.runs import CONFIGURATION, RunFolder, check_run_name
from mnist_lib.wording import printable, without_secrets

# The type of each command's plans. Flags belong to the first command that has no `MARKS`, or one among the flags.
PLANS = {"jobs.search": "jobs.search.plan:SearchPlan", "jobs.train": "jobs.train.plan:Plan"}
# Optional modules that process a finished run, by the text that a terminal shows meanwhile. Each of them starts to load
# its libraries (`load_in_background`), adds its output for the run (`add`), and updates its output for all runs
# (`update`). A failure in one is a warning, since the models are already stored.
ANNEXES = {"writing the report": "jobs.train.reporting"}


def annexes(*, wanted: bool = True) -> dict[str, ModuleType]:
    """Return the annexes by their texts in `ANNEXES`; {} if they are not wanted."""
    return {text: importlib.import_module(name) for text, name in ANNEXES.items()} if wanted else {}


def configuration(options: TrainOptions) -> dict[str, Any]:
    """Return the options of a run, except those of one process, for a --config file valid in any working folder."""
    absolute = {
        "dataset": DataRequest(dataset=options.dataset).dataset,  # unlike `options.data()`, this reads no file
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
        options_types: the types of the commands that may have begun the run.
        arguments: a command line, whose options replace the stored ones.

    Raises:
        SpecError: there is no such run.
        UsageError: another command began the run.
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
    return Drawn(printable(text, keep="\n"))  # so that no more line breaks are added


def plan_types() -> list[type[Plan]]:
    """Return the types of plans of all commands that train."""
    names = [place.split(":") for place in PLANS.values()]
    return [getattr(importlib.import_module(module), name) for module, name in names]


def options_types() -> list[type[TrainOptions]]:
    """Return the types of options of all commands that train."""
    return [plan_type.OPTIONS for plan_type in plan_types()]


def plan_of(options: TrainOptions) -> Plan:
    """Return the plan of a run with these options."""
    return next(plan_type for plan_type in plan_types() if plan_type.OPTIONS is type(options)).of(options)


def job_options(program: str, flags: Sequence[str], stored: Mapping[str, Any] = MappingProxyType({})) -> TrainOptions:
    """Return the options of the command that the flags are meant for.

    Args:
        stored: values that replace the defaults, as in a --config file.
    """
    files, words = split_config(flags)
    names = {word[2:].partition("=")[0] for word in words if word.startswith("--")}.union(
        stored, *map(read_config, files)
    )
    meant = next(kind for kind in options_types() if not kind.MARKS or not names.isdisjoint(kind.MARKS))
    options: TrainOptions = parse(program, meant, flags, stored)
    return options


def require_after_dashes(own: Sequence[str], options: type[Any]) -> None:
    """Raise UsageError if an option of the job comes before the dashes, where only fields of `options` may be."""
    for place, word in enumerate(own):
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        kind = next((kind for kind in reversed(options_types()) if name in options_of(kind)), None)
        if word.startswith("--") and kind is not None and name not in options_of(options):
            shown = " ".join([word, *([] if "=" in word else own[place + 1 : place + 2])])
            flag = word.partition("=")[0]
            raise UsageError(f"{flag} is an option of {kind.COMMAND}; give it after --, as in: -- {shown}")
