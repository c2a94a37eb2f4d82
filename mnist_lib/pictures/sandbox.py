"""Call a function for each of many files in processes with limits, so that no file can stop or end the command.

A file may take all time or all memory, or crash a decoder. Only that file gets an error, and its process is replaced if
it ended. The process has all rights of its user: if a flaw in a decoder lets a file run code, nothing here stops it.
"""

import contextlib
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, TypeVar

from mnist_lib.environment import MODULE, child_variables, usable_cpus
from mnist_lib.errors import ImageError

T = TypeVar("T")
Item = TypeVar("Item")

MAX_PROCESSOR_SECONDS = 6.0  # for one file; 50 million pixels take up to 2.3 s on a core of 2026
MAX_SECONDS = 60.0  # for one file, by the clock, since its storage or the machine may be slow
MAX_BYTES = 900_000_000  # for one file; 50 million pixels take up to 800 MB

FILES_PER_CALL = 100  # that a process reads before it returns their results, which count towards its memory
SECONDS_PER_CALL = 0.5  # goal for a call with large files, so that whoever waits sees how many are read
FIRST_FILES_PER_CALL = 10  # before it is known how long they take
MIN_FILES_PER_PROCESS = 50  # reading fewer takes less time than starting a process
MAX_PROCESSES = 8  # more would read faster than the model predicts
BATCH_SIZE = 1_000  # pictures that are predicted together; the evaluation of a model pads its batches to this size
MAX_BATCH_SECONDS = 1.0  # reading time of a batch, so that a slow disk does not delay the first results
MAX_BATCH_BYTES = 32_000_000  # size of the files that are sent to a worker together
MAX_CALLS_PER_PROCESS = 4  # limits the results in memory that nobody has taken yet

NOT_BEGUN = 2**32 - 1  # the position of a process that has not begun the first file


class Sandbox:
    """A process with limits, which is replaced when a file ends it. Threads that use it at the same time take turns."""

    def __init__(self) -> None:
        # Holds the number of the file that the process is at.
        self._position = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # open as long as the sandbox
        self._lock, self._closed, self._turn = threading.Lock(), False, threading.RLock()
        self._start()

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T | ImageError]:
        """Return the result of the function for each item, or an error in its place.

        Raises:
            ImageError: the process cannot be started, or the sandbox is closed.
        """
        with self._turn:
            return self._map(function, items, retry=True)

    def call(self, function: Callable[[Item], T], item: Item) -> T:
        """Return the result of the function for one item. Raises ImageError if it fails."""
        (result,) = self.map(function, [item])
        if isinstance(result, ImageError):
            raise result
        return result

    def _map(self, function: Callable[[Item], T], items: Sequence[Item], retry: bool) -> list[T | ImageError]:
        if not items:
            return []
        try:
            _write(self._position.fileno(), NOT_BEGUN)
            self._connection.send((function, items))
            results: list[T | ImageError] = self._connection.recv()
            return results
        except (EOFError, OSError):  # the process has ended
            code, at = self._process.wait(), _read(self._position.fileno())
        with self._lock:
            if self._closed:
                raise ImageError("expected an open sandbox, got one that was closed; open another") from None
            self._start()
        if at == NOT_BEGUN:  # it ended before it got the items, or cannot be started
            if not retry:
                got = f"got one that cannot be started ({_how(code)})"
                raise ImageError(f"expected a process that reads pictures, {got}; run again when memory is free")
            return self._map(function, items, retry=False)
        return [*self.map(function, items[:at]), _error(code), *self.map(function, items[at + 1 :])]

    def close(self) -> None:
        """End the process, also while another thread waits for its results."""
        with self._lock:
            self._closed = True
            self._process.kill()
            self._process.wait()

    def __del__(self) -> None:
        self._position.close()

    def _start(self) -> None:
        # One thread: several processes run at a time, and the memory of more threads would count.
        self._process, self._connection = child_process(__name__, self._position.fileno(), OPENBLAS_NUM_THREADS="1")


