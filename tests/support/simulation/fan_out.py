"""A fan-out over trials on a simulated cluster."""

from cluster.attempts import Cause
from cluster.deadlines import Limits
from cluster.fan_out import FanOut, LostAttempt
from cluster.nodes import LanePlan
from mnist_lib.assignment import Assignment
from mnist_lib.results import TrialEvent, TrialResult
from mnist_lib.spec import TrialSpec, by_cost, trial_grid
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.lanes import SimulatedLane
from tests.support.simulation.trials import Durations


class Run:
    """A fan-out over trials on a simulated cluster."""

    def __init__(
        self, trials: list[TrialSpec], *, slots: int = 1, limits: Limits | None = None, **durations: float
    ) -> None:
        self.clock = VirtualClock()
        by_model = {trial.model: Durations(**durations) for trial in trials}  # type: ignore[arg-type]
        self.cluster = SimulatedCluster(self.clock, by_model, [slots] if slots else [])
        self.events: list[TrialEvent | LostAttempt] = []
        plan = LanePlan(lanes=max(1, slots), cpus=1, gpus=0)
        self.full = False
        self.fan_out = FanOut(
            self.cluster, limits or Limits(), plan, self._payload, clock=self.clock, is_full=lambda: self.full
        )
        self.fan_out.submit(by_cost(trials))
        self.started: list[str] = []

    def _payload(self, spec: TrialSpec, deadline: float) -> Assignment:
        self.started.append(spec.id)
        return Assignment(spec)

    def finish(self) -> None:
        with self.fan_out:
            for event in self.fan_out.events():
                self.events.append(event)  # type: ignore[arg-type]
                assert self.clock.now < 100_000

    @property
    def deaths(self) -> list[tuple[str, Cause]]:
        return [(event.trial, event.death.cause) for event in self.events if isinstance(event, LostAttempt)]

    @property
    def ended(self) -> list[str]:
        return sorted(event.trial for event in self.events if isinstance(event, TrialResult))

    @property
    def lane(self) -> SimulatedLane:
        """The only lane that runs."""
        (lane,) = self.cluster.running
        return lane


def trials(count: int = 2, model: str = "keras", epochs: int = 3) -> list[TrialSpec]:
    return trial_grid([model], range(count), dataset="mnist-mini", epochs=epochs)
