"""Faults in the supervision that a simulation has found, each with its own test."""

import math
import re
from typing import Any

import pytest

from cluster.deadlines import Limits
from cluster.errors import ResourcesError
from cluster.lanes import Cause
from cluster.supervisor import LostAttempt
from mnist_lib.results import LaneStarted, TrialResult
from mnist_lib.spec import trial_grid
from mnist_lib.training.assignment import Assignment
from tests.support.simulation.lanes import SimulatedLane
from tests.support.supervised import Run, trials


def test_u1_the_second_trial_of_a_lane_may_have_longer_epochs_than_the_silence_deadline() -> None:
    run = Run(trials(2), epoch=99.0)
    run.finish()
    assert (run.deaths, len(run.ended)) == ([], 2)


def test_u1_an_epoch_may_take_hours_as_long_as_heartbeats_come() -> None:
    run = Run(trials(1), epoch=7_200.0)
    run.finish()
    assert run.deaths == []


def test_u1_the_chunks_of_an_epoch_may_take_longer_than_the_silence_deadline() -> None:
    run = Run(trials(2), epoch=300.0, chunk=90.0)
    run.finish()
    assert (run.deaths, len(run.ended)) == ([], 2)


@pytest.mark.parametrize("moment", [3.0, 6.5, 9.0, 40.0])
def test_u2_a_worker_that_stops_for_good_delays_the_run_by_at_most_the_deadline_of_its_state(moment: float) -> None:
    run = Run(trials(2), importing=5.0, compiling=1.0, epoch=10.0, evaluating=1.0)
    run.clock.after(moment, lambda: run.cluster.stop_worker(run.lane, math.inf))
    run.finish()
    assert len(run.ended) == 2
    assert [kind for _, kind in run.deaths] == [Cause.SILENT]
    assert run.clock.now < 900 + 200


def stop_instead_of_ending(run: Run) -> None:
    """Make each worker stop for good when it is told that there are no more trials."""
    assign = run.cluster.assign

    def assign_or_stop(lane: SimulatedLane, payload: Any) -> None:
        run.cluster.stop_worker(lane, math.inf) if payload is None else assign(lane, payload)

    run.cluster.assign = assign_or_stop  # type: ignore[method-assign]


def test_u2_a_worker_that_stops_after_the_last_result_does_not_delay_the_end_of_the_run() -> None:
    run = Run(trials(1), importing=5.0, compiling=1.0, epoch=1.0, evaluating=0.5)
    stop_instead_of_ending(run)
    run.finish()
    assert run.ended == ["keras-s0"]
    assert run.clock.now < 12
    assert not run.cluster.running


def test_u2_a_lane_that_does_not_end_gives_its_resources_back_while_others_go_on() -> None:
    run = Run(trials(2), slots=2, epoch=40.0)
    stop_instead_of_ending(run)
    # The other lane ends first.
    run.clock.after(0.5, lambda: run.cluster.stop_worker(run.cluster.running[0], 58.5))
    free_at_the_end: list[int] = []

    def note(event: Any) -> None:
        if isinstance(event, TrialResult):
            free_at_the_end.append(run.cluster.nodes[0].free)

    run.finish(note)
    assert free_at_the_end == [0, 1]


def test_u3_nothing_is_abandoned_because_the_driver_was_stopped() -> None:
    run = Run(trials(4), slots=2, epoch=10.0)
    for moment in (5.0, 30.0, 70.0):
        run.clock.after(moment, lambda: run.cluster.stop_driver(1_000.0))
    run.finish()
    assert (run.deaths, len(run.ended)) == ([], 4)


def test_u5_an_event_that_cannot_be_fetched_ends_its_lane_and_does_not_delay_others() -> None:
    run = Run(trials(4), slots=2, epoch=1.0)
    run.clock.after(8.0, lambda: run.cluster.delay_content(run.cluster.running[0], math.inf))
    ends: list[float] = []
    run.finish(lambda event: ends.append(run.clock.now) if isinstance(event, TrialResult) else None)
    assert [kind for _, kind in run.deaths] == [Cause.NODE_LOST]
    assert len(run.ended) == 4
    assert ends[1] < 30  # the other lane has done two trials meanwhile


