"""What the commands of `jobs.models` share: how a result is told, and how a version is named."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import exits
from mnist_lib.catalog import require_known
from mnist_lib.errors import SpecError
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, find, find_all

NUMBER = re.compile("[0-9]{1,8}", re.ASCII)


@dataclass(frozen=True)
class CommandResult:
    """For programs, for people, and for whoever started it."""

    document: Any  # of JSON
    text: str
    exit_code: int = exits.DONE
    afterwards: Callable[[], None] | None = None  # what need not be waited for


def find_version(objects: Objects, name: str | None, models: Iterable[str]) -> Version:
    """`name`: as in "keras@3", or "keras" for its newest. Raises SpecError if there is none."""
    if name is None:
        raise SpecError("version: expected one, as in keras@3; see: jobs.models list")
    model, at, digits = name.partition("@")
    require_known("version", model, models)
    if at and not NUMBER.fullmatch(digits):
        raise SpecError(f"version: expected a model and a number, as in keras@3, got {name!r}")
    newest = 0 if at else next((number for number, _ in find_all(objects, model, newest_first=True)), 0)
    version = find(objects, model, int(digits) if at else newest)
    if version is None:
        raise SpecError(f"version: there is no {name} in {objects.where('models')}; see: jobs.models list")
    return version


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
