"""The storage and the work of a simulated machine: a storage that fails, and runs that only take time."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from jobs.retrain.retrainer import AttemptResult
from mnist_lib.errors import StoreError
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, check_name

if TYPE_CHECKING:
    from tests.support.retraining.world import Machine

SCHEDULE = "nightly"
NEVER = float("inf")

T = TypeVar("T")


class DiedError(BaseException):
    """The death of a process; a BaseException, so that no handler of the program catches it."""


class ObjectsOfMachine:
    """Objects like those of a bucket, with a fault before a request, or between the request and its answer."""

    max_concurrent_requests = 1

    def __init__(self, machine: "Machine") -> None:
        self._machine, self._content = machine, machine.world.content

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        return self._do(lambda: self._content.get(name))

    def exists(self, name: str) -> bool:
        return self._do(lambda: name in self._content)

    def create(self, name: str, content: bytes) -> bool:
        check_name(name)
        self._machine.world.created.add(name)
        return self._do(lambda: self._content.setdefault(name, content) is content)

    def replace(self, name: str, content: bytes) -> None:
        check_name(name)
        assert name not in self._machine.world.created, f"{name} is replaced, though it was created once"
        self._do(lambda: self._content.__setitem__(name, content))

    def delete(self, name: str) -> None:
        self._do(lambda: self._content.pop(name, None))

    def where(self, name: str) -> str:
        return name

    def _do(self, request: Callable[[], T]) -> T:
        machine = self._machine
        machine.requests_until_fault -= 1
        fault = machine.requests_until_fault < 0
        late = fault and machine.world.random.random() < 0.5
        if fault:
            machine.requests_until_fault = NEVER
        if fault and not late:
            self._fault()
        if machine.world.now < machine.cut_until:
            raise StoreError("the storage cannot be reached")
        answer = request()
        if late:
            self._fault()
        return answer

    def _fault(self) -> None:
        """Let the fault happen, during which another process may take the place of the one that sent the request."""
        process = self._machine.retrainer
        self._machine.fault()
        if self._machine.retrainer is not process:
            raise DiedError

    def names(self, prefix: str) -> Iterator[str]:
        raise NotImplementedError

    def folders(self, prefix: str) -> list[str]:
        raise NotImplementedError

    def append(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def add(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def delete_below(self, prefix: str) -> None:
        raise NotImplementedError

    def is_locked(self, name: str) -> bool:
        raise NotImplementedError

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        yield


class FakeWork:
    def __init__(self, machine: "Machine") -> None:
        self._machine = machine

    def has_run(self, run: str) -> bool:
        return self._machine.objects.exists(f"runs/{run}/run.json")

    def fingerprint(self) -> str | None:
        self._machine.sleep(self._machine.world.settings.hashing)  # it makes no steps meanwhile
        return self._machine.world.fingerprint

    def start(self, run: str, *, last: bool) -> "FakeAttempt":
        world = self._machine.world
        world.are_last.append(last)
        world.launched.setdefault(run, world.journal_length())
        self._machine.attempt = FakeAttempt(self._machine, run)
        return self._machine.attempt


class FakeAttempt:
    """An attempt that records its start, takes some time and records its result."""

    def __init__(self, machine: "Machine", run: str) -> None:
        self.run = run
        world = machine.world
        others = [attempt.run for attempt in world.at_work()]
        assert not others, f"{run} starts while {others} are in progress"
        self.machine = machine
        self._objects = machine.objects
        self._fails = world.random.random() < world.settings.failing
        self._permanently = self._fails and world.random.random() < 0.3
        self.end = world.now + world.random.uniform(5, world.settings.longest_run)
        self._result: AttemptResult | None = None
        try:
            self._objects.create(f"runs/{run}/run.json", b"begun")
            if self._objects.exists(f"runs/{run}/summary.json"):
                self.end, self._fails = world.now, False
        except StoreError as error:
            self._result = AttemptResult(6, complete=False, retry="yes", why=str(error))

    def poll(self) -> AttemptResult | None:
        if self._result is None and self.machine.world.now >= self.end:
            self._result = self.end_result()
        return self._result

    def stop(self) -> None:
        self.machine.attempt = None

    kill = stop

    def end_result(self) -> AttemptResult:
        if self._fails:
            permanent = AttemptResult(5, complete=False)
            return permanent if self._permanently else AttemptResult(4, complete=False, retry="yes")
        try:
            self._objects.create(f"runs/{self.run}/summary.json", f"by {self.machine.number}".encode())
        except StoreError as error:
            return AttemptResult(6, complete=False, retry="yes", why=str(error))
        return AttemptResult(0, complete=True)
