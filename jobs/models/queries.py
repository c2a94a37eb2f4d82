"""The commands of `jobs.models` that only read the storage: list, show, diff, champion, history, verify."""

import os
import tempfile
import webbrowser
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.console import exit_codes
from jobs.console.output import CommandResult, table
from jobs.models.options import ChampionOptions, DiffOptions, HistoryOptions, ModelOptions, ShowOptions, VerifyOptions
from mnist_lib.api import NUMBER, find_version, require_version
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import is_url, open_storage
from mnist_lib.store.champions import Champion, champion, champion_at, history
from mnist_lib.store.contents import Comparison, compare
from mnist_lib.store.runs import REPORT, RunFolder
from mnist_lib.store.versions import Version, find, find_all, model_names, verify, verify_copy, version_folder
from mnist_lib.wording import counted, percent

MAX_IMAGES_SHOWN = 10  # by `diff`, without --json


def list_versions(options: ModelOptions, objects: Objects) -> CommandResult:
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    for model in options.models(objects):
        in_use = 0
        try:
            current = champion(objects, model)
            in_use = current.version if current else 0
        except IntegrityError as error:
            damaged.append(str(error))
        for number, version in find_all(objects, model):
            rows.append({"model": model, "number": number, "champion": number == in_use, **_row(version)})
    damaged += [row["error"] for row in rows if "error" in row]
    headings = ("version", "", "test accuracy", "stored", "run")
    text = table(headings, map(_cells, rows)) if rows else f"No version is stored in {options.storage}."
    return CommandResult(rows, [text, *damaged], exit_codes.INTEGRITY if damaged else exit_codes.DONE)


def show(options: ShowOptions, objects: Objects) -> CommandResult:
    version = find_version(objects, options.version)
    folder = RunFolder(objects, version.run)
    if options.open:
        _open_report(folder)
    about, dataset, test = version.facts, version.facts.dataset, version.facts.test
    low, high = map(percent, test.interval())
    facts = {
        "stored": f"{version.committed_at}, by run {version.run}, trial {about.trial}",
        "test": f"{test.correct:,} of {test.total:,} images right: {percent(test.value)} ({low} to {high})",
        "dataset": f"{dataset['name']} {dataset['version']}, fingerprint {dataset['fingerprint']}",
        "weights": f"sha256 {about.weights_sha256}",
        "where": objects.where(version_folder(version.model, version.number)),
        "report": f"{folder.where}/{REPORT}" if folder.has_report else "none",
    }
    files = [(name, f"{file['bytes']:,}", file["sha256"]) for name, file in version.files.items()]
    lines = [
        table((version.name, ""), facts.items(), fold=[""]),
        "",
        table(("file", "bytes", "sha256"), files, fold=["file", "sha256"]),
    ]
    return CommandResult(asdict(version), lines)


def diff(options: DiffOptions, objects: Objects) -> CommandResult:
    comparisons = [compare(objects, one, other) for one, other in _pairs(options, objects)]
    lines = [line for comparison in comparisons for line in ("", *_comparison_lines(comparison))]
    return CommandResult(list(map(asdict, comparisons)), lines[1:])


def show_champion(options: ChampionOptions, objects: Objects) -> CommandResult:
    at = options.at
    found = {m: champion(objects, m) if at is None else champion_at(objects, m, at) for m in options.models(objects)}
    lines = [f"{model}@{record.version} since {record.at}: {record.why}" for model, record in found.items() if record]
    document = {model: asdict(record) for model, record in found.items() if record}
    return CommandResult(document, lines or [f"There {'is' if at is None else 'was'} no champion."])


def show_history(options: HistoryOptions, objects: Objects) -> CommandResult:
    document: dict[str, list[dict[str, Any]]] = {}
    lines: list[str] = []
    damaged = False
    for model in options.models(objects):
        for record in history(objects, model):
            entries = document.setdefault(model, [])
            if isinstance(record, IntegrityError):
                damaged = True
                entries.append({"error": str(record)})
                lines.append(f"damaged               {record}")
            else:
                entries.append(asdict(record))
                lines.append(f"{record.at}  {model}@{record.version}  {record.kind}: {record.why} (run {record.run})")
    lines = lines or ["There has been no champion."]
    return CommandResult(document, lines, exit_codes.INTEGRITY if damaged else exit_codes.DONE)


