"""Searches on a simulated cluster: equal decisions and weights whatever happens, and an end before the deadline."""

import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.deadlines import Limits
from cluster.lanes import Cause
from cluster.nodes import LanePlan
from jobs.console.exit_codes import TrainingError
from jobs.search.driver import Search
from jobs.search.options import SearchOptions
from jobs.search.plan import SearchPlan
from jobs.search.time_limit import RESERVED_SECONDS
from jobs.train.display import drawing
from jobs.train.recorder import Recorder
from mnist_lib.documents import encode
from mnist_lib.errors import MnistError
from mnist_lib.results import Accuracy, RungDone, TrialFailure, TrialStarted
from mnist_lib.store.runs import SEARCH, RunFolder
from tests.support.bounds import at_most_processor_seconds
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import Durations, epoch_of, score_of, undisturbed_weights
from tests.support.store.faulty import Faulty, KilledError
from tests.support.supervised import run_loop


def search_of(
    given: SearchPlan, storage: MemoryObjects | None = None, lanes: int = 1, *, resumed: bool = False
) -> Search:
    """Return a search that no loop drives."""
    folder = RunFolder(storage or MemoryObjects(), "run", resumed=resumed)
    return Search(given, Recorder(folder, SimulatedWrites(VirtualClock(), 0.0)), lanes)


def give(search: Search, event: Any) -> None:
    """Give a search an event, as the loop of its run does."""
    search.on(search._recorder.record(event), attempt=1)


BOUNDLESS = Limits(max_failures=1_000, max_out_of_memory=1_000)


def winner(search: Search) -> int:
    search.summary()  # raises TrainingError if there is none
    best = search.best()
    assert best is not None
    return best[0]


def plan(**more: Any) -> SearchPlan:
    space = {"learning_rate": "1e-4..1e-1:log", "hidden_units": "16,32"}
    found = SearchPlan.of(SearchOptions(**{"vary": space, "trials": 23, "epochs": 9, **more}))
    found.check()
    return found


class SimulatedSearch:
    """A search on a cluster with a virtual clock, whose driver can be started again."""

    def __init__(self, given: SearchPlan, lanes: int, deadline: float = float("inf"), **durations: float) -> None:
        self.plan, self.lanes, self.deadline = given, lanes, deadline
        self.clock, self.storage = VirtualClock(), MemoryObjects()
        self.cluster = SimulatedCluster(self.clock, {"keras": Durations(**durations)}, [lanes])  # type: ignore[arg-type]
        self.drivers = 0

    def drive(self, objects: Any = None) -> Search:
        self.drivers += 1
        folder = RunFolder(objects or self.storage, "run", resumed=self.drivers > 1)
        writes = SimulatedWrites(self.clock, seconds=0.0)
        lanes = LanePlan(lanes=self.lanes, cpus=1, gpus=0)
        with Recorder(folder, writes) as recorder:
            search = Search(self.plan, recorder, self.lanes, self.deadline, wall=lambda: self.clock.now)
            run_loop(self.cluster, search, recorder, lanes, BOUNDLESS, clock=self.clock)
        return search

    def drive_until_it_ends(self, faults: list[int]) -> Search:
        """Start drivers until one ends; the n-th dies at the storage operation `faults[n]`."""
        for number in faults:
            try:
                return self.drive(Faulty(self.storage, number, KilledError, late=False))
            except KilledError:
                self.cluster.connect()
                self.clock.sleep(10.0)
        return self.drive()

    def settings(self, number: str) -> dict[str, Any]:
        found: dict[str, Any] = self.document["configurations"][number]
        return found

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.storage.content["runs/run/search.json"])
        return found


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


