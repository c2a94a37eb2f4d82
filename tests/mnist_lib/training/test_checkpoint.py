"""A trial that continues from a checkpoint ends as if it had never stopped."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
import tensorflow as tf
from msgspec import structs

from mnist_lib.assignment import Assignment, Resources
from mnist_lib.clock import steady_time
from mnist_lib.data.split import Dataset
from mnist_lib.models.model import Weights
from mnist_lib.results import (
    Accuracy,
    Balanced,
    CheckpointTaken,
    EpochDone,
    Epochs,
    Started,
    TrialEvent,
    TrialResult,
)
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.training import trial
from mnist_lib.training.checkpoint import Best, TrainingState, pack, unpack
from mnist_lib.training.steps import Values
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.bounds import assert_at_most
from tests.support.digits import few_digits
from tests.support.results import epochs_in

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

EACH_EPOCH = 0.0  # seconds between checkpoints
ONE, TWO = Resources(cpus=2), Resources(cpus=2, cpu_replicas=2)


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the two devices that the fixture `tensorflow` has set up; a single replica uses the first."""
    monkeypatch.setattr(trial, "configure_process", lambda resources: None)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    return few_digits(digits)


def events(
    assignments: Sequence[Assignment], few: Dataset, checkpoint_seconds: float = 30.0, resources: Resources = ONE
) -> list[TrialEvent]:
    """Train these trials in a new lane."""
    return list(run_trials(assignments, lambda: few, resources, WorkerPlace(node="here"), checkpoint_seconds))


def results(seen: Sequence[TrialEvent]) -> list[TrialResult]:
    return [event for event in seen if isinstance(event, TrialResult)]


@pytest.mark.parametrize(
    ("model", "resources"),
    [("scratch", ONE), ("keras", TWO), pytest.param("keras-cnn", ONE, marks=pytest.mark.long)],
    ids=["scratch-1 replica", "keras-2 replicas", "keras-cnn-1 replica"],
)
def test_a_trial_resumed_after_any_epoch_ends_with_the_same_weights(
    few: Dataset, model: str, resources: Resources
) -> None:
    (spec,) = trial_grid([model], [7], epochs=3, schedule="one-cycle", global_batch_size=50, hidden_units=8)
    uninterrupted = events([Assignment(spec)], few, EACH_EPOCH, resources)
    checkpoints = {event.epoch: event.content for event in uninterrupted if isinstance(event, CheckpointTaken)}
    assert [*checkpoints] == [1, 2]  # none after the last
    # The first one in a lane that has trained nothing, the second one in a lane that has trained more epochs.
    epochs = epochs_in(uninterrupted)
    assignments = [Assignment(spec, content, epochs=epochs) for content in checkpoints.values()]
    seen = events(assignments, few, EACH_EPOCH, resources)
    assert [event.resumed_after for event in seen if isinstance(event, Started)] == [1, 2]
    assert [event.epoch for event in seen if isinstance(event, EpochDone)] == [2, 3, 3]
    assert len(results(seen)) == 2
    (expected,) = results(uninterrupted)
    for resumed in results(seen):
        assert resumed.weights_sha256 == expected.weights_sha256
        assert resumed.best_epoch == expected.best_epoch
        histories = [[structs.replace(epoch, seconds=0) for epoch in each.history] for each in (resumed, expected)]
        assert histories[0] == histories[1]


def test_w7_the_size_of_a_checkpoint_does_not_depend_on_the_number_of_epochs() -> None:
    spec = TrialSpec.of("scratch", epochs=100_000, hidden_units=8)
    values = Values([tf.zeros(3)], [], [], tf.constant(0))
    validation = Accuracy(90, 100, Balanced(1 / 3, 2.0, 0.1))
    best, weights = Best(1, validation, validation), Weights([tf.zeros(3)], [])
    states = [TrainingState(weights, best, epoch, 1e3, 1.0) for epoch in (10_000, 99_999)]
    first, last = (pack(state, values, spec) for state in states)
    assert len(first) == len(last) < 5_000
    state, _ = unpack(last, spec, like=values)
    assert (state.epoch, state.best) == (99_999, best)


