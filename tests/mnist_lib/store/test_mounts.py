"""Storages on a full and on a read-only disk, which the test really mounts, in a namespace of its own."""

import json
import re
import sys
from pathlib import Path

import pytest

from mnist_lib.objects.local import LocalObjects
from tests.support.bounds import at_most_processor_seconds
from tests.support.store.mounts import read_only, require_namespaces, run_with_mount
from tests.support.store.scenarios import published


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    require_namespaces()


FILL = """
import json, sys
from mnist_lib.errors import StoreFullError
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.objects.storage import open_storage
from mnist_lib.store.publishing import publish
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.fake_versions import about, files

objects = open_storage(sys.argv[1])
promote(objects, publish(objects, "keras", "first", files(150), about()), Rule())
try:
    publish(objects, "keras", "second", {**files(160), "large.bin": bytes(2_000_000)}, about())
except StoreFullError as error:
    message = str(error)
names = [name for name in objects.names("models/keras/versions") if not name.startswith("models/keras/versions/1/")]
found = {"message": message, "code": StoreFullError.code, "versions": all_verified(objects), "left": names}
small = publish(objects, "keras", "third", files(160), about())
print(json.dumps({**found, "champion": champion_verified(objects), "next": small.number}))
"""


@pytest.mark.slow
def test_s6_a_full_disk_error_gives_needed_and_free_bytes_and_leaves_no_files(tmp_path: Path) -> None:
    done = run_with_mount(f"mount -t tmpfs -o size=1m tmpfs {tmp_path}", sys.executable, "-c", FILL, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["code"] == "E-STORE-FULL"
    file = f"{tmp_path}/models/keras/versions/2/large.bin"
    assert f"{file}: expected 2,000,000 bytes of free space, got " in found["message"]
    assert "; delete old versions (jobs.models gc) or " in found["message"]
    assert (found["versions"], found["left"], found["champion"], found["next"]) == ([1], [], 1, 3)


@pytest.mark.slow
def test_s7_a_read_only_storage_is_refused_before_the_job_starts(tmp_path: Path) -> None:
    with at_most_processor_seconds(2):
        done = run_with_mount(read_only(tmp_path), sys.executable, "-m", "jobs.train", "--storage", tmp_path)
    assert done.returncode == 6
    assert re.sub("writable-[0-9a-f]{32}", "writable-X", done.stderr) == (
        f"error[E-STORE] {tmp_path}/writable-X cannot be read or written (Read-only file system); "
        "name another with --storage\n"
    )


@pytest.mark.slow
def test_a_read_only_storage_can_be_read(tmp_path: Path) -> None:
    published(LocalObjects(tmp_path), 150)
    command = (sys.executable, "-m", "jobs.models", "verify", "--all", "--storage", tmp_path)
    done = run_with_mount(read_only(tmp_path), *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 version intact, 0 damaged." in done.stdout
