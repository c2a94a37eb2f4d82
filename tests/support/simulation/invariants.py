"""What must hold in every simulated world, checked for each trial and each lane while a driver runs.

Each check names its invariant first, as in "silence: ...", so that a mutant of the driver can be shown to break it.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from cluster.deadlines import Limits
from cluster.lanes import Cause, Death, Message
from cluster.nodes import HeadWatch, LanePlan
from cluster.supervisor import Action, Assign, LostAttempt, Source, Supervisor
from jobs.train.recorder import Recorder
from mnist_lib.results import CheckpointTaken, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import RunFolder
from mnist_lib.training.assignment import Assignment
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.lanes import SimulatedLane, Watch
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites

MAX_PAUSE_SECONDS = 30.0  # after deaths
ANNOUNCED_SECONDS = 17.0  # within which a wait is logged: 10 s, two unanswered requests to the head, and a tick
REACTION_SECONDS = 6.0  # within which the driver acts on what it knows: a tick, and an unanswered request to the head
CHECKPOINT = re.compile(r"runs/run/trials/([^/]+)/checkpoints/(\d{8}\.\d{5})-.*")
ENDED = re.compile(r"runs/run/trials/([^/]+)/ended\.json")
UNDISTURBED_KINDS = (Cause.BUG, Cause.OVERTIME)  # final at the first death

INVARIANTS = {
    "one end": "a trial ends once",
    "recorded results": "a trial whose result the driver has recorded is not trained again",
    "arrived results": "a result that has reached the driver is not thrown away with its lane",
    "stored results": "a trial whose result is stored is not trained again, by this driver or a later one",
    "storing results": "a driver that ends stores each result that it has recorded",
    "storing checkpoints": "a driver that ends stores the newest checkpoint of each unfinished trial",
    "resumption": "a trial goes on from its newest checkpoint, so at most one interval is repeated",
    "weights": "a trial ends with the weights of an undisturbed one",
    "attempts": "a trial has another attempt if and only if the limits allow it",
    "back-off": "no attempt and no lane starts during the pause after a death",
    "healthy lanes": "only a lane that a fault has touched is abandoned",
    "late events": "what an abandoned lane sends changes nothing",
    "silence": "a silent lane is abandoned within its deadline",
    "lost nodes": "the lanes of a node that the head has reported lost are abandoned at once",
    "capacity": "a lane starts wherever there is room and work for it",
    "announcements": "a wait is logged within seconds",
    "warnings": "a warning, such as that a trial has failed, has a fault that explains it",
    "drivers": "a driver ends early only because of a fault",
    "take-over": "a driver that another one took over changes no result, and no line of the other's history",
    "bound": "the run ends within a time that follows from its trials, limits and faults",
    "nothing left": "no lane and no slot is left after the run",
}

# Warnings that are expected, and the name of the fault that explains them; "" if every world may have them.
WARNINGS = {
    r"waiting for ": "",
    r"attempt \d+ of \S+ died ": "",  # `on_abandon` checks that a fault has touched the lane
    r"\[\d+/\d+\] \S+: failed: E-NAN ": "diverging",
    r"\[\d+/\d+\] \S+: failed: E-BUG ": "bug",
    r"\[\d+/\d+\] \S+: failed: E-TIMEOUT ": "timeout",
    r"\[\d+/\d+\] \S+: failed: E-(CRASH|OOM|NODE-LOST|SILENT) ": "death",
    r"a lane on \S+ sent an event of .*; ignored": "repeated event",
    r"some results could not be stored: ": "storage",
}


def pause_after(deaths: int) -> float:
    """Return the shortest pause after that many deaths in a row, in seconds."""
    return float(min(MAX_PAUSE_SECONDS, 2 ** (deaths - 1)))


def must(holds: bool, invariant: str, text: str) -> None:
    """Raise AssertionError with the invariant's name if it does not hold."""
    assert invariant in INVARIANTS
    assert holds, f"{invariant}: {text}"


