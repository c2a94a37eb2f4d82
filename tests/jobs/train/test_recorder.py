"""How the events of a run are recorded."""

import json
import math
import threading
import time
from pathlib import Path

import pytest

from cluster.lanes import Cause, Death
from cluster.supervisor import LostAttempt
from mnist_lib.documents import builtins_of
from mnist_lib.environment import RESULT_PACKAGES, package_versions, require_same_versions
from mnist_lib.errors import VersionsError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import CheckpointTaken, TrialFailure
from mnist_lib.run_documents import FailedTrial
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.store.resumption import store_checkpoint
from mnist_lib.store.runs import RunFolder
from tests.support.bounds import wait_until
from tests.support.recorded import RecordedTrials, recorded
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.memory import SimulatedWrites
from tests.support.simulation.trials import epoch_of


def death(kind: Cause) -> LostAttempt:
    return LostAttempt(trial="keras-s0", attempt=2, death=Death(cause=kind), final=True)


@pytest.mark.parametrize(
    ("event", "code", "retry"),
    [
        (TrialFailure(trial="keras-s0", code="E-NAN", message="the loss is not a number"), "E-NAN", False),
        (TrialFailure(trial="keras-s0", code="E-GPU-INVISIBLE", message="no GPU"), "E-GPU-INVISIBLE", True),
        (death(Cause.OUT_OF_MEMORY), "E-OOM", True),
        (death(Cause.OVERTIME), "E-TIMEOUT", False),
    ],
)
def test_the_record_of_a_failed_trial_says_whether_a_retry_may_help(
    event: object, code: str, retry: bool, tmp_path: Path
) -> None:
    trials = trial_grid(("keras",), [0], dataset="mnist-mini")
    with recorded(RunFolder(LocalObjects(tmp_path), "r"), trials) as training:
        training.record(event, 2)
    (row,) = training.rows
    assert isinstance(row, FailedTrial)
    assert (row.attempts, row.error.code, row.error.retry) == (2, code, retry)
    assert json.loads((tmp_path / "runs/r/trials/keras-s0/result.json").read_text()) == builtins_of(row)


def test_checkpoints_that_take_up_too_much_memory_are_read_from_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.train.recorder.MAX_CACHED_BYTES", 250)
    trials = trial_grid(("keras",), [0, 1, 2], dataset="mnist-mini")
    contents = {trial.id: bytes([trial.seed]) * 100 for trial in trials}
    folder = RunFolder(LocalObjects(tmp_path), "r")
    with recorded(folder, trials) as training:
        for spec, (trial, content) in zip(trials, contents.items(), strict=True):
            training.record(epoch_of(spec, 1))
            training.record(CheckpointTaken(trial=trial, epoch=1, content=content))
        assert [training.is_ready(spec) for spec in trials] == [False, True, True]
        assert {spec.id: newest_checkpoint_of(training, spec) for spec in trials} == contents
    with recorded(RunFolder(folder.objects, "r", resumed=True), trials) as resumed:
        assert {spec.id: newest_checkpoint_of(resumed, spec) for spec in trials} == contents


def newest_checkpoint_of(trials: RecordedTrials, spec: TrialSpec) -> bytes | None:
    """Return what a lane would be given."""
    wait_until(lambda: trials.is_ready(spec), "the checkpoint has not been read")
    return trials.assignment(spec, math.inf).checkpoint


def test_no_more_checkpoints_are_read_at_once_than_the_memory_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.train.recorder.MAX_READ_BYTES", 250)
    trials = trial_grid(("keras",), range(6), dataset="mnist-mini")
    for trial in trials:
        store_checkpoint(RunFolder(LocalObjects(tmp_path), "r"), trial.id, 0.5, b"x" * 100)
    folder, writes = RunFolder(LocalObjects(tmp_path), "r", resumed=True), SimulatedWrites(VirtualClock(), seconds=0.0)
    with recorded(folder, trials, writes) as resumed:
        ready: list[list[TrialSpec]] = []
        while left := [spec for spec in trials if not any(spec in group for group in ready)]:
            ready.append([spec for spec in left if resumed.is_ready(spec)])
            for spec in ready[-1]:
                assert resumed.assignment(spec, math.inf).checkpoint == b"x" * 100
    assert [len(group) for group in ready] == [1, 2, 2, 1]  # the size is known once the first one was read


