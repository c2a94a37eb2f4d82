import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ResourcesError
from cluster.lanes.resources import LanePlan, Node, _groups, deal, plan_lanes


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
def test_automatic_lanes_fill_the_cluster(trials: int, nodes: list[Node], expected: LanePlan) -> None:
    assert plan_lanes(trials, nodes) == expected


def test_what_is_asked_for_is_what_each_lane_gets() -> None:
    plan = plan_lanes(9, [node(8, gpus=4)], gpus_per_trial=2, cpus_per_trial=1)
    assert plan == LanePlan(lanes=2, cpus=1, gpus=2)


def test_two_nodes_of_one_gpu_are_not_two_gpus() -> None:
    with pytest.raises(
        ResourcesError, match=r"asks for 2 GPU.s., the largest node has 1; use --gpus-per-trial 1 or fewer"
    ):
        plan_lanes(1, [node(4, gpus=1), node(4, gpus=1)], gpus_per_trial=2)


def test_more_cpus_than_any_node_has_are_refused() -> None:
    with pytest.raises(
        ResourcesError, match=r"asks for 8 CPU.s., the largest node has 4; use --cpus-per-trial 4 or fewer"
    ):
        plan_lanes(1, [node(4), node(4)], cpus_per_trial=8)


def test_gpus_and_cpus_on_different_nodes_do_not_add_up() -> None:
    with pytest.raises(ResourcesError, match="no node has both"):
        plan_lanes(1, [node(4), node(1, gpus=1)], gpus_per_trial=1, cpus_per_trial=4)


def test_a_cluster_without_cpus_is_refused() -> None:
    with pytest.raises(ResourcesError, match="add a node with CPUs"):
        plan_lanes(1, [node(0)])


@given(st.lists(st.integers(), max_size=50), st.integers(1, 10))
def test_dealing_keeps_every_item_once_in_order_and_evenly(items: list[int], lanes: int) -> None:
    hands = deal(items, lanes)
    assert [item for hand in hands for item in hand] == items
    assert len(hands) == lanes
    assert max(map(len, hands)) - min(map(len, hands)) <= 1


@pytest.mark.parametrize(
    ("trials", "nodes", "expected"),
    [
        (1, [node(1), node(2)], LanePlan(lanes=1, cpus=1, gpus=0, nodes=2)),
        (4, [node(4), node(4)], LanePlan(lanes=4, cpus=1, gpus=0, nodes=2)),
        (2, [node(4), node(4)], LanePlan(lanes=2, cpus=2, gpus=0, nodes=2)),
        (9, [node(8), node(1), node(1)], LanePlan(lanes=2, cpus=1, gpus=0, nodes=2)),
        (9, [node(8, gpus=1), node(8, gpus=2), node(8)], LanePlan(lanes=1, cpus=8, gpus=1, nodes=2)),
    ],
)
def test_a_group_has_a_part_on_each_of_its_nodes(trials: int, nodes: list[Node], expected: LanePlan) -> None:
    assert plan_lanes(trials, nodes, nodes_per_trial=2) == expected


@given(st.lists(st.integers(0, 4), max_size=4), st.integers(1, 3))
def test_as_many_groups_are_planned_as_can_be_dealt(slots: list[int], size: int) -> None:
    """Held to what always finds the most: give each group the nodes with most room left."""
    left, dealt = sorted(slots), 0
    while len(left) >= size and left[-size] > 0:
        left = sorted([*left[:-size], *(on_node - 1 for on_node in left[-size:])])
        dealt += 1
    assert _groups(slots, size) == dealt


def test_too_few_nodes_for_a_trial_are_refused_with_the_flag() -> None:
    said = "each trial asks for 3 nodes, 2 can hold a part of one; use --nodes-per-trial 2 or fewer"
    with pytest.raises(ResourcesError, match=said):
        plan_lanes(1, [node(2), node(2), node(0)], nodes_per_trial=3)


def test_no_more_lanes_than_are_wanted_share_all_there_is() -> None:
    assert plan_lanes(9, [node(8)], max_concurrent=2) == LanePlan(lanes=2, cpus=4, gpus=0)
