import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterLostError, ResourcesError
from cluster.nodes import HeadWatch, LanePlan, Node, describe_free, makespan, plan_lanes, share_of_time
from tests.support.simulation.clock import VirtualClock


def node(cpus: int, gpus: int = 0) -> Node:
    return Node(id="n", host="h", cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("trials", "nodes", "expected"),
    [
        (1, [node(2)], LanePlan(lanes=1, cpus=2, gpus=0)),
        (2, [node(2)], LanePlan(lanes=2, cpus=1, gpus=0)),
        (6, [node(2)], LanePlan(lanes=2, cpus=1, gpus=0)),
        (2, [node(16)], LanePlan(lanes=2, cpus=8, gpus=0)),
        (3, [node(2), node(4)], LanePlan(lanes=3, cpus=2, gpus=0)),
        (6, [node(8, gpus=2)], LanePlan(lanes=2, cpus=4, gpus=1)),
        (6, [node(0), node(4, gpus=1), node(4, gpus=1)], LanePlan(lanes=2, cpus=4, gpus=1)),
    ],
)
def test_by_default_the_lanes_fill_the_cluster(trials: int, nodes: list[Node], expected: LanePlan) -> None:
    assert plan_lanes(trials, nodes) == expected


def test_each_lane_gets_the_cpus_and_gpus_that_are_asked_for() -> None:
    plan = plan_lanes(9, [node(8, gpus=4)], gpus_per_trial=2, cpus_per_trial=1)
    assert plan == LanePlan(lanes=2, cpus=1, gpus=2)


def test_a_trial_with_two_gpus_does_not_fit_on_two_nodes_with_one_each() -> None:
    with pytest.raises(
        ResourcesError, match="asks for 2 GPUs, the largest node has 1; use --gpus-per-trial 1 or fewer"
    ):
        plan_lanes(1, [node(4, gpus=1), node(4, gpus=1)], gpus_per_trial=2)


def test_a_gpu_that_no_node_has_is_refused() -> None:
    with pytest.raises(ResourcesError, match="asks for 1 GPU, the largest node has 0; use --gpus-per-trial 0 or fewer"):
        plan_lanes(1, [node(4)], gpus_per_trial=1)


def test_more_cpus_than_any_node_has_are_refused() -> None:
    with pytest.raises(
        ResourcesError, match="asks for 8 CPUs, the largest node has 4; use --cpus-per-trial 4 or fewer"
    ):
        plan_lanes(1, [node(4), node(4)], cpus_per_trial=8)


def test_gpus_and_cpus_on_different_nodes_do_not_add_up() -> None:
    with pytest.raises(ResourcesError, match="no node has both"):
        plan_lanes(1, [node(4), node(1, gpus=1)], gpus_per_trial=1, cpus_per_trial=4)


def test_a_cluster_without_cpus_is_refused() -> None:
    with pytest.raises(ResourcesError, match="add a node with CPUs"):
        plan_lanes(1, [node(0)])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.integers(1, 10))
def test_the_makespan_exceeds_an_even_split_by_at_most_the_longest_item(seconds: list[float], lanes: int) -> None:
    even = sum(seconds) / lanes
    assert max(even, *seconds, 0) <= makespan(seconds, lanes) + 1e-9
    assert makespan(seconds, lanes) <= even + max(seconds) + 1e-9


def test_the_makespan_is_shorter_if_the_longest_item_starts_first() -> None:
    assert makespan([1, 1, 1, 1, 4], 2) == 6
    assert makespan([4, 1, 1, 1, 1], 2) == 4


def test_the_makespan_counts_how_long_the_lanes_are_busy() -> None:
    assert makespan([1, 1, 1], 3, busy=[5, 2]) == 5
    assert makespan([1, 1, 1], 2, busy=[5]) == 5
    assert makespan([4, 4], 2, busy=[5]) == 8


def test_shares_of_the_time_are_in_proportion_to_cost() -> None:
    assert share_of_time(100, [1], 1) == 100
    assert share_of_time(100, [3, 3], 1) == pytest.approx(50, rel=1e-4)
    assert share_of_time(22_000, [20, 1, 1], 1) == pytest.approx(20_000, rel=1e-3)
    assert share_of_time(22_000, [20, 1, 1], 2) == pytest.approx(22_000)  # the others take a second lane
    assert share_of_time(22_000, [1, 1], 2, busy=[22_000]) == pytest.approx(11_000, rel=1e-3)
    assert share_of_time(6, [100, 1, 1], 1) == pytest.approx(2, rel=1e-4)  # too short for anything but equal shares


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 6), st.floats(10, 1e5), st.integers(0, 10**9)
)
def test_items_that_use_their_shares_all_get_time_and_end_in_time(
    costs: list[int], lanes: int, seconds: float, seed: int
) -> None:
    ends, draw = [0.0] * lanes, random.Random(seed)
    for number in range(len(costs)):
        lane = min(range(lanes), key=ends.__getitem__)
        now = ends[lane]
        busy = [end - now for n, end in enumerate(ends) if n != lane and end > now]
        share = share_of_time(seconds - now, costs[number:], lanes, busy)
        assert 0 < share <= seconds - now
        ends[lane] = now + share * draw.choice([1.0, 0.5, 0.01])  # an item may end before its share is used
    assert max(ends) <= seconds + 1e-6


def test_the_share_of_one_of_many_items_is_found_quickly_and_is_nearly_that_of_fewer() -> None:
    begin = time.process_time()
    share = share_of_time(10_000, [1.0] * 100_000, 1_000, [10.0] * 999)
    assert time.process_time() - begin < 1
    assert share == pytest.approx(100, rel=0.1)


def test_max_concurrent_leaves_more_cpus_to_each_lane() -> None:
    assert plan_lanes(9, [node(8)], max_concurrent=2) == LanePlan(lanes=2, cpus=4, gpus=0)


def test_the_description_of_a_thousand_nodes_is_short_and_names_those_with_free_cpus() -> None:
    nodes = [Node(id=str(number), host=f"node-{number}", cpus=8, gpus=1) for number in range(1_000)]
    text = describe_free(nodes, {"7": {"CPU": 3.0, "GPU": 1.0}})
    assert len(text) < 250
    assert text.startswith("node-7: 3 of 8 CPUs, 1 of 1 GPU free; ")
    assert text.endswith("; and 995 more nodes")


def test_u3_one_unanswered_request_after_a_long_preparation_is_not_a_lost_head() -> None:
    clock, answers = VirtualClock(), iter([True, False, True, False, True])

    def ask() -> list[Node]:
        if not next(answers):
            raise ClusterLostError("no answer")
        return []

    watch = HeadWatch(30.0, ask=ask, clock=clock)
    for _ in range(4):
        clock.sleep(600.0)  # the driver prepares data, or is stopped
        watch.check()


def test_u3_a_head_that_does_not_answer_for_its_timeout_is_lost() -> None:
    clock = VirtualClock()

    def ask() -> list[Node]:
        raise ClusterLostError("no answer")

    watch = HeadWatch(30.0, ask=ask, clock=clock)

    def watch_for_minutes() -> None:
        for _ in range(1_000):
            clock.sleep(0.5)
            watch.check()

    with pytest.raises(ClusterLostError, match="has not answered for 30 s"):
        watch_for_minutes()
    assert 29 < clock.now < 32
