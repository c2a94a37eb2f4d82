"""Searches on a simulated cluster, and searches that no loop drives."""

import json
from typing import Any

from cluster.deadlines import Limits
from cluster.nodes import LanePlan
from jobs.search.driver import Search
from jobs.search.plan import SearchOptions, SearchPlan
from jobs.train.recorder import Recorder
from mnist_lib.store.runs import RunFolder
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import Durations
from tests.support.store.faulty import Faulty, KilledError
from tests.support.supervised import run_loop

BOUNDLESS = Limits(max_failures=1_000, max_out_of_memory=1_000)


def search_of(
    given: SearchPlan, storage: MemoryObjects | None = None, lanes: int = 1, *, resumed: bool = False
) -> Search:
    """Return a search that no loop drives."""
    folder = RunFolder(storage or MemoryObjects(), "run", resumed=resumed)
    return Search(given, Recorder(folder, SimulatedWrites(VirtualClock(), 0.0)), lanes)


def give(search: Search, event: Any) -> None:
    """Give a search an event, as the loop of its run does."""
    search.on(search._recorder.record(event), attempt=1)


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
