"""The logs of champions: `models/<model>/champions/<dataset>/<n>.json`, one record for each decision, oldest first.

The newest record names the champion of a model for a dataset. Each record contains its own sha256, so that damage is
noticed, and is created once, so that if two processes decide at the same time, the second has to decide again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mnist_lib.data.request import stored_name
from mnist_lib.documents import Count, Interval, Json, Moment, Name, Number, Share, Text
from mnist_lib.environment import now_text
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import Objects, concurrently, failpoint
from mnist_lib.objects.records import RecordLog
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.promotion import Budget, Decision
from mnist_lib.store.versions import Version, model_names

Kind = Literal["promote", "keep", "rollback"]  # "keep": the champion was compared with a version that was refused


@dataclass(frozen=True)
class Champion:
    """A decision, and the champion since then."""

    model: Name
    dataset: Name
    number: Number  # of the record in its log
    version: Number  # the champion
    at: Moment  # UTC, ISO 8601
    kind: Kind
    why: Text
    run: Name  # the run that published the version that was judged
    replaced: Number | None  # the champion before; None in the first record, or if the previous record is damaged
    challenger: Number | None = None  # of "keep": the version that was refused
    total: Share = 0.0  # significance that all comparisons together may spend
    comparisons: Count = 0  # comparisons that have spent part of `total` so far, including that of this decision
    compared: Count = 0  # versions compared for this dataset so far, including those decided by more data
    selected_from: Number = 1  # number of versions of which the champion is the best
    test: Accuracy | None = None  # of the champion on the test images of this decision
    statistics: Mapping[str, Json] = field(default_factory=dict)
    test_ci95: Interval | None = None  # of `test`, with regard to groups and selection; None in earlier records

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def budget(self) -> Budget | None:
        return Budget(self.total, self.comparisons) if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the champion's accuracy. It allows for the selection of the champion."""
        return self.test_ci95 or (self.test.interval(self.selected_from) if self.test else None)


class ChampionLog:
    """The log of a model and a dataset. Every method raises StoreError if the storage fails."""

    def __init__(self, objects: Objects, model: str, dataset: str) -> None:
        self._objects = objects
        self._log = RecordLog(objects, f"models/{model}/champions/{dataset}")

    def last(self) -> int:
        """Return the number of the newest record, or 0 if the log is empty."""
        return self._log.last()

    def read(self, number: int) -> Champion | IntegrityError:
        """Return a record, or why it cannot be read."""
        try:
            return self._log.read(number, Champion)
        except IntegrityError as error:
            return error

    def newest(self) -> Champion | IntegrityError | None:
        """Return the newest record, or why it cannot be read; None if the log is empty."""
        last = self.last()
        return self.read(last) if last else None

    def history(self) -> list[Champion | IntegrityError]:
        """Return all records, oldest first, with an error in place of a damaged one or of missing ones."""
        found = list[Champion | IntegrityError]()
        numbers = sorted(self._log.numbers())
        last = 0
        for number, record in zip(numbers, concurrently(self._objects, self.read, numbers), strict=True):
            if number > last + 1:  # one error for the whole gap, which may be huge
                found.append(self.read(last + 1))
            found.append(record)
            last = number
        return found

    def append(self, record: Champion) -> bool:
        """Append a record, or return False if its number is taken."""
        failpoint(f"{record.kind}.before_append")
        return self._log.append(record.number, record)


def next_record(
    kind: Kind,
    dataset: str,
    before: Champion | None,
    winner: Version,
    decision: Decision,
    *,
    was_compared: bool = False,
) -> Champion:
    """Return the record of a decision.

    Args:
        before: the newest record that can be read, or None.
        winner: the champion from now on.
        was_compared: whether the decision follows from a comparison with the champion.
    """
    compared = (before.compared if before else 0) + was_compared
    budget = decision.budget or (Budget(before.total, before.comparisons) if before else Budget(0.0))
    return Champion(
        model=winner.model,
        dataset=dataset,
        number=before.number + 1 if before else 1,
        version=winner.number,
        at=now_text(),
        kind=kind,
        why=decision.why,
        run=winner.run,
        replaced=before.version if before else None,
        total=budget.total,
        comparisons=budget.comparisons,
        compared=compared,
        selected_from=before.selected_from if before and kind == "keep" else compared + 1,
        statistics=decision.statistics,
    )


def datasets_with_logs(objects: Objects, model: str) -> list[str]:
    """Return the datasets for which a model has or had a champion, sorted."""
    return objects.folders(f"models/{model}/champions")


def champion_dataset(objects: Objects, dataset: str | None, model: str | None) -> str | None:
    """Return the name of a dataset if it has or had a champion of a model, otherwise None.

    Args:
        model: None for any model; a version, such as keras@3, is no model.
    """
    if dataset is None:
        return None
    name = stored_name(dataset)
    models = [each for each in model_names(objects) if model in (None, each)]
    return name if any(name in datasets_with_logs(objects, each) for each in models) else None
