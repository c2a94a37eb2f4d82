"""A file that takes all time, takes all memory or crashes a decoder gets an error, and the others are read."""

import functools
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.errors import ImageError
from mnist_lib.pictures import sandbox as module
from mnist_lib.pictures.reading import Picture, read_picture
from mnist_lib.pictures.sandbox import MAX_BYTES, Sandbox
from tests.support.bounds import assert_at_most, wait_until
from tests.support.drawing import png
from tests.support.hostile_pictures import (
    COLOUR,
    allocate,
    end_by,
    many_scans,
    read_in_each_layout,
    read_within,
    seeds,
)

GOOD = png(np.eye(20, dtype=np.uint8) * 200)
SEEDS = seeds()


@pytest.mark.slow
def test_i6_a_picture_that_takes_minutes_to_decode_is_given_up_and_the_others_are_read(sandbox: Sandbox) -> None:
    slow = many_scans()
    assert len(slow) < 500_000
    begin = time.monotonic()
    found = sandbox.map(functools.partial(read_within, seconds=0.3), [GOOD, slow, GOOD])
    assert_at_most(30, since=begin)
    assert [isinstance(picture, Picture) for picture in found] == [True, False, True]
    assert str(found[1]).startswith(
        "expected a picture that is read within 6 s of processor time and 60 s by the clock, got"
    )


@pytest.mark.long
def test_the_limit_of_time_is_set_for_each_file(sandbox: Sandbox) -> None:
    begin = os.times().children_user
    found = sandbox.map(functools.partial(read_picture, layout=COLOUR), [GOOD, many_scans(), GOOD])
    assert [isinstance(picture, Picture) for picture in found] == [True, False, True]
    assert os.times().children_user - begin < module.MAX_PROCESSOR_SECONDS + 3


@pytest.mark.slow
def test_a_file_that_needs_too_much_memory_gets_an_error_and_the_others_do_not(sandbox: Sandbox) -> None:
    found = sandbox.map(allocate, [1, MAX_BYTES, MAX_BYTES // 2])
    assert (found[0], found[2]) == (1, 1)
    assert str(found[1]).startswith("expected a picture that is read in 900 MB of memory, got a larger one")


def test_i6_each_file_that_ends_the_process_is_named_and_the_others_are_read(sandbox: Sandbox) -> None:
    ways = [0, signal.SIGSEGV, 0, 0, signal.SIGKILL, -3, 0]
    found = sandbox.map(end_by, ways)
    assert [isinstance(result, ImageError) for result in found] == [way != 0 for way in ways]
    named = [str(error).partition(";")[0].rpartition("(")[2] for error in found if error != 0]
    assert named == ["Segmentation fault)", "Killed)", "exit code 3)"]


def test_each_of_many_threads_gets_the_results_of_its_own_items(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda number: sandbox.map(abs, [-number] * 3), range(400))]
    assert found == [[number] * 3 for number in range(400)]


def test_the_file_that_is_decoded_while_the_process_is_killed_is_named(sandbox: Sandbox) -> None:
    def kill() -> None:
        wait_until(lambda: module._read(sandbox._position.fileno()) == 1, "the second picture is not decoded")
        sandbox._process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    found = sandbox.map(functools.partial(read_picture, layout=COLOUR), [GOOD, many_scans(), GOOD])
    killer.join()
    assert [isinstance(picture, Picture) for picture in found] == [True, False, True]
    assert "whose decoder was ended (Killed)" in str(found[1])


def test_a_process_that_is_killed_while_it_waits_is_replaced_and_no_file_is_blamed(sandbox: Sandbox) -> None:
    sandbox.map(allocate, [1])
    sandbox._process.kill()
    sandbox._process.wait()
    assert sandbox.map(allocate, [1, 1]) == [1, 1]


def test_a_mistake_in_this_program_is_an_error_of_one_file(sandbox: Sandbox) -> None:
    found = sandbox.map(bytes.decode, [b"x", b"\xff", b"y"])
    assert (found[0], found[2]) == ("x", "y")
    assert "got one that fails (UnicodeDecodeError: " in str(found[1])


def test_a_process_that_cannot_start_is_reported_without_blaming_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODULE", ("/bin/false",))
    broken = Sandbox()
    with pytest.raises(ImageError, match=r"cannot be started \(exit code 1\)"):
        broken.map(allocate, [1, 1])
    broken.close()


def test_closing_ends_a_process_that_is_decoding() -> None:
    sandbox = Sandbox()
    failed = threading.Event()

    def read() -> None:
        with pytest.raises(ImageError):
            sandbox.map(functools.partial(read_picture, layout=COLOUR), [many_scans(), GOOD])
        failed.set()

    threading.Thread(target=read).start()
    wait_until(lambda: module._read(sandbox._position.fileno()) == 0, "the first picture is not decoded")
    sandbox.close()
    assert failed.wait(10)
    assert sandbox._process.returncode == -signal.SIGKILL


def test_a_module_in_the_working_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in map(os.path.abspath, sys.path) if entry != str(tmp_path)])
    sandbox = Sandbox()
    assert sandbox.map(allocate, [1]) == [1]
    sandbox.close()
    assert not (tmp_path / "canary").exists()


EXTREMES = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\x10\0", b"\0\x10\0\0", b"\1\0\0\0")
Edit = tuple[float, str, int, bytes]
edits = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.floats(0, 0.1)),  # most of what decoders obey is at the beginning
        st.sampled_from(["write", "insert", "delete", "repeat", "cut"]),
        st.integers(1, 100),
        st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(EXTREMES)),
    ),
    min_size=1,
    max_size=8,
)


def edited(content: bytes, changes: list[Edit]) -> bytes:
    for place, kind, length, new in changes:
        at = int(place * len(content))
        rest = {
            "write": new + content[at + len(new) :],
            "insert": new + content[at:],
            "delete": content[at + length :],
            "repeat": content[at : at + length] + content[at:],
            "cut": b"",
        }
        content = content[:at] + rest[kind]
    return content


@pytest.mark.fuzz
@given(name=st.sampled_from(sorted(SEEDS)), changes=edits)
def test_a_mutated_picture_gives_a_picture_or_an_error_of_ours(
    sandbox: Sandbox, name: str, changes: list[Edit]
) -> None:
    begin = time.monotonic()
    (found,) = sandbox.map(read_in_each_layout, [edited(SEEDS[name], changes)])
    assert_at_most(90, since=begin)
    assert "got one that fails" not in str(found)
