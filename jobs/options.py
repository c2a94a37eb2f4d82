"""One typed definition of every option: its name, default, help and type; the parser is made from it.

An option is a field of a frozen dataclass: `learning_rate` is `--learning-rate` on the command line and
`learning_rate:` in a --config file. Whether a value is possible is checked where it belongs (`TrialSpec`, `Resources`).
"""

import argparse
import dataclasses
import difflib
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse

from cluster.limits import Limits
from jobs.exits import UsageError
from mnist_lib.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES, require_known
from mnist_lib.errors import SpecError
from mnist_lib.spec import LARGEST_SEED, Pace, Resources, TrialSpec, trial_grid
from mnist_lib.store.promotion import WHEN, Rule


class _UnreadableError(argparse.ArgumentTypeError, ValueError):
    """Of the two, argparse takes over the text of the first, jsonargparse reading a file that of the second."""


def comma_list(value: str | Sequence[str]) -> tuple[str, ...]:
    """ "a,b" on the command line, a list in a file."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise _UnreadableError(f"expected names, as in a,b, got {value!r}")
    return tuple(part.strip() for part in parts if part.strip())


def seeds(value: str | int | Sequence[int]) -> tuple[int, ...] | int:
    """ "3" is a count, "4,8" a list, "4," a list of one."""
    if isinstance(value, str) and "," in value:
        return tuple(whole_number(part) for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple):
        return tuple(map(whole_number, value))
    return whole_number(value)


def whole_number(value: Any) -> int:
    if re.fullmatch(r"\s*[+-]?\d+\s*", str(value)):
        return int(value)
    raise _UnreadableError(f"expected a whole number, got {value!r}")


def number(value: Any) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise _UnreadableError(f"expected a number, got {value!r}") from None


def moment(value: Any) -> str:
    """As the store writes it: UTC, to the second. Without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(str(value))
        time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _UnreadableError(f"expected a time, as in 2026-11-25T03:00:00Z, got {value!r}") from None
    return time.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def user_path(value: str | Path) -> Path:
    return Path(value).expanduser()


def folder(value: str | Path) -> Path:
    """Absolute, since tasks run in other folders."""
    return user_path(value).absolute()


def auto_or_whole_number(value: Any) -> int | None:
    return None if value in ("auto", None) else whole_number(value)


def option(
    default: Any,
    help: str,
    parse: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    short: Sequence[str] = (),
    positional: bool = False,
) -> Any:
    """`parse` None: a flag that is on or off. A positional one may be left out, and is `default` then."""
    return dataclasses.field(
        default=default,
        metadata={"help": help, "parse": parse, "metavar": metavar, "short": short, "positional": positional},
    )