def test_with_folds_the_winner_at_the_deadline_is_the_best_on_the_folds_that_are_known() -> None:
    world = SimulatedSearch(plan(folds=3, epochs=27), 2, epoch=10.0)
    with pytest.raises(KilledError):
        world.drive(Faulty(world.storage, 200, KilledError, late=False))
    world.cluster.connect()
    world.deadline = world.clock.now  # an interruption has used up the time
    search = world.drive()
    known = {int(number): Accuracy(**score) for number, score in world.document["unfinished"].items()}
    assert search.is_done
    assert (world.document["decisions"], len(known)) == ([], 9)
    assert len({score.total for score in known.values()}) == 2  # some are known on one fold, some on two
    assert known[winner(search)].value == max(score.value for score in known.values())
    world.deadline = float("inf")
    assert winner(world.drive()) == winner(search)


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


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_a_search_ends_in_time_for_its_final_trials(seed: int) -> None:
    chance = random.Random(seed)
    epoch, lanes = chance.choice([1.0, 5.0, 20.0]), chance.choice([1, 2, 4])
    given = plan(final_seeds=3)
    deadline = chance.uniform(300, 3_000) + 60 * epoch
    world = SimulatedSearch(given, lanes, deadline, epoch=epoch)
    search = world.drive()
    assert search.is_done
    winner(search)
    final = -(-given.options.final_seeds // lanes) * given.options.epochs * epoch
    assert world.clock.now + final <= deadline
    assert world.document == json.loads(encode(search.document()))


@pytest.mark.parametrize(
    ("folds", "deadline", "importing", "least"),
    [(None, 2_000, 5.0, 60), (3, 2_000, 5.0, 12), (3, 900, 5.0, 4), (None, 2_000, 100.0, 50)],
)
def test_with_a_time_limit_alone_brackets_follow_until_the_time_is_used(
    folds: int | None, deadline: float, importing: float, least: int
) -> None:
    given = plan(trials=None, max_seconds=deadline, folds=folds, final_seeds=1)
    world = SimulatedSearch(given, 1, deadline, epoch=5.0, importing=importing)
    search = world.drive()
    cut = world.document["cut"]
    final = given.options.epochs * 5.0
    assert not cut["over"]  # all that has begun was completed
    assert cut["configurations"] == len(world.document["configurations"]) >= least
    start = importing + Durations().compiling  # of the lane of the final trial, slow on a busy machine
    assert 0.75 * deadline < world.clock.now + start + final + RESERVED_SECONDS <= deadline
    assert search.progress.totals()[0] == f"{cut['configurations']} configurations tried"
    assert world.drive().document() == search.document()


def test_a_search_that_a_time_limit_ends_equals_one_of_as_many_configurations() -> None:
    world = SimulatedSearch(plan(trials=None, max_seconds=700.0), 2, 700.0, epoch=5.0)
    document = world.drive_until_it_ends([40, 60]).document()
    assert document.cut is not None
    again = SimulatedSearch(plan(trials=document.cut.configurations), 1)
    assert again.drive().document().decisions[: len(document.decisions)] == document.decisions


def test_a_search_that_was_cut_is_not_continued_when_it_is_resumed() -> None:
    world = SimulatedSearch(plan(), 2, deadline=400.0, epoch=10.0)
    cut = world.drive().document()
    assert cut.cut is not None
    world.clock.sleep(10.0)
    world.deadline = float("inf")
    again = world.drive()
    assert again.document().decisions[: len(cut.decisions)] == cut.decisions
    assert again.document().cut == cut.cut


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


@pytest.mark.parametrize(
    ("folds", "trials", "tried"),
    [
        (None, ["keras-c0", "keras-c1"], "1 of 23 configurations tried, "),
        (3, ["keras-c0-f0", "keras-c1-f0"], "1 of 69 folds of 23 configurations tried, "),
    ],
)
def test_the_live_table_has_the_configurations_in_progress_up_to_their_next_rung(
    folds: int | None, trials: list[str], tried: str
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
    assert totals.startswith(tried)


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


def history_lines(world: SimulatedSearch) -> list[str]:
    return [
        line
        for name, content in sorted(world.storage.content.items())
        if name.startswith("runs/run/history/")
        for line in content.decode().splitlines()
    ]


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


def test_a_score_without_images_is_none() -> None:
    world = SimulatedSearch(plan(), lanes=1)
    line = {"at": 1.5, "event": "rung", "trial": "keras-c0", "epoch": 1, "validation": {"correct": 0, "total": 0}}
    world.storage.content["runs/run/history/00000001.jsonl"] = json.dumps(line).encode() + b"\n"
    world.drivers = 1
    assert world.drive().is_done


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


def test_without_a_complete_rung_the_best_so_far_wins_at_the_deadline() -> None:
    given = plan(strategy="random", epochs=100)
    world = SimulatedSearch(given, 2, deadline=3_000.0, epoch=10.0)
    search = world.drive()
    assert search.is_done
    assert winner(search) in (0, 1)
    assert world.document["decisions"] == []
    assert str(winner(search)) in world.document["unfinished"]
    world.deadline = float("inf")
    assert winner(world.drive()) == winner(search)


def test_nothing_is_left_of_configurations_that_a_deadline_cut() -> None:
    world = SimulatedSearch(plan(checkpoint_seconds=0), 2, deadline=450.0, epoch=10.0)
    world.drive().delete_checkpoints()
    assert not [name for name in world.storage.content if "/checkpoints/" in name]


def test_a_resumed_search_whose_time_is_done_trains_nothing() -> None:
    world = SimulatedSearch(plan(), 2, deadline=10_000.0, epoch=10.0)
    with pytest.raises(KilledError):
        world.drive(Faulty(world.storage, 120, KilledError, late=False))
    world.cluster.connect()
    world.clock.sleep(20_000.0)
    before = world.clock.now
    assert world.drive().is_done
    assert world.clock.now == before


def test_the_speed_of_a_first_epoch_is_measured_without_the_wait_before_it() -> None:
    world = SimulatedSearch(plan(), lanes=1)
    search = search_of(world.plan, world.storage)
    now = 0.0
    search._time.wall = lambda: now
    for at, epoch in ((50.0, 1), (53.0, 2)):
        now = at
        give(search, epoch_of(search.trial(0), epoch, seconds=2.0))
    assert [*search._time._first_seconds, *search._time._later_seconds] == [2.0, 3.0]


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
