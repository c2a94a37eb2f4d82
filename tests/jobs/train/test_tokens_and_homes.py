"""Clusters that require a token, and users without a writable home directory."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builders import builder_file
from tests.support.job import ROOT, train
from tests.support.local_cluster import LocalCluster, served_cluster
from tests.support.untrained import UNTRAINED

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_is_left")]

TOKEN = "canary-of-a-token-" + 32 * "a"
SHORT = ("--models=scratch", "--epochs=1", "--run-name=r")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with served_cluster(tmp_path_factory.mktemp("guarded"), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as cluster:
        yield cluster


@pytest.mark.long
def test_f20_a_wrong_token_is_explained_and_never_printed(
    guarded: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "canary-of-another"}
    where = ("--address", guarded.address, "--data-dir", data_dir, "--storage", tmp_path / "results", "-v")
    code, stdout, stderr = train(*where, *SHORT, home=tmp_path, **environment)
    assert code == 8, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith(f"error[E-AUTH] {guarded.address}: ")
    assert "the token in RAY_AUTH_TOKEN is not the" in last
    assert "canary" not in stdout + stderr


@pytest.mark.long
def test_f20_a_file_with_a_wrong_token_is_named_and_the_right_token_works(
    guarded: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    command = ("--data-dir", data_dir, "--storage", tmp_path / "results", *SHORT)
    file = tmp_path / ".ray/auth_token"
    file.parent.mkdir()
    file.write_text("canary-of-another")
    mode = {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": guarded.address}
    code, stdout, stderr = train("--address=auto", *command, home=tmp_path, **mode)
    assert code == 8, stderr
    assert "the token in ~/.ray/auth_token is not the cluster's" in stderr
    file.write_text(TOKEN)
    code, stdout, stderr = train("--address=auto", *command, home=tmp_path, prelude=UNTRAINED, **mode)
    assert code == 0, stderr
    assert "canary" not in stdout + stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != file and b"canary" in p.read_bytes()]


@pytest.mark.long
def test_f21_a_run_needs_no_home_directory(data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.train", f"--storage={tmp_path}/results", f"--data-dir={data_dir}", *SHORT]
    plain = ["env", "-u", "HOME", "-u", "RAY_AUTH_MODE", f"MNIST_TEST_PROCESS={tmp_path}", *command]
    done = subprocess.run(plain, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_f21_a_run_with_a_read_only_home_says_what_the_next_run_cannot_reuse(tmp_path: Path) -> None:
    """Neither Ray's token nor the prepared dataset can be stored in it."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    builder = builder_file(tmp_path, "Trees", fixed=True, splits=("train", "test"))
    options = f"--storage={tmp_path}/results --dataset=tfds:trees --tfds-import={builder}"
    command = f"{sys.executable} -m jobs.train {options} {' '.join(SHORT)}"
    run = f"mount -t tmpfs -o ro none {tmp_path}/home && env -u RAY_AUTH_MODE {command}"
    environment = [f"HOME={tmp_path}/home", f"MNIST_TEST_PROCESS={tmp_path}", f"TMPDIR={tmp_path}/temporary"]
    environment.append(f"RAY_TMPDIR={tempfile.gettempdir()}")  # short, since the paths of sockets are limited
    done = subprocess.run(
        ["unshare", "-m", "env", *environment, "sh", "-c", run], cwd=ROOT, capture_output=True, text=True
    )
    if "unshare" in done.stderr:
        pytest.skip("this machine does not allow mount namespaces")
    assert done.returncode == 0, done.stderr
    assert "could not be written, so the images are among the temporary files, and the next run may have" in done.stderr
    assert not list((tmp_path / "home").iterdir())
