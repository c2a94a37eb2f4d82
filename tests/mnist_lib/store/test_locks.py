"""`gc` works alone: it refuses while a run or a promotion is under way, and keeps them from beginning."""

import contextlib
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mnist_lib.errors import BusyError
from mnist_lib.objects import bucket
from mnist_lib.objects.lease import is_held, locked
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.store.opening import collecting, open_run, promoting
from tests.support.bounds import wait_until
from tests.support.store.faulty import Interrupted


@pytest.fixture(autouse=True)
def _short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bucket notice in less than a second that the holder of a lock is dead."""
    monkeypatch.setattr(bucket, "locked", functools.partial(locked, time_to_live=0.9))
    monkeypatch.setattr(bucket, "is_held", functools.partial(is_held, time_to_live=0.9))


@contextlib.contextmanager
def running(objects: Objects) -> Iterator[None]:
    with open_run(objects, None, dataset="mnist", terms={}, command="jobs.train", configuration=""):
        yield


USERS = {"run": running, "promotion": promoting}


def is_refused(context: AbstractContextManager[None]) -> bool:
    try:
        with context:
            return False
    except BusyError:
        return True


@pytest.mark.parametrize("user", USERS)
def test_gc_refuses_while_a_run_or_a_promotion_is_under_way_and_the_other_way_round(storage: str, user: str) -> None:
    objects, other = open_storage(storage), open_storage(storage)
    with USERS[user](objects):
        with USERS[user](other):  # several may be under way
            assert is_refused(collecting(other))
        assert is_refused(collecting(other))
    with collecting(other):
        assert is_refused(USERS[user](objects))
        assert is_refused(collecting(objects))
    with USERS[user](objects):
        pass


@pytest.mark.parametrize("user", USERS)
def test_gc_and_a_user_never_both_go_on_at_whatever_operation_the_second_one_begins(tmp_path: Path, user: str) -> None:
    for first, second in ((USERS[user], collecting), (collecting, USERS[user])):
        for at in range(1, 50):
            objects, locks = LocalObjects(tmp_path), contextlib.ExitStack()
            second_holds: list[bool] = []

            def begin(objects: Objects, second_holds: list[bool] = second_holds, locks: Any = locks) -> None:
                with contextlib.suppress(BusyError):
                    locks.enter_context(second(objects))  # noqa: B023
                    second_holds.append(True)

            interrupted = Interrupted(objects, at, begin)
            with locks, contextlib.suppress(BusyError), first(interrupted):
                assert not second_holds
            if interrupted.operations < at:
                break
        assert 1 < at < 49


def test_the_lock_of_a_dead_driver_does_not_keep_gc_from_its_work(storage: str) -> None:
    objects = open_storage(storage)
    with contextlib.suppress(RuntimeError), running(objects):
        raise RuntimeError  # the run stays unfinished
    assert [*objects.names("unfinished")]
    wait_until(lambda: not is_refused(collecting(objects)), "gc is refused")
