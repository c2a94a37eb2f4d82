"""The head of the connected cluster: does it still answer, and which nodes does it say are gone?"""

import time

import ray

from cluster.address import dead_nodes
from cluster.errors import ClusterLostError

ASK_SECONDS = 5.0  # from one question to the next


class HeadWatch:
    """Ray itself would end this process when the head has been gone for a minute, without a word; and of a task on a
    node whose link was cut, it would wait for the connection to break.

    Args:
        most_seconds: without an answer.
    """

    def __init__(self, most_seconds: float) -> None:
        self.dead_nodes: set[str] = set()  # their ids
        self._most_seconds = most_seconds
        self._answered_at = self._asked_at = time.monotonic()

    def check(self) -> None:
        """To be called often; asks at intervals.

        Raises:
            ClusterLostError: it has not answered for too long.
        """
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return
        self._asked_at = time.monotonic()
        try:
            self.dead_nodes = dead_nodes(ray.get_runtime_context().gcs_address)
            self._answered_at = time.monotonic()
        except ClusterLostError as error:
            silent = time.monotonic() - self._answered_at
            if silent > self._most_seconds:
                raise ClusterLostError(
                    f"the head of the cluster has not answered for {silent:.0f} s; is it running?"
                ) from error
