"""The commands that train, by name: what a schedule or a submission runs follows from the options it is given."""

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jobs.console.exit_codes import UsageError
from jobs.console.options import parse, read_config, split_config
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from mnist_lib.settings import options_of

# The type of each command's plans. The first command is meant that has no `MARKS`, or one of them among its options.
PLANS = {"jobs.search": "jobs.search.plan:SearchPlan", "jobs.train": "jobs.train.plan:Plan"}


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
    """Return the options of the command that these are meant for.

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
    """Raise UsageError for an option of the job among those before the dashes, which are fields of `options`."""
    for place, word in enumerate(own):
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        kind = next((kind for kind in reversed(options_types()) if name in options_of(kind)), None)
        if word.startswith("--") and kind is not None and name not in options_of(options):
            shown = " ".join([word, *([] if "=" in word else own[place + 1 : place + 2])])
            flag = word.partition("=")[0]
            raise UsageError(f"{flag} is an option of {kind.COMMAND}; give it after --, as in: -- {shown}")
