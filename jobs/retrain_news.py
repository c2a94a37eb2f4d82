"""What became of a slot, told to others: which events it is, and the document that a webhook or a command gets."""

import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs import exits
from mnist_lib.clock import moment_of
from mnist_lib.retraining.journal import Entry

SCHEMA = 1
EVENTS_OF = {
    "started": ["recovery"],
    "failed": ["failure"],
    "unchanged": ["skip"],
    "skipped": ["skip"],
    "replaced": ["skip"],
}


def events_of(entry: Entry) -> list[str]:
    """Of `retrain_options.EVENTS`."""
    if entry.kind != "done":
        return EVENTS_OF.get(entry.kind, [])
    events = ["success" if entry.exit_code == exits.DONE else "failure"]
    champions = [bool(row["champion"]) for row in entry.results.values()]
    return [*events, *(["promotion"] if any(champions) else []), *(["rejection"] if not all(champions) else [])]


def document_of(entry: Entry, schedule: str, storage: str) -> dict[str, Any]:
    """For programs; `text` is for people, and is what a Slack webhook shows."""
    command = next_command(entry, schedule, storage)
    return {
        "schema": SCHEMA,
        "events": events_of(entry),
        "schedule": schedule,
        "host": socket.gethostname(),
        "slot": entry.slot,
        "outcome": entry.kind,
        "at": entry.at,
        "seconds": seconds_of(entry),
        "run": entry.run or None,
        "attempt": entry.attempt,
        "missed": entry.missed,
        "exit_code": entry.exit_code,
        "cause": entry.why or None,
        "models": dict(entry.results),
        "next_command": command,
        "text": sentence_of(entry, schedule) + (f". Next: {command}" if command else ""),
    }


def sentence_of(entry: Entry, schedule: str) -> str:
    outcome = "goes on after its process has died" if entry.kind == "started" else entry.kind
    parts = [f"{schedule}, slot {entry.slot}: {outcome}"]
    if entry.why:
        parts.append(entry.why)
    if entry.missed:
        parts.append(f"{entry.missed:,} missed before it")
    for model, row in entry.results.items():
        champion = "the champion" if row["champion"] else "not the champion"
        parts.append(f"{model}@{row['version']} has {row['test_accuracy']:.2%} and is {champion} ({row['why']})")
    return "; ".join(parts)


def next_command(entry: Entry, schedule: str, storage: str) -> str | None:
    """What somebody who is told may want to type; None where there is nothing to do."""
    if entry.kind == "failed":
        if entry.run and entry.exit_code not in (exits.exit_code_of("E-USAGE"), exits.exit_code_of("E-TRAINING")):
            return _python("jobs.train", "--resume", entry.run, "--storage", storage)
        return _python("jobs.retrain", "status", "--name", schedule, "--storage", storage)
    promoted = [model for model, row in entry.results.items() if row["champion"]]
    if entry.kind == "done" and promoted:
        return _python("jobs.models", "history", promoted[0], "--storage", storage)
    return None


def teller(
    tell: Callable[[Mapping[str, Any]], None], events: Sequence[str], schedule: str, storage: str
) -> Callable[[Entry], None]:
    """Of those events only."""

    def tell_entry(entry: Entry) -> None:
        if set(events_of(entry)) & set(events):
            tell(document_of(entry, schedule, storage))

    return tell_entry


def seconds_of(entry: Entry) -> float | None:
    """That its last attempt took."""
    return (moment_of(entry.at) - moment_of(entry.begun)).total_seconds() if entry.begun else None


def _python(module: str, *words: str) -> str:
    return shlex.join(["python", "-m", module, *words])
