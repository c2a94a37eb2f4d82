"""What every kind of storage has to do, and which names it refuses."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects, check_name, concurrently
from mnist_lib.objects.storage import open_storage


def test_a_written_object_is_read_back_and_a_missing_one_is_none(objects: Objects) -> None:
    assert objects.read("a/x") is None
    assert not objects.exists("a/x")
    assert objects.create("a/x", b"first")
    assert not objects.create("a/x", b"second")
    assert objects.read("a/x") == b"first"
    objects.replace("a/x", b"third")
    objects.replace("a/empty", b"")
    assert (objects.read("a/x"), objects.read("a/empty")) == (b"third", b"")
    assert objects.exists("a/empty")
    objects.delete("a/x")
    objects.delete("a/x")
    assert objects.read("a/x") is None


def test_names_are_those_below_a_folder_and_sorted(objects: Objects) -> None:
    for name in ("a/2", "a/1", "a/b/3", "ab/4"):
        objects.create(name, b"")
    assert list(objects.names("a")) == ["a/1", "a/2", "a/b/3"]
    assert list(objects.names("none")) == []
    objects.delete_below("a")
    objects.delete_below("none")
    assert list(objects.names("")) == ["ab/4"]


def test_folders_are_those_directly_below_one(objects: Objects) -> None:
    for name in ("a/file", "a/c/1", "a/b/d/2", "ab/e/3"):
        objects.create(name, b"")
    assert objects.folders("a") == ["b", "c"]
    assert objects.folders("a/b") == ["d"]
    assert objects.folders("none") == []


def test_appended_content_comes_at_the_end(storage: str, objects: Objects) -> None:
    for line in (b"1\n", b"2\n"):
        objects.append("log", line)
    objects.flush()
    later = open_storage(storage)
    later.append("log", b"3\n")
    later.flush()
    assert objects.read("log") == b"1\n2\n3\n"


def test_no_line_added_by_many_concurrent_writers_is_lost(storage: str, objects: Objects) -> None:
    lines = [f"{number}\n".encode() for number in range(24)]
    with ThreadPoolExecutor(6) as threads:
        [*threads.map(lambda line: open_storage(storage).add("a/labels.jsonl", line), lines)]
    added = objects.read("a/labels.jsonl")
    assert added is not None
    assert sorted(added.splitlines(keepends=True)) == sorted(lines)


def test_exactly_one_of_several_concurrent_creates_succeeds(objects: Objects) -> None:
    for key in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, key=key: objects.create(f"a/{key}", bytes([n])), range(8)))
        assert sum(won) == 1
        assert objects.read(f"a/{key}") == bytes([won.index(True)])


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", ".", "", "a\0b", "-x", "a/-x", "\uff41", "x" * 300])
def test_s10_a_name_that_could_lead_out_of_the_root_is_refused(objects: Objects, name: str) -> None:
    for act in (
        *(objects.read, objects.exists, objects.delete),
        *(lambda name: objects.create(name, b""), lambda name: objects.replace(name, b"")),
        lambda name: objects.append(name, b"x\n"),
    ):
        with pytest.raises(SpecError, match="name of an object: expected"):
            act(name)


@given(st.text() | st.lists(st.sampled_from(["..", "a", ".", "/", "", "\0", "~", "-", "\\"])).map("/".join))
def test_s10_no_accepted_name_leads_out_of_the_root(name: str) -> None:
    root = Path("/nowhere/root")
    try:
        check_name(name)
    except SpecError:
        return
    path = os.path.normpath(LocalObjects(root).where(name))
    assert Path(path).is_relative_to(root)
    assert path != str(root)


def test_an_object_that_exceeds_the_size_limit_of_a_read_is_refused(objects: Objects) -> None:
    objects.create("x", b"12345")
    assert objects.read("x", 5) == b"12345"
    with pytest.raises(IntegrityError, match=r"x: expected at most 4 bytes, got 5; restore it from a copy$"):
        objects.read("x", 4)
    assert not objects.create("x", b"1")


def test_requests_to_a_bucket_run_at_once_those_to_a_disk_one_after_the_other_and_all_in_order(
    objects: Objects,
) -> None:
    used: set[str] = set()

    def request(item: int) -> int:
        time.sleep(0.05)  # so that no thread is idle again before all of them have begun
        used.add(threading.current_thread().name)
        return item

    items = range(32)
    assert list(concurrently(objects, request, items)) == list(items)
    assert len(used) == objects.max_concurrent_requests
    assert (threading.current_thread().name in used) == isinstance(objects, LocalObjects)
    assert list(concurrently(objects, abs, [])) == []