class Invariants(Watch):
    """The checks of one driver."""

    def __init__(
        self,
        clock: VirtualClock,
        cluster: SimulatedCluster,
        limits: Limits,
        storage: MemoryObjects,
        writes: SimulatedWrites,
    ) -> None:
        self._clock, self._cluster, self._limits, self._storage, self.writes = clock, cluster, limits, storage, writes
        self.supervisor: Supervisor | None = None
        self.is_driving = True  # until the driver kills what still runs
        self.results: set[str] = set()  # trials whose result this driver has recorded
        self._finals: set[str] = set()
        self.checkpoints = newest_checkpoints(storage)  # known to this driver, by trial
        self._ended_before = ended_trials(storage)
        self.deaths: dict[str, Counter[Cause]] = {}
        self._due_at: dict[str, float] = {}  # when a trial may begin again after a death
        self._pause_until = self._disturbed_at = self._abandoned_at = -math.inf
        self._running = self._looked_at = clock.now  # `cluster.deadlines.RunningTime`
        self._taken_at: dict[SimulatedLane, float] = {}  # running time of the last event taken
        self._assigned_at: dict[SimulatedLane, float] = {}  # running time of the last assignment
        self._known_lost: dict[str, float] = {}
        self._unused_since: float | None = None
        self._announced_at = self._storage_announced_at = self._running

    # What the driver decides

    @property
    def _is_disturbed(self) -> bool:
        """Whether the driver was stopped, or waited for an answer of the head, which shortens its pauses."""
        return self._clock.now - self._disturbed_at < 40

    def on_start(self) -> None:
        if not self._is_disturbed:
            must(self._clock.now >= self._pause_until - 0.01, "back-off", "a lane starts right after a death")

    def on_decision(self, trial: str) -> None:
        """Check that a trial may be assigned to a lane."""
        must(trial not in self.results, "recorded results", f"{trial} is trained again, though its result was recorded")

    def on_assign(self, lane: SimulatedLane) -> None:
        self._assigned_at[lane] = self._running

    def on_begin(self, lane: SimulatedLane, assignment: Assignment) -> None:
        if lane.cancelled:
            return
        trial = assignment.spec.id
        must(
            trial not in self._ended_before, "stored results", f"{trial} is trained again, though its result is stored"
        )
        early = self._due_at.get(trial, 0.0) - self._clock.now
        must(self._is_disturbed or early < 0.51, "back-off", f"{trial} is tried again {early:.1f} s too early")
        epoch = json.loads(bytes(assignment.checkpoint))[0] if assignment.checkpoint else 0
        newest = self.checkpoints.get(trial, 0)
        # A driver that was taken over may have stored the result meanwhile, and deleted the checkpoints.
        resumes = epoch >= newest or trial in ended_trials(self._storage)
        must(resumes, "resumption", f"{trial} resumes after epoch {epoch}, its checkpoint is of {newest}")

    def on_taken(self, lane: SimulatedLane, message: Message) -> None:
        must(not lane.cancelled, "late events", f"the abandoned lane {lane.number} is heard: {message.event}")
        self._taken_at[lane] = self._running

    def on_trial_ended(self, lane: SimulatedLane) -> None:
        if self._is_overtime(lane):  # the driver, behind with reading, may find this out before it reads the result
            lane.faults.append("its trial took too long")

    def _is_overtime(self, lane: SimulatedLane) -> bool:
        return self._clock.now - lane.trial_began_at > self._limits.trial_seconds - 0.01

    def on_abandon(self, lane: SimulatedLane) -> None:
        if not self.is_driving:
            return
        now = self._clock.now
        is_touched = bool(lane.faults) or self._is_overtime(lane)
        must(is_touched, "healthy lanes", f"lane {lane.number} is abandoned, and nothing touched it")
        results: list[str] = []
        for message in [] if lane.failed or lane.content_at > now else lane.arrived:
            if isinstance(message, Death):
                break
            results += [message.event.trial] if isinstance(message.event, TrialResult) else []
        must(not results, "arrived results", f"lane {lane.number} is abandoned with the unread result of {results}")
        if now - self._abandoned_at > MAX_PAUSE_SECONDS:  # else the pause of an earlier death may go on
            self._pause_until = now + pause_after(1)
        self._abandoned_at = now

    def on_event(self, event: object) -> None:
        """Check an event just before the recorder gets it."""
        match event:
            case TrialResult() | TrialFailure():
                must(event.trial not in self._finals, "one end", f"{event.trial} ends twice")
                self._finals.add(event.trial)
                if isinstance(event, TrialResult):
                    self.results.add(event.trial)
            case CheckpointTaken():
                self.checkpoints[event.trial] = max(event.epoch, self.checkpoints.get(event.trial, 0))
            case LostAttempt():
                self._announced_at = self._running
                self._on_death(event)

    def _on_death(self, lost: LostAttempt) -> None:
        deaths = self.deaths.setdefault(lost.trial, Counter())
        deaths[lost.death.cause] += 1
        number, limits = deaths.total(), self._limits
        must(lost.attempt == number or lost.death.cause is Cause.BUG, "attempts", f"{lost} is death {number}")
        out_of_memory = deaths[Cause.OUT_OF_MEMORY] > limits.max_out_of_memory
        is_last = number > limits.max_failures or out_of_memory or lost.death.cause in UNDISTURBED_KINDS
        must(lost.final == is_last, "attempts", f"{lost.trial} has died {number} times, final: {lost.final}")
        self._due_at[lost.trial] = self._clock.now + pause_after(number)
        if lost.final:
            must(lost.trial not in self._finals, "one end", f"{lost.trial} ends twice")
            self._finals.add(lost.trial)

    # What the driver waits for

    def on_wait(self, lanes: Collection[SimulatedLane]) -> None:
        abandoned = [lane.number for lane in lanes if lane.cancelled]
        must(not abandoned, "late events", f"the driver waits for events of the abandoned lanes {abandoned}")
        now = self._clock.now
        gap, self._looked_at = now - self._looked_at, now
        self._running += min(gap, 5.0)  # as `RunningTime` does
        if gap > 1.0:
            self._disturbed_at = now
        if gap > 5.0:  # the driver was stopped, and announced nothing
            self._announced_at = self._storage_announced_at = self._running
            self._unused_since = None
        self._check_announcements(lanes)
        if self._cluster.head.answers:
            self._check_silence(lanes)
            self._check_lost_nodes(lanes)
            self._check_capacity(lanes)

    def announced(self, what: str) -> None:
        """Note that a wait was logged."""
        if what.startswith("the storage"):
            self._storage_announced_at = self._running
        self._announced_at = self._running

    def _check_announcements(self, lanes: Collection[SimulatedLane]) -> None:
        if any(lane.script is not None for lane in lanes):
            self._announced_at = self._running
        if not self.writes.is_behind:
            self._storage_announced_at = self._running
        for what, at in (("a lane", self._announced_at), ("the storage", self._storage_announced_at)):
            must(self._running - at < ANNOUNCED_SECONDS, "announcements", f"a wait for {what} has not been announced")

    def _check_silence(self, lanes: Collection[SimulatedLane]) -> None:
        for lane in lanes:
            if not lane.stopped or not lane.begun or lane.arrived or lane.stream:
                continue
            heard = max(self._taken_at.get(lane, self._running), self._assigned_at.get(lane, 0.0))
            silent = self._running - max(heard, self._as_running(lane.stopped_at))
            allowed = self._deadline(lane) + REACTION_SECONDS
            must(silent <= allowed, "silence", f"lane {lane.number} has been silent for {silent:.0f} s")

    def _deadline(self, lane: SimulatedLane) -> float:
        limits = self._limits
        if lane.closed and not lane.payloads and lane.assignment is None:
            return limits.silence_seconds["ending"]
        assignment, event = lane.assignment, lane.last_event
        if assignment is None or event is None or event.trial != assignment.spec.id or event.phase != "training":
            return max(limits.silence_seconds.values())
        return max(limits.silence_seconds["training"], 10 * lane.longest)

    def _as_running(self, moment: float) -> float:
        return self._running - (self._clock.now - moment)

    def _check_lost_nodes(self, lanes: Collection[SimulatedLane]) -> None:
        for name in self._cluster.head.dead_nodes:
            self._known_lost.setdefault(name, self._running)
        for lane in lanes:
            if lane.node is None or lane.node.name not in self._known_lost or lane.arrived:
                continue
            since = self._running - max(self._known_lost[lane.node.name], self._taken_at.get(lane, 0.0))
            must(
                since <= REACTION_SECONDS,
                "lost nodes",
                f"lane {lane.number} is waited for {since:.0f} s after its node",
            )

    def _check_capacity(self, lanes: Collection[SimulatedLane]) -> None:
        assert self.supervisor is not None
        now = self._clock.now
        active = [lane for lane in lanes if not lane.closed]
        at_work = [lane for lane in active if lane in self._taken_at]  # the others wait, as far as the driver knows
        wanted = min(len(at_work) + len(self.supervisor._queue), max(1, known_capacity(self._cluster)))
        pausing = now - self._abandoned_at < MAX_PAUSE_SECONDS + 1
        if len(active) >= wanted or pausing:
            self._unused_since = None
        else:
            self._unused_since = self._running if self._unused_since is None else self._unused_since
            unused = self._running - self._unused_since
            must(unused <= REACTION_SECONDS, "capacity", f"{wanted - len(active)} lanes could start for {unused:.0f} s")

    # The end

    def check_storage(self, trials: list[TrialSpec]) -> None:
        """Check, after a driver whose storage did not fail, that it has stored what it has recorded."""
        stored, newest = ended_trials(self._storage), newest_checkpoints(self._storage)
        for spec in trials:
            if spec.id in self.results:
                must(spec.id in stored, "storing results", f"the result of {spec.id} is not stored")
            elif spec.id not in self._finals | self._ended_before:
                known, kept = self.checkpoints.get(spec.id, 0), newest.get(spec.id, 0)
                must(kept >= known, "storing checkpoints", f"{spec.id}: epoch {known} was recorded, {kept} is stored")


