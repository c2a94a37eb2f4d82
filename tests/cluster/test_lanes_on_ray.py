"""Lanes as real tasks on a real cluster. The items are not trials, since this package knows nothing of trials."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.deadlines import SILENCE_SECONDS, Limits
from cluster.errors import ResourcesError
from cluster.lanes import Cause, WorkerProcess
from cluster.nodes import LanePlan
from cluster.ray_lanes import RayLanes, lane_death
from cluster.supervisor import LostAttempt, Supervisor
from tests.support.bounds import wait_until
from tests.support.local_cluster import every_cpu_taken
from tests.support.supervised import Items, run_loop

# Workers cannot import a test module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_address")]


@dataclass(frozen=True)
class Item:
    id: str
    compile_key: str = ""
    cost: float = 1.0


@dataclass(frozen=True)
class Event:
    trial: str
    text: str
    final: bool = False
    phase: str = "training"


SENT_SECONDS = 0.5  # until Ray has sent a yielded event; a kill before that may lose it
ITEMS = [Item("a"), Item("b"), Item("c")]


def begins_and_ends(items: Iterable[Item]) -> Iterator[Event]:
    for item in items:
        yield Event(item.id, "begins")
        yield Event(item.id, "ends", final=True)


def dies_in(victim: str, times: int, folder: Path, items: Iterable[Item]) -> Iterator[Event]:
    """Kill the worker while it runs the item `victim`, the first `times` times that an attempt reaches it."""
    for item in items:
        yield Event(item.id, "begins")
        if item.id == victim and is_among_the_first(times, folder):
            time.sleep(SENT_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)
        yield Event(item.id, "ends", final=True)


def is_among_the_first(times: int, folder: Path) -> bool:
    """Return whether fewer than `times` calls, in all processes, came before this one."""
    with (folder / "calls").open("a+") as calls:
        calls.write("x")
        return calls.tell() <= times


NO_CPUS = LanePlan(lanes=1, cpus=0, gpus=0)  # never has to wait
SILENCE = {**SILENCE_SECONDS, "starting": 4, "assigned": 4, "preparing": 4, "training": 4}
QUICK = Limits(silence_seconds=SILENCE, wait_seconds=30)

Start = Callable[[Limits, LanePlan], RayLanes]


def start_with(function: Any, *arguments: object) -> Start:
    """Return a function that makes a pool whose lanes run `function(*arguments, items)`."""
    return lambda limits, plan: RayLanes(lambda items: function(*arguments, items), plan, limits)


def run(
    start: Start, items: Sequence[Item], limits: Limits = QUICK, plan: LanePlan = NO_CPUS
) -> tuple[list[Event | LostAttempt], Supervisor]:
    source = Items(items)
    supervisor = run_loop(start(limits, plan), source, source, plan, limits)
    return source.events, supervisor


def ended(events: Sequence[Event | LostAttempt]) -> list[str]:
    return sorted(event.trial for event in events if isinstance(event, Event) and event.final)


def deaths(events: Sequence[Event | LostAttempt]) -> list[tuple[str, int, Cause, bool]]:
    return [(e.trial, e.attempt, e.death.cause, e.final) for e in events if isinstance(e, LostAttempt)]


def test_the_events_of_every_item_arrive_in_order_and_lanes_share_one_queue() -> None:
    events, _ = run(start_with(begins_and_ends), ITEMS, plan=replace(NO_CPUS, lanes=2))
    for item in ITEMS:
        own = [event for event in events if isinstance(event, Event) and event.trial == item.id]
        assert own == list(begins_and_ends([item]))


def test_after_a_kill_the_running_item_is_retried_and_ended_ones_are_not(tmp_path: Path) -> None:
    begin = time.monotonic()
    events, supervisor = run(start_with(dies_in, "b", 2, tmp_path), ITEMS)
    assert time.monotonic() - begin > 1 + 2  # the back-off
    assert ended(events) == ["a", "b", "c"]
    begun = [event.trial for event in events if isinstance(event, Event) and not event.final]
    assert sorted(begun) == [*"abbbc"]  # c may be done while b waits for its next attempt
    assert [supervisor.attempts(item.id) for item in ITEMS] == [1, 3, 1]
    assert deaths(events) == [("b", 1, Cause.KILLED, False), ("b", 2, Cause.KILLED, False)]


@pytest.mark.long
def test_an_item_whose_every_attempt_dies_fails_and_the_others_end(tmp_path: Path) -> None:
    events, _ = run(start_with(dies_in, "b", 99, tmp_path), ITEMS, limits=Limits(max_failures=1))
    assert ended(events) == ["a", "c"]
    assert deaths(events) == [("b", 1, Cause.KILLED, False), ("b", 2, Cause.KILLED, True)]


def dies_after_its_result(folder: Path, items: Iterable[Item]) -> Iterator[Event]:
    for item in items:
        (folder / "ending").touch()
        yield Event(item.id, "ends", final=True)
        time.sleep(SENT_SECONDS + 1)
        (folder / "dying").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.long
def test_w1_a_result_that_waits_to_be_read_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    """Ray loses what is left in the stream of a worker when the worker dies."""
    ending, dying, limits = tmp_path / "ending", tmp_path / "dying", Limits(max_failures=0)

    class Stalled(Items):
        @property
        def is_full(self) -> bool:
            return ending.exists() and not (dying.exists() and time.time() - dying.stat().st_mtime > 3)

        @is_full.setter
        def is_full(self, value: bool) -> None: ...

    lanes = RayLanes(lambda items: dies_after_its_result(tmp_path, items), NO_CPUS, limits)
    items = Stalled(ITEMS[:1])
    run_loop(lanes, items, items, NO_CPUS, limits)
    events = items.events
    assert (ended(events), deaths(events)) == (["a"], [])


def raises_at_once(items: Iterable[Item]) -> Iterator[Event]:
    yield from __import__("no_module_of_that_name").events


def test_a_bug_at_the_start_of_a_task_fails_its_items_without_a_retry() -> None:
    events, _ = run(start_with(raises_at_once), ITEMS)
    assert deaths(events) == [(item.id, 1, Cause.BUG, True) for item in ITEMS]
    assert all("no_module_of_that_name" in str(event.death) for event in events if isinstance(event, LostAttempt))
    assert all("in raises_at_once" in event.death.traceback for event in events if isinstance(event, LostAttempt))


def stops_early(items: Iterable[Item]) -> Iterator[Event]:
    yield Event(next(iter(items)).id, "begins")


@pytest.mark.long
def test_a_task_that_ends_before_its_items_is_a_failure() -> None:
    events, _ = run(start_with(stops_early), ITEMS[:1], limits=Limits(max_failures=0))
    # The worker's process ends with the task; on a busy machine, Ray may notice this before the end of the generator.
    assert deaths(events) in ([("a", 1, kind, True)] for kind in (Cause.ENDED_EARLY, Cause.KILLED))


def stops_once(folder: Path, items: Iterable[Item]) -> Iterator[Event]:
    """Stop the whole process, as if its machine had stopped; only the first time."""
    for item in items:
        yield Event(item.id, str(os.getpid()))
        if is_among_the_first(1, folder):
            time.sleep(SENT_SECONDS)
            os.kill(os.getpid(), signal.SIGSTOP)
        yield Event(item.id, "ends", final=True)


def test_f8_a_silent_attempt_is_killed_and_another_one_follows(tmp_path: Path) -> None:
    events, _ = run(start_with(stops_once, tmp_path), ITEMS[:1])
    assert deaths(events) == [("a", 1, Cause.SILENT, False)]
    assert ended(events) == ["a"]
    stopped = next(event.text for event in events if isinstance(event, Event))
    wait_until(lambda: not Path(f"/proc/{stopped}").exists(), "the stopped worker is still there")


def sleeps(seconds: float, items: Iterable[Item]) -> Iterator[Event]:
    for item in items:
        yield Event(item.id, str(os.getpid()))
        for _ in range(int(seconds * 10)):
            time.sleep(0.1)
            yield Event(item.id, "still there")
        yield Event(item.id, "ends", final=True)


def test_an_error_in_the_loop_ends_what_still_runs() -> None:
    def fail(event: Event) -> None:
        raise InterruptedError(event.text)

    items = Items(ITEMS, on_event=fail)
    with pytest.raises(InterruptedError) as error:
        run_loop(start_with(sleeps, 600)(QUICK, NO_CPUS), items, items, NO_CPUS, QUICK)
    wait_until(lambda: not Path(f"/proc/{error.value}").exists(), "the worker is still there")


ONE_CPU = LanePlan(lanes=1, cpus=1, gpus=0)


def test_f14_a_lane_that_waits_for_busy_cpus_logs_why_and_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    start = start_with(begins_and_ends)
    expected = r"1 CPU not free within 3 s \(.*0 of 2 CPUs, 2 of 2 GPUs free.*\); wait longer with"
    with every_cpu_taken(600), pytest.raises(ResourcesError, match=expected):
        run(start, ITEMS, plan=ONE_CPU, limits=Limits(wait_seconds=3, log_interval_seconds=1))
    (first, *_) = caplog.messages
    assert re.match(r"waiting for 1 CPU on one node, for \d s of at most 3 \(--wait-for-resources\)", first)
    assert "0 of 1 CPU, 1 of 1 GPU free" in first


@pytest.mark.long
def test_f14_a_waiting_lane_begins_when_a_cpu_is_free() -> None:
    limits = replace(QUICK, wait_seconds=60)
    with every_cpu_taken(3):
        events, _ = run(start_with(begins_and_ends), ITEMS, limits=limits, plan=ONE_CPU)
    assert ended(events) == ["a", "b", "c"]


def test_a_death_for_lack_of_memory_names_the_node_and_its_memory() -> None:
    error = ray.exceptions.OutOfMemoryError(  # type: ignore[no-untyped-call]
        "Task was killed due to the node running low on memory.\n"
        "Memory on the node (IP: 10.0.0.7, ID: abc) was 28.5GB used / 30.0GB limit (0.95)"
    )
    death = lane_death(error, WorkerProcess(node="abc", host="node-7", pid=1), [])
    assert (death.cause, str(death)) == (Cause.OUT_OF_MEMORY, "out of memory on node-7, 28.5GB of 30.0GB in use")