def stall_storage(run: Run, begin: float, end: float) -> None:
    run.clock.after(begin, lambda: setattr(run.items, "is_full", True))
    run.clock.after(end, lambda: setattr(run.items, "is_full", False))


def test_w1_a_result_that_waits_for_the_storage_beyond_the_timeout_counts() -> None:
    run = Run(trials(1), epoch=10.0, limits=Limits(trial_seconds=60, max_failures=0))
    stall_storage(run, 20.0, 120.0)  # the result is sent after 37.5 s
    run.finish()
    assert (run.deaths, run.ended) == ([], ["keras-s0"])


def test_w1_a_result_that_waits_for_the_storage_while_its_node_is_lost_counts() -> None:
    run = Run(trials(1), epoch=2.5, limits=Limits(max_failures=0))
    stall_storage(run, 8.0, 120.0)  # the result is sent after 15 s
    run.clock.after(60.0, lambda: run.cluster.lose_node(run.cluster.nodes[0], noticed=False))
    run.finish()
    assert (run.deaths, run.ended) == ([], ["keras-s0"])


def test_w1_a_death_between_two_trials_costs_the_next_one_no_attempt() -> None:
    run = Run(trials(2), epoch=10.0, limits=Limits(max_failures=0))
    run.cluster.kill_after_next_result(0.005)
    run.finish()
    assert (run.deaths, run.ended) == ([], ["keras-s0", "keras-s1"])


def test_u5_after_slow_storage_a_trial_that_takes_too_long_is_abandoned() -> None:
    run = Run(trials(1, epochs=100), epoch=10.0, limits=Limits(trial_seconds=60))
    stall_storage(run, 20.0, 120.0)
    run.finish()
    assert run.deaths == [("keras-s0", Cause.OVERTIME)]
    assert run.clock.now < 125


def test_w2_importing_for_longer_than_the_timeout_of_a_trial_is_no_overtime() -> None:
    run = Run(trials(4), slots=2, importing=90.0, limits=Limits(trial_seconds=60))
    run.finish()
    assert (run.deaths, len(run.ended)) == ([], 4)