class WatchedRecorder(Recorder):
    """The recorder of a run whose events a world notes and checks."""

    def __init__(self, folder: RunFolder, invariants: Invariants, note: Callable[[str], Any]) -> None:
        super().__init__(folder, invariants.writes)
        self._invariants, self._note = invariants, note

    def record(self, event: Any) -> Any:
        if isinstance(event, LostAttempt):
            self._note(f"{event.trial}: attempt {event.attempt} died: {event.death}, final: {event.final}")
        self._invariants.on_event(event)
        return super().record(event)


class WatchedSupervisor(Supervisor):
    """A supervisor whose decisions a world checks."""

    def __init__(self, limits: Limits, plan: LanePlan, invariants: Invariants) -> None:
        super().__init__(limits, plan)
        self._invariants = invariants

    def tick(self, now: float, source: Source, head: HeadWatch, seconds_left: float = math.inf) -> list[Action]:
        actions = super().tick(now, source, head, seconds_left)
        for action in actions:
            if isinstance(action, Assign):
                self._invariants.on_decision(action.trial.id)
        return actions

    def end(self) -> list[Action]:
        self._invariants.is_driving = False
        return super().end()


def known_capacity(cluster: SimulatedCluster) -> int:
    """Return the number of lanes that fit on the nodes of which the driver knows."""
    return sum(node.cpus for node in cluster.head.live_nodes)


def newest_checkpoints(storage: MemoryObjects) -> dict[str, float]:
    """Return the epochs that were trained up to the newest stored checkpoint of each trial."""
    newest: dict[str, float] = {}
    for name in storage.content:
        if match := CHECKPOINT.fullmatch(name):
            newest[match[1]] = max(float(match[2]), newest.get(match[1], 0))
    return newest


def ended_trials(storage: MemoryObjects) -> set[str]:
    """Return the trials whose results are stored."""
    return {match[1] for name in storage.content if (match := ENDED.fullmatch(name))}
