"""Attempts of a schedule: the exit code, the cause, and whether the attempt is retried."""

import contextlib
import errno
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.console.exit_codes import exit_code_of
from jobs.console.output import CommandResult
from jobs.console.terminal import SafeStream
from jobs.retrain.__main__ import _run_once, _step
from jobs.retrain.options import RetrainOptions
from jobs.retrain.retrainer import ABANDONED_EXIT_CODE, AttemptResult
from jobs.retrain.work import TrainAttempt, TrainWork
from jobs.train.commands import job_options
from jobs.train.options import TrainOptions
from mnist_lib.data.corrections import labels_file
from mnist_lib.documents import builtins_of
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import Accuracy
from mnist_lib.store.runs import RunFolder
from tests.support.bounds import JOB_SECONDS, wait_until
from tests.support.corrections import correct, correction
from tests.support.job import ROOT
from tests.support.pictures import classes, noise, write_folder
from tests.support.receiver import Receiver
from tests.support.retraining.fakes import FakeAttempt
from tests.support.retraining.hourly import HOUR, HOURLY
from tests.support.retraining.world import Settings, World
from tests.support.store.summaries import small_model, small_summary, small_trial, successful_trial, summary_of


def result_of(script: str, folder: RunFolder) -> AttemptResult:
    """Return the result of a shell script that takes the place of jobs.train."""
    attempt = TrainAttempt(["sh", "-c", script], folder, stop_seconds=1)
    wait_until(lambda: attempt.poll() is not None, "the script has not ended")
    result = attempt.poll()
    assert result is not None
    return result


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(LocalObjects(tmp_path), "run")