STORAGE_HELP = "where runs and models are stored: a folder, or as in s3://bucket/folder, gs://..., az://..."


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Trains every model with every seed, reports test accuracy, and stores the best trial of each model."""

    dataset: str = option(
        "mnist-mini", "; ".join(f"{name}: {entry.about}" for name, entry in DATASETS.items()), str, "NAME"
    )
    data_dir: Path | None = option(
        None, "TensorFlow Datasets' folder (default: TFDS_DATA_DIR or ~/tensorflow_datasets)", folder, "DIR"
    )
    data_source: Path | None = option(
        None, "a folder with the original *-ubyte.gz files, for machines without a network", folder, "DIR"
    )
    models: tuple[str, ...] = option(("keras", "scratch"), "which of: " + ", ".join(MODELS), comma_list, "A,B")
    seeds: tuple[int, ...] | int = option(1, "how many seeds from --seed on; or a list, as in 4,8", seeds, "N|A,B")
    seed: int = option(0, "the first seed", whole_number, "N")
    epochs: int = option(5, "passes over the training images", whole_number, "N")
    batch_size: int = option(128, "images per step, over all replicas of a trial", whole_number, "N")
    optimizer: str | None = option(None, f"{' or '.join(OPTIMIZERS)} (default: the model's own)", str, "NAME")
    learning_rate: float | None = option(
        None, "step size, at its peak (default: the model's or the optimizer's own)", number, "X"
    )
    schedule: str | None = option(
        None,
        "; ".join(f"{name}: {about}" for name, about in SCHEDULES.items()) + " (default: the model's own)",
        str,
        "NAME",
    )
    precision: str = option("float32", "or bfloat16 in training; weights and results are float32", str, "NAME")
    hidden_units: int | None = option(None, "width of the hidden layer (default: the model's own)", whole_number, "N")
    validation_percent: int = option(
        10, "share of the training images that chooses the epoch and the trial to store", whole_number, "N"
    )
    address: str | None = option(
        None, "a running Ray cluster (default: RAY_ADDRESS, or a cluster of our own, here)", str, "HOST:PORT"
    )
    gpus_per_trial: int | None = option(
        None, "a trial is mirrored over them (default: auto, 1 where there are any)", auto_or_whole_number, "N|auto"
    )
    cpus_per_trial: int | None = option(
        None, "its threads, too (default: auto, all that there are to share out)", auto_or_whole_number, "N|auto"
    )
    cpu_replicas: int = option(
        1, "without GPUs: mirror each trial over this many logical CPU devices", whole_number, "N"
    )
    allow_cpu: bool = option(False, "train on CPU devices in place of GPUs that TensorFlow cannot see")
    max_failures: int = option(3, "how often a trial whose worker died is tried again", whole_number, "N")
    wait_for_resources: float | None = option(
        None,
        "seconds to wait while every node is busy (default: 600), and, if given, for nodes that are not there yet",
        number,
        "S",
    )
    trial_timeout: float | None = option(None, "seconds after which an attempt at a trial is given up", number, "S")
    max_seconds: float | None = option(
        None, "train fewer epochs rather than longer than this; each trial trains at least one", number, "S"
    )
    finish_by: str | None = option(None, "the same by a time, as in 2026-11-25T06:00:00Z", moment, "TIME")
    checkpoint_seconds: float = option(
        Pace.checkpoint_seconds, "from one checkpoint of a trial to the next; 0: after each epoch", number, "S"
    )
    promote: str = option(
        Rule.when,
        "; ".join(f"{when}: {about}" for when, about in WHEN.items()),
        str,
        "WHEN",
    )
    alpha: float = option(Rule.alpha, "--promote if-better asks for a smaller p of McNemar's test", number, "P")
    min_accuracy: float = option(Rule.min_accuracy, "what a model's first champion must reach, as in 0.97", number, "X")
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    run_name: str | None = option(None, "the run's name (default: the time and the dataset)", str, "NAME")
    resume: str | None = option(
        None, "go on with that unfinished run, with the options that it was begun with", str, "RUN"
    )
    chaos: int | None = option(
        None,
        "a rehearsal on nodes on this machine: trains in peace, then while they are killed at random; keeps nothing",
        whole_number,
        "SEED",
    )
    plan: bool = option(False, "print what would run, where and why, and stop")
    json: bool = option(False, "print the summary as one JSON document instead of tables")
    verbose: bool = option(False, "show every epoch, and tracebacks", short=["-v"])

    def trials(self) -> list[TrialSpec]:
        """Raises SpecError for what no trial can have."""
        require_known("dataset", self.dataset, DATASETS)
        return trial_grid(
            self.models,
            self._seeds(),
            dataset=self.dataset,
            epochs=self.epochs,
            global_batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            precision=self.precision,
            hidden_units=self.hidden_units,
            validation_percent=self.validation_percent,
        )

    def resources(self, cpus: int, gpus: int) -> Resources:
        """Raises SpecError for what no trial can run on."""
        return Resources(cpus=cpus, gpus=gpus, cpu_replicas=self.cpu_replicas, allow_cpu=self.allow_cpu)

    def check(self) -> None:
        """Raises SpecError for a value that is out of range; of resources, what is auto is known with the cluster."""
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        self.resources(1 if cpus is None else cpus, 0 if gpus is None else gpus)
        self.rule()
        self.limits()
        self.pace(begin=0)

    def limits(self) -> Limits:
        """Raises SpecError for what is no time or count."""
        if not 0 <= self.max_failures <= 1_000:
            raise SpecError(f"max_failures: expected a whole number from 0 to 1000, got {self.max_failures}")
        wait, overtime = self.wait_for_resources, self.trial_timeout
        return Limits(
            max_failures=self.max_failures,
            item_seconds=_seconds("trial_timeout", math.inf if overtime is None else overtime),
            wait_seconds=_seconds("wait_for_resources", Limits.wait_seconds if wait is None else wait),
        )

    def pace(self, begin: float) -> Pace:
        """Of a run that began at that Unix time. Raises SpecError for what is no time."""
        until = datetime.fromisoformat(self.finish_by).timestamp() if self.finish_by else math.inf
        if self.max_seconds is not None:
            until = min(until, begin + _seconds("max_seconds", self.max_seconds))
        return Pace(checkpoint_seconds=_seconds("checkpoint_seconds", self.checkpoint_seconds), until=until)

    def rule(self) -> Rule:
        """Raises SpecError for one that is not valid."""
        return Rule(when=self.promote, alpha=self.alpha, min_accuracy=self.min_accuracy)

    def _seeds(self) -> Sequence[int]:
        if not isinstance(self.seeds, int):
            return self.seeds
        if not 1 <= self.seeds <= 100_000:
            raise SpecError(f"seeds: expected a count from 1 to 100000, got {self.seeds}")
        if self.seed + self.seeds - 1 > LARGEST_SEED:
            raise SpecError(f"seeds: expected seeds up to {LARGEST_SEED}, got {self.seed + self.seeds - 1}")
        return range(self.seed, self.seed + self.seeds)


def _seconds(name: str, value: float) -> float:
    if not value >= 0:  # NaN is not
        raise SpecError(f"{name}: expected seconds, 0 or more, got {value}")
    return value


class _Help(argparse.HelpFormatter):
    """Names the default, unless the help does or there is none to tell."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns))

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = str(action.help), action.default
        if "(default: " in text or any(default is nothing for nothing in (None, False, argparse.SUPPRESS)):
            return text
        return f"{text} (default: {','.join(default) if isinstance(default, tuple) else default})"


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line, as an exception."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(_one_line(message, [name for action in self._actions for name in action.option_strings]))


