"""A cluster of several nodes on this machine, to rehearse on what becomes of a run when parts of a cluster go."""

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

from ray.cluster_utils import Cluster

OBJECT_STORE = 200 << 20  # bytes on each node
# The head notices within two seconds that a node is gone, not within half a minute.
HEALTH_CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class RehearsalCluster:
    """A head, which runs nothing, and nodes of one CPU each."""

    def __init__(self, nodes: int) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": HEALTH_CHECKS})
        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
        self._nodes: list[Any] = [self._cluster.add_node(**node) for _ in range(nodes)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_a_node(self, chance: random.Random) -> None:
        """One goes without a word; the others have to do. To add one, Ray needs the main thread."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)

    def shut_down(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def rehearsal_cluster(nodes: int) -> Iterator[RehearsalCluster]:
    """Its processes end with the context."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it listens to this machine alone
    cluster = RehearsalCluster(nodes)
    try:
        yield cluster
    finally:
        cluster.shut_down()