def test_i12_the_secrets_of_notices_are_not_passed_on_to_training(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_JOBS_NOTIFY_SECRET", "whsec_canary")
    monkeypatch.setenv("MNIST_JOBS_NOTIFY", "https://canary")
    assert result_of("env | grep -q canary && exit 3; exit 0", folder).exit_code == 0


def test_the_exit_code_is_that_of_the_run_although_a_slot_was_skipped_during_it() -> None:
    world = World(Settings(cron=HOURLY, max_attempts=1, longest_run=3 * HOUR, failing=1.0))
    (machine,) = world.machines
    machine.boot(world.timetable.latest(world.time()) - timedelta(seconds=1))
    assert machine.retrainer is not None

    class Waiting:
        def wait(self, seconds: float) -> bool:
            world.now += max(1.0, seconds)
            return False

    options = RetrainOptions(cron=HOURLY, once=True)
    rest: Any = (machine.objects, machine.retrainer, Waiting())
    result = _run_once(options, "jobs.train", *rest)
    assert isinstance(result, CommandResult)
    failed, skipped = world.journal()[-2:]
    assert (failed.kind, skipped.kind, skipped.exit_code) == ("failed", "skipped", None)
    assert (result.document["outcome"], result.exit_code) == ("failed", failed.exit_code)


@pytest.mark.parametrize(
    ("exit_code", "error_code", "retry"),
    [
        (1, "", "yes"),  # Ray has ended the driver
        (1, "E-BUG", "no"),
        (2, "E-USAGE", "no"),
        (3, "", "once"),
        (3, "E-DATA", "no"),
        (3, "E-DATA-READ", "yes"),
        (4, "E-RESOURCES", "yes"),
        (5, "", "once"),
        (5, "E-NAN", "no"),
        (5, "E-OOM", "yes"),
        (6, "E-STORE", "yes"),
        (7, "E-INTEGRITY", "no"),
        (8, "E-AUTH", "no"),
        (8, "E-CLUSTER-LOST", "yes"),
        (75, "E-BUSY", "yes"),
        (99, "", "no"),
    ],
)
def test_a_retry_depends_on_the_error_code_or_if_there_is_none_on_the_exit_code(
    exit_code: int, error_code: str, retry: str, folder: RunFolder
) -> None:
    line = f"error[{error_code}] what happened" if error_code else "what happened"
    result = result_of(f"echo '{line}' >&2; exit {exit_code}", folder)
    assert (result.exit_code, result.complete, result.retry) == (exit_code, False, retry)
    assert result.why == (line if error_code else f"ended with exit code {exit_code}")


def test_an_attempt_is_complete_even_if_its_output_cannot_be_written(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.complete(summary_of(small_summary()))
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        stream = SafeStream(full)
        patch.setattr("sys.stderr", stream)
        result = result_of("echo result || exit 74; echo log >&2", folder)
        assert stream.finish() is not None
    assert (result.exit_code, result.complete) == (0, True)


def test_an_attempt_that_is_killed_is_retried(folder: RunFolder) -> None:
    result = result_of("kill -KILL $$", folder)
    assert (result.exit_code, result.retry, result.why) == (137, "yes", "killed by signal 9")


@pytest.mark.parametrize(("second", "retry"), [("E-TIMEOUT", "no"), ("E-OOM", "yes")])
def test_the_error_codes_of_failed_trials_take_precedence_over_that_of_the_run(
    second: str, retry: str, folder: RunFolder
) -> None:
    error = {"message": "", "details": ""}
    trials = [small_trial(seed, error={**error, "code": code}) for seed, code in enumerate(("E-NAN", second))]
    folder.complete(summary_of(small_summary(trials=trials)))
    result = result_of("echo 'error[E-TRAINING] all trials failed' >&2; exit 5", folder)
    assert (result.complete, result.retry) == (False, retry)


def test_a_run_with_some_failed_trials_is_complete(folder: RunFolder) -> None:
    trials = [successful_trial(0), small_trial(1)]
    folder.complete(summary_of(small_summary(trials=trials, models={"keras": small_model(version=3)})))
    result = result_of("exit 9", folder)
    assert (result.complete, result.why) == (True, "1 of 2 trials failed: keras-s1")
    assert result.results["keras"].version == 3


def test_every_attempt_but_the_last_stores_all_trials_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("jobs.retrain.work.TrainAttempt", lambda command, *_: commands.append(command))
    work = TrainWork(LocalObjects(tmp_path), str(tmp_path), ["--epochs=2"], TrainOptions(), {}, stop_seconds=1)
    for last in (False, True):
        work.start("run", last=last)
    first, second = (command[5:] for command in commands)  # after the temporary file
    assert [*second, "--require-all"] == first


@pytest.mark.parametrize("in_a_file", [False, True])
def test_an_attempt_is_given_the_options_of_the_file_with_their_types_and_flags_override_them(
    in_a_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[TrainOptions] = []
    monkeypatch.setattr(
        "jobs.retrain.work.TrainAttempt", lambda command, *_: parsed.append(job_options("", command[4:]))
    )
    configuration = {"epochs": 3, "learning_rate": 1e-05, "model_arg": {"code": "007", "text": "a,b=c", "sizes": [16]}}
    (tmp_path / "more.yaml").write_text("epochs: 2\n")
    flags = ["--config", str(tmp_path / "more.yaml")] if in_a_file else ["--epochs=2"]
    options = job_options("", flags, configuration)
    work = TrainWork(LocalObjects(tmp_path), str(tmp_path), flags, options, configuration, stop_seconds=1)
    work.start("run", last=True)
    assert (parsed[0].epochs, parsed[0].learning_rate) == (2, 1e-05)
    assert parsed[0].model_arg == configuration["model_arg"]


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_the_fingerprint_of_a_folder_is_known_with_and_without_a_cluster(tmp_path: Path, address: str | None) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=2))
    options = TrainOptions(dataset=f"{folder}/", address=address)
    work = TrainWork(LocalObjects(tmp_path / "s"), str(tmp_path), [], options, {}, stop_seconds=1)
    first = work.fingerprint()
    assert first is not None
    assert work.fingerprint() == first
    correct(folder, correction(noise(1), "b"))
    second = work.fingerprint()
    noise(5).save(folder / "a/new.png")
    assert len({first, second, work.fingerprint()}) == 3


def test_a_correction_in_the_storage_changes_the_fingerprint_of_a_dataset_of_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "data/mnist/3.0.1").mkdir(parents=True)
    (tmp_path / "data/mnist/3.0.1/train.tfrecord").write_bytes(b"1")
    objects, options = LocalObjects(tmp_path / "s"), TrainOptions(dataset="mnist", data_dir=tmp_path / "data")
    work = TrainWork(objects, str(tmp_path), [], options, {}, stop_seconds=1)
    first = work.fingerprint()
    labels_file(options.data(), objects).add([correction("0" * 32, "7")])
    assert None is not work.fingerprint() != first


