"""Lines that are appended when the disk is full, the process is killed, or an editor has left half a line."""

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from mnist_lib.errors import StoreError, StoreFullError
from mnist_lib.objects import local
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from tests.support.store.disk import Disk
from tests.support.store.faulty import KilledError, writes_that_end
from tests.support.store.mounts import require_namespaces, run_with_mount

FIRST, SECOND, THIRD = b'{"line": 1}\n', b'{"line": 2, "text": "}"}\n', b'{"line": 3}\n'
OPERATIONS = ("append", "add")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("written", range(len(SECOND)))
def test_s6_a_refused_line_leaves_no_part_of_it(tmp_path: Path, operation: str, written: int) -> None:
    objects = LocalObjects(tmp_path)
    append = getattr(objects, operation)
    append("a/log", FIRST)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with writes_that_end(written, full), pytest.raises(StoreFullError, match=r"a/log: expected \d+ bytes of free"):
        append("a/log", SECOND)
    assert objects.read("a/log") == FIRST
    append("a/log", SECOND)
    assert objects.read("a/log") == FIRST + SECOND


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("written", range(len(SECOND)))
def test_p8_a_line_that_a_killed_process_began_joins_no_later_line(
    tmp_path: Path, operation: str, written: int
) -> None:
    objects = LocalObjects(tmp_path)
    append = getattr(objects, operation)
    append("a/log", FIRST)
    with writes_that_end(written, KilledError()), pytest.raises(KilledError):
        append("a/log", SECOND)
    append("a/log", THIRD)
    # A line that is complete except for its end cannot be distinguished from one that an editor has left.
    assert objects.read("a/log") == FIRST + (SECOND if written == len(SECOND) - 1 else b"") + THIRD


@pytest.mark.parametrize("left", [b'{"li', b'{"line": 2', b'"text"', b"2", b"\0" * 100, b"\xff"])
def test_an_incomplete_last_line_is_cut_before_the_next_one(objects: Objects, left: bytes) -> None:
    objects.create("log", FIRST + left)
    objects.add("log", THIRD)
    assert objects.read("log") == FIRST + THIRD


def test_a_last_line_that_lacks_only_its_end_is_not_lost(objects: Objects) -> None:
    objects.create("log", FIRST + SECOND.strip())
    objects.add("log", THIRD)
    assert objects.read("log") == FIRST + SECOND + THIRD


def test_s1_an_error_at_any_call_leaves_whole_lines_and_the_retry_adds_one(tmp_path: Path) -> None:
    for at in range(1, 50):
        folder = tmp_path / str(at)
        objects = LocalObjects(folder)
        objects.add("a/log", FIRST)
        with Disk(folder, fails_at=at) as disk:
            try:
                LocalObjects(folder).add("a/log", SECOND)
            except StoreError:
                assert objects.read("a/log") == FIRST
                LocalObjects(folder).add("a/log", SECOND)
        assert objects.read("a/log") == FIRST + SECOND
        if disk.calls < at:
            break
    assert 4 < at < 49


@pytest.mark.parametrize("left", [b"", SECOND[:9]])
def test_s3_a_power_loss_at_any_call_loses_no_line_that_was_added(tmp_path: Path, left: bytes) -> None:
    folder = tmp_path / "run"
    LocalObjects(folder).add("a/log", FIRST)
    with (folder / "a/log").open("ab") as file:
        file.write(left)
    with Disk(folder) as disk:
        LocalObjects(folder).add("a/log", SECOND)
    states = disk.states_after_power_loss(seed=0)
    seen = {state.files["a/log"] for state in states}
    assert {FIRST + left, FIRST + SECOND} <= seen
    assert any(FIRST + left != content != FIRST + SECOND for content in seen)
    for number, state in enumerate(states):
        state.write_to(tmp_path / str(number))
        after = LocalObjects(tmp_path / str(number))
        after.add("a/log", THIRD)
        assert after.read("a/log") in (FIRST + THIRD, FIRST + SECOND + THIRD)
    assert states[-1].files["a/log"] == FIRST + SECOND


def test_p7_an_append_waits_for_a_suspended_process_only_until_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_LOCKED_SECONDS", 0.05)
    objects = LocalObjects(tmp_path)
    objects.add("log", FIRST)
    with (tmp_path / "log").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"log: expected no lock for .*; end that process"):
            objects.add("log", SECOND)
    objects.add("log", SECOND)
    assert objects.read("log") == FIRST + SECOND


FILL = """
import sys
from pathlib import Path
from mnist_lib.data.corrections import LabelsFile
from mnist_lib.errors import StoreFullError
from mnist_lib.objects.local import LocalObjects
from tests.support.corrections import correction

folder = Path(sys.argv[1])
file, stored = LabelsFile(LocalObjects(folder)), []
spare = folder / "spare"
spare.write_bytes(bytes(4096))
for number in range(1000):
    try:
        file.add([correction(f"{number:032x}", "x" * number)])
        stored.append(number)
    except StoreFullError:
        assert [int(line.image, 16) for line in file.read()] == stored
        if not spare.exists():
            break
        spare.unlink()
print(len(stored), [int(line.image, 16) for line in file.read()] == stored)
"""


def test_s6_p19_a_full_disk_loses_no_label_and_damages_no_line(tmp_path: Path) -> None:
    require_namespaces()
    done = run_with_mount(f"mount -t tmpfs -o size=64k tmpfs {tmp_path}", sys.executable, "-c", FILL, tmp_path)
    assert done.returncode == 0, done.stderr
    stored, is_equal = done.stdout.split()
    assert (int(stored) > 100, is_equal) == (True, "True")
