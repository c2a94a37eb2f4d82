"""Searches on a simulated cluster: equal decisions and weights whatever happens."""

import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.lanes import Cause
from jobs.console.exit_codes import TrainingError
from jobs.train.display import drawing
from mnist_lib.errors import MnistError
from mnist_lib.results import Accuracy, RungDone, TrialFailure, TrialStarted
from mnist_lib.store.runs import SEARCH
from tests.support.bounds import at_most_processor_seconds
from tests.support.simulation.searches import SimulatedSearch, give, plan, search_of, winner
from tests.support.simulation.trials import epoch_of, score_of, undisturbed_weights


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    world = SimulatedSearch(plan(), lanes=1)
    world.drive()
    return world.document


def test_the_decisions_of_a_search_are_stored_without_times_and_host_names(undisturbed: dict[str, Any]) -> None:
    rungs = [(made["bracket"], made["rung"], made["epochs"]) for made in undisturbed["decisions"]]
    assert rungs == [(bracket, rung, epochs) for bracket in range(3) for rung, epochs in enumerate((1, 3, 9))]
    assert [len(made["scores"]) for made in undisturbed["decisions"]] == [9, 3, 2, 9, 3, 1, 5, 1, 1]
    assert len(undisturbed["configurations"]) == 23
    assert undisturbed["configurations"]["0"] == {}  # the default settings, which are on all rungs of their bracket
    assert ["0" in made["scores"] for made in undisturbed["decisions"]] == [True] * 3 + [False] * 6
    assert undisturbed["unfinished"] == {}
    text = json.dumps(undisturbed)
    assert "node-" not in text
    assert "seconds" not in text


@pytest.mark.parametrize("lanes", [2, 8])
def test_the_number_of_lanes_changes_nothing(undisturbed: dict[str, Any], lanes: int) -> None:
    world = SimulatedSearch(plan(), lanes=lanes)
    world.drive()
    assert world.document == undisturbed


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_kills_of_workers_nodes_and_drivers_change_nothing(undisturbed: dict[str, Any], seed: int) -> None:
    chance = random.Random(seed)
    lanes = chance.choice([1, 2, 8])
    world = SimulatedSearch(plan(checkpoint_seconds=0), lanes, epoch=chance.choice([0.5, 5.0]))

    def kill() -> None:
        if running := world.cluster.running:
            world.cluster.kill_worker(chance.choice(running), chance.choice([Cause.KILLED, Cause.OUT_OF_MEMORY]))

    def lose_node() -> None:
        world.cluster.lose_node(next(node for node in world.cluster.nodes if node.alive), noticed=True)
        world.cluster.add_node(lanes)

    for _ in range(15):
        world.clock.after(chance.random() * 120, chance.choice([kill, kill, lose_node]))
    world.drive_until_it_ends([chance.randint(1, 150) for _ in range(5)])
    assert world.document == undisturbed


def test_with_folds_neither_lanes_nor_kills_change_the_scores_which_are_sums_over_the_folds() -> None:
    given = plan(folds=3, checkpoint_seconds=0)
    worlds = [SimulatedSearch(given, lanes) for lanes in (1, 2, 8)]
    for world, faults in zip(worlds, ([], [40, 150], [25, 60, 90]), strict=True):
        world.drive_until_it_ends([*faults])
        assert world.document == worlds[0].document
        assert not [name for name in world.storage.content if "/checkpoints/" in name]
    decision = worlds[0].document["decisions"][0]
    for number, score in decision["scores"].items():
        trials = [replace(given.trial(worlds[0].settings(number), int(number)), fold=n, folds=3) for n in range(3)]
        assert Accuracy(**score) == sum(
            (score_of(undisturbed_weights(spec, decision["epochs"])) for spec in trials), Accuracy(0, 0)
        )


def test_checkpoints_of_configurations_that_do_not_go_on_are_deleted() -> None:
    world = SimulatedSearch(plan(), lanes=2)
    world.drive()
    assert not [name for name in world.storage.content if "/checkpoints/" in name]


def test_lanes_stay_warm_between_rungs() -> None:
    world = SimulatedSearch(plan(), lanes=3)
    starts: list[int] = []
    start = world.cluster.start

    def counted_start() -> Any:
        starts.append(1)
        return start()

    world.cluster.start = counted_start  # type: ignore[method-assign]
    world.drive()
    assert len(starts) == 3


def test_a_search_whose_configurations_all_fail_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    world = SimulatedSearch(plan(), lanes=1)
    search = search_of(world.plan, world.storage)
    while step := search.halving.next_step():
        spec = search.trial(step.configuration)
        search._steps[spec.id] = step
        give(search, TrialFailure(trial=spec.id, code="E-NAN", message="the loss is not a finite number"))
    assert search.is_done
    with pytest.raises(TrainingError, match="no configuration could be trained"):
        winner(search)


def test_a_configuration_that_fails_while_its_checkpoint_is_read_does_not_delay_others() -> None:
    search = search_of(plan(), lanes=2, resumed=True)
    first, second = search.next_trials(0)
    search.is_ready(first)  # the read begins
    assert not search.is_ready(second)
    give(search, TrialFailure(trial=first.id, code="E-WORKER", message="its lane died"))
    search.is_ready(second)
    assert second.id in search._recorder.checkpoints._reads


