"""Disks that are full or cannot be written, as the kernel has them: mounted in a namespace of the test's own."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def in_namespace(mount: str, *command: object) -> subprocess.CompletedProcess[str]:
    script = f'{mount} && exec "$@"'
    arguments = [*NAMESPACE, "sh", "-c", script, "sh", *map(str, command)]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")


FILL = """
import json, sys
from mnist_lib.errors import StoreFullError
from mnist_lib.store.champions import promote
from mnist_lib.store.promotion import Rule
from mnist_lib.store.storage import open_storage
from mnist_lib.store.publishing import publish
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.versions_of import about, files

objects = open_storage(sys.argv[1])
promote(objects, publish(objects, "keras", "first", files(150), about()), Rule())
try:
    publish(objects, "keras", "second", {**files(160), "large.bin": bytes(2_000_000)}, about())
except StoreFullError as error:
    told = str(error)
names = [name for name in objects.names("models/keras/versions") if not name.startswith("models/keras/versions/1/")]
found = {"told": told, "code": StoreFullError.code, "versions": all_verified(objects), "left": names}
small = publish(objects, "keras", "third", files(160), about())
print(json.dumps({**found, "champion": champion_verified(objects), "next": small.number}))
"""


@pytest.mark.slow
def test_a_full_disk_is_told_with_what_is_needed_and_free_and_nothing_is_left_of_the_version(tmp_path: Path) -> None:
    done = in_namespace(f"mount -t tmpfs -o size=1m tmpfs {tmp_path}", sys.executable, "-c", FILL, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["code"] == "E-STORE-FULL"
    assert f"{tmp_path}/models/keras/versions/2/large.bin needs 2,000,000 bytes, " in found["told"]
    assert " are free; free some (jobs.models gc) or use " in found["told"]
    assert (found["versions"], found["left"], found["champion"], found["next"]) == ([1], [], 1, 3)


@pytest.mark.slow
def test_a_storage_that_cannot_be_written_ends_the_job_before_it_starts(tmp_path: Path) -> None:
    begin = time.monotonic()
    read_only = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    done = in_namespace(read_only, sys.executable, "-m", "jobs.train", "--storage", tmp_path)
    assert time.monotonic() - begin < 2
    assert done.returncode == 6
    assert re.sub("writable-[0-9a-f]{32}", "writable-X", done.stderr) == (
        f"error[E-STORE] {tmp_path}/writable-X cannot be read or written (Read-only file system); "
        "name another with --storage\n"
    )


@pytest.mark.slow
def test_what_is_in_a_storage_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    read_only = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    done = in_namespace(read_only, sys.executable, "-m", "jobs.models", "list", "--storage", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No version is stored" in done.stdout
