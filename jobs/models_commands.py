"""What the commands of `jobs.models` do: each takes its options and returns what it found."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs import exits
from jobs.models_options import (
    ChampionOptions,
    CollectOptions,
    DiffOptions,
    EvaluateOptions,
    HistoryOptions,
    ModelOptions,
    PromoteOptions,
    RollbackOptions,
    StoreOptions,
    VerifyOptions,
    VersionOptions,
)
from jobs.options import moment
from mnist_lib.catalog import MODELS, require_known
from mnist_lib.environment import import_keras
from mnist_lib.errors import DataError, IntegrityError, SpecError
from mnist_lib.result import Accuracy
from mnist_lib.store.objects import Objects
from mnist_lib.store.storage import is_url, open_storage
from mnist_lib.store.versions import Version, find, find_all, verify, verify_copy, version_folder

ANSWERS_SHOWN = 10


@dataclass(frozen=True)
class Told:
    """What a command found: for programs, for people, and for whoever started it."""

    document: Any
    text: str
    exit_code: int = exits.DONE


def list_versions(options: ModelOptions) -> Told:
    from mnist_lib.store.champions import champion

    objects, rows = options.objects, []
    damaged: list[str] = []
    for model in options.models:
        try:
            newest = champion(objects, model)
        except IntegrityError as error:
            newest = None
            damaged.append(str(error))
        for found, version in find_all(objects, model):
            champion_now = newest is not None and newest.version == found
            rows.append({"model": model, "number": found, "champion": champion_now, **_row(version)})
    if not rows:
        return Told([], f"No version is stored in {options.storage}.")
    table = _table(("version", "", "test accuracy", "trial", "run", "stored (UTC)"), map(_cells, rows))
    return Told(rows, "\n".join([table, *damaged]), exits.EXIT_CODES["E-INTEGRITY"] if damaged else exits.DONE)


def show(options: VersionOptions) -> Told:
    version = _named(options, options.version)
    about = version.about
    test, dataset = Accuracy(**about["test"]), about["dataset"]
    low, high = test.interval()
    facts = {
        "stored": f"{version.committed_at}, by run {version.run}, trial {about['trial']}",
        "test": f"{test.correct:,} of {test.total:,} images right: {test.value:.2%} ({low:.2%} to {high:.2%})",
        "dataset": f"{dataset['name']} {dataset['version']}, fingerprint {dataset['fingerprint']}",
        "weights": f"sha256 {about['weights_sha256']}",
        "where": options.objects.where(version_folder(version.model, version.number)),
    }
    lines = [version.name, *(f"  {name:8} {text}" for name, text in facts.items()), ""]
    files = [(name, f"{of['bytes']:,}", of["sha256"]) for name, of in version.files.items()]
    return Told(asdict(version), "\n".join(lines) + _table(("file", "bytes", "sha256"), files))


def diff(options: DiffOptions) -> Told:
    from mnist_lib.store.comparison import Comparison, compare

    def text(found: Comparison) -> str:
        one, other = found.accuracies
        lines = [f"{found.one} has {one:.2%}, {found.other} {other:.2%} of the test images right."]
        lines += [f"  {name}: {a} -> {b}" for name, (a, b) in found.made.items()] or ["  They were made alike."]
        if found.test_images is None:
            return "\n".join([*lines, "They were tested on different images."])
        count = len(found.differing)
        gained = sum(answers.other == answers.label for answers in found.differing)
        lost = sum(answers.one == answers.label for answers in found.differing)
        lines.append(
            f"Their answers differ on {count:,} of {found.test_images:,} test images: {gained:,} are right in "
            f"{found.other} only, {lost:,} in {found.one} only."
        )
        if count:
            rows = [list(map(str, asdict(answers).values())) for answers in found.differing[:ANSWERS_SHOWN]]
            lines.append(_table(("image", "label", found.one, found.other), rows))
        if count > ANSWERS_SHOWN:
            lines.append(f"... and {count - ANSWERS_SHOWN} more; --json has all.")
        return "\n".join(lines)

    comparisons = [compare(options.objects, one, other) for one, other in _pairs(options)]
    return Told(list(map(asdict, comparisons)), "\n\n".join(map(text, comparisons)))


def show_champion(options: ChampionOptions) -> Told:
    from mnist_lib.store.champions import champion, champion_at

    objects, at = options.objects, options.at
    found = {
        model: champion(objects, model) if at is None else champion_at(objects, model, at) for model in options.models
    }
    lines = [f"{model}@{record.version} since {record.at}: {record.why}" for model, record in found.items() if record]
    document = {model: asdict(record) for model, record in found.items() if record}
    return Told(document, "\n".join(lines) or f"There {'is' if at is None else 'was'} no champion.")


def show_history(options: HistoryOptions) -> Told:
    from mnist_lib.store.champions import history

    objects = options.objects
    records = {model: history(objects, model) for model in options.models}
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

    version = _named(options, options.version)
    when = "always" if options.always else "if-better"
    decision = promote(options.objects, version, rule(when, options.alpha, options.min_accuracy))
    verdict = f"{version.name} is the champion now" if decision.promote else f"{version.name} is not promoted"
    return Told(asdict(decision), f"{verdict}: {decision.why}")


def roll_back(options: RollbackOptions) -> Told:
    from mnist_lib.store.champions import champion_at, rollback

    if options.model is None:
        raise SpecError("model: expected one to roll back, as in: jobs.models rollback keras")
    (model,), objects, to = options.models, options.objects, options.to
    if to is None or re.fullmatch("[0-9]{1,8}", to):
        target = None if to is None else int(to)
    else:
        try:
            then = champion_at(objects, model, moment(to))
        except ValueError as error:
            raise SpecError(
                f"to: expected a version's number, or a time as in 2026-11-25T03:00:00Z, got {to!r}"
            ) from error
        if then is None:
            raise SpecError(f"to: {model} had no champion at {to}; see: jobs.models history {model}")
        target = then.version
    record = rollback(objects, model, target)
    return Told(asdict(record), f"{model}@{record.version} is the champion: {record.why}")


def verify_versions(options: VerifyOptions) -> Told:
    """Everything is looked at, whatever is found of the others."""
    damaged: dict[str, str] = {}
    whole: list[str] = []

    def check(name: str, verify_it: Callable[[], object]) -> None:
        try:
            verify_it()
            whole.append(name)
        except IntegrityError as error:
            damaged[name] = str(error)

    objects, what = options.objects, options.what
    if what is not None and (is_url(what) or Path(what).is_dir()):
        check(what, lambda: verify_copy(open_storage(what)))
    elif what is not None and "@" in what:
        version = _named(options, what)
        check(version.name, lambda: verify(objects, version))
    else:
        if what is not None:
            require_known("model", what, MODELS)
        for model in MODELS if what is None else [what]:
            versions, damage = _to_verify(objects, model, every=what is not None or options.all)
            damaged |= damage
            for number in versions:
                check(f"{model}@{number}", partial(_verify, objects, model, number))
    lines = [*damaged.values(), f"{len(whole)} version(s) are as they were committed, {len(damaged)} are not."]
    if what is None and not options.all:
        lines.append("These are the champions; --all looks at every version.")
    code = exits.EXIT_CODES["E-INTEGRITY"] if damaged else exits.DONE
    return Told({"whole": whole, "damaged": damaged}, "\n".join(lines), code)


def collect_garbage(options: CollectOptions) -> Told:
    from mnist_lib.store.collection import collect

    if options.keep is None or options.keep < 1:
        raise SpecError(f"keep: expected how many versions to keep, 1 or more, got {options.keep}; as in: gc --keep 5")
    found = {model: collect(options.objects, model, options.keep, dry_run=options.dry_run) for model in options.models}
    would = "would be " if options.dry_run else ""
    texts = {
        "collected": f"{would}deleted: old",
        "swept": f"{would}deleted: what a publisher that died left",
        "completed": f"{would}committed: its publisher died just before",
        "damaged": "not touched: its record cannot be read",
    }
    lines = [
        f"{name} {text}"
        for collection in found.values()
        for field, text in texts.items()
        for name in getattr(collection, field)
    ]
    kept = sum(len(collection.kept) for collection in found.values())
    lines.append(f"{kept} version(s) {'would ' if options.dry_run else ''}stay.")
    return Told({model: asdict(collection) for model, collection in found.items()}, "\n".join(lines))


def evaluate(options: EvaluateOptions) -> Told:
    version = _named(options, options.version)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a look is no reason to take a GPU from who trains on it
    import_keras()
    from mnist_lib.data.prepare import default_data_dir, prepare
    from mnist_lib.loading import compare_with_stored, load, load_trusted

    predict = (load_trusted if options.trust else load)(options.objects, version)
    stored = version.about["dataset"]
    with contextlib.redirect_stdout(sys.stderr):  # TFDS tells its progress there
        dataset = prepare(stored["name"], options.data_dir or default_data_dir(), options.data_source)
    if dataset.fingerprint != stored["fingerprint"]:
        raise DataError(
            f"{version.name} was tested on {stored['name']} with the fingerprint {stored['fingerprint']}, this one has "
            f"{dataset.fingerprint}; use the same data with --data-dir or --data-source"
        )
    found = compare_with_stored(options.objects, version, predict, dataset.test)
    images = f"{found.test.total:,} test images"
    same = "all" if found.same == found.test.total else f"{found.same:,} of"
    near = f"probabilities within {found.furthest:.0e}" if found.furthest else "the same probabilities"
    text = (
        f"{version.name} gives the stored answer to {same} {images} ({near}).\n"
        f"It has {found.test.correct:,} right: {found.test.value:.2%}."
    )
    return Told(asdict(found), text, exits.DONE if found.reproduced else exits.EXIT_CODES["E-INTEGRITY"])


def _named(options: StoreOptions, name: str | None) -> Version:
    """Raises SpecError for what names no version."""
    model, _, digits = (name or "").partition("@")
    require_known("version", model, MODELS)
    if not re.fullmatch("[0-9]{0,8}", digits):
        raise SpecError(f"version: expected a model and a number, as in keras@3, got {name!r}")
    objects = options.objects
    number = int(digits) if digits else max((found for found, _ in find_all(objects, model)), default=0)
    version = find(objects, model, number)
    if version is None:
        raise SpecError(f"version: there is no {name} in {options.storage}; see: jobs.models list")
    return version


def _pairs(options: DiffOptions) -> list[tuple[Version, Version]]:
    """To compare: two versions, or with two numbers those of every model that has both."""
    if options.one is None or options.other is None:
        raise SpecError("version: expected two, as in: jobs.models diff keras@1 keras@2")
    if not (options.one.isdecimal() and options.other.isdecimal()):
        return [(_named(options, options.one), _named(options, options.other))]
    found = []
    for model in MODELS:
        one, other = (find(options.objects, model, int(number)) for number in (options.one, options.other))
        if one and other:
            found.append((one, other))
    if not found:
        raise SpecError(f"version: no model has both {options.one} and {options.other}; see: jobs.models list")
    return found


def _to_verify(objects: Objects, model: str, *, every: bool) -> tuple[list[int], dict[str, str]]:
    """-> (the numbers of every version, or of the champion alone; what is wrong with the log of champions)."""
    from mnist_lib.store.champions import history

    log, damage = [], {}
    try:
        log = history(objects, model)
    except IntegrityError as error:
        damage = {f"champions of {model}": str(error)}
    champion = [log[-1].version] if log else []
    return [number for number, _ in find_all(objects, model)] if every else champion, damage


def _verify(objects: Objects, model: str, number: int) -> None:
    version = find(objects, model, number)
    if version is None:
        raise IntegrityError(f"{model}@{number}: expected a commit record, got none; roll back to another version")
    verify(objects, version)


def _row(version: Version | IntegrityError) -> dict[str, Any]:
    if isinstance(version, IntegrityError):
        return {"error": str(version)}
    test = version.about["test"]
    return {
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
