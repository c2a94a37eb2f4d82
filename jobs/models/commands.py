"""The commands of `jobs.models` that need no TensorFlow: they list, compare, verify, promote and delete versions."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from jobs.console import exit_codes
from jobs.console.output import CommandResult, table
from jobs.models.compute import predict_here
from jobs.models.options import (
    AcceptOptions,
    CollectOptions,
    DatasetModelOptions,
    HistoryOptions,
    ListOptions,
    ModelOptions,
    PromoteOptions,
    RollbackOptions,
    ShowOptions,
    VerifyOptions,
)
from jobs.train.commands import annexes
from mnist_lib.api import find_version
from mnist_lib.data.request import stored_name
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import is_url, open_storage
from mnist_lib.settings import field_values
from mnist_lib.store import publishing, reference
from mnist_lib.store.champions import appointment, challenge
from mnist_lib.store.champions.appointment import champion, champions, current_appointment, history, trained_last
from mnist_lib.store.champions.log import Champion, datasets_with_logs
from mnist_lib.store.champions.promotion import Rule, Thresholds
from mnist_lib.store.datasets import collect_states
from mnist_lib.store.opening import collecting, promoting
from mnist_lib.store.runs import REPORT, RunFolder
from mnist_lib.store.versions import (
    LATEST,
    Version,
    find_all,
    model_names,
    require_version,
    verify,
    verify_copy,
    version_folder,
)
from mnist_lib.wording import and_balanced, counted, interval_text, percent


def list_versions(options: ListOptions, objects: Objects) -> CommandResult:
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    only = None if options.dataset is None else stored_name(options.dataset)
    for model in options.models(objects):
        in_use = champions(objects, model)
        damaged += [str(record) for record in in_use.values() if isinstance(record, IntegrityError)]
        for number, version in find_all(objects, model):
            records = [record for record in in_use.values() if isinstance(record, Champion)]
            champion_of = [record.dataset for record in records if record.version == number]
            about = {"model": model, "number": number, "champion": bool(champion_of), "champion_of": champion_of}
            row = about | _facts(version)
            if only in (None, row.get("dataset"), *champion_of):
                rows.append(row)
    damaged += [row["error"] for row in rows if "error" in row]
    headings = ("version", "", "dataset", "test accuracy", "stored", "run")
    text = table(headings, map(_cells, rows)) if rows else f"No version is stored in {options.storage}."
    return CommandResult(rows, [text, *damaged], _exit_code(damaged))


def show(options: ShowOptions, objects: Objects) -> CommandResult:
    version = find_version(objects, options.version, options.dataset)
    folder = RunFolder(objects, version.run)
    about = version.facts
    dataset = about.dataset
    test = about.test
    accuracy = f"{percent(test.value)} ({interval_text(about.interval)}){and_balanced(about.test_balanced_accuracy)}"
    champion_of = [
        f"of {name}: {'; '.join(_champion_texts(record)) or record.why}"
        for name, record in champions(objects, version.model).items()
        if isinstance(record, Champion) and record.version == version.number
    ]
    facts = {
        "stored": f"{version.committed_at}, by run {version.run}, trial {about.trial}",
        "test": f"{test.correct:,} of {test.total:,} images right: {accuracy}",
        "dataset": f"{dataset.name} {dataset.version}, fingerprint {dataset.fingerprint}",
        **({"champion": "; ".join(champion_of)} if champion_of else {}),
        **({} if about.init_from is None else {"start": f"from the weights of {about.init_from}"}),
        "weights": f"sha256 {about.weights_sha256}",
        "where": objects.where(version_folder(version.model, version.number)),
        "report": f"{folder.where}/{REPORT}" if folder.has(REPORT) else "none",
    }
    files = [(name, f"{file.bytes:,}", file.sha256) for name, file in version.files.items()]
    lines = [
        table((version.name, ""), facts.items(), fold=[""]),
        "",
        table(("file", "bytes", "sha256"), files, fold=["file", "sha256"]),
    ]
    return CommandResult(version, lines)


def show_champion(options: DatasetModelOptions, objects: Objects) -> CommandResult:
    document: dict[str, dict[str, Any]] = {}
    lines: list[str] = []
    for model, dataset, log in _logs(options, objects):
        record = log[-1]
        since = current_appointment(log)
        if isinstance(record, IntegrityError):
            raise record
        assert since is not None  # since the newest record can be read
        document.setdefault(model, {})[dataset] = {**asdict(record), "since": since.at, "interval": record.interval}
        lines.append(f"{record.name}, champion of {dataset} since {since.at}: {since.why}")
        lines += [f"  {text}" for text in _champion_texts(record)]
    return CommandResult(document, lines or ["There is no champion."])


def show_history(options: HistoryOptions, objects: Objects) -> CommandResult:
    document: dict[str, list[Any]] = {}
    lines: list[str] = []
    errors: list[IntegrityError] = []
    for model, dataset, log in _logs(options, objects):
        entries = document.setdefault(model, [])
        for record in log:
            if isinstance(record, IntegrityError):
                errors.append(record)
                entries.append({"error": str(record), "dataset": dataset})
                lines.append(f"damaged               {record}")
            else:
                entries.append(record)
                what = f"{record.at}  {record.name}  {dataset}  {record.kind}"
                lines.append(f"{what}: {record.why} (run {record.run})")
        if isinstance(log[-1], Champion) and log[-1].budget is not None:
            lines.append(f"  {model} on {dataset}: {log[-1].budget}")
    return CommandResult(document, lines or ["There has been no champion."], _exit_code(errors))


def _logs(options: DatasetModelOptions, objects: Objects) -> Iterator[tuple[str, str, list[Champion | IntegrityError]]]:
    """Yield the requested models and datasets, each with its records of champions, oldest first."""
    for model in options.models(objects):
        for dataset in options.datasets(objects, model):
            if log := history(objects, model, dataset):
                yield model, dataset, log


def _champion_texts(record: Champion) -> list[str]:
    """Return what is known about a champion today: its accuracy, and what is left of its budget."""
    texts = []
    if record.test is not None and record.interval is not None:
        chosen = f", as the best of {record.selected_from:,}" if record.selected_from > 1 else ""
        right = f"{record.test.correct:,} of the {record.test.total:,} images of the newest hold-out right"
        texts.append(f"{right}: {percent(record.test.value)} ({interval_text(record.interval)}{chosen})")
    if record.budget is not None:
        texts.append(str(record.budget))
    return texts


def promote(options: PromoteOptions, objects: Objects) -> CommandResult:
    rule = Rule(promote="always" if options.always else "if-better", **field_values(options, Thresholds))
    name = options.version
    if name in model_names(objects):
        raise SpecError(
            f"version: expected {name}@{LATEST} or a number such as {name}@3, got {name}, which is already the champion"
        )
    version = find_version(objects, name)
    dataset = version.facts.dataset.name
    with promoting(objects):
        decision = challenge.promote(objects, version, rule, predict_here(objects, version, options))
    current = champion(objects, version.model, dataset)
    is_champion = current is not None and current.version == version.number
    if is_champion:
        verdict = f"{version.name} is {'now ' if decision.promote else ''}the champion of {dataset}: {decision.why}"
    else:
        advice = "" if "--always" in decision.why else "; to promote it all the same, add --always"
        verdict = f"{version.name} is not promoted: {decision.why}{advice}"
    lines = [verdict, *([f"Chance: {decision.budget}."] if decision.budget else [])]
    code = exit_codes.DONE if is_champion else exit_codes.REFUSED
    document = {**asdict(decision), "dataset": dataset, "champion": is_champion}
    return CommandResult(document, lines, code, afterwards=partial(_update_index, objects))


def accept_dataset(options: AcceptOptions, objects: Objects) -> CommandResult:
    dataset = stored_name(options.dataset)
    found = reference.accept(objects, dataset, options.state)
    text = f"{dataset}: later runs are compared with run {found.run}"
    return CommandResult({"dataset": dataset, **asdict(found)}, [text])


def rollback(options: RollbackOptions, objects: Objects) -> CommandResult:
    (model,) = options.models(objects)
    if options.dataset is not None:
        dataset = stored_name(options.dataset)
    elif last := trained_last(objects, model):
        dataset = last[1]
    else:
        raise SpecError(f"{model}: expected a champion to roll back, got none; promote a version first")
    with promoting(objects):
        record = appointment.rollback(objects, model, dataset, options.to)
    text = f"{record.name} is the champion of {dataset}: {record.why}"
    return CommandResult(record, [text], afterwards=partial(_update_index, objects))


def _update_index(objects: Objects) -> None:
    """Update the index, which names the champions, if a run has written one."""
    for annex in annexes().values():
        annex.update(objects)


def verify_versions(options: VerifyOptions, objects: Objects) -> CommandResult:
    """Check every requested version, even after one was found damaged."""
    damaged: dict[str, str] = {}
    intact: list[str] = []
    for name, check in _checks(options, objects):
        try:
            check()
            intact.append(name)
        except IntegrityError as error:
            damaged[name] = str(error)
    lines = [*damaged.values(), f"{counted(len(intact), 'version')} intact, {len(damaged):,} damaged."]
    if not options.all and (options.what is None or options.what in model_names(objects)):
        lines.append("Only champions were checked; --all checks every version.")
    return CommandResult({"whole": intact, "damaged": damaged}, lines, _exit_code(damaged))


def _checks(options: VerifyOptions, objects: Objects) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each thing to check, and a function that raises IntegrityError if it is damaged."""
    what = options.what
    if what is not None and (is_url(what) or os.sep in what):
        yield what, lambda: verify_copy(open_storage(what))
    elif what is not None and not (options.all and "@" not in what):
        version = find_version(objects, what)
        yield version.name, partial(verify, objects, version)
    else:
        for model in ModelOptions(model=what).models(objects):
            numbers = {number for number, _ in find_all(objects, model)} if options.all else set[int]()
            for dataset in datasets_with_logs(objects, model):
                records = history(objects, model, dataset)
                for error in records:
                    if isinstance(error, IntegrityError):
                        yield f"champions of {model} for {dataset}: {error}", partial(_raise, error)
                numbers |= {record.version for record in records[-1:] if isinstance(record, Champion)}
            for number in sorted(numbers):
                yield f"{model}@{number}", partial(_verify_number, objects, model, number)