class Sandboxes:
    """Sandboxes that read many files, one per CPU. Their processes start at once, while other things load.

    Processes, not threads: most of the work on a small picture is Python code, in which threads wait for each other.
    """

    def __init__(self, files: int) -> None:
        """`files`: how many files there are."""
        processes = min(usable_cpus(), MAX_PROCESSES, files // MIN_FILES_PER_PROCESS)
        self._sandboxes = [Sandbox() for _ in range(max(1, processes))]
        self._threads = ThreadPoolExecutor(len(self._sandboxes))  # each waits for a sandbox, and replaces its process
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for sandbox in self._sandboxes:
            self._idle.put(sandbox)

    def __enter__(self) -> "Sandboxes":
        return self

    def __exit__(self, *_: object) -> None:
        for sandbox in self._sandboxes:
            sandbox.close()
        self._threads.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T | ImageError]:
        """Yield the result of the function for each item, in their order, or an error in its place."""
        pending: deque[Future[list[T | ImageError]]] = deque()
        begin, self._files_per_call = 0, FIRST_FILES_PER_CALL
        while begin < len(items) or pending:
            if begin < len(items) and len(pending) < MAX_CALLS_PER_PROCESS * len(self._sandboxes):
                end = begin + self._files_per_call
                pending.append(self._threads.submit(self._map, function, items[begin:end]))
                begin = end
            else:
                yield from pending.popleft().result()

    def _map(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T | ImageError]:
        sandbox = self._idle.get()
        try:
            start = time.monotonic()
            results = sandbox.map(function, items)
            files = len(items) * SECONDS_PER_CALL / max(time.monotonic() - start, 1e-9)
            self._files_per_call = max(1, min(FILES_PER_CALL, round(files)))
            return results
        finally:
            self._idle.put(sandbox)


def child_process(
    module: str, *descriptors: int, **environment: str
) -> tuple[subprocess.Popen[bytes], "Connection[Any, Any]"]:
    """Start a module in a process, and return the process and the end of a connection to it.

    The module gets the descriptor of the other end as its first argument. When this process ends or is killed, the
    module reads the end of the connection.
    """
    connection, other = Pipe()
    process = subprocess.Popen(
        [*MODULE, module, str(other.fileno()), *map(str, descriptors)],
        env=child_variables(**environment),
        pass_fds=(other.fileno(), *descriptors),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # what a decoder or a user's model prints
        process_group=0,  # Ctrl-C is for the command, which then ends this process
    )
    other.close()
    return process, connection


def _error(code: int) -> ImageError:
    """Return the error of the file that ended a process with that code."""
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        limits = f"{MAX_PROCESSOR_SECONDS:.0f} s of processor time and {MAX_SECONDS:.0f} s by the clock"
        return ImageError(f"expected a picture that is read within {limits}, got a slower one; save it again as PNG")
    return ImageError(f"expected a picture, got a file whose decoder was ended ({_how(code)}); save it again")


def _how(code: int) -> str:
    """Return how a process ended, as text."""
    return f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"


def _write(position: int, number: int) -> None:
    os.pwrite(position, number.to_bytes(4, "big"), 0)


def _read(position: int) -> int:
    return int.from_bytes(os.pread(position, 4, 0), "big")


def _serve(connection: "Connection[Any, Any]", position: int) -> None:
    """Call functions for the items that come through the connection, until its other end is closed."""
    for limited in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(limited, signal.SIG_DFL)  # ends the process, also in the code of a decoder
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what a decoder prints is not for the user
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, items = connection.recv()
            results = []
            for number, item in enumerate(items):
                _write(position, number)
                signal.setitimer(signal.ITIMER_PROF, MAX_PROCESSOR_SECONDS)
                signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
                results.append(_result(function, item))
            for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(timer, 0)  # the other end may be slow to receive
            connection.send(results)


def _limit_memory() -> None:
    """Limit the memory of this process to MAX_BYTES more than it uses now. Only Linux tells how much that is."""
    used = Path("/proc/self/statm")
    if used.exists():
        limit = int(used.read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _result(function: Callable[[Item], T], item: Item) -> T | ImageError:
    try:
        return function(item)
    except ImageError as error:
        return error
    except MemoryError:
        limit = f"{MAX_BYTES // 10**6:,} MB"
        return ImageError(f"expected a picture that is read in {limit} of memory, got a larger one; scale it down")
    except Exception as error:  # a mistake in this program, which must not cost the other files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return ImageError(f"expected a picture that can be read, got one that fails ({reason}); save it again as PNG")


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))


def in_batches(items: Iterable[T], num_bytes: Callable[[T], int] = lambda item: 0) -> Iterator[list[T]]:
    """Yield items in batches that limit their number, their size and the time until they are passed on."""
    batch = list[T]()
    size = 0
    begin = time.monotonic()
    for item in items:
        batch.append(item)
        size += num_bytes(item)
        if len(batch) == BATCH_SIZE or size > MAX_BATCH_BYTES or time.monotonic() - begin > MAX_BATCH_SECONDS:
            yield batch
            batch = []
            size = 0
            begin = time.monotonic()
    if batch:
        yield batch