@pytest.mark.usefixtures("compiled_once")
def test_w7_a_trial_whose_epochs_are_lost_from_the_history_starts_from_the_beginning(few: Dataset) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=3, global_batch_size=50, hidden_units=8)
    uninterrupted = events([Assignment(spec)], few, EACH_EPOCH)
    _, second = (event.content for event in uninterrupted if isinstance(event, CheckpointTaken))
    known = Epochs()
    known.add(next(event for event in uninterrupted if isinstance(event, EpochDone)))
    seen = events([Assignment(spec, second, epochs=known)], few, EACH_EPOCH)
    (started,) = [event for event in seen if isinstance(event, Started)]
    assert started.resumed_after == 0
    assert started.notices[0].startswith("the history of the run lacks epochs before its checkpoint of epoch 2")
    assert results(seen)[0].weights_sha256 == results(uninterrupted)[0].weights_sha256
    assert [done.epoch for done in results(seen)[0].history] == [1, 2, 3]


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_that_is_shorter_than_the_interval_yields_no_checkpoint(few: Dataset) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=3, hidden_units=8)
    seen = events([Assignment(spec)], few)
    assert not [event for event in seen if isinstance(event, CheckpointTaken)]


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"cut": content[:middle], "empty": b"", "flipped": flipped, "no archive": b"x" * 100}


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_with_an_unusable_checkpoint_starts_from_the_beginning_and_says_so(few: Dataset) -> None:
    spec, other = trial_grid(["scratch"], [0, 1], epochs=2, global_batch_size=50, hidden_units=8)
    uninterrupted = events([Assignment(spec), Assignment(other)], few, EACH_EPOCH)
    own, others = (event.content for event in uninterrupted if isinstance(event, CheckpointTaken))
    contents = {**damaged(own), "another's": others}
    seen = events([Assignment(spec, content) for content in contents.values()], few, EACH_EPOCH)
    starts = [event for event in seen if isinstance(event, Started)]
    for name, started, result in zip(contents, starts, results(seen), strict=True):
        assert started.resumed_after == 0, name
        assert "the checkpoint of scratch-s0 is damaged or belongs to another trial" in started.notices[0]
        assert started.notices[0].endswith("; the trial starts from the beginning")
        assert result.weights_sha256 == results(uninterrupted)[0].weights_sha256, name


@pytest.mark.usefixtures("compiled_once")
def test_at_the_deadline_every_trial_has_a_valid_result_of_at_least_one_epoch(few: Dataset) -> None:
    specs = trial_grid(["scratch"], [0, 1, 2, 3], epochs=100_000, hidden_units=8)
    begin = steady_time()
    assignments = [
        Assignment(spec, deadline=begin + seconds) for spec, seconds in zip(specs, (1, 2, 0, 0), strict=True)
    ]
    found = results(events(assignments, few))
    assert_at_most(20, since=time.monotonic() - (steady_time() - begin))
    assert [result.trial for result in found] == [spec.id for spec in specs]
    assert all(1 <= len(result.history) < 100_000 and result.test.total == 110 for result in found)
    assert [len(result.history) for result in found[2:]] == [1, 1]


@pytest.mark.usefixtures("compiled_once")
def test_the_wait_for_the_data_counts_against_the_deadline(few: Dataset) -> None:
    def load() -> Dataset:
        time.sleep(2)
        return few

    (spec,) = trial_grid(["scratch"], [0], epochs=100_000, hidden_units=8)
    lane = run_trials([Assignment(spec, deadline=steady_time() + 2)], load, ONE, WorkerPlace(node="here"))
    (result,) = results([*lane])
    assert len(result.history) == 1


@pytest.mark.usefixtures("compiled_once")
def test_no_epoch_begins_whose_validation_would_end_after_the_deadline(
    few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, validate = 0.0, trial._validate

    def validate_slowly(*arguments: Any) -> Any:
        nonlocal now
        now += 1_000.0  # much more than an epoch takes on any machine
        return validate(*arguments)

    monkeypatch.setattr(trial, "_validate", validate_slowly)
    monkeypatch.setattr(trial, "steady_time", lambda: now)
    (spec,) = trial_grid(["scratch"], [0], epochs=9, hidden_units=8, validation_percent=10)
    (result,) = results(events([Assignment(spec, deadline=3_500.0)], few))
    assert len(result.history) == 3


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_that_ends_early_has_the_losses_of_the_full_one(few: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=4, schedule="one-cycle", validation_percent=0, hidden_units=8)
    (full,), (short,) = (results(events([Assignment(spec, until=until)], few)) for until in (None, 2))
    assert len(short.history) == 2
    assert [epoch.loss for epoch in short.history] == [epoch.loss for epoch in full.history[:2]]
