import socket
import time

import pytest

from cluster.errors import ClusterError
from cluster.session import session


def test_an_address_where_nobody_listens_is_refused_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=f"{address}: nobody answers"), session(address, []):
        pass
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("address", ["10.0.0.1", "host:port", "ray://10.0.0.1:10001", ":6379"])
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with (
        pytest.raises(ClusterError, match=r'expected host:port of the head, as in "10\.0\.0\.1:6379"'),
        session(address, []),
    ):
        pass
