"""Appoint champions: each decision is appended to the log, and a roll-back appends an older version again."""

from collections.abc import Sequence
from dataclasses import replace

from mnist_lib.clock import now_text
from mnist_lib.errors import ConflictError, IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects, failpoint
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.log import Champion, ChampionLog, LogEntry, commit_sha256, pinned_version
from mnist_lib.store.champions.promotion import Decision
from mnist_lib.store.champions.reigns import rollback_line
from mnist_lib.store.holds import hold, read_hold_state
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version, find, verify


def rollback(objects: Objects, model: str, dataset: str, to: int | None = None) -> Champion:
    """Make version `to` the champion or, by default, the version that was the champion before the current one.

    Of equal roll-backs that run concurrently, one takes effect. Repeating a roll-back with `to` changes nothing.

    Raises:
        SpecError: there is no version to roll back to.
        ConflictError: `gc` has deleted that version.
        IntegrityError: that version is damaged, or is not the one that was the champion.
    """
    target, log = to, ChampionLog(objects, model, dataset)
    while True:
        found = log.history()
        records = [entry.record for entry in found]
        if not found:
            what = f"{model}: expected a champion for {dataset} to roll back"
            raise SpecError(f"{what}, got none; promote a version first")
        current = records[-1] if isinstance(records[-1], Champion) else None
        if target is None:
            target = _version_before(model, records)
        version = find(objects, model, target)
        if version is None:
            raise SpecError(f"{model}@{target}: there is no such version; see: jobs.models list {model}")
        hold(objects, model, target)
        verify(objects, version)
        known = [record for record in records if isinstance(record, Champion)]
        for record in known:
            if record.version == target:
                pinned_version(objects, record)
        predictions = Predictions.read(objects, version)
        if predictions.disqualification is not None:
            raise SpecError(f"{version.name} {predictions.disqualification}; name another version with --to")
        if current is not None and current.version == target:
            return current
        left = current.name if current else f"champion record {found[-1].number}, which is damaged"
        decision = Decision(True, f"rolled back from {left}")
        record = next_record("rollback", dataset, found[-1], current, version, decision)
        if known and not current:  # a damaged record may have spent as much as any other
            record = _with_budget_of(record, known[-1])
            if record.budget is not None:
                budget = record.budget.after_comparison()
                record = replace(record, spent=budget.spent, comparisons=budget.comparisons)
        test = Accuracy(int(predictions.correct.sum()), len(predictions.labels))
        record = replace(record, test=test, selected_from=record.compared + 1)
        if append(objects, found[-1], record, current):
            return record


def _version_before(model: str, log: Sequence[Champion | IntegrityError]) -> int:
    line = rollback_line(log)
    if isinstance(log[-1], IntegrityError) and line:
        return line[-1]  # the last known champion
    if len(line) < 2:
        first = f"{model}@{line[-1]} is the first champion" if line else f"no champion record of {model} can be read"
        raise SpecError(f"{first}, so there is none to roll back to; name a version with --to")
    return line[-2]


def next_record(
    kind: str, dataset: str, newest: LogEntry | None, current: Champion | None, version: Version, decision: Decision
) -> Champion:
    """Return the record of a decision that spends nothing."""
    record = Champion(
        model=version.model,
        dataset=dataset,
        number=newest.number + 1 if newest else 1,
        version=version.number,
        at=now_text(),
        kind=kind,  # type: ignore[arg-type]
        why=decision.why,
        run=version.run,
        replaced=current.version if current else None,
        continues=current.dataset if current and current.dataset != dataset else None,
        commit_sha256=commit_sha256(version),
        previous_sha256=newest.sha256 if newest else None,
        statistics=decision.statistics,
    )
    return _with_budget_of(record, current) if current else record


def _with_budget_of(record: Champion, before: Champion) -> Champion:
    return replace(
        record,
        period=before.period,
        total=before.total,
        spent=before.spent,
        comparisons=before.comparisons,
        compared=before.compared,
        selected_from=before.compared + 1,
    )


def append(objects: Objects, newest: LogEntry | None, record: Champion, current: Champion | None) -> bool:
    """Append a record, or return False if its number is taken.

    If `gc` considered the hold expired and condemned the version, restore the champion and raise ConflictError.
    """
    failpoint(f"{record.kind}.before_append")
    log = ChampionLog(objects, record.model, record.dataset)
    if not log.append(newest, record):
        return False
    if record.kind != "keep" and read_hold_state(objects, record.model, record.version).condemned:
        why = f"{record.name} was deleted by gc at the same time"
        if current is not None:
            appended = log.newest()
            version = find(objects, current.model, current.version, deleted=True)
            if appended is not None and appended.number == record.number and version is not None:
                restored = next_record("rollback", record.dataset, appended, record, version, Decision(True, why))
                log.append(appended, replace(restored, test=current.test, selected_from=current.selected_from))
        raise ConflictError(f"{why}; name another version")
    return True
