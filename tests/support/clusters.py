"""Real clusters of several nodes on this machine, and what can be waited for on them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.cluster_utils import Cluster

from cluster.local import HEALTH_CHECKS


@contextlib.contextmanager
def two_nodes(*, gpus: bool) -> Iterator[str]:
    memory = 150 << 20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1 if gpus else 0,
            "include_dashboard": False,
            "object_store_memory": memory,
        },
    )
    cluster.add_node(num_cpus=2, num_gpus=2 if gpus else 0, object_store_memory=memory)
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def own_cluster(cpus: int) -> Iterator[Any]:
    """Of a head that soon notices when a node is gone."""
    head = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": HEALTH_CHECKS})
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def every_cpu_taken(seconds: float) -> Iterator[None]:
    def sleep() -> None:
        time.sleep(seconds)

    busy = [ray.remote(num_cpus=cpus, max_retries=0)(sleep).remote() for cpus in (1, 2)]
    wait_until(lambda: free_cpus() == 0, "the CPUs are not taken")
    try:
        yield
    finally:
        for task in busy:
            ray.cancel(task, force=True)
    wait_until(lambda: free_cpus() == 3, "the CPUs are not given back")


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
