"""`history.jsonl` -> what was trained where and when: the learning curves, and all attempts with their times."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mnist_lib.result import EpochDone

NOT_OF_AN_EPOCH = ("at", "event")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Seconds are counted from the first entry of the history."""

    trial: str
    lane: str  # the process
    begin: float
    end: float
    outcome: str  # "ok", "failed", "died", or "lost" with its driver


def learning_curves(history: Iterable[Mapping[str, Any]]) -> dict[str, list[EpochDone]]:
    """By trial, each epoch once: what a lost attempt trained was trained again, the same."""
    epochs: dict[str, dict[int, EpochDone]] = defaultdict(dict)
    for entry in history:
        if entry["event"] == "epoch":
            done = EpochDone.of({name: value for name, value in entry.items() if name not in NOT_OF_AN_EPOCH})
            epochs[done.trial][done.epoch] = done
    return {trial: [of_trial[number] for number in sorted(of_trial)] for trial, of_trial in epochs.items()}


def attempts(history: Iterable[Mapping[str, Any]]) -> list[Attempt]:
    """In the order in which they began."""
    found: list[Attempt] = []
    under_way: dict[str, Attempt] = {}  # by trial, as far as it is known
    first: float | None = None
    for entry in history:
        first = entry["at"] if first is None else first
        trial, seconds = str(entry.get("trial")), entry["at"] - first
        known = under_way.get(trial)
        match entry["event"]:
            case "started":
                if known is not None:
                    found.append(known)  # its driver was killed, and could not tell when it ended
                lane = f"{entry['node']}, process {entry['pid']}"
                under_way[trial] = Attempt(trial=trial, lane=lane, begin=seconds, end=seconds, outcome="lost")
            case "ended" | "died" as event if known is not None:
                outcome = "died" if event == "died" else entry["status"]
                found.append(replace(under_way.pop(trial), end=seconds, outcome=outcome))
            case _ if known is not None:
                under_way[trial] = replace(known, end=seconds)
    return sorted([*found, *under_way.values()], key=lambda attempt: attempt.begin)
