"""A simulation of machines with their own clocks and one storage, whose daemons die, sleep and lose the network."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jobs.retrain.journal import Entry, Journal
from jobs.retrain.retrainer import Retrainer
from jobs.retrain.slots import Timetable
from mnist_lib.errors import StoreError
from mnist_lib.objects.lease import Lease, LeaseTerm, lease_folder
from tests.support.retraining.fakes import NEVER, SCHEDULE, DiedError, FakeAttempt, FakeWork, ObjectsOfMachine

TIME_TO_LIVE = 120.0
RETRY_SECONDS = 5.0  # after an error of the storage
POLL_SECONDS = 30.0  # while a run is in progress; at the retrainer's 0.5 s, there would be too many steps
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Settings:
    cron: str = "0 3 * * *"
    zone: str = "Europe/Berlin"
    max_attempts: int = 3
    skip_unchanged: bool = False
    longest_run: float = 1800.0  # seconds
    hashing: float = 0.0  # seconds for a fingerprint; nothing renews the lease meanwhile
    failing: float = 0.0  # share of the attempts that fail


class World:
    """Simulated machines and their storage; `now` is the true time in seconds since `begin`."""

    def __init__(self, settings: Settings, machines: int = 1, seed: int = 0, begin: datetime = BEGIN) -> None:
        self.settings, self.random, self.begin = settings, random.Random(seed), begin
        self.timetable = Timetable(settings.cron, settings.zone)
        self.now = 0.0
        self.content: dict[str, bytes] = {}
        self.created: set[str] = set()  # names of objects that nothing may replace
        self.fingerprint = "data"
        self.machines = [Machine(self, number) for number in range(machines)]
        self.plans: list[tuple[float, Callable[[], None]]] = []
        self.notified: list[Entry] = []
        self.are_last: list[bool] = []  # whether each attempt was started as the last one of its slot
        self.launched: dict[str, int] = {}  # the length of the journal at each run's first attempt

    def time(self) -> datetime:
        return self.begin + timedelta(seconds=self.now)

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        self.plans.append((seconds, event))
        self.plans.sort(key=lambda plan: plan[0])

    def advance(self, seconds: float) -> None:
        """Let time pass, with all planned events and steps of machines in order."""
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
        """Return the attempts that are computing now. A machine that has just woken up takes a step first."""
        attempts = [m.attempt for m in self.machines if not m.asleep and m.now() not in m.woken[-1:]]
        return [attempt for attempt in attempts if attempt and attempt.end > self.now]

    def journal_length(self) -> int:
        return sum(name.startswith(f"schedules/{SCHEDULE}/journal/") for name in self.content)

    def journal(self) -> list[Entry]:
        return list(Journal(Machine(self, 99).objects, SCHEDULE).newest())[::-1]


class Machine:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.objects = ObjectsOfMachine(self)
        self.offset = 0.0  # seconds by which its wall clock is ahead
        self.asleep = False
        self.woken: list[datetime] = []  # when it woke up, by its own clock
        self.requests_until_fault = NEVER
        self.fault: Callable[[], None] = lambda: None
        self.cut_until = 0.0
        self.on_request = False
        self.retrainer: Retrainer | None = None
        self.attempt: FakeAttempt | None = None
        self.next_step = 0.0

    def boot(self, enroll: datetime | None = None, *, on_request: bool = False) -> None:
        if self.retrainer is None:
            self.on_request = on_request
            term = LeaseTerm(f"daemon {self.number}", f"host{self.number}", "now")
            lease = Lease(self.objects, lease_folder(SCHEDULE), term, time_to_live=TIME_TO_LIVE, clock=self)
            self.retrainer = Retrainer(
                schedule=SCHEDULE,
                timetable=self.world.timetable,
                max_attempts=self.world.settings.max_attempts,
                journal=Journal(self.objects, SCHEDULE),
                lease=lease,
                work=FakeWork(self),
                clock=self,
                host=term.host,
                enroll=enroll or self.now(),
                notify=self.world.notified.append,
                skip_unchanged=self.world.settings.skip_unchanged,
                on_request=on_request,
            )
            self.next_step = self.world.now

    def terminate(self) -> None:
        if self.retrainer is not None:
            self.retrainer.stop()
        self.retrainer = None

    def die(self) -> None:
        self.retrainer = self.attempt = None  # its child process dies too

    def sleep(self, seconds: float) -> None:
        """Suspend the machine in the middle of what it does; the other machines go on."""
        if not self.asleep:
            self.asleep = True
            self.world.advance(seconds)
            self.asleep = False
            self.woken.append(self.now())
            self.next_step = self.world.now
            if self.attempt:
                self.attempt.end += seconds

    def set_clock(self, offset: float) -> None:
        self.offset, self.next_step = offset, self.world.now  # a real daemon notices within `MAX_SLEEP_SECONDS`

    def step(self) -> None:
        retrainer = self.retrainer
        assert retrainer is not None
        try:
            seconds = retrainer.step().seconds
        except StoreError:
            seconds = RETRY_SECONDS
        except DiedError:
            if self.retrainer is retrainer:
                self.die()
            seconds = NEVER
        if self.retrainer is not retrainer:  # the machine has died, perhaps while suspended
            return
        self.next_step = self.world.now + (max(seconds, POLL_SECONDS) if retrainer.is_running else seconds)
        if self.attempt and self.attempt.end > self.world.now:
            self.next_step = min(self.next_step, self.attempt.end)

    def now(self) -> datetime:
        return self.world.time() + timedelta(seconds=self.offset)

    def monotonic(self) -> float:
        return self.world.now
