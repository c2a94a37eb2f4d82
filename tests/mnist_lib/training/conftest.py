"""What tests of trials share."""

from typing import Any

import pytest

from mnist_lib.spec import TrialSpec
from mnist_lib.training import trial
from mnist_lib.training.epochs import Compiled

COMPILED: dict[tuple[int, TrialSpec], Compiled] = {}  # by the number of replicas and the shape of the trial


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all lanes use what an earlier lane has compiled, in tests on `few_digits` that are not about lanes."""
    compile_trial = trial._Lane._compile

    def compile_once(self: trial._Lane, spec: TrialSpec, source: Any) -> Compiled:
        key = self._resources.cpu_replicas, spec.compile_group
        if key not in COMPILED:
            COMPILED[key] = compile_trial(self, spec, source)
        return COMPILED[key]

    monkeypatch.setattr(trial._Lane, "_compile", compile_once)
