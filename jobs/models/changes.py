"""The commands of `jobs.models` that change what is stored: promote, rollback, gc."""

from dataclasses import asdict
from functools import partial

from jobs.console.output import CommandResult, counted
from jobs.console.values import moment
from jobs.models.options import CollectOptions, PromoteOptions, RollbackOptions
from mnist_lib.api import NUMBER, find_version
from mnist_lib.catalog import MODELS
from mnist_lib.errors import SpecError
from mnist_lib.store.objects import Objects
from mnist_lib.store.promotion import Rule
from mnist_lib.store.runs import INDEX

# Beyond these, the store loads NumPy: imported where it is needed, a refusal is at once.


def promote(options: PromoteOptions, objects: Objects) -> CommandResult:
    rule = Rule(
        when="always" if options.always else "if-better",
        alpha=options.alpha,
        min_accuracy=options.min_accuracy,
        max_class_drop=options.max_class_drop,
    )
    version = find_version(objects, options.version, MODELS)
    from mnist_lib.store.champions import promote

    decision = promote(objects, version, rule)
    verdict = f"{version.name} is the champion now" if decision.promote else f"{version.name} is not promoted"
    return CommandResult(asdict(decision), f"{verdict}: {decision.why}", afterwards=partial(_update_index, objects))


def rollback(options: RollbackOptions, objects: Objects) -> CommandResult:
    if options.model is None:
        raise SpecError("model: expected one to roll back, as in: jobs.models rollback keras")
    (model,) = options.models
    from mnist_lib.store.champions import rollback

    record = rollback(objects, model, _target(objects, model, options.to))
    text = f"{model}@{record.version} is the champion: {record.why}"
    return CommandResult(asdict(record), text, afterwards=partial(_update_index, objects))


def _update_index(objects: Objects) -> None:
    """Where runs have written one: it tells which version is in use."""
    if objects.exists(INDEX):
        from jobs.train.reporting import write_index

        write_index(objects)


def _target(objects: Objects, model: str, to: str | None) -> int | None:
    """The number of a version; None for the one before the champion."""
    from mnist_lib.store.champions import champion_at

    if to is None or NUMBER.fullmatch(to):
        return None if to is None else int(to)
    try:
        time = moment(to)
    except ValueError as error:
        raise SpecError(f"to: expected a version's number, or a time as in 2026-11-25T03:00:00Z, got {to!r}") from error
    then = champion_at(objects, model, time)
    if then is None:
        raise SpecError(f"to: {model} had no champion at {to}; see: jobs.models history {model}")
    return then.version


def collect_garbage(options: CollectOptions, objects: Objects) -> CommandResult:
    if options.keep is None or options.keep < 1:
        raise SpecError(f"keep: expected how many versions to keep, 1 or more, got {options.keep}; as in: gc --keep 5")
    from mnist_lib.store.collection import collect

    found = {model: collect(objects, model, options.keep, dry_run=options.dry_run) for model in options.models}
    would = "would be " if options.dry_run else ""
    texts = {
        "deleted": f"{would}deleted: old",
        "swept": f"{would}deleted: what a publisher that died left",
        "completed": f"{would}committed: its publisher died just before",
        "damaged": "not touched: its record cannot be read",
    }
    lines = [
        f"{name} {text}"
        for collected in found.values()
        for field, text in texts.items()
        for name in getattr(collected, field)
    ]
    kept = sum(len(collected.kept) for collected in found.values())
    lines.append(f"{counted(kept, 'version')} {'would stay' if options.dry_run else 'kept'}.")
    return CommandResult({model: asdict(collected) for model, collected in found.items()}, "\n".join(lines))
