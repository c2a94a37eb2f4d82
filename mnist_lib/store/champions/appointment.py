"""Which version of a model is in use for each dataset, and which were before; promotions append, and so do roll-backs.

Nothing is overwritten: a roll-back appends an older version again, so the champion may not be the newest version.
"""

from collections.abc import Sequence
from dataclasses import replace

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.intervals import accuracy_interval
from mnist_lib.objects.protocol import Objects
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.log import Champion, ChampionLog, datasets_with_logs, next_record
from mnist_lib.store.champions.promotion import Decision
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import find, find_all, verify

FORMER = "a former champion, to which a rollback can return"  # why `gc` keeps it


def champion(objects: Objects, model: str, dataset: str) -> Champion | None:
    """Return the newest record, or None. Raises IntegrityError if it is damaged; its version is not verified."""
    newest = ChampionLog(objects, model, dataset).newest()
    if isinstance(newest, IntegrityError):
        raise newest
    return newest


def champions(objects: Objects, model: str) -> dict[str, Champion | IntegrityError]:
    """Return the newest record of each dataset for which a model has a champion, or why it cannot be read."""
    newest = {name: ChampionLog(objects, model, name).newest() for name in datasets_with_logs(objects, model)}
    return {dataset: record for dataset, record in newest.items() if record is not None}


def trained_last(objects: Objects, model: str) -> tuple[str, str] | None:
    """Return the time (UTC, ISO 8601) and the dataset of the last training on one for which the model has a champion.

    None if it has no champion. Raises IntegrityError if the record of the newest version is damaged and might be of any
    of several datasets.
    """
    with_champion = champions(objects, model)
    for _, version in find_all(objects, model, newest_first=True) if with_champion else ():
        if isinstance(version, IntegrityError):
            if len(with_champion) == 1:
                continue
            raise version
        dataset = version.facts.dataset.name
        if dataset in with_champion:
            return version.committed_at, dataset
    # The version of a champion no longer exists.
    records = [(record.at, name) for name, record in with_champion.items() if isinstance(record, Champion)]
    return max(records, default=None)


def history(objects: Objects, model: str, dataset: str) -> list[Champion | IntegrityError]:
    """Return all records, oldest first, with an error in place of a damaged one, or of any number of missing ones."""
    return ChampionLog(objects, model, dataset).history()


def current_appointment(log: Sequence[Champion | IntegrityError]) -> Champion | None:
    """Return the record that made the current champion: the last one that is not a refusal."""
    records = [record for record in log if isinstance(record, Champion)]
    return next((record for record in reversed(records) if record.kind != "keep"), records[0] if records else None)


def rollback_line(log: Sequence[Champion | IntegrityError]) -> list[int]:
    """Return the versions that repeated roll-backs would go through, the current champion last."""
    line: list[int] = []
    for record in log:
        if isinstance(record, IntegrityError):
            continue
        if record.kind == "rollback" and record.version in line:
            del line[line.index(record.version) + 1 :]
        elif record.kind != "keep" or not line:
            line.append(record.version)
    return line


def needed_versions(objects: Objects, model: str, keep: int) -> dict[int, str]:
    """Return the versions that `gc` must not delete, each with the reason.

    These are the champions, and for each champion up to `keep` former ones, to which it could be rolled back.

    Raises IntegrityError if the newest record of a dataset is damaged.
    """
    champion_of, others = dict[int, list[str]](), dict[int, str]()
    for dataset in datasets_with_logs(objects, model):
        log = history(objects, model, dataset)
        if log and isinstance(log[-1], IntegrityError):
            raise IntegrityError(f"{log[-1]}; the champion is unknown: roll back first")
        line = rollback_line(log)[-keep - 1 :]
        for number in line[-1:]:
            champion_of.setdefault(number, []).append(dataset)
        others |= dict.fromkeys(line[:-1], FORMER)
    return others | {number: f"the champion of {', '.join(datasets)}" for number, datasets in champion_of.items()}


def rollback(objects: Objects, model: str, dataset: str, to: int | None = None) -> Champion:
    """Make version `to` the champion or, by default, the version that was the champion before the current one.

    If several processes roll back to one version at once, one of them appends a record. Repeating a roll-back with `to`
    changes nothing.

    Raises:
        SpecError: there is no version to roll back to.
        IntegrityError: that version is damaged.
    """
    target = to
    log = ChampionLog(objects, model, dataset)
    while True:
        last = log.last()  # before the records, so that a later one cannot be overlooked: its number is taken
        records = log.history()
        if not records:
            what = f"{model}: expected a champion for {dataset} to roll back"
            raise SpecError(f"{what}, got none; promote a version first")
        current = records[-1] if isinstance(records[-1], Champion) else None
        if target is None:
            target = _version_before(model, records)
        version = find(objects, model, target)
        if version is None:
            raise SpecError(f"{model}@{target}: there is no such version; see: jobs.models list {model}")
        verify(objects, version)
        predictions = Predictions.read(objects, version)
        if predictions.disqualification is not None:
            raise SpecError(f"{version.name} {predictions.disqualification}; name another version with --to")
        if current is not None and current.version == target:
            return current
        left = current.name if current else f"champion record {last}, which is damaged"
        known = [record for record in records if isinstance(record, Champion)]
        decision = Decision(True, f"rolled back from {left}")
        record = next_record("rollback", dataset, known[-1] if known else None, version, decision)
        record = replace(
            record,
            number=last + 1,
            replaced=current.version if current else None,
            test=Accuracy(int(predictions.correct.sum()), len(predictions.labels)),
            test_ci95=accuracy_interval(
                predictions.correct, groups=predictions.groups, selected_from=record.selected_from
            ),
        )
        if log.append(record):
            return record


def _version_before(model: str, log: Sequence[Champion | IntegrityError]) -> int:
    line = rollback_line(log)
    if isinstance(log[-1], IntegrityError) and line:
        return line[-1]  # the last known champion
    if len(line) < 2:
        first = f"{model}@{line[-1]} is the first champion" if line else f"no champion record of {model} can be read"
        raise SpecError(f"{first}, so there is none to roll back to; name a version with --to")
    return line[-2]
