"""The head of the connected cluster: does it still answer?"""

import socket
import time

import ray

from cluster.errors import ClusterLostError

ASK_SECONDS = 5.0  # from one question to the next
ANSWER_SECONDS = 4.0


class HeadWatch:
    """Ray itself would end this process when the head has been gone for a minute, without a word.

    Args:
        most_seconds: without an answer.
    """

    def __init__(self, most_seconds: float) -> None:
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
        if _answers():
            self._answered_at = time.monotonic()
            return
        silent = time.monotonic() - self._answered_at
        if silent > self._most_seconds:
            raise ClusterLostError(f"the head of the cluster has not answered for {silent:.0f} s; is it running?")


def _answers() -> bool:
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False