def test_w4_a_final_event_that_comes_twice_ends_no_other_trial(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(trials(3), epoch=10.0)
    run.cluster.repeat_next_result()
    run.finish()
    assert (run.deaths, run.ended) == ([], ["keras-s0", "keras-s1", "keras-s2"])
    assert "sent an event of keras-s0 while it had keras-s1; ignored" in caplog.text


def test_u6_a_node_that_joins_gets_a_lane() -> None:
    run = Run(trials(8), slots=1, epoch=10.0)
    run.clock.after(20.0, lambda: run.cluster.add_node(1))
    run.finish()
    hosts = {event.host for event in run.items.events if isinstance(event, LaneStarted)}
    assert len(hosts) == 2
    assert run.clock.now < 8 * 31 * 0.7  # one lane alone needs 8 * 31 s


def test_u6_with_nodes_that_come_and_go_no_trial_is_trained_to_its_end_twice() -> None:
    run = Run(trials(6, epochs=2), slots=1, epoch=8.0, limits=Limits(max_failures=100))

    def come_and_go() -> None:
        node = run.cluster.add_node(1)
        run.clock.after(20.0, lambda: run.cluster.lose_node(node, noticed=True))
        run.clock.after(40.0, come_and_go)

    come_and_go()
    run.finish()
    assert run.ended == [f"keras-s{seed}" for seed in range(6)]


def test_f3_a_lane_on_a_lost_node_is_abandoned_as_soon_as_the_head_knows() -> None:
    run = Run(trials(1), slots=1, compiling=300.0)
    run.clock.after(20.0, lambda: run.cluster.lose_node(run.cluster.nodes[0], noticed=False))
    run.clock.after(21.0, lambda: run.cluster.add_node(1))
    run.finish()
    assert run.deaths == [("keras-s0", Cause.NODE_LOST)]
    assert run.clock.now < 20 + 30 + 320


def test_a_lane_on_a_node_that_is_lost_before_its_first_event_is_started_again() -> None:
    run = Run(trials(1), slots=1)
    run.clock.after(0.5, lambda: run.cluster.lose_node(run.cluster.nodes[0], noticed=False))
    run.clock.after(1.0, lambda: run.cluster.add_node(1))
    run.finish()
    assert run.ended == ["keras-s0"]
    assert run.clock.now < 60


def test_lanes_of_a_lost_mailbox_end_and_new_ones_replace_them() -> None:
    run = Run(trials(4), slots=2, epoch=10.0)
    run.clock.after(20.0, run.cluster.lose_mailbox)
    run.finish()
    assert len(run.ended) == 4
    assert run.clock.now < 200


def test_no_lane_starts_during_the_pause_after_a_death_even_if_a_node_is_lost() -> None:
    run = Run(trials(4), slots=1, epoch=10.0)
    for _ in range(2):
        run.cluster.add_node(1)
    started: list[float] = []
    run.cluster.watch.on_start = lambda: started.append(run.clock.now)  # type: ignore[method-assign]
    run.clock.after(19.8, lambda: run.cluster.lose_node(run.cluster.nodes[1], noticed=False))

    def kill() -> None:
        if run.cluster.running:
            run.cluster.kill_worker(run.cluster.running[0])

    for moment in (30.0, 31.0, 32.0, 33.0, 34.5):  # the head reports the loss after 34.8 s
        run.clock.after(moment, kill)
    deaths: list[float] = []
    run.finish(lambda event: deaths.append(run.clock.now) if isinstance(event, LostAttempt) else None)
    assert len(deaths) >= 3
    assert not [at for at in started for death in deaths if death <= at < death + 0.9]


def test_items_that_are_submitted_while_the_head_does_not_answer_wait_for_a_lane() -> None:
    run = Run(trials(1), slots=2, epoch=10.0)
    submitted = False
    run.clock.after(8.0, lambda: setattr(run.cluster, "head_answers", False))
    run.clock.after(20.0, run.cluster.answer_again)

    def submit(event: Any) -> None:
        nonlocal submitted
        if not submitted and not run.cluster.head.answers:
            run.items.submit(trials(3)[1:])
            submitted = True

    run.finish(submit)
    assert submitted
    assert run.ended == ["keras-s0", "keras-s1", "keras-s2"]


def test_a_pause_after_deaths_is_announced_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(trials(1), epoch=10.0, importing=1.0, limits=Limits(max_failures=20))

    def kill() -> None:
        if run.cluster.running:
            run.cluster.kill_worker(run.lane)

    for moment in range(1, 120):
        run.clock.after(float(moment), kill)
    run.finish()
    assert re.search(r"waiting for 1 CPU.*no lane starts for another \d+ s, after \d+ deaths in a row", caplog.text)


def test_all_lanes_of_a_node_that_returns_start_at_once() -> None:
    run = Run(trials(8), slots=8, epoch=10.0, limits=Limits(max_failures=9))
    run.clock.after(20.0, lambda: run.cluster.lose_node(run.cluster.nodes[0], noticed=True))
    run.clock.after(40.0, lambda: run.cluster.add_node(8))
    run.finish()
    assert run.clock.now < 40 + 45


def test_the_most_expensive_trials_start_first_and_free_lanes_take_the_next_one() -> None:
    grid = trial_grid(["keras", "keras-cnn"], range(3), dataset="mnist-mini", epochs=2)
    run = Run(grid, slots=2)
    run.finish()
    assert run.items.started[:3] == ["keras-cnn-s0", "keras-cnn-s1", "keras-cnn-s2"]


def test_a_lane_that_never_starts_ends_the_run_with_an_error_after_the_wait() -> None:
    run = Run(trials(1), slots=0, limits=Limits(wait_seconds=50))
    with pytest.raises(ResourcesError, match="1 CPU not free within 50 s"):
        run.finish()
    assert run.clock.now < 52


def test_each_lane_keeps_to_one_model_among_trials_that_cost_the_same() -> None:
    both = trial_grid(("keras", "scratch"), range(4), dataset="mnist-mini", epochs=2)
    run = Run(both, slots=2)
    models: dict[int, list[str]] = {}
    assign = run.cluster.assign

    def noted(lane: SimulatedLane, payload: Assignment | None) -> None:
        if payload is not None:
            models.setdefault(lane.number, []).append(payload.spec.model)
        assign(lane, payload)

    run.cluster.assign = noted  # type: ignore[method-assign]
    run.finish()
    assert sorted(models.values()) == [["keras"] * 4, ["scratch"] * 4]
