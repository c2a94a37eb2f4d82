"""How the events of a run are recorded."""

import json
from pathlib import Path

import pytest

from cluster.lanes.fan_out import Died
from cluster.lanes.ports import Death, Kind
from jobs.train.recorder import Recorder
from mnist_lib.results import TrialFailure
from mnist_lib.spec import trial_grid
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.runs import RunFolder


def death(kind: Kind) -> Died:
    return Died(item="keras-s0", attempt=2, death=Death(kind=kind), final=True)


@pytest.mark.parametrize(
    ("event", "code", "retry"),
    [
        (TrialFailure(trial="keras-s0", code="E-NAN", message="the loss is not a number"), "E-NAN", False),
        (TrialFailure(trial="keras-s0", code="E-GPU-INVISIBLE", message="no GPU"), "E-GPU-INVISIBLE", True),
        (death(Kind.OUT_OF_MEMORY), "E-OOM", True),
        (death(Kind.OVERTIME), "E-TIMEOUT", False),
    ],
)
def test_the_record_of_a_failed_trial_says_whether_a_retry_may_help(
    event: object, code: str, retry: bool, tmp_path: Path
) -> None:
    trials = trial_grid(("keras",), [0], dataset="mnist-mini")
    with Recorder(RunFolder(LocalObjects(tmp_path), "r"), trials) as recorder:
        recorder.record(event, lambda trial: 2)
    (row,) = recorder.rows
    assert (row["status"], row["attempts"]) == ("failed", 2)
    assert (row["error"]["code"], row["error"]["retry"]) == (code, retry)
    assert json.loads((tmp_path / "runs/r/trials/keras-s0/result.json").read_text()) == row