def test_the_journal_stores_what_is_new_in_the_data(folder: RunFolder) -> None:
    changes = {"since": "r0", "at": "2026-11-25T03:00:31Z", "removed": {}, "relabelled": {"test": {"7": 1}}}
    changes["added"] = {"train": {"1": 2, "7": 3}, "test": {"7": 4}}
    changes["unusual"] = {"7": {"added": 7, "usual": 0.5}}
    corrections = {"applied": 3, "confirmed": 1, "removed": 2, "holdout": 2, "disputed_holdout": 1, "unknown": 0}
    summary = small_summary(models={"keras": small_model(new_test={"correct": 3, "total": 4}, new_test_accuracy=0.75)})
    summary["models"]["keras"]["new_test_before"] = {"correct": 30, "total": 30}
    summary["models"]["keras"] |= {"score": "balanced-accuracy", "best_trial_test_balanced_accuracy": 0.6}
    dataset = {**summary["dataset"], "changes": changes, "corrections": corrections}
    folder.complete(summary_of({**summary, "dataset": dataset}))
    result = result_of("exit 0", folder)
    assert builtins_of(result.data) == {
        "name": "mnist",
        **{"since": "r0", "added": 9, "removed": 0, "relabelled": 1, "corrected": 5, "disputed_holdout": 1},
        "unusual": {"7": {"added": 7, "usual": 0.5}},
    }
    assert result.results["keras"].new_test_before == Accuracy(30, 30)
    assert result.results["keras"].new_test_accuracy == 0.75
    assert result.results["keras"].balanced_accuracy == 0.6


def test_a_process_that_cannot_be_started_counts_as_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Settings(cron=HOURLY, max_attempts=2))
    (machine,) = world.machines
    machine.boot()
    retrainer = machine.retrainer
    assert retrainer is not None

    def fail(run: str, *, last: bool) -> FakeAttempt:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(retrainer.work, "start", fail)
    while not (journal := world.journal()) or journal[-1].kind != "failed":
        world.now += max(1.0, _step(retrainer).seconds)
    assert [entry.kind for entry in journal] == ["enrolled", "started", "started", "failed"]


def test_a_run_whose_attempts_all_died_ends_with_the_exit_code_of_failed_training() -> None:
    assert exit_code_of("E-TRAINING") == ABANDONED_EXIT_CODE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("def mine(image_shape, num_classes:\n", r"error\[E-MODEL\] mine.py, line 1: expected valid Python, got .*"),
        (
            "def other(image_shape, num_classes): pass\n",
            r"error\[E-MODEL\] mine.py: expected a function mine, got none.*",
        ),
        (None, r"error\[E-MODEL\] models: expected a Python file at .*, got an error: No such file or directory"),
    ],
)
def test_a_model_file_that_has_become_wrong_since_the_daemon_began_fails_its_slot_in_one_line(
    content: str | None, error: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(image_shape, num_classes):\n    return None\n")
    flags = [f"--models={file}:mine", "--dataset=mnist-mini", "--epochs=1"]
    work = TrainWork(LocalObjects(tmp_path), str(tmp_path), flags, job_options("", flags), {}, stop_seconds=1)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert work.fingerprint() is None
    attempt = work.start("run", last=False)
    wait_until(lambda: attempt.poll() is not None, "the run has not ended")
    result = attempt.poll()
    assert result is not None
    assert (result.exit_code, result.complete, result.retry) == (exit_code_of("E-MODEL"), False, "no")
    assert re.fullmatch(error, result.why)
    assert capfd.readouterr().err == f"{result.why}\n"
    assert not work.has_run("run")


@pytest.mark.long
def test_x10_a_notice_imports_nothing_from_a_working_folder_of_others(tmp_path: Path) -> None:
    for name in ("requests.py", "standardwebhooks.py"):  # Ray's workers, which look here, use none of them
        (tmp_path / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n")
    with contextlib.closing(Receiver(200)) as receiver:
        command = ["jobs.retrain", "--cron=0 3 * * *", "--now", "--storage=results", f"--notify={receiver.url}"]
        ended = subprocess.run(
            [sys.executable, "-P", "-m", *command, "--", "--models=scratch", "--epochs=1", "--no-report"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=JOB_SECONDS,
        )
    assert ended.returncode == 0, ended.stderr
    assert len(receiver.requests) == 1
    assert not (tmp_path / "imported").exists()