def test_a_long_wait_for_a_checkpoint_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    (trial,) = trials = trial_grid(("keras",), [0], dataset="mnist-mini")
    folder, writes = RunFolder(LocalObjects(tmp_path), "r", resumed=True), SimulatedWrites(clock, seconds=15.0)
    with recorded(folder, trials, writes) as resumed:
        clock.sleep(100.0)
        assert not writes.is_full
        while not resumed.is_ready(trial):
            assert ("waiting for a checkpoint" in caplog.text) == (clock.now >= 110.0)
            clock.sleep(0.5)
            assert not writes.is_full
    assert clock.now > 110.0


def test_w7_a_resumed_run_knows_the_epochs_before_the_newest_checkpoint(tmp_path: Path) -> None:
    (trial,) = trials = trial_grid(("keras",), [0], dataset="mnist-mini", epochs=9)
    unflushed: list[bytes] = []

    class Buffering(LocalObjects):
        """Like a bucket: what is appended is lost with the process unless it is flushed."""

        def append(self, name: str, content: bytes) -> None:
            unflushed.append(content)

        def flush(self) -> None:
            super().append("runs/r/history/00000001.jsonl", b"".join(unflushed))
            unflushed.clear()

    attempts = [1, 2, 3, 4], [3, 4, 5]  # the second one resumed after epoch 2
    with recorded(RunFolder(Buffering(tmp_path), "r"), trials) as training:
        for number, attempt in enumerate(attempts, 1):
            for epoch in attempt:
                training.record(epoch_of(trial, epoch, seconds=number))
        training.record(CheckpointTaken(trial=trial.id, epoch=5, content=b"of epoch 5"))
    with recorded(RunFolder(LocalObjects(tmp_path), "r", resumed=True), trials) as resumed:
        assert newest_checkpoint_of(resumed, trial) == b"of epoch 5"
        for each in (training, resumed):
            assert [done.seconds for done in each.epochs(trial.id)] == [1, 1, 2, 2, 2]


def test_the_epochs_before_a_checkpoint_are_stored_before_it(tmp_path: Path) -> None:
    class Slow(LocalObjects):
        """A storage whose histories take longer to write than its checkpoints."""

        def create(self, name: str, content: bytes) -> bool:
            time.sleep(0.2)
            return super().create(name, content)

        def append(self, name: str, content: bytes) -> None:
            time.sleep(0.2)
            super().append(name, content)

        def replace(self, name: str, content: bytes) -> None:
            if "/checkpoints/" in name:
                known.append((int(content), sum(1 for _ in RunFolder(LocalObjects(tmp_path), "r").history())))
            super().replace(name, content)

    known: list[tuple[int, int]] = []  # the epoch of each checkpoint, and the number of epochs that were stored then
    (trial,) = trials = trial_grid(("keras",), [0], dataset="mnist-mini", epochs=9)
    with recorded(RunFolder(Slow(tmp_path), "r"), trials) as training:
        for epoch in (1, 2, 3):
            training.record(epoch_of(trial, epoch))
            training.record(CheckpointTaken(trial=trial.id, epoch=epoch, content=b"%d" % epoch))
    assert known[-1][0] == 3
    assert all(stored >= epoch for epoch, stored in known)


class Hung(LocalObjects):
    """A storage whose writes do not end before `may_go_on` is set."""

    may_go_on = threading.Event()

    def append(self, name: str, content: bytes) -> None:
        self.may_go_on.wait(60)
        super().append(name, content)


def test_w6_events_wait_when_the_history_that_is_not_stored_takes_up_too_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.train.write_queue.MAX_UNWRITTEN_BYTES", 100_000)
    trials, objects = trial_grid(("keras",), [0], dataset="mnist-mini"), Hung(tmp_path)
    with recorded(RunFolder(objects, "r"), trials) as training:
        epochs = 0
        while not training.recorder.writes.is_full and epochs < 10_000:
            epochs += 1
            training.record(epoch_of(trials[0], epochs))
        objects.may_go_on.set()
    assert 200 < epochs < 1_000  # a line has about 330 bytes, and one write may have begun with a part of them
    assert sum(1 for _ in training.recorder.folder.history()) == epochs
    assert not training.recorder.writes.is_full


@pytest.mark.parametrize("package", ["python", *RESULT_PACKAGES])
def test_f22_a_worker_with_a_different_version_of_any_package_is_refused(package: str) -> None:
    here = package_versions()
    name = package.replace("-", "_")
    with pytest.raises(VersionsError) as refused:
        require_same_versions("node7", {**here, name: "0.1"}, here)
    assert "the worker on node7 has different package versions" in str(refused.value)
    assert f"{name} 0.1 there, {here[name]} here; install requirements/runtime.lock" in str(refused.value)
    require_same_versions("node7", here, here)
