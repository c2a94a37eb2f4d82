"""Trials with a recorder, to which a test gives events without a loop."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.train.recorder import Recorder
from jobs.train.trials import Trials
from jobs.train.write_queue import WriteQueue
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import RunFolder


class RecordedTrials(Trials):
    def __init__(self, recorder: Recorder, trials: Sequence[TrialSpec]) -> None:
        super().__init__(recorder, trials)
        self.recorder = recorder

    def record(self, event: Any, attempt: int = 1) -> None:
        """Record an event as the loop of a run does."""
        self.on(self.recorder.record(event), attempt)


@contextlib.contextmanager
def recorded(
    folder: RunFolder, trials: Sequence[TrialSpec], writes: WriteQueue | None = None
) -> Iterator[RecordedTrials]:
    with Recorder(folder, writes) as recorder:
        yield RecordedTrials(recorder, trials)