def verify_versions(options: VerifyOptions, objects: Objects) -> CommandResult:
    """Check every requested version, even after one was found damaged."""
    damaged: dict[str, str] = {}
    whole: list[str] = []

    def check(name: str, function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
            whole.append(name)
        except IntegrityError as error:
            damaged[name] = str(error)

    what = options.what
    if what is not None and (is_url(what) or os.sep in what):
        check(what, verify_copy, open_storage(what))
    elif what is not None and not (options.all and "@" not in what):
        version = find_version(objects, what)
        check(version.name, verify, objects, version)
    else:
        for model in ModelOptions(model=what).models(objects):
            log = history(objects, model)
            damaged |= {f"champions of {model}": str(record) for record in log if isinstance(record, IntegrityError)}
            numbers = {record.version for record in log[-1:] if isinstance(record, Champion)}
            if options.all:
                numbers |= {number for number, _ in find_all(objects, model)}
            for number in sorted(numbers):
                check(f"{model}@{number}", _verify_number, objects, model, number)
    lines = [*damaged.values(), f"{counted(len(whole), 'version')} intact, {len(damaged):,} damaged."]
    if not options.all and (what is None or what in model_names(objects)):
        lines.append("Only champions were checked; --all checks every version.")
    code = exit_codes.INTEGRITY if damaged else exit_codes.DONE
    return CommandResult({"whole": whole, "damaged": damaged}, lines, code)


def _open_report(folder: RunFolder) -> None:
    page = folder.read(REPORT)
    if page is None:
        raise SpecError(f"open: expected a report in {folder.where}, got none; see its summary.json")
    with tempfile.NamedTemporaryFile("wb", prefix=f"{folder.run}-", suffix=".html", delete=False) as file:
        file.write(page)  # the storage may be a bucket, which a browser cannot read
    if not webbrowser.open(Path(file.name).as_uri()):
        raise SpecError(f"open: expected a browser, got none; the report is {folder.where}/{REPORT}")


def _verify_number(objects: Objects, model: str, number: int) -> None:
    verify(objects, require_version(objects, model, number))


def _row(version: Version | IntegrityError) -> dict[str, Any]:
    try:
        if isinstance(version, IntegrityError):
            raise version
        trial, test = version.facts.trial, version.facts.test
    except IntegrityError as error:
        return {"error": str(error)}
    about = {"trial": trial, "run": version.run, "committed_at": version.committed_at}
    return {"test": {**vars(test)}, "test_accuracy": test.value, **about}


def _cells(row: dict[str, Any]) -> list[str]:
    name, mark = f"{row['model']}@{row['number']}", "champion" if row["champion"] else ""
    if "error" in row:
        return [name, mark, "damaged", "", ""]
    return [name, mark, percent(row["test_accuracy"]), row["committed_at"][:10], row["run"]]


def _comparison_lines(found: Comparison) -> list[str]:
    one, other = map(percent, found.accuracies)
    lines = [f"{found.one} predicts {one} of the test images correctly, {found.other} {other}."]
    lines += [f"  {name}: {a} -> {b}" for name, (a, b) in found.made.items()] or ["  They were made in the same way."]
    if found.test_images is None:
        return [*lines, "They were tested on different images."]
    count = len(found.differing)
    gained = sum(answers.other == answers.label for answers in found.differing)
    lost = sum(answers.one == answers.label for answers in found.differing)
    lines.append(
        f"They predict {count:,} of {found.test_images:,} test images differently"
        f"; on {gained:,} only {found.other} is correct, on {lost:,} only {found.one}."
    )
    if count:
        rows = [
            [str(answers.image), *(found.classes[label] for label in (answers.label, answers.one, answers.other))]
            for answers in found.differing[:MAX_IMAGES_SHOWN]
        ]
        lines.append(table(("image", "label", found.one, found.other), rows))
    if count > MAX_IMAGES_SHOWN:
        lines.append(f"... and {count - MAX_IMAGES_SHOWN:,} more; --json prints all.")
    return lines


def _pairs(options: DiffOptions, objects: Objects) -> list[tuple[Version, Version]]:
    """Return the pairs to compare: the given versions or, for two numbers, one pair for each model that has both."""
    one, other = options.one, options.other
    if one is None or other is None:
        raise SpecError("version: expected two versions, got fewer; for example: jobs.models diff keras@1 keras@2")
    if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(other)):
        return [(find_version(objects, one), find_version(objects, other))]
    pairs = []
    for model in model_names(objects):
        first, second = (find(objects, model, int(number)) for number in (one, other))
        if first and second:
            pairs.append((first, second))
    if not pairs:
        raise SpecError(f"version: no model has both {one} and {other}; see: jobs.models list")
    return pairs
