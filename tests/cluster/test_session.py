import os
import socket
import time
from pathlib import Path

import pytest
import ray

import cluster
from cluster.errors import ClusterError
from cluster.session import session
from cluster.tasks import result_of, start_beside_driver


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
def test_tasks_import_the_packages_that_were_sent_not_those_of_the_node(ray_address: str) -> None:
    def file_of_cluster() -> str:
        import cluster

        return str(cluster.__file__)

    ray.shutdown()  # the fixture's own connection
    try:
        with session(ray_address, [Path(str(cluster.__file__)).parent]):
            file = result_of(start_beside_driver(file_of_cluster))
    finally:
        ray.init(address=ray_address, log_to_driver=False)
    assert "runtime_resources" in file
    assert not file.startswith(os.fspath(Path(__file__).parents[2]))
