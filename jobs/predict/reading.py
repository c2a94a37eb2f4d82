"""Files -> pictures, read by as many processes as there are CPUs.

Threads would wait for each other: most of the work on a small picture is Python's.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, content_or_error, read_pictures

FEW = 50  # pictures that are read sooner than processes have started
MOST_PROCESSES = 8  # what they read, one model has to predict
FILES_OF_A_TASK = 100
TASKS_PER_PROCESS = 4  # what is read may be ahead of the model, but not by everything


class Readers:
    """Processes, where there is enough to read; in the context, they come up while TensorFlow is loaded."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, len(paths) // FEW)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Readers":
        if self._processes > 1:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may never wake up
            self._pool = ProcessPoolExecutor(self._processes, context, _set_up)
            for _ in range(self._processes):
                self._pool.submit(read_pictures, [], Layout(shape=(1, 1), box=None))  # starts one each
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def pictures(self, layout: Layout) -> Iterator[Picture | ImageError]:
        """In the order of the paths; in place of each that is none, what is wrong with it.

        Raises:
            ImageError: a process died of one.
        """
        if self._pool is None:
            for path in self._paths:
                yield from _read([path], layout)
            return
        try:
            yield from self._read_ahead(self._pool, layout)
        except BrokenProcessPool as error:
            raise ImageError(
                "expected to read every file, but a process that did was killed, for memory or by a file; "
                "predict fewer of them at once"
            ) from error

    def _read_ahead(self, pool: ProcessPoolExecutor, layout: Layout) -> Iterator[Picture | ImageError]:
        pending: deque[Future[list[Picture | ImageError]]] = deque()
        for at in range(0, len(self._paths), FILES_OF_A_TASK):
            pending.append(pool.submit(_read, self._paths[at : at + FILES_OF_A_TASK], layout))
            if len(pending) >= TASKS_PER_PROCESS * self._processes:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _read(paths: Sequence[Path], layout: Layout) -> list[Picture | ImageError]:
    return read_pictures(map(content_or_error, paths), layout)


def _set_up() -> None:
    """Of a process that must neither answer to Ctrl-C itself nor outlive the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
