"""The queue of writes that threads make."""

import threading

import pytest

from jobs.train.write_queue import MAX_UNWRITTEN_BYTES, WriteQueue
from mnist_lib.errors import StoreError


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
