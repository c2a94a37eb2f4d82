"""Clusters on this machine: they end with everything that they have started, and end nothing else."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.errors import AuthError
from cluster.local import cluster_processes, main, temporary_cluster
from cluster.nodes import lost_nodes
from cluster.ray_private import LOOPBACK
from cluster.session import require_head
from tests.support.bounds import STOP_SECONDS, wait_until
from tests.support.intruder import USER, listening, processes_below
from tests.support.local_cluster import ROOT, Cluster, local_cluster


def everything_of(cluster: Cluster) -> set[psutil.Process]:
    """Return the processes that started the nodes (the head's port is in their commands) and all their descendants."""
    port = cluster.address.rpartition(":")[2]
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "start" in words and {f"--port={port}", f"--address={cluster.address}"} & set(words):
                found |= {process, *process.children(recursive=True)}
    return found


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.mark.long
@pytest.mark.slow
def test_a_cluster_ends_with_every_process_that_it_has_started(tmp_path: Path) -> None:
    up = [sys.executable, "-m", "cluster.local", "up", "--nodes=1"]
    with local_cluster(tmp_path, nodes=2) as cluster:
        wait_until(lambda: len(everything_of(cluster)) > 20, "Ray has not started its agents")
        port = cluster.address.rpartition(":")[2]
        for folder, message in (
            (cluster.folder, "is up already; end it with `down`"),
            (
                tmp_path / "other",
                f"{cluster.address} is in use, by another cluster or a tunnel perhaps; choose another",
            ),
        ):
            command = [*up, f"--port={port}", "--dashboard-port=0", f"--folder={folder}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 8
            assert message in done.stderr
        started = everything_of(cluster)
    assert not [process for process in started if is_alive(process)]
    assert cluster_processes(cluster.folder) == []


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_node_is_lost_and_the_others_stay() -> None:
    with temporary_cluster(cpus=0) as cluster:
        first, second = cluster.add_nodes(2, cpus=1)
        cluster.kill(first)
        assert cluster_processes(cluster.folder, first) == []
        wait_until(lambda: lost_nodes(cluster.address), "the head has not noticed")
        assert len(lost_nodes(cluster.address)) == 1
        assert {process.name() for process in cluster_processes(cluster.folder, second)} >= {"raylet"}
    assert cluster_processes(cluster.folder) == []
    assert not cluster.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_cluster_and_its_driver_listen_on_the_loopback_interface_only() -> None:
    assert {*listening(processes_below(os.getpid())).values()} == {LOOPBACK}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown(tmp_path, USER, USER)
    assert main(["up", "--port=0", "--dashboard-port=0", f"--folder={tmp_path}"]) == 8
    assert f"{tmp_path}: expected a folder of yours, got one of another user" in capsys.readouterr().err


DIES = """
import os, signal
from cluster.session import require_head
from cluster.local import temporary_cluster
with temporary_cluster(cpus=0) as cluster:
    require_head(cluster.address, "--address")
    print(cluster.address, cluster.folder, flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_temporary_cluster_has_a_token_and_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    process = subprocess.Popen(
        [sys.executable, "-c", DIES],
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    address, folder = process.stdout.readline().split()
    with pytest.raises(AuthError):
        require_head(address, "--address")
    process.communicate("\n", timeout=STOP_SECONDS)
    assert not [*tmp_path.rglob("auth_token")]
    # Two agents try for a minute to report that their cluster was killed.
    wait_until(lambda: not cluster_processes(Path(folder)), "the cluster is still there")


def test_a_cluster_does_not_start_if_the_port_of_its_job_server_is_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as tunnel:
        tunnel.bind(("127.0.0.1", 0))
        tunnel.listen()
        port = tunnel.getsockname()[1]
        assert main(["up", "--port=0", f"--dashboard-port={port}", f"--folder={tmp_path}"]) == 8
    assert f"127.0.0.1:{port} is in use, by another cluster or a tunnel perhaps" in capsys.readouterr().err
    assert cluster_processes(tmp_path) == []


def test_zero_nodes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["up", "--nodes=0", f"--folder={tmp_path}"])
    assert exit.value.code == 2
    assert "--nodes: expected 1 or more, got 0" in capsys.readouterr().err
