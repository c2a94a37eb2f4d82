"""The deadline of a trial: whether another chunk can be trained, validated and tested in time."""

import math

from mnist_lib.environment import steady_time


class Deadline:
    """Estimates, after a chunk, when a trial ends that trains another one. The longest durations so far count.

    Args:
        at: the deadline by `steady_time`.
        batches: the number of batches that are evaluated after the last chunk.
    """

    def __init__(self, at: float, batches: int) -> None:
        self._at = at
        self._batches = batches
        self._chunk_seconds = self._batch_seconds = 0.0

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self._at)

    def note_chunk(self, seconds: float) -> None:
        self._chunk_seconds = max(self._chunk_seconds, seconds)

    def note_batches(self, count: int, seconds: float) -> None:
        self._batch_seconds = max(self._batch_seconds, seconds / count)

    def is_near(self) -> bool:
        """Return whether the trial would end after the deadline if it trained another chunk."""
        return steady_time() + self._chunk_seconds + self._batches * self._batch_seconds > self._at
