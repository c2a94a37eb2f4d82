"""Real tasks on a real cluster; the items are not trials, since this package knows nothing of these."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.fan_out import FanOut, Lost, StartLane

# Workers cannot import a test module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_address")]


@dataclass(frozen=True)
class Item:
    id: str


@dataclass(frozen=True)
class Told:
    trial: str
    text: str
    final: bool = False


ITEMS = [Item("a"), Item("b"), Item("c")]


def tells_each(items: Sequence[Item]) -> Iterator[Told]:
    for item in items:
        yield Told(item.id, "begins")
        yield Told(item.id, "ends", final=True)


def dies_in(victim: str, times: int, folder: Path, items: Sequence[Item]) -> Iterator[Told]:
    """Kills its own process in the victim, the first `times` that it gets there."""
    for item in items:
        yield Told(item.id, "begins")
        deaths = folder / item.id
        if item.id == victim and (count := len(deaths.read_text()) if deaths.exists() else 0) < times:
            deaths.write_text("x" * (count + 1))
            time.sleep(0.2)  # what was yielded is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        yield Told(item.id, "ends", final=True)


def start_with(function: Any, *arguments: object) -> StartLane:
    task: Any = ray.remote(num_returns="streaming", num_cpus=0, max_retries=0, max_calls=1)(function)
    return lambda items: task.remote(*arguments, items)


def run(start: StartLane, *lanes: Sequence[Item], max_failures: int = 3) -> tuple[list[Told | Lost], FanOut]:
    with FanOut(start, max_failures) as fan_out:
        for lane in lanes:
            fan_out.submit(lane)
        return list(fan_out.events()), fan_out  # type: ignore[arg-type]


def ended(events: list[Told | Lost]) -> list[str]:
    return sorted(event.trial for event in events if isinstance(event, Told) and event.final)


def test_every_event_of_every_lane_arrives_in_the_order_of_its_lane() -> None:
    events, _ = run(start_with(tells_each), ITEMS[:2], ITEMS[2:])
    for lane in (ITEMS[:2], ITEMS[2:]):
        own = [event for event in events if isinstance(event, Told) and Item(event.trial) in lane]
        assert own == list(tells_each(lane))


def test_when_a_worker_is_killed_its_item_is_tried_again_and_what_ended_is_not(tmp_path: Path) -> None:
    events, fan_out = run(start_with(dies_in, "b", 1, tmp_path), ITEMS)
    assert ended(events) == ["a", "b", "c"]
    assert [fan_out.attempts(item.id) for item in ITEMS] == [1, 2, 1]


def test_an_item_whose_every_attempt_dies_is_lost_and_the_others_end(tmp_path: Path) -> None:
    events, _ = run(start_with(dies_in, "b", 99, tmp_path), ITEMS, max_failures=2)
    assert ended(events) == ["a", "c"]
    (lost,) = [event for event in events if isinstance(event, Lost)]
    assert (lost.item, lost.attempts) == ("b", 3)
    assert "WorkerCrashedError" in lost.reason


def raises_at_once(items: Sequence[Item]) -> Iterator[Told]:
    yield from __import__("no_module_of_that_name").events


def test_a_task_that_cannot_even_start_loses_its_items_with_the_reason_and_is_not_tried_again() -> None:
    events, _ = run(start_with(raises_at_once), ITEMS)
    assert [(event.item, event.attempts) for event in events if isinstance(event, Lost)] == [(i.id, 1) for i in ITEMS]
    assert all("no_module_of_that_name" in event.reason for event in events if isinstance(event, Lost))


def stops_early(items: Sequence[Item]) -> Iterator[Told]:
    yield Told(items[0].id, "begins")


def test_a_task_that_ends_before_its_items_is_a_failure_not_a_success() -> None:
    events, _ = run(start_with(stops_early), ITEMS[:1], max_failures=1)
    assert events[-1] == Lost(item="a", reason="the task ended early", attempts=2)


def sleeps(folder: Path, items: Sequence[Item]) -> Iterator[Told]:
    yield Told(items[0].id, str(os.getpid()))
    time.sleep(600)


def test_leaving_early_cancels_what_still_runs(tmp_path: Path) -> None:
    with FanOut(start_with(sleeps, tmp_path), 3) as fan_out:
        fan_out.submit(ITEMS)
        event = next(fan_out.events())
    assert isinstance(event, Told)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{event.text}").exists():
        assert time.monotonic() < deadline, "the worker still runs"
        time.sleep(0.1)
