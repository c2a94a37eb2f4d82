"""Read picture files with one process per CPU.

Processes, not threads: most of the work on a small picture is Python code, in which threads wait for each other.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mnist_lib.errors import ImageError
from mnist_lib.pictures.reading import Layout, Picture, content_or_error, read_pictures

MIN_PICTURES_PER_PROCESS = 50  # reading fewer takes less time than starting a process
MAX_PROCESSES = 8  # more would read faster than the model predicts
FILES_PER_TASK = 100
MAX_TASKS_PER_PROCESS = 4  # limits the pictures in memory that the model has not predicted yet


@contextlib.contextmanager
def picture_reader(paths: Sequence[Path]) -> Iterator[Callable[[Layout], Iterator[Picture | ImageError]]]:
    """Give a function that yields, for each path in order, its picture or the error of reading it.

    If there are many pictures, processes read them. They are created on entry, and start while TensorFlow loads.
    """
    processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES, len(paths) // MIN_PICTURES_PER_PROCESS)
    if processes <= 1:
        yield lambda layout: (picture for path in paths for picture in _read([path], layout))
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(processes, context, _set_up)
    try:
        for _ in range(processes):
            pool.submit(read_pictures, [], Layout(shape=(1, 1), box=None))  # each call starts a process
        yield lambda layout: _read_ahead(pool, paths, layout, MAX_TASKS_PER_PROCESS * processes)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_ahead(
    pool: ProcessPoolExecutor, paths: Sequence[Path], layout: Layout, max_tasks: int
) -> Iterator[Picture | ImageError]:
    pending: deque[Future[list[Picture | ImageError]]] = deque()
    try:
        for begin in range(0, len(paths), FILES_PER_TASK):
            pending.append(pool.submit(_read, paths[begin : begin + FILES_PER_TASK], layout))
            if len(pending) >= max_tasks:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        got = "expected to read every file, but a process that read files died, for lack of memory or because of a file"
        raise ImageError(f"{got}; predict fewer files at once") from error


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
