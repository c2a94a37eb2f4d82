"""The queue of writes that threads make."""

import threading
import weakref

import pytest

from jobs.console.exit_codes import exit_code_of
from jobs.train.write_queue import MAX_STALL_SECONDS, MAX_UNWRITTEN_BYTES, POLL_SECONDS, WriteQueue
from mnist_lib.errors import StoreError
from tests.support.bounds import wait_until
from tests.support.simulation.clock import VirtualClock


def test_writes_of_a_key_are_made_in_order_and_a_newer_one_replaces_one_of_its_name() -> None:
    made: list[str] = []
    may_go_on = threading.Event()
    writes = WriteQueue()
    writes.put(lambda: made.append("first") if may_go_on.wait(10) else None, "trial")
    writes.put(lambda: made.append("old checkpoint"), "trial", in_place_of="checkpoint")
    writes.put(lambda: made.append("result"), "trial")
    writes.put(lambda: made.append("new checkpoint"), "trial", in_place_of="checkpoint")
    other = threading.Event()
    writes.put(other.set, "")
    assert other.wait(10)  # it need not wait for the writes of another key
    may_go_on.set()
    writes.close()
    assert made == ["first", "new checkpoint", "result"]


def test_the_queue_is_full_while_what_it_holds_in_memory_is_too_large() -> None:
    may_go_on = threading.Event()
    writes = WriteQueue()
    full = [writes.is_full]

    def wait() -> None:
        may_go_on.wait(10)

    writes.put(wait, "trial", size=MAX_UNWRITTEN_BYTES // 2)
    full.append(writes.is_full)
    for _ in range(2):  # the second replaces the first
        writes.put(lambda: None, "trial", in_place_of="checkpoint", size=MAX_UNWRITTEN_BYTES // 2 - 1)
        full.append(writes.is_full)
    writes.put(lambda: None, "trial", size=1)
    full.append(writes.is_full)
    may_go_on.set()
    writes.close()
    assert [*full, writes.is_full] == [False, False, False, False, True, False]


def test_a_write_that_is_made_is_not_held_in_memory_by_the_thread_that_has_made_it() -> None:
    class Content:
        def write(self) -> None:
            pass

    content = Content()
    written = weakref.ref(content)
    writes = WriteQueue()
    writes.put(content.write, "trial")
    del content
    wait_until(lambda: written() is None, "the content is still in memory")
    writes.close()


def test_many_threads_make_every_write_once_and_keep_the_order_of_each_key() -> None:
    made: list[tuple[int, int]] = []
    writes = WriteQueue()
    for number in range(100):
        for key in range(30):
            writes.put(lambda key=key, number=number: made.append((key, number)), str(key))  # type: ignore[misc]
    writes.close()
    assert len(made) == 3_000
    assert [[n for k, n in made if k == key] for key in range(30)] == [list(range(100))] * 30


def test_after_a_failed_write_no_more_are_made_and_every_call_raises_the_error() -> None:
    made: list[str] = []

    def fail() -> None:
        raise StoreError("the disk is full")

    writes = WriteQueue()
    may_go_on = threading.Event()
    writes.put(lambda: made.clear() if may_go_on.wait(10) else None, "trial")
    writes.put(fail, "trial")
    writes.put(lambda: made.append("after"), "trial")
    may_go_on.set()
    with pytest.raises(StoreError, match="the disk is full"):
        writes.close()
    with pytest.raises(StoreError, match="the disk is full"):
        writes.put(lambda: made.append("late"), "other")
    with pytest.raises(StoreError, match="the disk is full"):
        assert not writes.is_full
    assert made == []


def test_w6_the_queue_ends_when_the_storage_hangs_and_says_what_is_not_stored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, may_go_on = VirtualClock(), threading.Event()
    begun = threading.Barrier(3)

    def hang() -> None:
        begun.wait(10)
        may_go_on.wait(60)

    writes = WriteQueue(clock=clock)
    monkeypatch.setattr(writes, "_pause", lambda: clock.sleep(POLL_SECONDS))
    for trial in ("keras-s0", "keras-s1"):
        writes.put(hang, trial)
        writes.put(lambda: None, trial)
    begun.wait(10)
    try:
        with pytest.raises(StoreError, match="not stored: 4 writes of keras-s0, keras-s1; check the storage") as error:
            writes.close()
    finally:
        may_go_on.set()
    assert MAX_STALL_SECONDS < clock.now < MAX_STALL_SECONDS + 2
    assert "waiting for the storage" in caplog.text
    assert exit_code_of(error.value.code) == 6


def test_a_queue_whose_process_was_stopped_does_not_take_that_for_a_hung_storage() -> None:
    clock, may_go_on = VirtualClock(), threading.Event()

    def wait() -> None:
        may_go_on.wait(10)

    writes = WriteQueue(clock=clock)
    writes.put(wait, "trial")
    clock.sleep(10 * MAX_STALL_SECONDS)
    assert not writes.is_full
    may_go_on.set()
    writes.close()
