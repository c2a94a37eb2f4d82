"""Each fault is reported with its fix, and gives the exit code with which a run would fail."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.doctor.__main__ import exit_code
from jobs.doctor.checks import Finding
from tests.jobs.train.test_waiting import OTHER_VERSION
from tests.support.job import ROOT
from tests.support.local_cluster import LocalCluster, served_cluster
from tests.support.store.mounts import NAMESPACE

DOCTOR = "import sys\n{prelude}\nfrom jobs.doctor.__main__ import main\nsys.exit(main(sys.argv[1:]))"


def doctor(
    *arguments: str | Path, within: str | None = None, prelude: str = "", **environment: str
) -> tuple[int, list[dict[str, Any]]]:
    """Run the command and return its exit code and findings.

    Args:
        within: a shell command that mounts a file system first; both commands run in a new mount namespace.
    """
    command = [sys.executable, "-c", DOCTOR.format(prelude=prelude), "--json", *map(str, arguments)]
    if within is not None:
        command = [*NAMESPACE, "sh", "-c", f'{within} && exec "$@"', "sh", *command]
        if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
            pytest.skip("this machine does not allow mount namespaces")
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def fault(found: list[dict[str, Any]], what: str) -> dict[str, Any]:
    (one,) = [finding for finding in found if finding["what"].startswith(what) and finding["mark"] == "fault"]
    return one


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with served_cluster(tmp_path_factory.mktemp("guarded"), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=32 * "c") as cluster:
        yield cluster


@pytest.mark.slow
def test_on_a_machine_without_faults_every_finding_is_ok(tmp_path: Path, home: Path) -> None:
    code, found = doctor("--storage", tmp_path / "s", HOME=str(home))
    assert code == 0
    assert {finding["mark"] for finding in found} == {"ok"}
    assert [finding["what"] for finding in found] == ["packages", "storage", "storage", "dataset"]
    assert not (tmp_path / "s").exists()  # the check leaves no files


@pytest.mark.long
@pytest.mark.slow
def test_a_cluster_without_faults_has_an_ok_finding_for_each_node(
    guarded: LocalCluster, tmp_path: Path, home: Path
) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 32 * "c"}
    code, found = doctor("--storage", tmp_path / "s", "--address", guarded.address, HOME=str(home), **token)
    assert code == 0, found
    (node,) = [finding for finding in found if finding["what"].startswith("node ")]
    assert node["found"].startswith("1 CPU, ")
    assert "same package versions as here" in node["found"]
    (dashboard,) = [finding for finding in found if finding["what"] == "dashboard"]
    assert dashboard["mark"] == "ok"
    assert 32 * "c" not in json.dumps(found)


@pytest.mark.long
@pytest.mark.slow
def test_a_token_that_the_head_refuses_is_a_fault(guarded: LocalCluster, tmp_path: Path, home: Path) -> None:
    where = ("--storage", tmp_path / "s", "--address", guarded.address)
    code, found = doctor(*where, HOME=str(home), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="canary")
    assert code == 8
    assert "put its token, which `ray get-auth-token` prints on its head, into" in fault(found, "head")["fix"]
    assert "canary" not in json.dumps(found)


@pytest.mark.slow
def test_a_storage_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    code, found = doctor("--storage", tmp_path / "s", within=f"mount -t tmpfs -o ro none {tmp_path}/s")
    assert code == 6
    assert "--storage" in fault(found, "storage")["fix"]


@pytest.mark.slow
def test_a_storage_that_is_almost_full_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    code, found = doctor("--storage", tmp_path / "s", within=f"mount -t tmpfs -o size=1m none {tmp_path}/s")
    assert code == 6
    assert fault(found, "storage")["fix"] == "free some space, or choose another folder with --storage"


@pytest.mark.slow
def test_a_dataset_that_cannot_be_obtained_is_a_fault(tmp_path: Path) -> None:
    code, found = doctor(
        "--storage", tmp_path / "s", "--dataset=mnist", "--data-source=/nowhere", "--data-dir", tmp_path
    )
    assert code == 3
    assert "/nowhere" in fault(found, "dataset")["found"]


@pytest.mark.slow
def test_an_address_where_no_head_listens_is_a_fault(tmp_path: Path) -> None:
    impatient = "from cluster import session\nsession.CONNECT_SECONDS = 0.5"
    code, found = doctor("--storage", tmp_path / "s", "--address=127.0.0.1:1", prelude=impatient)
    assert code == 8
    assert "is it running" in fault(found, "head")["fix"]


@pytest.mark.long
@pytest.mark.slow
def test_other_packages_and_gpus_that_tensorflow_does_not_see_are_faults(ray_address: str, tmp_path: Path) -> None:
    code, found = doctor("--storage", tmp_path / "s", "--address", ray_address, prelude=OTHER_VERSION)
    assert code == 8
    differing = [finding for finding in found if finding["code"] == "E-CLUSTER-VERSIONS"]
    assert [finding["found"] for finding in differing] == 2 * ["tensorflow 2.21.0 there, 2.20.0 here"]
    assert differing[0]["fix"] == "install requirements/runtime.lock on every node"
    hidden = [finding for finding in found if finding["code"] == "E-GPU-INVISIBLE"]
    assert len(hidden) == 2
    assert "start Ray there with --num-gpus=0" in hidden[0]["fix"]


def test_the_first_fault_decides_the_exit_code() -> None:
    found = [
        Finding(what="a", found="x", fix="y"),
        Finding(what="b", found="x", code="E-STORE-FULL"),
        Finding(what="c", found="x", code="E-GPU-INVISIBLE"),
    ]
    assert [exit_code(found), exit_code(found[2:]), exit_code(found[:1])] == [6, 5, 0]
