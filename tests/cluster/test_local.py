"""What `cluster.local` starts, it ends, and nothing else."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.local import main, processes_of
from tests.support.clusters import wait_until
from tests.support.local_cluster import ROOT, Cluster, local_cluster


def everything_of(cluster: Cluster) -> set[psutil.Process]:
    """The commands that started its nodes, known by the head's port, and all below them."""
    port = cluster.address.rpartition(":")[2]
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "start" in words and {f"--port={port}", f"--address={cluster.address}"} & set(words):
                found |= {process, *process.children(recursive=True)}
    return found


@pytest.mark.slow
def test_what_was_started_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    up = [sys.executable, "-m", "cluster.local", "up", "--nodes=1"]
    with local_cluster(tmp_path, nodes=2) as cluster:
        wait_until(lambda: len(everything_of(cluster)) > 20, "Ray has not started its agents", 30)
        port = f"--port={cluster.address.rpartition(':')[2]}"
        for folder, said in (
            (cluster.folder, "is up already; end it with `down`"),
            (tmp_path / "other", f"another cluster answers at {cluster.address}"),
        ):
            command = [*up, port, f"--folder={folder}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 8
            assert said in done.stderr
        started = everything_of(cluster)
    assert not psutil.wait_procs(started, timeout=1)[1]
    assert processes_of(cluster.folder) == []


def test_where_a_tunnel_has_the_dashboards_port_it_does_not_start_without_its_job_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as tunnel:
        tunnel.bind(("127.0.0.1", 0))
        tunnel.listen()
        taken = tunnel.getsockname()[1]
        assert main(["up", "--port=0", f"--dashboard-port={taken}", f"--folder={tmp_path}"]) == 8
    assert f"127.0.0.1:{taken} is taken, by a tunnel perhaps; choose another" in capsys.readouterr().err
    assert processes_of(tmp_path) == []


def test_no_nodes_are_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["up", "--nodes=0", f"--folder={tmp_path}"])
    assert exit.value.code == 2
    assert "--nodes: expected 1 or more, got 0" in capsys.readouterr().err
