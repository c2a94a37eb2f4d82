"""`python -m jobs.models COMMAND`: what is stored, which version is in use and why; promote, roll back, verify."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs import exits
from jobs.options import number, option, parse, user_path, whole_number
from mnist_lib.catalog import MODELS, require_known
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.objects import LocalObjects
from mnist_lib.store.versions import Version, find, numbers, read_file, verify

ANSWERS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class _Options:
    storage: Path = option(Path("results"), "where runs and models are stored", user_path, "DIR")
    json: bool = option(False, "print one JSON document instead of text")

    @property
    def objects(self) -> LocalObjects:
        return LocalObjects(self.storage)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(_Options):
    """Of one model, or of all."""

    model: str | None = option(None, f"one of {', '.join(MODELS)} (default: all)", str, "MODEL", positional=True)

    @property
    def models(self) -> list[str]:
        if self.model is None:
            return list(MODELS)
        require_known("model", self.model, MODELS)
        return [self.model]


@dataclass(frozen=True, kw_only=True)
class ChampionOptions(ModelOptions):
    """The version in use."""

    at: str | None = option(None, "that was in use then, as in 2026-11-25T03:00:00Z", str, "TIME")


@dataclass(frozen=True, kw_only=True)
class VersionOptions(_Options):
    """One version."""

    version: str | None = option(None, "as in keras@3; without a number the newest", str, "VERSION", positional=True)

    def find(self) -> Version:
        return _named(self, self.version or "")


@dataclass(frozen=True, kw_only=True)
class DiffOptions(_Options):
    """Two versions: how they were made, and where their answers differ."""

    one: str | None = option(None, "as in keras@1", str, "VERSION", positional=True)
    other: str | None = option(None, "as in keras@2", str, "VERSION", positional=True)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(VersionOptions):
    """Makes a version the champion, if it is better."""

    always: bool = option(False, "even if it is not better")
    alpha: float = option(0.05, "better is a smaller p of McNemar's test", number, "P")
    min_accuracy: float = option(0.0, "what a model's first champion must reach", number, "X")


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(ModelOptions):
    """Puts the champion before this one, or another version, in its place."""

    to: int | None = option(None, "the number of a version (default: the champion before this one)", whole_number, "N")


@dataclass(frozen=True)
class Told:
    """What a command found: for programs, for people, and for whoever started it."""

    document: Any
    text: str
    exit_code: int = exits.DONE


def list_versions(options: ModelOptions) -> Told:
    from mnist_lib.store.champions import champion

    rows: list[dict[str, Any]] = []
    for model in options.models:
        newest = champion(options.objects, model)
        for found in numbers(options.objects, model):
            rows.append(_row(options, model, found, newest.version if newest else None))
    if not rows:
        return Told([], f"No version is stored in {options.storage}.")
    return Told(rows, _table(("version", "", "test accuracy", "trial", "run", "stored (UTC)"), map(_cells, rows)))


def show(options: VersionOptions) -> Told:
    version = options.find()
    document = asdict(version)
    return Told(document, json.dumps(document, indent=2))


def diff(options: DiffOptions) -> Told:
    from mnist_lib.store.promotion import Predictions

    versions = [_named(options, name or "") for name in (options.one, options.other)]
    one, other = (Predictions.of(options.objects, version) for version in versions)
    made, made_other = (json.loads(read_file(options.objects, version, "manifest.json")) for version in versions)
    changed = {
        f"{part}.{name}": [made[part].get(name), made_other[part].get(name)]
        for part in ("spec", "versions")
        for name in sorted({*made[part], *made_other[part]})
        if made[part].get(name) != made_other[part].get(name)
    }
    lines = [f"{one.name} has {one.accuracy:.2%}, {other.name} {other.accuracy:.2%} of the test images right."]
    lines += [f"  {name}: {a} -> {b}" for name, (a, b) in changed.items()] or ["  They were made alike."]
    document = {"accuracies": [one.accuracy, other.accuracy], "made": changed}
    if not one.comparable(other):
        return Told({**document, "images": None}, "\n".join([*lines, "They were tested on different images."]))
    differing = (one.answers != other.answers).nonzero()[0]
    columns = (differing, *(part[differing] for part in (one.labels, one.answers, other.answers)))
    images = [tuple(map(int, row)) for row in zip(*columns, strict=True)]
    lines.append(f"Their answers differ on {len(images)} of {len(one.labels)} test images{':' if images else '.'}")
    if images:
        rows = [list(map(str, image)) for image in images[:ANSWERS_SHOWN]]
        lines.append(_table(("image", "label", one.name, other.name), rows))
    if len(images) > ANSWERS_SHOWN:
        lines.append(f"... and {len(images) - ANSWERS_SHOWN} more; --json has all.")
    named = [dict(zip(("image", "label", "one", "other"), image, strict=True)) for image in images]
    return Told({**document, "images": named}, "\n".join(lines))


def show_champion(options: ChampionOptions) -> Told:
    from mnist_lib.store.champions import champion, champion_at

    at = options.at
    found = {
        model: champion(options.objects, model) if at is None else champion_at(options.objects, model, at)
        for model in options.models
    }
    lines = [f"{model}@{record.version} since {record.at}: {record.why}" for model, record in found.items() if record]
    document = {model: asdict(record) for model, record in found.items() if record}
    return Told(document, "\n".join(lines) or "There is no champion.")


def show_history(options: ModelOptions) -> Told:
    from mnist_lib.store.champions import history

    records = {model: history(options.objects, model) for model in options.models}
    lines = [
        f"{record.at}  {model}@{record.version}  {record.kind}: {record.why} (run {record.run})"
        for model, log in records.items()
        for record in log
    ]
    document = {model: [asdict(record) for record in log] for model, log in records.items() if log}
    return Told(document, "\n".join(lines) or "There never was a champion.")


def promote_version(options: PromoteOptions) -> Told:
    from mnist_lib.store.champions import promote
    from mnist_lib.store.promotion import rule

    version = options.find()
    when = "always" if options.always else "if-better"
    decision = promote(options.objects, version, rule(when, options.alpha, options.min_accuracy))
    verdict = f"{version.name} is the champion now" if decision.promote else f"{version.name} is not promoted"
    return Told(asdict(decision), f"{verdict}: {decision.why}")


def roll_back(options: RollbackOptions) -> Told:
    from mnist_lib.store.champions import rollback

    if options.model is None:
        raise SpecError("model: expected one to roll back, as in: jobs.models rollback keras")
    (model,) = options.models
    record = rollback(options.objects, model, options.to)
    return Told(asdict(record), f"{model}@{record.version} is the champion: {record.why}")


def verify_versions(options: ModelOptions) -> Told:
    """Every version is looked at, whatever is found of the others."""
    damaged: dict[str, str] = {}
    whole: list[str] = []
    for model in options.models:
        for found in numbers(options.objects, model):
            name = f"{model}@{found}"
            try:
                version = find(options.objects, model, found)
                assert version is not None
                verify(options.objects, version)
                whole.append(name)
            except IntegrityError as error:
                damaged[name] = str(error)
    lines = [*damaged.values(), f"{len(whole)} version(s) are as they were committed, {len(damaged)} are not."]
    code = exits.EXIT_CODES["E-INTEGRITY"] if damaged else exits.DONE
    return Told({"whole": whole, "damaged": damaged}, "\n".join(lines), code)


COMMANDS: dict[str, tuple[type[_Options], Callable[[Any], Told]]] = {
    "list": (ModelOptions, list_versions),
    "show": (VersionOptions, show),
    "diff": (DiffOptions, diff),
    "champion": (ChampionOptions, show_champion),
    "history": (ModelOptions, show_history),
    "promote": (PromoteOptions, promote_version),
    "rollback": (RollbackOptions, roll_back),
    "verify": (ModelOptions, verify_versions),
}


def main(arguments: Sequence[str] | None = None) -> int:
    return exits.run(models, sys.argv[1:] if arguments is None else arguments)


def models(arguments: Sequence[str]) -> int:
    name, *others = arguments or ["--help"]
    if name in ("-h", "--help"):
        listing = "\n".join(f"  {command:9} {options.__doc__}" for command, (options, _) in COMMANDS.items())
        exits.print_result(f"usage: python -m jobs.models COMMAND [OPTIONS]\n\n{listing}")
        return exits.DONE
    require_known("command", name, COMMANDS)
    kind, command = COMMANDS[name]
    options = parse(f"jobs.models {name}", kind, others)
    told = command(options)
    exits.print_result(json.dumps(told.document, indent=2) if options.json else told.text)
    return told.exit_code


def _named(options: _Options, name: str) -> Version:
    """Raises SpecError for what names no version."""
    model, _, digits = name.partition("@")
    require_known("version", model, MODELS)
    if not re.fullmatch("[0-9]*", digits):
        raise SpecError(f"version: expected a model and a number, as in keras@3, got {name!r}")
    number = int(digits) if digits else max(numbers(options.objects, model), default=0)
    version = find(options.objects, model, number)
    if version is None:
        raise SpecError(f"version: there is no {name} in {options.storage}; see: jobs.models list")
    return version


def _row(options: _Options, model: str, number: int, champion: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "number": number, "champion": number == champion}
    try:
        version = find(options.objects, model, number)
        assert version is not None
    except IntegrityError as error:
        return {**row, "error": str(error)}
    test = version.about["test"]
    return {
        **row,
        "test": test,
        "test_accuracy": test["correct"] / test["total"],
        "trial": version.about["trial"],
        "run": version.run,
        "committed_at": version.committed_at,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    name, mark = f"{row['model']}@{row['number']}", "champion" if row["champion"] else ""
    if "error" in row:
        return [name, mark, "damaged", "", "", ""]
    return [name, mark, f"{100 * row['test_accuracy']:.2f}%", row["trial"], row["run"], row["committed_at"]]


def _table(headings: Sequence[str], rows: Any) -> str:
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
