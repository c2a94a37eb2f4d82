"""The commands of `jobs.models` that change what is stored: promote, rollback, gc."""

from dataclasses import asdict
from functools import partial

from jobs.console import exit_codes
from jobs.console.output import CommandResult
from jobs.console.values import moment
from jobs.models.compute import predict_here
from jobs.models.options import CollectOptions, PromoteOptions, RollbackOptions
from jobs.train.reporting import write_index
from mnist_lib.api import LATEST, NUMBER, find_version
from mnist_lib.data.request import stored_name
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.settings import part_of
from mnist_lib.store.champions import appointment, challenge, reigns
from mnist_lib.store.champions.promotion import Rule, Thresholds
from mnist_lib.store.datasets import collect_states
from mnist_lib.store.garbage_collection import ABANDONED_AFTER, Collected, collect
from mnist_lib.store.runs import INDEX
from mnist_lib.store.versions import model_names
from mnist_lib.wording import counted


def promote(options: PromoteOptions, objects: Objects) -> CommandResult:
    rule = Rule(when="always" if options.always else "if-better", **part_of(options, Thresholds))
    name = options.version
    if name in model_names(objects):
        raise SpecError(
            f"version: expected {name}@{LATEST} or a number such as {name}@3, got {name}, which is already the champion"
        )
    version = find_version(objects, name)
    dataset = version.facts.dataset.name
    decision = challenge.promote(objects, version, rule, predict_here(objects, version, options))
    current = reigns.champion(objects, version.model, dataset)
    is_champion = current is not None and current.version == version.number
    if is_champion:
        verdict = f"{version.name} is {'now ' if decision.promote else ''}the champion of {dataset}: {decision.why}"
    else:
        verdict = f"{version.name} is not promoted: {decision.why}; to promote it all the same, add --always"
    lines = [verdict, *([f"Chance: {decision.budget}."] if decision.budget else [])]
    code = exit_codes.DONE if is_champion else exit_codes.REFUSED
    document = {**asdict(decision), "dataset": dataset, "champion": is_champion}
    return CommandResult(document, lines, code, afterwards=partial(_update_index, objects))


def rollback(options: RollbackOptions, objects: Objects) -> CommandResult:
    (model,) = options.models(objects)
    to = _number_or_time(options.to)
    dataset = _dataset(objects, model, options.dataset)
    record = appointment.rollback(objects, model, dataset, _target(objects, model, dataset, to))
    text = f"{record.name} is the champion of {dataset}: {record.why}"
    return CommandResult(asdict(record), [text], afterwards=partial(_update_index, objects))


def _update_index(objects: Objects) -> None:
    """Update the index, which names the champions, if a run has written one."""
    if objects.exists(INDEX):
        write_index(objects)


def _dataset(objects: Objects, model: str, given: str | None) -> str:
    """Return the data set whose champion is meant: the given one, or the one trained last."""
    dataset = stored_name(given) if given is not None else reigns.dataset_in_use(objects, model)
    if dataset is None:
        raise SpecError(f"{model}: expected a champion to roll back, got none; promote a version first")
    return dataset


def _number_or_time(to: str | None) -> int | str | None:
    if to is None or NUMBER.fullmatch(to):
        return None if to is None else int(to)
    try:
        return moment(to)
    except ValueError as error:
        raise SpecError(f"to: expected a number or a time such as 2026-11-25T03:00:00Z, got {to!r}") from error


def _target(objects: Objects, model: str, dataset: str, to: int | str | None) -> int | None:
    """Return the number of the version to roll back to, or None for the previous champion."""
    if not isinstance(to, str):
        return to
    then = reigns.champion_at(objects, model, dataset, to)
    if then is None:
        raise SpecError(f"to: {model} had no champion for {dataset} at {to}; see: jobs.models history {model}")
    return then.version


def collect_garbage(options: CollectOptions, objects: Objects) -> CommandResult:
    found, unknown = dict[str, Collected](), dict[str, IntegrityError]()
    for model in options.models(objects):
        try:
            found[model] = collect(objects, model, options.keep, dry_run=options.dry_run)
        except IntegrityError as error:  # of its champions; nothing of this model is deleted
            unknown[model] = error
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
    lines += [f"{model} not changed: {error}" for model, error in unknown.items()]
    kept = sum(len(collected.kept) for collected in found.values())
    lines += [f"{name} {would}deleted: no run or version refers to this state of a dataset" for name in states]
    lines.append(f"{counted(kept, 'version')} {would}kept.")
    document = {model: asdict(collected) for model, collected in found.items()}
    document |= {model: {"error": str(error)} for model, error in unknown.items()}
    return CommandResult(document, lines, exit_codes.exit_code_of(IntegrityError.code) if unknown else exit_codes.DONE)