def parser(program: str, options: type[Any]) -> jsonargparse.ArgumentParser:
    words = [f"[{field.metadata['metavar']}]" for field in dataclasses.fields(options) if field.metadata["positional"]]
    made = _Parser(
        prog=program,
        usage=" ".join(["python -m %(prog)s", *words, "[OPTIONS]"]),
        description=options.__doc__,
        formatter_class=_Help,
        print_config=None,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config", action="config", metavar="FILE", help="options as YAML, without the dashes; flags override them"
    )
    for field in dataclasses.fields(options):
        name, given = f"--{field.name.replace('_', '-')}", field.metadata
        if given["positional"]:
            made.add_argument(
                field.name,
                nargs="?",
                type=given["parse"],
                default=field.default,
                metavar=given["metavar"],
                help=given["help"],
            )
        elif given["parse"] is None:
            yes_no = jsonargparse.ActionYesNo(no_prefix="no-")  # --no-json overrides a file
            made.add_argument(name, *given["short"], action=yes_no, default=field.default, help=given["help"])
        else:
            made.add_argument(
                name, type=given["parse"], default=field.default, metavar=given["metavar"], help=given["help"]
            )
    return made


def parse(program: str, options: type[Any], arguments: Sequence[str]) -> Any:
    """The options of the command line, over those of --config, over the defaults.

    Raises:
        UsageError: for an unknown name or a value of the wrong type.
    """
    namespace = parser(program, options).parse_args(list(arguments))
    return options(**{field.name: namespace[field.name] for field in dataclasses.fields(options)})


def _one_line(message: str, flags: Sequence[str]) -> str:
    unknown = re.match(r"unrecognized arguments: ([^\s=]+)|Option '(\w+)' is not accepted", message, re.IGNORECASE)
    if unknown:
        flag = unknown[1] or f"--{unknown[2].replace('_', '-')}"
        near = difflib.get_close_matches(flag, flags, n=1)
        return f"{flag} is not an option; {f'did you mean {near[0]}? ' if near else ''}--help lists all"
    return re.sub(r'Parser key "(\w+)":', r"\1:", " ".join(message.split()))
