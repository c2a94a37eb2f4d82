"""Read many picture files, with one process per CPU.

Processes, not threads: most of the work on a small picture is Python code, in which threads wait for each other.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, Shape, content_or_error, read_pictures, shape_or_none

T = TypeVar("T")

MIN_PICTURES_PER_PROCESS = 50  # reading fewer takes less time than starting a process
MAX_PROCESSES = 8  # more would read faster than the model predicts
FILES_PER_TASK = 100
MAX_TASKS_PER_PROCESS = 4  # limits the pictures in memory that the model has not predicted yet


class PictureReader:
    """Reads the pictures of paths, in their order, in this process or in those of a pool."""

    def __init__(self, paths: Sequence[Path], pool: ProcessPoolExecutor | None = None, processes: int = 1) -> None:
        self._paths, self._pool, self._max_tasks = paths, pool, MAX_TASKS_PER_PROCESS * processes

    def pictures(self, layout: Layout) -> Iterator[Picture | ImageError]:
        """Yield the picture of each path, or the error of reading it."""
        return self._results(functools.partial(_read, layout=layout))

    def shapes(self) -> Iterator[Shape | None]:
        """Yield the shape of each picture, which the beginning of the file tells, or None if it cannot be read."""
        return self._results(_shapes)

    def _results(self, read: Callable[[Sequence[Path]], list[T]]) -> Iterator[T]:
        if self._pool is None:
            for path in self._paths:
                yield from read([path])
            return
        pending: deque[Future[list[T]]] = deque()
        try:
            for begin in range(0, len(self._paths), FILES_PER_TASK):
                pending.append(self._pool.submit(read, self._paths[begin : begin + FILES_PER_TASK]))
                if len(pending) >= self._max_tasks:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            got = "expected to read every file, but a process that read files died, for lack of memory or because of a"
            raise ImageError(f"{got} file; read fewer files at once") from error


@contextlib.contextmanager
def picture_reader(paths: Sequence[Path]) -> Iterator[PictureReader]:
    """Give a reader. If there are many pictures, its processes are created on entry, and start while others load."""
    processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES, len(paths) // MIN_PICTURES_PER_PROCESS)
    if processes <= 1:
        yield PictureReader(paths)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(processes, context, _set_up)
    try:
        for _ in range(processes):
            pool.submit(_shapes, [])  # each call starts a process
        yield PictureReader(paths, pool, processes)
    finally:
        pool.shutdown(cancel_futures=True)


def _read(paths: Sequence[Path], layout: Layout) -> list[Picture | ImageError]:
    return read_pictures(map(content_or_error, paths), layout)


def _shapes(paths: Sequence[Path]) -> list[Shape | None]:
    return [shape_or_none(path) for path in paths]


def _set_up() -> None:
    """Make a reading process ignore Ctrl-C, which its parent handles, and end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
