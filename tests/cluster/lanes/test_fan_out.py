"""Real tasks on a real cluster; the items are not trials, since this package knows nothing of these."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.errors import ClusterLostError, ResourcesError
from cluster.lanes.deadlines import Limits
from cluster.lanes.deaths import Kind, death_of
from cluster.lanes.fan_out import Died, FanOut, Start
from cluster.lanes.lane import Lanes, WorkerProcess
from cluster.lanes.resources import LanePlan
from tests.support.clusters import every_cpu_taken, free_cpus, own_cluster, wait_until

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


UNDER_WAY_SECONDS = 0.5  # Ray sends an event after the yield: one that a kill follows at once may never come
ITEMS = [Item("a"), Item("b"), Item("c")]


def tells_each(items: Sequence[Item]) -> Iterator[Told]:
    for item in items:
        yield Told(item.id, "begins")
        yield Told(item.id, "ends", final=True)


def dies_in(victim: str, times: int, folder: Path, items: Sequence[Item]) -> Iterator[Told]:
    """Kills its own process in the victim, the first `times` that it gets there."""
    for item in items:
        yield Told(item.id, "begins")
        if item.id == victim and is_among_the_first(times, folder):
            time.sleep(UNDER_WAY_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)
        yield Told(item.id, "ends", final=True)


def is_among_the_first(times: int, folder: Path) -> bool:
    """Counts its own calls, over all processes."""
    with (folder / "calls").open("a+") as calls:
        calls.write("x")
        return calls.tell() <= times


NO_CPUS = LanePlan(lanes=1, cpus=0, gpus=0)  # there is always a place
QUICK = Limits(first_silence_seconds=4, silence_seconds=4, cancel_seconds=1, wait_seconds=30)


def start_with(function: Any, *arguments: object, plan: LanePlan = NO_CPUS) -> Start:
    lanes = Lanes(function, plan)
    return lambda items: lanes.start(*arguments, items)


def run(
    start: Start, *lanes: Sequence[Item], limits: Limits = QUICK, plan: LanePlan = NO_CPUS
) -> tuple[list[Told | Died], FanOut]:
    with FanOut(start, limits, plan) as fan_out:
        for lane in lanes:
            fan_out.submit(lane)
        return list(fan_out.events()), fan_out  # type: ignore[arg-type]


def ended(events: Sequence[Told | Died]) -> list[str]:
    return sorted(event.trial for event in events if isinstance(event, Told) and event.final)


def deaths(events: Sequence[Told | Died]) -> list[tuple[str, int, Kind, bool]]:
    return [(e.item, e.attempt, e.death.kind, e.final) for e in events if isinstance(e, Died)]


def test_every_event_of_every_lane_arrives_in_the_order_of_its_lane() -> None:
    events, _ = run(start_with(tells_each), ITEMS[:2], ITEMS[2:])
    for lane in (ITEMS[:2], ITEMS[2:]):
        own = [event for event in events if isinstance(event, Told) and Item(event.trial) in lane]
        assert own == list(tells_each(lane))


def test_when_a_worker_is_killed_its_item_is_tried_again_and_what_ended_is_not(tmp_path: Path) -> None:
    begin = time.monotonic()
    events, fan_out = run(start_with(dies_in, "b", 2, tmp_path), ITEMS)
    assert time.monotonic() - begin > 1 + 2  # it backs off
    assert ended(events) == ["a", "b", "c"]
    assert [event.trial for event in events if isinstance(event, Told) and not event.final] == ["a", *"bbb", "c"]
    assert [fan_out.attempts(item.id) for item in ITEMS] == [1, 3, 1]
    assert deaths(events) == [("b", 1, Kind.KILLED, False), ("b", 2, Kind.KILLED, False)]


def test_an_item_whose_every_attempt_dies_is_given_up_and_the_others_end(tmp_path: Path) -> None:
    events, _ = run(start_with(dies_in, "b", 99, tmp_path), ITEMS, limits=Limits(max_failures=1))
    assert ended(events) == ["a", "c"]
    assert deaths(events) == [("b", 1, Kind.KILLED, False), ("b", 2, Kind.KILLED, True)]


def raises_at_once(items: Sequence[Item]) -> Iterator[Told]:
    yield from __import__("no_module_of_that_name").events


def test_a_task_that_cannot_even_start_ends_its_items_with_the_reason_and_is_not_tried_again() -> None:
    events, _ = run(start_with(raises_at_once), ITEMS)
    assert deaths(events) == [(item.id, 1, Kind.BUG, True) for item in ITEMS]
    assert all("no_module_of_that_name" in str(event.death) for event in events if isinstance(event, Died))
    assert all("in raises_at_once" in event.death.traceback for event in events if isinstance(event, Died))


def stops_early(items: Sequence[Item]) -> Iterator[Told]:
    yield Told(items[0].id, "begins")


def test_a_task_that_ends_before_its_items_is_a_failure_not_a_success() -> None:
    events, _ = run(start_with(stops_early), ITEMS[:1], limits=Limits(max_failures=0))
    assert deaths(events) == [("a", 1, Kind.ENDED_EARLY, True)]


def stops_once(folder: Path, items: Sequence[Item]) -> Iterator[Told]:
    """The whole process stands still, as if its machine had; the first time."""
    yield Told(items[0].id, str(os.getpid()))
    if is_among_the_first(1, folder):
        time.sleep(UNDER_WAY_SECONDS)
        os.kill(os.getpid(), signal.SIGSTOP)
    yield Told(items[0].id, "ends", final=True)


def test_an_attempt_without_a_sign_of_life_is_given_up_and_ended_and_another_one_follows(tmp_path: Path) -> None:
    events, _ = run(start_with(stops_once, tmp_path), ITEMS[:1])
    assert deaths(events) == [("a", 1, Kind.SILENT, False)]
    assert ended(events) == ["a"]
    stopped = next(event.text for event in events if isinstance(event, Told))
    wait_until(lambda: not Path(f"/proc/{stopped}").exists(), "the stopped worker is still there")


def test_of_an_attempt_that_was_given_up_nothing_is_taken_when_it_comes_back(tmp_path: Path) -> None:
    limits = replace(QUICK, cancel_seconds=60)  # it is not killed meanwhile
    seen = []
    with FanOut(start_with(stops_once, tmp_path), limits, NO_CPUS) as fan_out:
        fan_out.submit(ITEMS[:1])
        for event in fan_out.events():
            seen.append(event)
            if isinstance(event, Died):
                os.kill(int(seen[0].text), signal.SIGCONT)  # type: ignore[union-attr]
                time.sleep(2)
    assert ended(seen) == ["a"]  # type: ignore[arg-type]


def sleeps(seconds: float, items: Sequence[Item]) -> Iterator[Told]:
    for item in items:
        yield Told(item.id, str(os.getpid()))
        for _ in range(int(seconds * 10)):
            time.sleep(0.1)
            yield Told(item.id, "still there")
        yield Told(item.id, "ends", final=True)


def test_an_item_that_takes_too_long_is_given_up_for_good_and_the_others_go_on() -> None:
    def slow_a(items: Sequence[Item]) -> Iterator[Told]:
        for item in items:
            yield from sleeps(600 if item.id == "a" else 0, [item])

    events, _ = run(start_with(slow_a), ITEMS, limits=replace(QUICK, item_seconds=2))
    assert deaths(events) == [("a", 1, Kind.OVERTIME, True)]
    assert ended(events) == ["b", "c"]


def test_leaving_early_ends_what_still_runs() -> None:
    with FanOut(start_with(sleeps, 600), QUICK, NO_CPUS) as fan_out:
        fan_out.submit(ITEMS)
        event = next(fan_out.events())
    assert isinstance(event, Told)
    wait_until(lambda: not Path(f"/proc/{event.text}").exists(), "the worker still runs")


ONE_CPU = LanePlan(lanes=1, cpus=1, gpus=0)


def test_a_lane_that_finds_no_place_says_why_and_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    start = start_with(tells_each, plan=ONE_CPU)
    said = r"1 CPU\(s\) not free within 3 s \(.*0 of 2 CPU\(s\), 2 of 2 GPU\(s\) free.*\); wait longer with"
    with every_cpu_taken(600), pytest.raises(ResourcesError, match=said):
        run(start, ITEMS, plan=ONE_CPU, limits=Limits(wait_seconds=3, tell_seconds=1))
    (first, *_) = caplog.messages
    assert re.match(r"waiting for 1 CPU\(s\) on one node, for \d s of at most 3 \(--wait-for-resources\)", first)
    assert "0 of 1 CPU(s), 1 of 1 GPU(s) free" in first


def test_a_lane_that_waits_begins_when_there_is_a_place() -> None:
    limits = replace(QUICK, wait_seconds=60)
    with every_cpu_taken(3):
        events, _ = run(start_with(tells_each, plan=ONE_CPU), ITEMS, limits=limits, plan=ONE_CPU)
    assert ended(events) == ["a", "b", "c"]


def test_a_death_for_memory_names_the_node_and_its_memory() -> None:
    error = ray.exceptions.OutOfMemoryError(  # type: ignore[no-untyped-call]
        "Task was killed due to the node running low on memory.\n"
        "Memory on the node (IP: 10.0.0.7, ID: abc) was 28.5GB used / 30.0GB limit (0.95)"
    )
    death = death_of(error, WorkerProcess(node="abc", host="node-7", pid=1))
    assert (death.kind, str(death)) == (Kind.OUT_OF_MEMORY, "out of memory on node-7, 28.5GB of 30.0GB in use")


@pytest.fixture
def other_cluster() -> Iterator[Any]:
    """Of a head without CPUs; this process is connected to it, and afterwards again to that of the other tests."""
    others = ray.get_runtime_context().gcs_address
    ray.shutdown()
    with own_cluster(cpus=0) as cluster:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
    ray.init(address=others, log_to_driver=False)


def test_when_a_node_is_lost_its_items_go_on_elsewhere(other_cluster: Any) -> None:
    node = other_cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    seen: list[Any] = []
    with FanOut(start_with(sleeps, 5, plan=ONE_CPU), Limits(wait_seconds=60), ONE_CPU) as fan_out:
        fan_out.submit(ITEMS[:2])
        for event in fan_out.events():
            if not seen:
                other_cluster.remove_node(node, allow_graceful=False)
                other_cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
            seen.append(event)
    assert deaths(seen) == [("a", 1, Kind.NODE_LOST, False)]
    assert ended(seen) == ["a", "b"]
    wait_until(lambda: free_cpus() == 1, "the CPU is not given back")


def test_when_the_head_dies_it_is_said_within_seconds_and_not_waited_for(other_cluster: Any) -> None:
    other_cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    with FanOut(start_with(sleeps, 600, plan=ONE_CPU), replace(QUICK, head_seconds=3), ONE_CPU) as fan_out:
        fan_out.submit(ITEMS)
        events = fan_out.events()
        next(events)
        other_cluster.head_node.kill_gcs_server()
        begin = time.monotonic()
        with pytest.raises(
            ClusterLostError, match=r"the head of the cluster has not answered for \d+ s; is it running"
        ):
            list(events)
        assert time.monotonic() - begin < 15
