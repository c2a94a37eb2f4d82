"""A clock that only training and evaluation move forward, for tests of deadlines and heartbeats."""

from collections.abc import Callable
from typing import Any

import pytest

from mnist_lib.training import checkpoint, epochs, prediction, trial
from mnist_lib.training.prediction import Predictor
from mnist_lib.training.trainer import Trainer


class TrainingClock:
    """A clock on which nothing takes time but a chunk of training and a batch of an evaluation, in seconds.

    It starts when a trial has been compiled.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, chunk: float, batch: float) -> None:
        self.now = 0.0
        for owner, name, seconds in ((Trainer, "train_chunk", chunk), (Predictor, "_predict", batch)):
            monkeypatch.setattr(owner, name, self._slow(getattr(owner, name), seconds))
        compile_once = Trainer.compile
        monkeypatch.setattr(
            Trainer, "compile", lambda *arguments: (compile_once(*arguments), vars(self).update(now=0.0))
        )
        for module in (epochs, prediction, trial):
            monkeypatch.setattr(module, "time", self)
        for module in (epochs, checkpoint):
            monkeypatch.setattr(module, "steady_time", self.monotonic)

    def _slow(self, function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slow(*arguments: Any, **others: Any) -> Any:
            self.now += seconds
            return function(*arguments, **others)

        return slow

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic
