"""Machines with clocks of their own, one storage, and daemons that die, sleep and are cut off, in simulated time."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from mnist_lib.errors import StoreError
from mnist_lib.retraining.journal import Entry, Journal
from mnist_lib.retraining.policy import Policy
from mnist_lib.retraining.retrainer import Retrainer
from mnist_lib.retraining.timetable import Timetable
from mnist_lib.store.lease import Lease, LeaseTerm, lease_folder
from tests.support.retraining.fakes import NEVER, SCHEDULE, DiedError, FakeAttempt, FakeWork, ObjectsOfMachine

TIME_TO_LIVE = 120.0
TRY_AGAIN_SECONDS = 5.0  # after the storage has refused
WATCH_SECONDS = 30.0  # from one look at a run to the next: half a second would be many steps
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Settings:
    cron: str = "0 3 * * *"
    zone: str = "Europe/Berlin"
    policy: Policy = field(default_factory=Policy)
    skip_unchanged: bool = False
    longest_run: float = 1800.0  # seconds
    failing: float = 0.0  # share of the attempts


class World:
    """`now` is in true seconds since the begin."""

    def __init__(self, settings: Settings, machines: int = 1, seed: int = 0, begin: datetime = BEGIN) -> None:
        self.settings, self.random, self.begin = settings, random.Random(seed), begin
        self.timetable = Timetable(settings.cron, settings.zone)
        self.now = 0.0
        self.content: dict[str, bytes] = {}
        self.fingerprint = "of the data"
        self.machines = [Machine(self, number) for number in range(machines)]
        self.plans: list[tuple[float, Callable[[], None]]] = []
        self.told: list[Entry] = []

    def time(self) -> datetime:
        return self.begin + timedelta(seconds=self.now)

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        self.plans.append((seconds, what))
        self.plans.sort(key=lambda plan: plan[0])

    def advance(self, seconds: float) -> None:
        """Whatever happens meanwhile, in order."""
        until = self.now + seconds
        while True:
            awake = [machine for machine in self.machines if machine.retrainer and not machine.asleep]
            machine = min(awake, key=lambda machine: machine.next_step, default=None)
            step = machine.next_step if machine else NEVER
            plan = self.plans[0][0] if self.plans else NEVER
            if min(step, plan) > until:
                self.now = max(self.now, until)
                return
            self.now = max(self.now, min(step, plan))
            if plan <= step:
                self.plans.pop(0)[1]()
            elif machine:
                machine.step()

    def at_work(self) -> list["FakeAttempt"]:
        """The attempts that compute at this moment."""
        attempts = [machine.attempt for machine in self.machines if not machine.asleep]
        return [attempt for attempt in attempts if attempt and attempt.end > self.now]

    def journal(self) -> list[Entry]:
        return list(Journal(Machine(self, 99).objects, SCHEDULE).backwards())[::-1]


class Machine:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.objects = ObjectsOfMachine(self)
        self.offset = 0.0  # of its wall clock, in seconds
        self.slept = 0.0
        self.asleep = False
        self.woken: list[datetime] = []  # by its own clock
        self.requests_until_fault = NEVER
        self.fault: Callable[[], None] = lambda: None
        self.cut_until = 0.0
        self.retrainer: Retrainer | None = None
        self.attempt: FakeAttempt | None = None
        self.next_step = 0.0

    def boot(self, enroll: datetime | None = None) -> None:
        if self.retrainer is None:
            term = LeaseTerm(f"daemon {self.number}", f"host{self.number}", "now")
            lease = Lease(self.objects, lease_folder(SCHEDULE), term, time_to_live=TIME_TO_LIVE, clock=self)
            self.retrainer = Retrainer(
                SCHEDULE,
                self.world.timetable,
                self.world.settings.policy,
                journal=Journal(self.objects, SCHEDULE),
                lease=lease,
                work=FakeWork(self),
                clock=self,
                host=term.host,
                enroll=enroll or self.now(),
                tell=self.world.told.append,
                skip_unchanged=self.world.settings.skip_unchanged,
            )
            self.next_step = self.world.now

    def die(self) -> None:
        self.retrainer = self.attempt = None  # with its child

    def sleep(self, seconds: float) -> None:
        """Suspended as a whole, whatever it is just doing; the others go on."""
        if not self.asleep:
            self.asleep = True
            self.world.advance(seconds)
            self.asleep = False
            self.slept += seconds
            self.woken.append(self.now())
            self.next_step = self.world.now
            if self.attempt:
                self.attempt.end += seconds

    def set_clock(self, offset: float) -> None:
        self.offset, self.next_step = offset, self.world.now  # a real one notices within half a minute

    def step(self) -> None:
        retrainer = self.retrainer
        assert retrainer is not None
        try:
            seconds = retrainer.step().seconds
        except StoreError:
            seconds = TRY_AGAIN_SECONDS
        except DiedError:
            self.die()
            seconds = NEVER
        if self.retrainer is not retrainer:  # it has died, perhaps in its sleep
            return
        self.next_step = self.world.now + (max(seconds, WATCH_SECONDS) if retrainer.is_running else seconds)
        if self.attempt and self.attempt.end > self.world.now:
            self.next_step = min(self.next_step, self.attempt.end)

    def now(self) -> datetime:
        return self.world.time() + timedelta(seconds=self.offset)

    def monotonic(self) -> float:
        return self.world.now
