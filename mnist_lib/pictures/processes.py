"""Read many picture files, with one process per CPU.

Processes, not threads: most of the work on a small picture is Python code, in which threads wait for each other.
"""

import contextlib
import functools
import os
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Folders, Layout, Picture, Shape, read_file, shape_or_none
from mnist_lib.pictures.sandbox import Sandbox

T = TypeVar("T")

MIN_PICTURES_PER_PROCESS = 50  # reading fewer takes less time than starting a process
MAX_PROCESSES = 8  # more would read faster than the model predicts
FILES_PER_TASK = 100
MAX_TASKS_PER_PROCESS = 4  # limits the pictures in memory that the model has not predicted yet


class PictureReader:
    """Reads the pictures of paths, in their order, in sandboxes. `folders`: as for `read_content`."""

    def __init__(
        self, paths: Sequence[Path], folders: Folders, sandboxes: Sequence[Sandbox], threads: ThreadPoolExecutor
    ) -> None:
        self._paths, self._folders = paths, folders
        self._threads, self._max_tasks = threads, MAX_TASKS_PER_PROCESS * len(sandboxes)
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for sandbox in sandboxes:
            self._idle.put(sandbox)

    def pictures(self, layout: Layout) -> Iterator[Picture | ImageError]:
        """Yield the picture of each path, or the error of reading it."""
        return self.read(functools.partial(read_file, layout=layout, folders=self._folders))

    def shapes(self) -> Iterator[Shape | None]:
        """Yield the shape of each picture, from the beginning of its file, or None if it cannot be read."""
        for shape in self.read(functools.partial(shape_or_none, folders=self._folders)):
            yield None if isinstance(shape, ImageError) else shape

    def read(self, read: Callable[[Path], T]) -> Iterator[T | ImageError]:
        """Yield what a function returns for each path, or the error that it raises."""
        pending: deque[Future[list[T | ImageError]]] = deque()
        for begin in range(0, len(self._paths), FILES_PER_TASK):
            pending.append(self._threads.submit(self._read, read, self._paths[begin : begin + FILES_PER_TASK]))
            if len(pending) >= self._max_tasks:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    def _read(self, read: Callable[[Path], T], paths: Sequence[Path]) -> list[T | ImageError]:
        sandbox = self._idle.get()
        try:
            return sandbox.map(read, paths)
        finally:
            self._idle.put(sandbox)


@contextlib.contextmanager
def picture_reader(paths: Sequence[Path], folders: Folders) -> Iterator[PictureReader]:
    """Give a reader. Its processes are created on entry, and start while others load."""
    processes = max(1, min(len(os.sched_getaffinity(0)), MAX_PROCESSES, len(paths) // MIN_PICTURES_PER_PROCESS))
    sandboxes = [Sandbox() for _ in range(processes)]
    threads = ThreadPoolExecutor(processes)  # each waits for a sandbox, and replaces its process
    try:
        yield PictureReader(paths, folders, sandboxes, threads)
    finally:
        for sandbox in sandboxes:
            sandbox.close()
        threads.shutdown(cancel_futures=True)
