"""How the events of a run are recorded."""

import json
import threading
from pathlib import Path

import pytest

from cluster.errors import VersionsError
from cluster.lanes.fan_out import Died
from cluster.lanes.ports import Death, Kind
from jobs.train.recorder import Recorder, WriteQueue, require_same_versions
from mnist_lib.environment import RESULT_PACKAGES, package_versions
from mnist_lib.errors import StoreError
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


@pytest.mark.parametrize("package", ["python", *RESULT_PACKAGES])
def test_f22_a_worker_with_another_version_of_any_package_is_refused(package: str) -> None:
    here = package_versions()
    name = package.replace("-", "_")
    with pytest.raises(VersionsError) as refused:
        require_same_versions("node7", {**here, name: "0.1"}, here)
    assert "the worker on node7 has other package versions" in str(refused.value)
    assert f"{name} 0.1 there, {here[name]} here; install requirements/runtime.lock" in str(refused.value)
    require_same_versions("node7", here, here)


def test_writes_of_a_key_are_made_in_order_and_a_waiting_one_is_replaced_by_a_newer_one_of_its_name() -> None:
    made: list[str] = []
    may_go_on = threading.Event()
    writes = WriteQueue()
    writes.put(lambda: made.append("first") if may_go_on.wait(10) else None, "trial")
    writes.put(lambda: made.append("old checkpoint"), "trial", in_place_of="checkpoint")
    writes.put(lambda: made.append("result"), "trial")
    writes.put(lambda: made.append("new checkpoint"), "trial", in_place_of="checkpoint")
    other = threading.Event()
    writes.put(other.set, "")
    assert other.wait(10)  # it need not wait for those of another key
    may_go_on.set()
    writes.close()
    assert made == ["first", "new checkpoint", "result"]


def test_many_threads_make_every_write_once_and_keep_the_order_of_each_key() -> None:
    made: list[tuple[int, int]] = []
    writes = WriteQueue()
    for number in range(100):
        for key in range(30):
            writes.put(lambda key=key, number=number: made.append((key, number)), str(key))  # type: ignore[misc]
    writes.close()
    assert len(made) == 3_000
    assert [[n for k, n in made if k == key] for key in range(30)] == [list(range(100))] * 30


def test_after_a_failed_write_no_other_one_is_made_and_the_error_is_raised_everywhere() -> None:
    made: list[str] = []

    def fail() -> None:
        raise StoreError("the disk is full")

    writes = WriteQueue()
    may_go_on = threading.Event()
    writes.put(lambda: made.clear() if may_go_on.wait(10) else None, "trial")
    writes.put(fail, "trial")
    writes.put(lambda: made.append("after"), "trial")
    may_go_on.set()
    with pytest.raises(StoreError, match="the disk is full"):
        writes.close()
    with pytest.raises(StoreError, match="the disk is full"):
        writes.put(lambda: made.append("late"), "other")
    with pytest.raises(StoreError, match="the disk is full"):
        assert not writes.is_full
    assert made == []
