"""Read picture files with one process per CPU.

Processes, not threads: most of the work on a small picture is done in Python, in which threads wait for each other.
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

MIN_PICTURES_PER_PROCESS = 50  # fewer are read sooner than a process starts
MAX_PROCESSES = 8  # more would read faster than one model predicts
FILES_PER_TASK = 100
MAX_TASKS_PER_PROCESS = 4  # limits the pictures in memory that the model has not predicted yet


class Readers:
    """A context with processes that read pictures, if there are enough; they start while TensorFlow is loaded."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES, len(paths) // MIN_PICTURES_PER_PROCESS)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Readers":
        if self._processes > 1:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            self._pool = ProcessPoolExecutor(self._processes, context, _set_up)
            for _ in range(self._processes):
                self._pool.submit(read_pictures, [], Layout(shape=(1, 1), box=None))  # each call starts a process
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def pictures(self, layout: Layout) -> Iterator[Picture | ImageError]:
        """Yield for each path, in their order, its picture or what is wrong with it.

        Raises:
            ImageError: a process was killed.
        """
        if self._pool is None:
            for path in self._paths:
                yield from _read([path], layout)
            return
        try:
            yield from self._read_ahead(self._pool, layout)
        except BrokenProcessPool as error:
            raise ImageError(
                "expected to read every file, but a reading process was killed, for its memory or because of a file"
                "; predict fewer files at once"
            ) from error

    def _read_ahead(self, pool: ProcessPoolExecutor, layout: Layout) -> Iterator[Picture | ImageError]:
        pending: deque[Future[list[Picture | ImageError]]] = deque()
        for begin in range(0, len(self._paths), FILES_PER_TASK):
            pending.append(pool.submit(_read, self._paths[begin : begin + FILES_PER_TASK], layout))
            if len(pending) >= MAX_TASKS_PER_PROCESS * self._processes:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _read(paths: Sequence[Path], layout: Layout) -> list[Picture | ImageError]:
    return read_pictures(map(content_or_error, paths), layout)


def _set_up() -> None:
    """Make a reading process ignore Ctrl-C, which its parent handles, and end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
