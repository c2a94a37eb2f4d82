"""Sessions: what is refused as an address, and what becomes of tasks that fail."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from subprocess import PIPE

import pytest
import ray

from cluster.errors import ClusterError
from cluster.ray_private import LOOPBACK, connect
from cluster.session import require_head, session, token_advice
from cluster.tasks import result_of, start_beside_driver
from tests.support.bounds import assert_at_most, wait_until
from tests.support.intruder import PUBLIC, listening, processes_below, tried_by_another_user
from tests.support.job import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "listens",
    [
        pytest.param(False, id="nothing listens", marks=pytest.mark.long),
        pytest.param(True, id="another program listens"),
    ],
)
def test_f19_an_address_without_a_ray_head_is_refused_within_5_seconds(listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ClusterError, match=f"{address}: no Ray head answers"), session(address, []):
            pass
        assert_at_most(5, since=begin)


OVERLOADED = """
import ray._private.services
from cluster.errors import ClusterError
from cluster.session import session
from jobs.console.exit_codes import is_worth_a_retry
def overloaded(*_):
    raise RuntimeError("no information about the node")
ray._private.services.get_node = overloaded
try:
    with session(None, []):
        pass
except ClusterError as error:
    print(is_worth_a_retry(error.code), error)
"""


@pytest.mark.long
def test_x7_a_node_that_does_not_start_in_time_is_an_error_of_the_cluster_which_is_worth_a_retry() -> None:
    """Ray waits for 30 s, and then raises an Exception. It ends the processes that it has started with the driver."""
    done = subprocess.run([sys.executable, "-c", OVERLOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True Ray cannot be started here: The current node timed out during startup")


@pytest.mark.slow
def test_a_web_server_is_refused_as_a_ray_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.CONNECT_SECONDS", 1.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises(ClusterError, match="no Ray head answers"), session(f"127.0.0.1:{server.server_port}", []):
            pass
        assert_at_most(5, since=begin)
        server.shutdown()


@pytest.mark.slow
def test_a_proxy_in_the_environment_is_not_used_to_reach_the_head(
    ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert require_head(ray_address, "--address") == ray_address


@pytest.mark.slow
@pytest.mark.long
def test_an_address_that_never_answers_is_refused_within_5_seconds() -> None:
    """Its queue of connections is full, so that the kernel does not answer."""
    with socket.socket() as silent, contextlib.ExitStack() as queue:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(3):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        begin = time.monotonic()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no Ray head answers"), session(address, []):
            pass
        assert_at_most(5, since=begin)


@pytest.mark.parametrize("address", ["10.0.0.1", "host:port", "ray://10.0.0.1:10001", ":6379"])
def test_a_malformed_address_is_refused_with_an_example(address: str) -> None:
    expected = r'--address: expected host:port of the head, as in "10\.0\.0\.1:6379"'
    with pytest.raises(ClusterError, match=expected), session(address, []):
        pass


def test_the_error_names_the_variable_that_the_address_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    expected = r"RAY_ADDRESS: expected host:port .* unset it to run on this machine"
    with pytest.raises(ClusterError, match=expected), session(None, []):
        pass


@pytest.mark.parametrize(
    ("environment", "advice"),
    [
        ({}, "none is sent; set RAY_AUTH_MODE=token and put its token"),
        ({"RAY_AUTH_MODE": "token"}, "none is found here; put its token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "other"}, "the token in RAY_AUTH_TOKEN is not the cluster's"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no"}, "RAY_AUTH_TOKEN_PATH is /no, which holds no token"),
    ],
)
def test_f20_the_advice_for_a_refused_token_says_where_it_was_looked_for(
    environment: dict[str, str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    assert advice in token_advice()


OWN_CLUSTER = """
import sys
import ray
from cluster.session import session
with session(None, []):
    ray.get(ray.remote(lambda: None).remote())
    print(flush=True, file=sys.__stdout__)
    input()
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_cannot_use_read_or_rename_anything_of_a_private_cluster(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as parent:  # `tmp_path` is too long for sockets, and already private
        Path(parent).chmod(0o1777)
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": parent, "HOME": str(tmp_path)}
        command = [sys.executable, "-c", OWN_CLUSTER]
        with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=PIPE, stdout=PIPE) as driver:
            assert driver.stdout is not None
            driver.stdout.readline()
            wait_until(lambda: len(listening(processes_below(driver.pid))) >= 7, "Ray has not started its agent")
            (folder,) = Path(parent).iterdir()
            found = tried_by_another_user(folder, processes_below(driver.pid))
            addresses = {*listening(processes_below(driver.pid)).values()}
            driver.communicate("\n")
        assert [*Path(parent).iterdir()] == []
    assert addresses == {LOOPBACK}
    assert (found.read, found.renamed) == ([], [])
    assert {what for answered in found.answered.values() for what in answered} <= PUBLIC
    assert all(found.refused.values())


@pytest.mark.slow
def test_tasks_can_import_packages_that_were_sent(ray_address: str, tmp_path: Path) -> None:
    """The package is not on the path of any worker."""
    (tmp_path / "sent_package").mkdir()
    (tmp_path / "sent_package/__init__.py").write_text("NAME = __name__\n")

    def use() -> str:
        import sent_package  # type: ignore[import-not-found]

        return str(sent_package.NAME)

    ray.shutdown()  # ends the connection of the fixture
    try:
        with session(ray_address, [tmp_path / "sent_package"]):
            assert result_of(start_beside_driver(use)) == "sent_package"
    finally:
        connect(ray_address, log_to_driver=False)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_the_error_names_a_package_that_a_worker_lacks() -> None:
    def use() -> None:
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(ClusterError, match=r"a worker lacks the package no_such_package; install requirements"):
        result_of(start_beside_driver(use))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_the_death_of_a_worker_is_a_cluster_error() -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ClusterError, match="a task's worker died"):
        result_of(start_beside_driver(die))
