"""A lease on each kind of storage: one holder at a time, and a dead one is replaced; locks of buckets."""

import functools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from mnist_lib.environment import SystemClock
from mnist_lib.errors import BusyError
from mnist_lib.objects.lease import Lease, LeaseLostError, LeaseTerm, lease_folder, locked, newest_term
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import RecordLog
from mnist_lib.objects.storage import open_storage
from tests.support.bounds import assert_at_most, wait_until
from tests.support.simulation.memory import MemoryObjects
from tests.support.store.faulty import Interrupted
from tests.support.store.leases import Clock, lease_of, pass_time


def test_i11_one_process_holds_the_lease_and_the_next_has_a_higher_number(objects: Objects) -> None:
    clock = Clock()
    one, other = lease_of(objects, "one", clock), lease_of(objects, "other", clock)
    assert one.acquire()
    assert not other.acquire()
    assert one.number == 1
    held_by = newest_term(objects, lease_folder("nightly"))
    assert held_by is not None
    assert held_by.holder == "one"
    one.release()
    assert other.acquire()
    assert other.number == 2


def test_i11_a_silent_holder_is_replaced_after_its_time_to_live_and_not_before(objects: Objects) -> None:
    mine, clock = Clock(), Clock(off=86_400.0)  # a day ahead, which must not matter
    one, other = lease_of(objects, "one", mine), lease_of(objects, "other", clock)
    assert one.acquire()
    for _ in range(10):
        pass_time(12, mine, clock)
        one.renew()
        assert not other.acquire()
    pass_time(29, clock)
    assert not other.acquire()
    pass_time(2, clock)
    assert other.acquire()


def test_i11_a_holder_that_cannot_renew_gives_up_before_another_takes_over(objects: Objects) -> None:
    clock = Clock()
    one = lease_of(objects, "one", clock)
    assert one.acquire()
    pass_time(19, clock)
    assert not one.overdue()
    pass_time(1, clock)
    assert one.overdue()
    with pytest.raises(LeaseLostError):
        one.renew()


def acquire(lease: Lease, objects: Objects) -> None:
    lease.acquire()


def test_i11_only_one_of_two_processes_that_find_the_holder_dead_takes_over() -> None:
    winners = set()
    for at in range(1, 100):  # the second process acts just before each operation of the first one
        objects, clock = MemoryObjects(), Clock()
        assert lease_of(objects, "dead", clock).acquire()
        second = lease_of(objects, "second", clock)
        interrupted = Interrupted(objects, at, functools.partial(acquire, second))
        first = lease_of(interrupted, "first", clock)
        assert not second.acquire()
        assert not first.acquire()
        pass_time(31, clock)
        first.acquire()
        winners.add((first.number, second.number))
        if interrupted.operations < at:  # it had taken over before
            break
    assert winners == {(2, None), (None, 2)}
    assert at < 99


def test_a_holder_whose_heartbeat_is_damaged_is_replaced_after_its_time_to_live(objects: Objects) -> None:
    clock = Clock()
    one, other = lease_of(objects, "one", clock), lease_of(objects, "other", clock)
    assert one.acquire()
    objects.replace("schedules/nightly/lease/beats/00000001.json", b"{")
    assert not other.acquire()
    pass_time(31, clock)
    assert other.acquire()


@pytest.mark.slow
@pytest.mark.long
def test_a_lease_is_renewed_during_work_that_takes_longer_than_it_lives(s3: str, tmp_path: Path) -> None:
    clock = SystemClock()
    term = LeaseTerm("one", "here", "2026-01-01T00:00:00Z")

    def work(storage: str) -> None:
        objects = open_storage(storage)
        one, other = (Lease(objects, "lease", term, time_to_live=3.0, clock=clock) for _ in range(2))
        assert one.acquire()
        end = clock.monotonic() + 7.0
        with one.renewed():
            while clock.monotonic() < end:
                assert not other.acquire()
                time.sleep(0.1)
        assert one.number == 1
        assert not one.overdue()

    with ThreadPoolExecutor() as pool:  # at the same time, since each takes 7 s
        list(pool.map(work, [str(tmp_path), f"memory://{uuid.uuid4().hex}", s3]))


def test_a_lease_that_is_lost_during_work_is_known_to_be_lost_afterwards(objects: Objects) -> None:
    term = LeaseTerm("one", "here", "2026-01-01T00:00:00Z")
    lease = Lease(objects, "lease", term, time_to_live=0.3, clock=SystemClock())
    assert lease.acquire()
    assert RecordLog(objects, "lease/terms").append(2, asdict(term))
    with lease.renewed():
        wait_until(lambda: lease.number is None, "the lease is not known to be lost")


def test_u8_a_lock_excludes_others_while_its_holder_lives_and_for_its_time_to_live_after_that() -> None:
    objects = open_storage("memory://lock")
    with locked(objects, "a.lock", time_to_live=0.6):
        with (
            pytest.raises(BusyError, match=r"got one held by process [0-9]+ on ") as busy,
            locked(objects, "a.lock", 0.6),
        ):
            pass
        assert "; wait for that process, or end it" in str(busy.value)
    begin = time.monotonic()
    with locked(objects, "a.lock", time_to_live=100):
        assert_at_most(10, since=begin)  # it was released
    term = LeaseTerm("process 7", "node7", "2026-01-05T03:00:00Z")
    dead = Lease(objects, "b.lock", term, time_to_live=1, clock=Clock())
    assert dead.acquire()
    begin = time.monotonic()
    with locked(objects, "b.lock", time_to_live=0.6):
        assert time.monotonic() - begin > 0.5
        with pytest.raises(BusyError, match="another process may hold"):
            dead.beat()