def test_data_that_cannot_be_read_end_the_search() -> None:
    world = SimulatedSearch(plan(), lanes=1)
    search = search_of(world.plan, world.storage)
    step = search.halving.next_step()
    assert step is not None
    search._steps["keras-c0"] = step
    with pytest.raises(TrainingError, match="keras-c0: the data are damaged"):
        give(search, TrialFailure(trial="keras-c0", code="E-DATA", message="the data are damaged"))


@pytest.mark.parametrize(("folds", "trials"), [(None, ["keras-c0", "keras-c1"]), (3, ["keras-c0-f0", "keras-c1-f0"])])
def test_the_live_table_has_the_configurations_in_progress_up_to_their_next_rung(
    folds: int | None, trials: list[str]
) -> None:
    search = search_of(plan(folds=folds), lanes=2)
    console = Console(width=100, height=24, color_system=None)
    first_two = search.next_trials(queued=0)
    assert [spec.id for spec in first_two] == trials
    for event in (
        TrialStarted(trial=trials[0], pid=1, node="host", devices=(), gpus=()),
        RungDone(trial=trials[1], epoch=1, validation=Accuracy(9, 10), seconds=1.0, content=b""),
    ):
        give(search, event)
        search.progress.update(event, 1)
    with console.capture() as capture:
        console.print(drawing(search.progress, console))
    _, *headings, row, totals = capture.get().splitlines()
    assert "test" not in "".join(headings)
    assert row.split()[:3] == [trials[0], "running", "0/1"]
    assert totals.startswith("2 of up to 23 configurations begun, ")


def test_the_documentation_names_the_file_of_decisions() -> None:
    assert SEARCH in Path("docs/search.md").read_text()


@pytest.mark.slow
def test_a_thousand_configurations_take_little_driver_time_and_leave_no_state() -> None:
    given = plan(vary={"learning_rate": "1e-4..1e-1:log"}, trials=1_000)
    world = SimulatedSearch(given, lanes=8)
    with at_most_processor_seconds(10):  # the simulated cluster needs most of it
        search = world.drive()
    assert len(world.document["configurations"]) == 1_000
    checkpoints = search._recorder.checkpoints
    assert len(checkpoints._epochs) == len(checkpoints._cached) == len(checkpoints._reads) == 0
    assert len(search._time._seen) == len(search._steps) == 0


def test_a_search_that_was_killed_before_its_last_decision_was_stored_stores_it_when_resumed(
    undisturbed: dict[str, Any],
) -> None:
    world = SimulatedSearch(plan(), lanes=2)
    world.drive()
    del world.storage.content["runs/run/search.json"]
    assert world.drive().is_done
    assert world.document == undisturbed


@pytest.mark.parametrize(
    "line",
    [
        '{"at": 1.5, "event": "rung"}',
        '{"at": 1.5, "event": "epoch", "trial": "keras-c0"}',
    ],
)
def test_a_damaged_history_is_our_error(line: str) -> None:
    world = SimulatedSearch(plan(), lanes=1)
    world.storage.content["runs/run/history/00000001.jsonl"] = line.encode() + b"\n"
    world.drivers = 1
    with pytest.raises(MnistError):
        world.drive()


def test_configurations_that_all_failed_are_tried_again_by_the_next_driver() -> None:
    world = SimulatedSearch(plan(), lanes=1)
    lines = [
        {"at": 1.5, "event": "rung", "trial": f"keras-c{n}", "epoch": 1, "validation": None, "status": "failed"}
        for n in range(23)
    ]
    world.storage.content["runs/run/history/00000001.jsonl"] = "".join(
        json.dumps(line) + "\n" for line in lines
    ).encode()
    world.drivers = 1
    search = world.drive()
    assert winner(search) == winner(SimulatedSearch(plan(), lanes=1).drive())


def test_a_configuration_that_failed_on_a_later_rung_does_not_win() -> None:
    search = search_of(plan())
    steps = [step for _ in range(9) if (step := search.halving.next_step())]
    for step in steps:
        search.halving.record(step, Accuracy(90 - step.configuration, 100))
    best = search.halving.next_step()
    assert best is not None
    assert winner(search) == best.configuration == 0
    search.halving.record(best, None)
    assert winner(search) == 1


def test_a_configuration_that_diverged_before_its_first_rung_does_not_win() -> None:
    world = SimulatedSearch(plan(strategy="random", epochs=100), lanes=1)
    search = search_of(world.plan, world.storage)
    for number in range(2):
        step = search.halving.next_step()
        assert step is not None
        spec = search.trial(number)
        search._steps[spec.id] = step
        give(search, epoch_of(spec, 1))
    assert winner(search) == 0
    give(search, TrialFailure(trial="keras-c0", code="E-NAN", message="the loss is not a finite number"))
    assert winner(search) == 1
    assert winner(search_of(world.plan, world.storage, resumed=True)) == 1