def _raise(error: IntegrityError) -> None:
    raise error


def _verify_number(objects: Objects, model: str, number: int) -> None:
    verify(objects, require_version(objects, model, number))


def _exit_code(damaged: Collection[object]) -> int:
    return exit_codes.INTEGRITY if damaged else exit_codes.DONE


def collect_garbage(options: CollectOptions, objects: Objects) -> CommandResult:
    collections: dict[str, publishing.Collection] = {}
    unknown: dict[str, IntegrityError] = {}
    models = options.models(objects)  # raises before anything is written
    with contextlib.nullcontext() if options.dry_run else collecting(objects):
        for model in models:
            try:
                collections[model] = publishing.collect(objects, model, options.keep, dry_run=options.dry_run)
            except IntegrityError as error:  # of its champions; nothing of this model is deleted
                unknown[model] = error
        gone = {name for collected in collections.values() for name in collected.deleted}
        states = collect_states(objects, gone, dry_run=options.dry_run)
    would = "would be " if options.dry_run else ""
    texts = {
        "deleted": f"{would}deleted: old version",
        "swept": f"{would}deleted: leftovers of a crashed run",
        "damaged": "not changed: its record cannot be read",
        "pending": "not changed: its run has begun to store it and is unfinished",
    }
    lines = []
    for collected in collections.values():
        lines += [f"{name} {text}" for field, text in texts.items() for name in getattr(collected, field)]
        lines += [f"{name} {would}kept: {reason}" for name, reason in collected.reasons.items()]
    lines += [f"{model} not changed: {error}" for model, error in unknown.items()]
    kept = sum(len(collected.kept) for collected in collections.values())
    lines += [f"{name} {would}deleted: no run or version refers to this state of a dataset" for name in states]
    lines.append(f"{counted(kept, 'version')} {would}kept.")
    document: dict[str, Any] = collections | {model: {"error": str(error)} for model, error in unknown.items()}
    return CommandResult(document, lines, _exit_code(unknown))


def _facts(version: Version | IntegrityError) -> dict[str, Any]:
    try:
        if isinstance(version, IntegrityError):
            raise version
        facts = version.facts
    except IntegrityError as error:
        return {"error": str(error)}
    return {
        "test": facts.test,
        "test_accuracy": facts.test.value,
        "test_balanced_accuracy": facts.test_balanced_accuracy,
        "dataset": facts.dataset.name,
        "trial": facts.trial,
        "run": version.run,
        "committed_at": version.committed_at,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    name = f"{row['model']}@{row['number']}"
    mark = "champion" if row["champion"] else ""
    if row["champion"] and row["champion_of"] != [row.get("dataset")]:
        mark = f"champion of {', '.join(row['champion_of'])}"
    if "error" in row:
        return [name, mark, "", "damaged", "", ""]
    accuracy = percent(row["test_accuracy"]) + and_balanced(row["test_balanced_accuracy"])
    return [name, mark, row["dataset"], accuracy, row["committed_at"][:10], row["run"]]
