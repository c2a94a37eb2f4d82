"""A holder of a lease that was suspended overwrites nothing of a later one, on each kind of storage; locks."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mnist_lib.errors import BusyError, ConflictError, SpecError, StoreError
from mnist_lib.objects.lease import FencedObjects, Lease, LeaseLostError, LeaseTerm, fence, locked
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import RecordLog
from mnist_lib.objects.storage import open_storage
from tests.support.bounds import assert_at_most
from tests.support.store.leases import Clock, lease_of, pass_time


def test_p10_i11_writes_of_a_holder_that_was_suspended_too_long_are_refused(objects: Objects) -> None:
    mine, clock = Clock(), Clock()
    one, other = lease_of(objects, "one", mine), lease_of(objects, "other", clock)
    assert one.acquire()
    assert not other.acquire()
    pass_time(31, clock)  # `one` is suspended, so its clock stands still
    assert other.acquire()
    fenced = fence(objects, "nightly:1")
    for write in (
        lambda: fenced.create("a", b""),
        lambda: fenced.replace("a", b""),
        lambda: fenced.append("a", b""),
        lambda: fenced.delete("a"),
        lambda: fenced.delete_below("a"),
        lambda: fenced.delete_leftovers("a"),
        fenced.flush,
    ):
        with pytest.raises(ConflictError, match="lease 1 has passed to another process"):
            write()
    assert not fenced.exists("a")
    assert fence(objects, "nightly:2").create("a", b"")
    pass_time(11, mine)
    with pytest.raises(LeaseLostError):
        one.renew()
    assert one.number is None


def test_a_fenced_create_always_checks_the_lease_and_other_writes_once_a_second(
    objects: Objects,
) -> None:
    mine, clock = Clock(), Clock()
    one, other = lease_of(objects, "one", mine), lease_of(objects, "other", clock)
    assert one.acquire()
    fenced = fence(objects, "nightly:1", mine)
    fenced.replace("a", b"before")
    assert not other.acquire()
    pass_time(31, clock)
    assert other.acquire()
    with contextlib.suppress(ConflictError):  # a disk checks each time, which costs no request
        fenced.replace("a", b"within the second")
        assert objects.read("a") == b"within the second"
    with pytest.raises(ConflictError):
        fenced.create("b", b"")
    with pytest.raises(ConflictError):
        fenced.replace("a", b"after a question")


def test_u8_a_lock_excludes_others_while_its_holder_lives_and_for_its_time_to_live_after_that() -> None:
    objects = open_storage("memory://lock")
    with locked(objects, "a.lock", time_to_live=0.6) as mine:
        mine.replace("a", b"mine")
        with (
            pytest.raises(BusyError, match=r"got one held by process [0-9]+ on ") as busy,
            locked(objects, "a.lock", 0.6),
        ):
            pass
        assert "; wait for that process, or end it" in str(busy.value)
    begin = time.monotonic()
    with locked(objects, "a.lock", time_to_live=100):
        assert_at_most(10, since=begin)  # it was released
    dead = Lease(
        objects, "b.lock", LeaseTerm("process 7", "node7", "2026-01-05T03:00:00Z"), time_to_live=1, clock=Clock()
    )
    assert dead.acquire()
    old = FencedObjects(objects, "b.lock", 1, Clock())
    begin = time.monotonic()
    with locked(objects, "b.lock", time_to_live=0.6) as mine:
        assert time.monotonic() - begin > 0.5
        mine.replace("b", b"mine")
        with pytest.raises(ConflictError, match="has passed to another process"):
            old.replace("b", b"old")


@pytest.mark.parametrize("text", ["nightly", "nightly:", "nightly:x", "../a:1", ":1"])
def test_text_that_does_not_name_a_lease_is_refused(objects: Objects, text: str) -> None:
    with pytest.raises(SpecError, match="lease: "):
        fence(objects, text)


def begin_term(objects: Objects, folder: str, number: int) -> FencedObjects:
    """Begin a term, and return the objects of its holder."""
    term = LeaseTerm("one", "here", "2026-01-01T00:00:00Z")
    assert RecordLog(objects, f"{folder}/terms").append(number, asdict(term))
    return FencedObjects(objects, folder, number, Clock())


REPLACED = {  # what is there when the writer is suspended -> by whom it was written
    "an object of its own": "own",
    "an object of an earlier holder": "earlier",
    "no object": "",
}


@pytest.mark.parametrize("before", REPLACED.values(), ids=REPLACED)
@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_writer_suspended_before_any_of_its_requests_to_a_bucket_overwrites_nothing_of_a_later_holder(
    kind: str, before: str, request: pytest.FixtureRequest
) -> None:
    url = f"memory://{kind}-{before}" if kind == "memory" else str(request.getfixturevalue("s3"))
    for at in range(1, 20):
        old_objects, objects, folder = open_storage(url), open_storage(url), f"lease-{at}"
        old = begin_term(old_objects, folder, 1)
        if before:
            by = old if before == "own" else objects
            by.replace(f"a-{at}", b"before")
            by.append(f"log-{at}", b"before\n")
            by.flush()
        written: list[bytes] = []

        def take_over(
            objects: Objects = objects, folder: str = folder, at: int = at, written: list[bytes] = written
        ) -> None:
            later = begin_term(objects, folder, 2)
            later.replace(f"a-{at}", b"later")
            later.append(f"log-{at}", b"later\n")
            later.flush()
            written.append(objects.read(f"log-{at}") or b"")

        suspend_at(old_objects, at, take_over)
        with contextlib.suppress(ConflictError):
            old.append(f"log-{at}", b"old\n")
            old.flush()
            old.replace(f"a-{at}", b"old")
            old.replace(f"a-{at}", b"older")
        if not written:  # it made all its requests before
            break
        assert objects.read(f"a-{at}") == b"later"
        assert objects.read(f"log-{at}") == written[0]
    assert 3 < at < 19


def suspend_at(objects: Any, at: int, other: Callable[[], None]) -> None:
    """Let another process act just before the request number `at` to a bucket."""
    send, count = objects._request, itertools.count(1)

    def request(name: str, send_it: Callable[[], object]) -> object:
        if next(count) == at:
            other()
        return send(name, send_it)

    objects._request = request


def test_a_writer_suspended_before_it_replaces_a_file_overwrites_nothing_of_a_later_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, rename, later_writes = LocalObjects(tmp_path), os.replace, threading.Event()

    def act() -> None:
        later = begin_term(objects, "lease", 2)
        later_writes.set()
        later.replace("a", b"later")

    thread = threading.Thread(target=act)

    def suspended(*arguments: Any, **descriptors: Any) -> None:
        if threading.current_thread() is not thread:
            thread.start()
            assert later_writes.wait(10)
            thread.join(0.5)  # it waits for this process
            assert thread.is_alive()
        rename(*arguments, **descriptors)

    old = begin_term(objects, "lease", 1)
    old.replace("a", b"before")
    monkeypatch.setattr(os, "replace", suspended)
    old.replace("a", b"old")  # the later term begins between its check and its renaming
    thread.join()
    assert objects.read("a") == b"later"
    with pytest.raises(ConflictError):
        old.replace("a", b"old")
    assert objects.read("a") == b"later"


def test_a_file_is_not_replaced_if_another_writer_is_suspended_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_lib.objects.local.MAX_FENCED_SECONDS", 0.2)
    objects = LocalObjects(tmp_path)
    mine = begin_term(objects, "lease", 1)
    mine.replace("a", b"before")
    with objects.lock("lease/writing"), pytest.raises(StoreError, match="one of a process that may be suspended; end"):
        mine.replace("a", b"after")
    assert objects.read("a") == b"before"
    mine.replace("a", b"after")


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_fence_costs_no_request_for_an_object_that_only_this_process_writes(
    kind: str, request: pytest.FixtureRequest
) -> None:
    objects: Any = open_storage("memory://requests" if kind == "memory" else str(request.getfixturevalue("s3")))
    mine = begin_term(objects, "lease", 1)
    mine.replace("first", b"")  # checks the lease, which the others do a second later
    sent: list[str] = []
    send = objects._request

    def request_of(name: str, get: Callable[[], object]) -> object:
        sent.append(name)
        return send(name, get)

    objects._request = request_of
    for content in (b"1", b"2", b"3"):
        mine.replace("a", content)
    mine.append("log", b"line\n")
    mine.flush()
    assert sent == ["a", "a", "a", "log", "log"]  # the last ones read and write the log


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_replacement_whose_answer_was_lost_is_not_a_conflict(kind: str, request: pytest.FixtureRequest) -> None:
    url = "memory://lost" if kind == "memory" else str(request.getfixturevalue("s3"))
    objects = open_storage(url)
    mine = begin_term(objects, "lease", 1)
    mine.replace("a", b"before")
    open_storage(url).replace("a", b"after")  # as if this had been sent, and its answer lost
    mine.replace("a", b"after")
    open_storage(url).replace("a", b"by somebody without a lease")
    mine.replace("a", b"last")
    open_storage(url).delete("a")
    mine.replace("a", b"again")
    assert objects.read("a") == b"again"
