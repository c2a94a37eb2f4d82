"""A trial that goes on from a checkpoint ends as if it had never stopped."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from mnist_lib.data.split import Dataset
from mnist_lib.results import CheckpointTaken, EpochDone, Started, TrialEvent, TrialResult
from mnist_lib.spec import Pace, Resources, TrialSpec, trial_grid
from mnist_lib.training import trial
from mnist_lib.training.trial import WorkerPlace, run_trials

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

EACH_EPOCH = Pace(checkpoint_seconds=0)
ONE, TWO = Resources(cpus=2), Resources(cpus=2, cpu_replicas=2)


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the fixture `tensorflow` has it: with two devices, of which one replica takes the first."""
    monkeypatch.setattr(trial, "configure_process", lambda resources: None)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    train, test = digits.train.take(np.arange(0, 4_000, 33)[:120]), digits.test.take(np.arange(0, 1_000, 9)[:110])
    return Dataset.of("few", "1", train, test)


def events(
    specs: Sequence[TrialSpec], few: Dataset, pace: Pace, checkpoints: dict[str, bytes], resources: Resources = ONE
) -> Iterator[TrialEvent]:
    return run_trials(specs, lambda: few, resources, WorkerPlace(node="here"), pace, checkpoints)


def result(told: Sequence[TrialEvent]) -> TrialResult:
    (found,) = [event for event in told if isinstance(event, TrialResult)]
    return found


@pytest.mark.parametrize("resources", [ONE, TWO], ids=["1 replica", "2 replicas"])
@pytest.mark.parametrize("model", ["keras", "scratch", "keras-cnn"])
def test_from_whichever_epoch_it_goes_on_the_weights_are_those_of_the_calm_run(
    few: Dataset, model: str, resources: Resources
) -> None:
    (spec,) = trial_grid([model], [7], epochs=3, schedule="one-cycle", global_batch_size=50)
    calm = list(events([spec], few, EACH_EPOCH, {}, resources))
    checkpoints = {event.epoch: event.content for event in calm if isinstance(event, CheckpointTaken)}
    assert sorted(checkpoints) == [1, 2]  # none after the last
    for epoch, content in checkpoints.items():
        started, *others = list(events([spec], few, EACH_EPOCH, {spec.id: content}, resources))
        assert isinstance(started, Started)
        assert started.resumed_after == epoch
        assert [e.epoch for e in others if isinstance(e, EpochDone)] == list(range(epoch + 1, 4))
        resumed = result(others)
        assert resumed.weights_sha256 == result(calm).weights_sha256
        assert resumed.best_epoch == result(calm).best_epoch
        unlike = [replace(e, seconds=0) for e in resumed.history], [replace(e, seconds=0) for e in result(calm).history]
        assert unlike[0] == unlike[1]


def test_a_trial_that_is_shorter_than_the_interval_leaves_no_checkpoint(few: Dataset) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=3)
    assert not [e for e in events([spec], few, Pace(checkpoint_seconds=30), {}) if isinstance(e, CheckpointTaken)]


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"cut": content[:middle], "empty": b"", "flipped": flipped, "no archive": b"x" * 100}


def test_with_a_checkpoint_that_is_not_its_own_a_trial_begins_anew_and_says_so(few: Dataset) -> None:
    spec, other = trial_grid(["scratch"], [0, 1], epochs=2, global_batch_size=50)
    calm = list(events([spec], few, EACH_EPOCH, {}))
    own, others = (
        next(e.content for e in events([each], few, EACH_EPOCH, {}) if isinstance(e, CheckpointTaken))
        for each in (spec, other)
    )
    for name, content in {**damaged(own), "another's": others}.items():
        told = list(events([spec], few, EACH_EPOCH, {spec.id: content}))
        assert isinstance(told[0], Started), name
        assert told[0].resumed_after == 0
        assert "the checkpoint of scratch-s0 is damaged, or of another trial" in told[0].notices[0]
        assert told[0].notices[0].endswith("it begins anew")
        assert result(told).weights_sha256 == result(calm).weights_sha256


def test_when_time_is_up_each_trial_has_trained_at_least_an_epoch_and_its_result_is_valid(few: Dataset) -> None:
    specs = trial_grid(["scratch"], [0, 1], epochs=100_000)
    begin = time.time()
    told = list(events(specs, few, Pace(until=begin + 4), {}))
    assert time.time() - begin < 10
    results = [event for event in told if isinstance(event, TrialResult)]
    assert [event.trial for event in results] == ["scratch-s0", "scratch-s1"]
    assert all(1 <= len(event.history) < 100_000 and event.test.total == 110 for event in results)
    late = list(events(specs, few, Pace(until=begin), {}))
    assert [len(event.history) for event in late if isinstance(event, TrialResult)] == [1, 1]


def test_of_a_trial_that_is_cut_short_the_weights_are_those_of_its_first_epochs(few: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=4, schedule="one-cycle", validation_percent=0)
    whole = list(events([spec], few, EACH_EPOCH, {}))
    short = result(list(events([spec], few, Pace(most_epochs=2), {})))
    assert len(short.history) == 2
    assert [e.loss for e in short.history] == [e.loss for e in result(whole).history[:2]]
