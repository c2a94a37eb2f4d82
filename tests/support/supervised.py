"""The loop of a run over what a test gives it, on a simulated cluster or on Ray, without a storage."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cluster.deadlines import Clock, Limits
from cluster.lanes import Cause, Pool
from cluster.nodes import LanePlan
from cluster.supervisor import LostAttempt, Supervisor
from jobs.train.display import RunProgress, display
from jobs.train.recorder import Recorder
from jobs.train.supervision import CLOCK, Loop, TrialSource
from mnist_lib.results import TrialResult
from mnist_lib.spec import TrialSpec, by_cost, trial_grid
from mnist_lib.training.assignment import Assignment
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.lanes import SimulatedLane
from tests.support.simulation.trials import Durations


class Items:
    """Items as both a source and a recorder.

    Args:
        assignment: returns what a lane is given for an item; by default, the item itself.
        on_event: is called with each event.
    """

    expects_more = False

    def __init__(
        self,
        items: Sequence[Any],
        assignment: Callable[[Any], Any] = lambda item: item,
        on_event: Callable[[Any], object] = lambda event: None,
    ) -> None:
        self._waiting: list[Any] = []
        self._left: set[str] = set()
        self._assignment, self.on_event = assignment, on_event
        self.events: list[Any] = []
        self.started: list[str] = []
        self.is_full = False
        self.progress = RunProgress()
        self.submit(items)

    def submit(self, items: Sequence[Any]) -> None:
        self._waiting += items
        self._left |= {item.id for item in items}

    @property
    def is_done(self) -> bool:
        return not self._left

    def next_trials(self, queued: int) -> Sequence[Any]:
        items, self._waiting = self._waiting, []
        return items

    def is_ready(self, item: Any) -> bool:
        return True

    def assignment(self, item: Any, deadline: float) -> Any:
        self.started.append(item.id)
        return self._assignment(item)

    def record(self, event: Any) -> Any:
        self.events.append(event)
        return event

    def on(self, event: Any, attempt: int) -> None:
        if event.final:
            self._left.discard(event.trial)
        self.on_event(event)


def run_loop(
    pool: Pool,
    source: TrialSource,
    recorder: Recorder | Items,
    plan: LanePlan,
    limits: Limits | None = None,
    *,
    deadline: float = math.inf,
    clock: Clock = CLOCK,
) -> Supervisor:
    """Run the loop to its end, and return its supervisor."""
    supervisor = Supervisor(limits or Limits(), plan)
    source.progress.deadline = deadline
    with display(source.progress, shown=False) as show:
        Loop(pool, supervisor, source, recorder, show=show, clock=clock).run()  # type: ignore[arg-type]
    return supervisor


class Run:
    """Trials on a simulated cluster."""

    def __init__(
        self, trials: list[TrialSpec], *, slots: int = 1, limits: Limits | None = None, **durations: float
    ) -> None:
        self.clock = VirtualClock()
        by_model = {trial.model: Durations(**durations) for trial in trials}  # type: ignore[arg-type]
        self.cluster = SimulatedCluster(self.clock, by_model, [slots] if slots else [])
        self.items = Items(by_cost(trials), Assignment)
        self._limits, self._plan = limits, LanePlan(lanes=max(1, slots), cpus=1, gpus=0)

    def finish(self, on_event: Callable[[Any], object] = lambda event: None) -> None:
        def checked(event: Any) -> None:
            assert self.clock.now < 100_000
            on_event(event)

        self.items.on_event = checked
        run_loop(self.cluster, self.items, self.items, self._plan, self._limits, clock=self.clock)

    @property
    def deaths(self) -> list[tuple[str, Cause]]:
        return [(event.trial, event.death.cause) for event in self.items.events if isinstance(event, LostAttempt)]

    @property
    def ended(self) -> list[str]:
        return sorted(event.trial for event in self.items.events if isinstance(event, TrialResult))

    @property
    def lane(self) -> SimulatedLane:
        """The only lane that runs."""
        (lane,) = self.cluster.running
        return lane


def trials(count: int = 2, model: str = "keras", epochs: int = 3) -> list[TrialSpec]:
    return trial_grid([model], range(count), dataset="mnist-mini", epochs=epochs)
