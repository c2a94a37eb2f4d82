"""A trial that continues from a checkpoint ends as if it had never stopped."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from mnist_lib.assignment import Assignment, Pace, Resources
from mnist_lib.data.split import Dataset
from mnist_lib.results import CheckpointTaken, EpochDone, Started, TrialEvent, TrialResult
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.training import trial
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.digits import few_digits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

EACH_EPOCH = Pace(checkpoint_seconds=0)
ONE, TWO = Resources(cpus=2), Resources(cpus=2, cpu_replicas=2)


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the two devices that the fixture `tensorflow` has set up; a single replica uses the first."""
    monkeypatch.setattr(trial, "configure_process", lambda resources: None)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    return few_digits(digits)


def events(
    specs: Sequence[TrialSpec],
    few: Dataset,
    pace: Pace,
    checkpoints: dict[str, bytes],
    resources: Resources = ONE,
    seconds: float = math.inf,
) -> Iterator[TrialEvent]:
    assignments = [Assignment(spec, checkpoints.get(spec.id), seconds=seconds) for spec in specs]
    return run_trials(assignments, lambda: few, resources, WorkerPlace(node="here"), pace)


def result(seen: Sequence[TrialEvent]) -> TrialResult:
    (found,) = [event for event in seen if isinstance(event, TrialResult)]
    return found


@pytest.mark.parametrize("resources", [ONE, TWO], ids=["1 replica", "2 replicas"])
@pytest.mark.parametrize("model", ["keras", "scratch", pytest.param("keras-cnn", marks=pytest.mark.long)])
def test_a_trial_resumed_after_any_epoch_ends_with_the_same_weights(
    few: Dataset, model: str, resources: Resources
) -> None:
    (spec,) = trial_grid([model], [7], epochs=3, schedule="one-cycle", global_batch_size=50)
    uninterrupted = list(events([spec], few, EACH_EPOCH, {}, resources))
    checkpoints = {event.epoch: event.content for event in uninterrupted if isinstance(event, CheckpointTaken)}
    assert sorted(checkpoints) == [1, 2]  # none after the last
    for epoch, content in checkpoints.items():
        started, *others = list(events([spec], few, EACH_EPOCH, {spec.id: content}, resources))
        assert isinstance(started, Started)
        assert started.resumed_after == epoch
        assert [e.epoch for e in others if isinstance(e, EpochDone)] == list(range(epoch + 1, 4))
        resumed, expected = result(others), result(uninterrupted)
        assert resumed.weights_sha256 == expected.weights_sha256
        assert resumed.best_epoch == expected.best_epoch
        histories = [[replace(epoch, seconds=0) for epoch in each.history] for each in (resumed, expected)]
        assert histories[0] == histories[1]


def test_a_trial_that_is_shorter_than_the_interval_yields_no_checkpoint(few: Dataset) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=3)
    assert not [e for e in events([spec], few, Pace(checkpoint_seconds=30), {}) if isinstance(e, CheckpointTaken)]


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"cut": content[:middle], "empty": b"", "flipped": flipped, "no archive": b"x" * 100}


def test_a_trial_with_an_unusable_checkpoint_starts_from_the_beginning_and_says_so(few: Dataset) -> None:
    spec, other = trial_grid(["scratch"], [0, 1], epochs=2, global_batch_size=50)
    uninterrupted = list(events([spec], few, EACH_EPOCH, {}))
    own, others = (
        next(e.content for e in events([each], few, EACH_EPOCH, {}) if isinstance(e, CheckpointTaken))
        for each in (spec, other)
    )
    for name, content in {**damaged(own), "another's": others}.items():
        seen = list(events([spec], few, EACH_EPOCH, {spec.id: content}))
        assert isinstance(seen[0], Started), name
        assert seen[0].resumed_after == 0
        assert "the checkpoint of scratch-s0 is damaged or belongs to another trial" in seen[0].notices[0]
        assert seen[0].notices[0].endswith("; the trial starts from the beginning")
        assert result(seen).weights_sha256 == result(uninterrupted).weights_sha256


def test_at_the_deadline_every_trial_has_a_valid_result_of_at_least_one_epoch(few: Dataset) -> None:
    specs = trial_grid(["scratch"], [0, 1], epochs=100_000)
    begin = time.time()
    seen = list(events(specs, few, Pace(), {}, seconds=2))
    assert time.time() - begin < 10
    results = [event for event in seen if isinstance(event, TrialResult)]
    assert [event.trial for event in results] == ["scratch-s0", "scratch-s1"]
    assert all(1 <= len(event.history) < 100_000 and event.test.total == 110 for event in results)
    late = list(events(specs, few, Pace(), {}, seconds=0))
    assert [len(event.history) for event in late if isinstance(event, TrialResult)] == [1, 1]


def test_max_epochs_ends_a_trial_early_and_does_not_change_its_losses(few: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=4, schedule="one-cycle", validation_percent=0)
    full = list(events([spec], few, EACH_EPOCH, {}))
    short = result(list(events([spec], few, Pace(max_epochs=2), {})))
    assert len(short.history) == 2
    assert [e.loss for e in short.history] == [e.loss for e in result(full).history[:2]]
