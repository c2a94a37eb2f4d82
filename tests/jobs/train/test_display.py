"""The live table and the progress lines of a run."""

import contextlib
import logging
import os
import pty
import sys
import time

import pytest
from rich.console import Console

from cluster.lanes import Cause, Death
from cluster.supervisor import LostAttempt
from jobs.train import display
from jobs.train.display import RunProgress, State
from mnist_lib.results import Accuracy, EpochDone, Heartbeat, TrialFailure, TrialStarted
from mnist_lib.spec import trial_grid


def progress_of(trials: int) -> RunProgress:
    return RunProgress(trial_grid(("keras",), range(trials), dataset="mnist-mini", epochs=10))


def started(trial: str, resumed_after: int = 0) -> TrialStarted:
    return TrialStarted(
        trial=trial, pid=1, node="host-of-a-long-name/0123abcd", devices=(), gpus=(), resumed_after=resumed_after
    )


def start(progress: RunProgress, trial: str, attempt: int = 1, resumed_after: int = 0) -> None:
    progress.update(started(trial, resumed_after), attempt)


def epoch(trial: str, number: int, seconds: float = 2.0) -> EpochDone:
    return EpochDone(
        trial=trial, epoch=number, loss=0.5, train=Accuracy(90, 100), validation=Accuracy(8, 10), seconds=seconds
    )


def drawn(progress: RunProgress, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(display.drawing(progress, console))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
@pytest.mark.parametrize("trials", [2, 100])
def test_the_table_fits_the_terminal_and_shows_running_trials(width: int, height: int, trials: int) -> None:
    progress = progress_of(trials)
    start(progress, f"keras-s{trials - 1}")  # the last trial, shown first because it runs
    progress.update(epoch(f"keras-s{trials - 1}", 3), 1)
    lines = drawn(progress, width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if f"keras-s{trials - 1} " in line)
    assert all(word in row for word in ("running", "3/10", "0.5000", "80.00%", "50", "14 s"))
    assert ("host-of-a-long-name" in row) == (width == 200)
    assert any("more" in line for line in lines) == (trials == 100)


@pytest.mark.parametrize("width", [50, 60, 80, 110, 200])
@pytest.mark.parametrize("attempt", [1, 2])
def test_the_table_has_one_accuracy_column_for_validation_and_one_for_test(width: int, attempt: int) -> None:
    progress = progress_of(2)
    start(progress, "keras-s0", attempt)
    progress.update(epoch("keras-s0", 3), 1)
    done = progress.trials["keras-s1"]
    done.state, done.accuracy, done.test_accuracy = State.DONE, 0.7, 0.9
    lines = drawn(progress, width, 24)
    assert max(map(len, lines)) <= width
    headings = " ".join(lines[1:3])
    assert "validation" in headings
    assert headings.count("accuracy") == 2
    running, ended = (next(line for line in lines if state in line) for state in ("running", "done"))
    assert "80.00%" in running
    assert "%" not in running.replace("80.00%", "")
    assert ended.index("70.00%") < ended.index("90.00%")


def test_without_validation_the_accuracy_column_is_that_of_training() -> None:
    progress = RunProgress(trial_grid(("keras",), [0], dataset="mnist-mini", epochs=10, validation_percent=0))
    assert "training" in drawn(progress, 80, 24)[1]


def test_a_dead_attempt_and_its_successor_are_shown() -> None:
    progress = progress_of(2)
    start(progress, "keras-s0")
    death = Death(cause=Cause.KILLED, details="on a node")
    progress.update(LostAttempt(trial="keras-s0", attempt=1, death=death, final=False), 1)
    assert progress.trials["keras-s0"].state is State.RETRYING
    start(progress, "keras-s0", 2, resumed_after=4)
    trial = progress.trials["keras-s0"]
    assert (trial.state, trial.attempt, trial.epoch) == (State.RUNNING, 2, 4)
    progress.update(TrialFailure(trial="keras-s0", code="E-CRASH", message="failed after 2 attempts"), 2)
    progress.update(TrialFailure(trial="keras-s1", code="E-NAN", message="no number"), 1)
    assert progress.count(State.FAILED) == 2
    assert "2 of 2 trials ended, 2 failed" in drawn(progress, 80, 24)[-1]


def test_the_time_left_is_computed_as_if_the_running_trials_shared_the_epochs_left() -> None:
    progress = progress_of(4)
    assert progress.total_seconds_left is None
    for trial in ("keras-s0", "keras-s1"):
        start(progress, trial)
        progress.update(epoch(trial, 5), 1)
    assert progress.seconds_left(progress.trials["keras-s0"]) == 5 * 2.0
    assert progress.total_seconds_left == (5 + 5 + 10 + 10) * 2.0 / 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (7_384, "2:03:04")]
)
def test_the_time_left_is_written_in_seconds_minutes_and_hours(seconds: float | None, text: str) -> None:
    assert display.time_left(seconds) == text


def test_a_lost_terminal_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = pty.openpty()
    stream = os.fdopen(its, "w")
    progress = progress_of(1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        with display.display(progress) as show:
            os.close(ours)
            sys.stderr.write("a line above the table\n")
            show(started("keras-s0"), 1)
            with pytest.raises(OSError, match="Input/output"):
                os.write(its, b"is it lost?")
    with contextlib.suppress(OSError):
        stream.close()


def test_without_a_terminal_a_trial_is_logged_at_most_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = progress_of(1)
    with caplog.at_level(logging.INFO, "jobs.train.display"), display.display(progress) as show:
        start(progress, "keras-s0")
        for number in range(1, 10):
            now += 4.0
            show(epoch("keras-s0", number, seconds=4.0), 1)
    values = "loss 0.5000, validation accuracy 80.00%, 25 images/s"
    assert [record.getMessage() for record in caplog.records] == [
        f"keras-s0: epoch {number} of 10, {values}, {4 * (10 - number)} s left" for number in (4, 7)
    ]


def test_before_the_first_epoch_the_time_left_is_that_of_the_part_of_it_that_is_trained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = progress_of(1)
    with caplog.at_level(logging.INFO, "jobs.train.display"), display.display(progress) as show:
        start(progress, "keras-s0")
        for share in (0.1, 0.5):
            show(Heartbeat(trial="keras-s0", epoch=share), 1)
            now += 10.0
    assert [record.getMessage() for record in caplog.records] == ["keras-s0: epoch 0.5 of 10, 3:10 left"]
