"""When the head of a cluster counts as lost."""

import pytest

from cluster.connection.address import HeadWatch
from cluster.errors import ClusterLostError
from tests.support.simulation.clock import VirtualClock


def test_u3_one_unanswered_request_after_a_long_preparation_is_not_a_lost_head() -> None:
    clock, answers = VirtualClock(), iter([True, False, True, False, True])

    def ask() -> list[object]:
        if not next(answers):
            raise ClusterLostError("no answer")
        return []

    watch = HeadWatch(30.0, ask=ask, clock=clock)
    for _ in range(4):
        clock.sleep(600.0)  # the driver prepares data, or is stopped
        watch.check()


def test_u3_a_head_that_does_not_answer_for_its_timeout_is_lost() -> None:
    clock = VirtualClock()

    def ask() -> list[object]:
        raise ClusterLostError("no answer")

    watch = HeadWatch(30.0, ask=ask, clock=clock)

    def watch_for_minutes() -> None:
        for _ in range(1_000):
            clock.sleep(0.5)
            watch.check()

    with pytest.raises(ClusterLostError, match="has not answered for 30 s"):
        watch_for_minutes()
    assert 29 < clock.now < 32
