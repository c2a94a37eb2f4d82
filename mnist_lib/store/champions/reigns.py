"""Which version of a model is in use for each data set, and which were before.

Promotions, refusals and roll-backs are appended to a log, see `log`. Nothing is overwritten: a roll-back
appends an older version again, so the champion may not be the newest version.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.log import Champion, ChampionLog, datasets_with_logs
from mnist_lib.store.versions import find_all


def champion(objects: Objects, model: str, dataset: str) -> Champion | None:
    """Return the newest record, or None. Raises IntegrityError if it is damaged; its version is not verified."""
    found = ChampionLog(objects, model, dataset).newest()
    if found is None:
        return None
    if isinstance(found.record, IntegrityError):
        raise found.record
    return found.record


def champions(objects: Objects, model: str) -> dict[str, Champion | IntegrityError]:
    """Return the newest record of each data set for which a model has a champion, or why it cannot be read."""
    logs = {name: ChampionLog(objects, model, name).newest() for name in datasets_with_logs(objects, model)}
    return {dataset: found.record for dataset, found in logs.items() if found is not None}


def dataset_in_use(objects: Objects, model: str) -> str | None:
    """Return the data set with a champion that the model was trained on last, or None if it has no champion.

    Raises IntegrityError if the record of the newest version is damaged and might be of any of several data sets.
    """
    trained = trained_last(objects, model)
    return trained.dataset if trained else None


@dataclass(frozen=True)
class TrainedLast:
    """The data set with a champion that a model was trained on last."""

    dataset: str
    at: str  # UTC, ISO 8601


def trained_last(objects: Objects, model: str) -> TrainedLast | None:
    """Return what `dataset_in_use` returns, with its time. Raises the same error."""
    with_champion = champions(objects, model)
    for _, version in find_all(objects, model, newest_first=True) if with_champion else ():
        if isinstance(version, IntegrityError):
            if len(with_champion) == 1:
                continue
            raise version
        dataset = version.facts.dataset.name
        if dataset in with_champion:
            return TrainedLast(dataset, version.committed_at)
    records = [(record.at, name) for name, record in with_champion.items() if isinstance(record, Champion)]
    return TrainedLast(max(records)[1], max(records)[0]) if records else None  # the version no longer exists


def history(objects: Objects, model: str, dataset: str) -> list[Champion | IntegrityError]:
    """Return all records, oldest first, with an error in place of a damaged one, or of any number of missing ones."""
    return [found.record for found in ChampionLog(objects, model, dataset).history()]


def reign(log: Sequence[Champion | IntegrityError]) -> Champion | None:
    """Return the record that made the current champion: the last one that is not a refusal."""
    records = [record for record in log if isinstance(record, Champion)]
    return next((record for record in reversed(records) if record.kind != "keep"), records[0] if records else None)


def champion_at(objects: Objects, model: str, dataset: str, at: str) -> Champion | None:
    """Return the champion at a time (UTC, ISO 8601), or None. Raises IntegrityError if a damaged record may name it."""
    damage: IntegrityError | None = None
    for record in reversed(history(objects, model, dataset)):
        if isinstance(record, IntegrityError):
            damage = record
        elif record.at > at:
            damage = None  # the damaged record is later than this one
        elif damage is None:
            return record
        else:
            break
    if damage is not None:
        raise damage
    return None


def rollback_line(log: Sequence[Champion | IntegrityError]) -> list[int]:
    """Return the versions that repeated roll-backs would go through, the current champion last."""
    line: list[int] = []
    for record in log:
        if isinstance(record, IntegrityError):
            continue
        if not line and record.continues is not None and record.replaced is not None:
            line.append(record.replaced)
        if record.kind == "rollback" and record.version in line:
            del line[line.index(record.version) + 1 :]
        elif record.kind != "keep" or not line:
            line.append(record.version)
    return line


def needed_versions(objects: Objects, model: str, keep: int) -> dict[int, list[str]]:
    """Return the versions that `gc` must not delete, each with the data sets for which it is the champion.

    These are the champions, with up to `keep` former ones for each, to which it could be rolled back.

    Raises IntegrityError if the newest record of a log is damaged.
    """
    needed: dict[int, list[str]] = {}
    for dataset in datasets_with_logs(objects, model):
        log = history(objects, model, dataset)
        if log and isinstance(log[-1], IntegrityError):
            raise IntegrityError(f"{log[-1]}; the champion is unknown: roll back first")
        line = rollback_line(log)[-keep - 1 :]
        for number in line:
            needed.setdefault(number, []).extend([dataset] if number == line[-1] else [])
    return needed
