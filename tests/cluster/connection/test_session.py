import contextlib
import http.server
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import ray

from cluster.connection.session import session
from cluster.errors import ClusterError
from cluster.lanes.tasks import result_of, start_beside_driver


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True], ids=["nobody listens", "not Ray listens"])
def test_an_address_that_is_not_rays_is_refused_within_5_seconds(listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ClusterError, match=f"{address}: no Ray head answers"), session(address, []):
            pass
        assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_a_web_server_is_not_taken_for_ray() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises(ClusterError, match="no Ray head answers"), session(f"127.0.0.1:{server.server_port}", []):
            pass
        assert time.monotonic() - begin < 5
        server.shutdown()


@pytest.mark.slow
def test_an_address_that_swallows_what_is_sent_to_it_is_given_up_within_5_seconds() -> None:
    """A black hole: its queue of connections is full, so that the kernel does not even answer."""
    with socket.socket() as hole, contextlib.ExitStack() as queue:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(3):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        begin = time.monotonic()
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no Ray head answers"), session(address, []):
            pass
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("address", ["10.0.0.1", "host:port", "ray://10.0.0.1:10001", ":6379"])
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    said = r'--address: expected host:port of the head, as in "10\.0\.0\.1:6379"'
    with pytest.raises(ClusterError, match=said), session(address, []):
        pass


def test_an_address_from_the_environment_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    said = r"RAY_ADDRESS: expected host:port .* unset it to run on this machine"
    with pytest.raises(ClusterError, match=said), session(None, []):
        pass


@pytest.mark.slow
def test_tasks_can_import_the_packages_that_were_sent(ray_address: str, tmp_path: Path) -> None:
    """One that no worker has on its path."""
    (tmp_path / "sent_package").mkdir()
    (tmp_path / "sent_package/__init__.py").write_text("NAME = __name__\n")

    def use() -> str:
        import sent_package  # type: ignore[import-not-found]

        return str(sent_package.NAME)

    ray.shutdown()  # the fixture's own connection
    try:
        with session(ray_address, [tmp_path / "sent_package"]):
            assert result_of(start_beside_driver(use)) == "sent_package"
    finally:
        ray.init(address=ray_address, log_to_driver=False)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_package_that_a_worker_lacks_is_named_with_the_way_to_install_it() -> None:
    def use() -> None:
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(ClusterError, match=r"a worker lacks the package no_such_package; install requirements"):
        result_of(start_beside_driver(use))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_worker_that_dies_is_the_clusters_failure() -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ClusterError, match="a task's worker died"):
        result_of(start_beside_driver(die))
