"""The commands of `jobs.models` that change what is stored: promote, rollback, gc."""

from dataclasses import asdict
from functools import partial

from jobs.console.output import CommandResult
from jobs.console.values import moment
from jobs.models.options import CollectOptions, PromoteOptions, RollbackOptions
from jobs.train.reporting import write_index
from mnist_lib.api import LATEST, NUMBER, find_version
from mnist_lib.errors import SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store import champions
from mnist_lib.store.datasets import collect_states
from mnist_lib.store.garbage_collection import ABANDONED_AFTER, collect
from mnist_lib.store.promotion import Rule
from mnist_lib.store.runs import INDEX
from mnist_lib.store.versions import model_names
from mnist_lib.wording import counted


def promote(options: PromoteOptions, objects: Objects) -> CommandResult:
    when, max_class_drop = "always" if options.always else "if-better", options.max_class_drop
    rule = Rule(when=when, alpha=options.alpha, min_accuracy=options.min_accuracy, max_class_drop=max_class_drop)
    name = options.version
    if name in model_names(objects):
        raise SpecError(
            f"version: expected {name}@{LATEST} or a number such as {name}@3, got {name}, which is already the champion"
        )
    version = find_version(objects, name)
    decision = champions.promote(objects, version, rule)
    verdict = f"{version.name} is now the champion" if decision.promote else f"{version.name} is not promoted"
    return CommandResult(asdict(decision), [f"{verdict}: {decision.why}"], afterwards=partial(_update_index, objects))


def rollback(options: RollbackOptions, objects: Objects) -> CommandResult:
    if options.model is None:
        raise SpecError("model: expected the model to roll back, got none; for example: jobs.models rollback keras")
    (model,) = options.models(objects)
    record = champions.rollback(objects, model, _target(objects, model, options.to))
    text = f"{model}@{record.version} is the champion: {record.why}"
    return CommandResult(asdict(record), [text], afterwards=partial(_update_index, objects))


def _update_index(objects: Objects) -> None:
    """Update the index, which names the champions, if a run has written one."""
    if objects.exists(INDEX):
        write_index(objects)


def _target(objects: Objects, model: str, to: str | None) -> int | None:
    """Return the number of the version to roll back to, or None for the previous champion."""
    if to is None:
        return None
    if NUMBER.fullmatch(to):
        return int(to)
    try:
        time = moment(to)
    except ValueError as error:
        raise SpecError(f"to: expected a number or a time such as 2026-11-25T03:00:00Z, got {to!r}") from error
    then = champions.champion_at(objects, model, time)
    if then is None:
        raise SpecError(f"to: {model} had no champion at {to}; see: jobs.models history {model}")
    return then.version


def collect_garbage(options: CollectOptions, objects: Objects) -> CommandResult:
    if options.keep is None or options.keep < 1:
        raise SpecError(f"keep: expected a number of versions, 1 or more, got {options.keep}; for example: gc --keep 5")
    found = {model: collect(objects, model, options.keep, dry_run=options.dry_run) for model in options.models(objects)}
    gone = {name for collected in found.values() for name in collected.deleted}
    states = collect_states(objects, gone, dry_run=options.dry_run)
    would = "would be " if options.dry_run else ""
    texts = {
        "deleted": f"{would}deleted: old version",
        "swept": f"{would}deleted: leftovers of a crashed run",
        "completed": f"{would}committed: its run crashed just before the commit",
        "damaged": "not changed: its record cannot be read",
        "pending": f"not changed: a run began to store it less than {ABANDONED_AFTER.days * 24} hours ago",
    }
    lines = []
    for collected in found.values():
        lines += [f"{name} {text}" for field, text in texts.items() for name in getattr(collected, field)]
        lines += [f"{name} {would}kept: {reason}" for name, reason in collected.reasons.items()]
    kept = sum(len(collected.kept) for collected in found.values())
    lines += [f"{name} {would}deleted: no run or version refers to this state of a dataset" for name in states]
    lines.append(f"{counted(kept, 'version')} {would}kept.")
    return CommandResult({model: asdict(collected) for model, collected in found.items()}, lines)
