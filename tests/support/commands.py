"""The commands of this project, parsed by their own parsers."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from jobs.__main__ import COMMANDS, module_of
from jobs.console.options import parse, split_at_dashes
from jobs.train.commands import job_options, plan_of
from jobs.train.options import TrainOptions


def parse_command(program: str, words: Sequence[str]) -> tuple[Any, TrainOptions | None]:
    """Parse and check the words after `python -m PROGRAM`; return the options, and those of the job after the dashes.

    Raises:
        KeyError: there is no such command or subcommand.
        UsageError: the command would refuse the words.
    """
    name = program.removeprefix("jobs.")
    if name not in COMMANDS:
        raise KeyError(program)
    types = module_of(name).OPTIONS
    own, flags = split_at_dashes(words)
    subcommand = own.pop(0) if own and own[0] in types else ""
    options = parse(f"{program} {subcommand}".strip(), types[subcommand], own)
    job = job_options(f"{program} --", flags) if flags else None
    for given in (options, job):
        if isinstance(given, TrainOptions):
            plan_of(given).check()
        elif given is not None and hasattr(given, "check"):
            given.check()
    return options, job


def output_of(substitution: re.Match[str]) -> str:
    """Return the output of a command `date`, as a shell would put it in place of `$(date ...)`."""
    return subprocess.run(shlex.split(substitution[1]), capture_output=True, text=True, check=True).stdout.strip()


def split_command(text: str) -> tuple[str, list[str]]:
    """Return the program, such as "jobs.train" or "make", and the words that it parses."""
    words = shlex.split(re.sub(r"\$\((date [^)]*)\)", output_of, text))
    words = words[: next((at for at, word in enumerate(words) if word in (">", "&", "|")), None)]
    while "=" in words[0]:
        del words[0]
    if words[0] == "python":
        return words[2], words[3:]
    return (f"jobs.{words[1]}", words[2:]) if words[0] == "mnist-jobs" else ("make", words[1:])
