"""`jobs.retrain` as a user runs it: a daemon, a step of another scheduler, and what it tells."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.command_line import parse
from jobs.options import TrainOptions
from jobs.retrain_options import RetrainOptions
from jobs.retrain_work import TrainWork
from mnist_lib.store.champions import Champion, history
from mnist_lib.store.local import LocalObjects
from tests.clusters import wait_until
from tests.jobs.job import MARK, ROOT, processes_of
from tests.jobs.test_notices import Receiver

pytestmark = pytest.mark.slow

# The wall clock of a daemon can be ahead of this machine's, so that a test need not wait for a slot.
COMMAND = """
import os, sys
from datetime import timedelta
from mnist_lib.clock import SystemClock
now, ahead = SystemClock.now, timedelta(seconds=float(os.environ.get("MNIST_TEST_AHEAD", "0")))
SystemClock.now = lambda self: now(self) + ahead
from jobs.retrain import main
sys.exit(main(sys.argv[1:]))
"""
TRAIN = ("--models=scratch", "--epochs=2")
LONG = ("--models=scratch", "--epochs=3000", "--checkpoint-seconds=0", "--validation-percent=0")
HOURLY, DAILY = "--cron=0 * * * *", "--cron=0 0 * * *"


class Schedule:
    """One storage, and commands upon it."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder, self.data_dir, self.storage = folder, data_dir, folder / "results"

    def start(self, *arguments: str, train: tuple[str, ...] = (), ahead: float = 0) -> subprocess.Popen[str]:
        words = [*arguments, "--storage", str(self.storage), "--", "--data-dir", str(self.data_dir), *train]
        environment = {"HOME": str(self.folder), MARK: str(self.folder), "MNIST_TEST_AHEAD": str(ahead)}
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", COMMAND, *words],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, *arguments: str, train: tuple[str, ...] = (), ahead: float = 0) -> tuple[int, str]:
        process = self.start(*arguments, train=train, ahead=ahead)
        stdout, _ = process.communicate(timeout=200)
        return process.returncode, stdout

    def read(self, command: str, *arguments: str) -> Any:
        code, stdout = self.run(command, "--json", *arguments)
        assert code == 0, self.log()
        return json.loads(stdout)

    def entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.read("history")[::-1]
        return entries

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def schedule(tmp_path: Path, data_dir: Path) -> Schedule:
    return Schedule(tmp_path, data_dir)


def epochs_of(schedule: Schedule) -> int:
    """That the newest run has told of."""
    files = sorted((schedule.storage / "runs").glob("*/history.jsonl"))
    return files[-1].read_text().count('"event": "epoch"') if files else 0


def kill(daemon: subprocess.Popen[str]) -> None:
    daemon.kill()
    daemon.communicate()


def terminate(daemon: subprocess.Popen[str]) -> int:
    daemon.terminate()
    daemon.communicate(timeout=30)
    return daemon.returncode


@pytest.mark.timeout(400)
def test_a_daemon_runs_each_minute_is_killed_in_the_middle_of_one_and_ends_with_each_slot_done_once(
    schedule: Schedule,
) -> None:
    command = ("--cron=* * * * *", "--lease-seconds=6", "--tz=Europe/Berlin")
    train = ("--models=scratch", "--epochs=30", "--checkpoint-seconds=0")
    daemon = schedule.start(*command, train=train)
    runs = schedule.storage / "runs"
    wait_until(lambda: len(list(runs.glob("*/summary.json"))) == 1, schedule.log(), seconds=120)
    wait_until(lambda: len(list(runs.glob("*"))) == 2 and epochs_of(schedule) >= 1, schedule.log(), seconds=120)
    kill(daemon)
    daemon = schedule.start(*command, train=train)
    wait_until(lambda: len(list(runs.glob("*/summary.json"))) == 3, schedule.log(), seconds=180)
    wait_until(lambda: schedule.read("status")["going_on"] is None, schedule.log())
    assert terminate(daemon) == 128 + signal.SIGTERM
    assert processes_of(schedule.folder) == []

    done = [entry for entry in schedule.entries() if entry["kind"] == "done"]
    slots = [datetime.fromisoformat(entry["slot"]) for entry in done]
    assert [(slot - slots[0]).total_seconds() for slot in slots] == [0, 60, 120]
    assert [entry["attempt"] for entry in done] == [1, 2, 1]
    versions = [entry["results"]["scratch"]["version"] for entry in done]
    assert versions == [1, 2, 3]
    log = history(LocalObjects(schedule.storage), "scratch")
    assert [record.version for record in log if isinstance(record, Champion)] == [1]  # equal ones do not replace it
    reasons = [entry["results"]["scratch"]["why"] for entry in done]
    assert reasons[0].startswith("scratch@1 is the first champion")
    assert all("gained 0, lost 0" in reason for reason in reasons[1:])  # the same seed: the same model
    _, text = schedule.run("status", *command)
    assert text.count("CE") >= 4, text  # CET or CEST
    assert "Next: " in text


def test_a_slot_that_is_done_is_a_success_at_once_and_one_that_brings_nothing_new_is_skipped(
    schedule: Schedule,
) -> None:
    command = ("--once", HOURLY, "--skip-unchanged", "--json")
    code, stdout = schedule.run(*command, train=TRAIN)
    first = json.loads(stdout)
    assert (code, first["outcome"], first["events"]) == (0, "done", ["success", "promotion"]), schedule.log()
    begin = time.monotonic()
    code, stdout = schedule.run(*command, train=TRAIN)
    assert (code, json.loads(stdout)["run"]) == (0, first["run"])
    assert time.monotonic() - begin < 5
    code, stdout = schedule.run(*command, train=TRAIN, ahead=3600)
    skipped = json.loads(stdout)
    assert (code, skipped["outcome"], skipped["events"]) == (0, "unchanged", ["skip"])
    assert skipped["cause"] == f"data, configuration and code are those of run {first['run']}"
    code, stdout = schedule.run(*command, train=(*TRAIN, "--seed=5"), ahead=7200)
    assert (code, json.loads(stdout)["outcome"]) == (0, "done")


def test_i10_a_second_start_is_refused_with_75_and_a_signal_leaves_a_run_that_goes_on(schedule: Schedule) -> None:
    running = schedule.start("--now", HOURLY, train=LONG)
    wait_until(lambda: epochs_of(schedule) >= 1, "nothing is trained")
    for how in ("--now", "--once"):
        code, _ = schedule.run(how, HOURLY, train=LONG)
        assert code == 75
        (error,) = re.findall(r"error\[E-BUSY\] .*", schedule.log())[-1:]
        assert re.search(rf"a run is going on, by process {running.pid} on \S+, since 20\S+Z; wait for it", error)
    assert terminate(running) == 128 + signal.SIGTERM
    assert processes_of(schedule.folder) == []
    before = epochs_of(schedule)
    assert schedule.entries()[-1]["kind"] == "interrupted"
    again = schedule.start("--now", HOURLY, train=LONG)
    wait_until(lambda: epochs_of(schedule) > before, "it does not go on")
    terminate(again)
    (run,) = (schedule.storage / "runs").iterdir()
    starts = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines() if '"started"' in line]
    assert [start["resumed_after"] > 0 for start in starts] == [False, True]


def test_when_the_daemon_is_killed_its_run_ends_with_it(schedule: Schedule) -> None:
    daemon = schedule.start("--now", HOURLY, train=LONG)
    wait_until(lambda: epochs_of(schedule) >= 1, "nothing is trained")
    kill(daemon)
    wait_until(lambda: processes_of(schedule.folder) == [], "the run goes on without it", seconds=30)


def test_a_run_that_fails_is_told_with_its_cause_and_what_to_type(schedule: Schedule) -> None:
    told = schedule.folder / "told"
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}/none")
    code, stdout = schedule.run("--once", DAILY, f"--notify=cat > {told}", "--json", train=train)
    notice = json.loads(told.read_text())
    assert (code, notice) == (3, json.loads(stdout))
    assert (notice["outcome"], notice["events"], notice["exit_code"]) == ("failed", ["failure"], 3)
    assert notice["cause"].startswith("error[E-DATA-MISSING] mnist: ")
    assert notice["next_command"].startswith("python -m jobs.train --resume nightly-")
    assert notice["cause"] in notice["text"]
    code, _ = schedule.run("--once", DAILY, train=train)
    assert code == 3  # it is settled, and is not tried in vain
    assert [entry["kind"] for entry in schedule.entries()] == ["enrolled", "started", "failed"]


SHUFFLED = """
import sys
from pathlib import Path
import numpy as np
from mnist_lib.data import embedded
folder, data_dir = map(Path, sys.argv[1:])
with np.load(embedded.FOLDER / "mnist-mini.npz") as arrays:
    digits = dict(arrays)
np.random.default_rng(0).shuffle(digits["train_labels"])
np.savez(folder / "mnist-mini.npz", **digits)
from mnist_lib.data.embedded import builders
builders.FOLDER = folder
builders.MnistMini(data_dir=str(data_dir)).download_and_prepare()
"""


def test_bad_data_are_trained_with_and_not_promoted_and_that_is_told(schedule: Schedule) -> None:
    bad, told = schedule.folder / "bad", schedule.folder / "told"
    train = ("--models=scratch", "--epochs=5")
    code, stdout = schedule.run("--once", HOURLY, "--skip-unchanged", "--json", train=train)
    assert (code, json.loads(stdout)["events"]) == (0, ["success", "promotion"])
    (schedule.folder / "npz").mkdir()
    subprocess.run(
        [sys.executable, "-c", SHUFFLED, schedule.folder / "npz", bad], cwd=ROOT, check=True, capture_output=True
    )
    command = ("--once", HOURLY, "--skip-unchanged", f"--notify=cat > {told}", "--notify-on=rejection,failure")
    code, _ = schedule.run(*command, train=(*train, f"--data-dir={bad}"), ahead=3600)
    assert code == 0, schedule.log()
    notice = json.loads(told.read_text())
    assert notice["events"] == ["success", "rejection"]
    scratch = notice["models"]["scratch"]
    assert (scratch["version"], scratch["champion"]) == (2, False)  # it is kept
    assert scratch["test_accuracy"] < 0.3
    assert "different images" in scratch["why"] or "class" in scratch["why"]
    assert "is not the champion" in notice["text"]
    champions = history(LocalObjects(schedule.storage), "scratch")
    assert [record.version for record in champions if isinstance(record, Champion)] == [1]


def test_each_command_that_is_emitted_runs_here_as_it_is_written(schedule: Schedule) -> None:
    config = schedule.folder / "retrain.yaml"
    train = {"models": ["scratch"], "epochs": 2, "data_dir": str(schedule.data_dir)}
    config.write_text(yaml.safe_dump({"cron": "0 0 * * *", "storage": str(schedule.storage), "train": train}))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def emitted(scheduler: str) -> str:
        command = [sys.executable, "-m", "jobs.retrain", "emit", scheduler, "--config", str(config)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def run(command: str | list[str]) -> subprocess.CompletedProcess[str]:
        shell = isinstance(command, str)
        return subprocess.run(command, shell=shell, cwd=ROOT, env=environment, capture_output=True, text=True)

    (line,) = [line for line in emitted("crontab").splitlines() if line.startswith("@reboot ")]
    first = run(line.removeprefix("@reboot ").replace(r"\%", "%"))
    assert first.returncode == 0, first.stderr
    assert "scratch@1 has" in first.stdout
    (exec_start,) = re.findall("^ExecStart=(.*)", emitted("systemd"), re.MULTILINE)
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(exec_start)]
    cron_job = yaml.safe_load(emitted("kubernetes"))["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    entrypoint = yaml.safe_load(emitted("raycronjob"))["spec"]["jobTemplate"]["entrypoint"]
    for command in (words, cron_job["containers"][0]["command"], entrypoint):
        done = run(command)
        assert (done.returncode, done.stdout) == (0, first.stdout), done.stderr  # the slot's own run, done before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--cron=61 * * * *"], "error[E-CRON] cron: minute: expected 0 to 59, got '61'"),
        (["--cron=0 3 * *"], "error[E-CRON] cron: expected five fields"),
        (["--cron=0 0 30 2 *"], "error[E-CRON] cron: day-of-month"),
        ([HOURLY, "--tz=Mars/Base"], "error[E-CRON] tz: expected a time zone"),
        ([], "error[E-USAGE] cron: expected a timetable, got none"),
        ([HOURLY, "--overlap=kill"], "error[E-USAGE] overlap: "),
        ([HOURLY, "--once", "--now"], "error[E-USAGE] once, now: expected one of them"),
        ([HOURLY, "--name=../x"], "error[E-USAGE] name: expected"),
        ([HOURLY, "--lease-seconds=nan"], "error[E-USAGE] lease_seconds: expected a number from 3 on"),
        ([HOURLY, "--notify-on=succes"], "error[E-USAGE] notify_on: "),
        ([HOURLY, "--", "--epochs=0"], "error[E-USAGE] epochs: "),
        (
            [HOURLY, "--", "--storage=x"],
            "error[E-USAGE] storage: each slot's run is given its own; give it before --",
        ),
        ([HOURLY, "--", "--run-name=x"], "error[E-USAGE] run_name: "),
        (["emit", "cron", HOURLY], "error[E-USAGE] scheduler: "),
        (["emit", "kubernetes", HOURLY], "error[E-USAGE] storage: expected a URL or a path in the pod"),
        (["stats"], "error[E-USAGE] command: "),
    ],
)
def test_i7_what_cannot_be_is_refused_with_2_before_anything_starts(
    arguments: list[str], error: str, tmp_path: Path
) -> None:
    begin = time.monotonic()
    command = [sys.executable, "-m", "jobs.retrain", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(error)
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begin < 4
    assert list(tmp_path.iterdir()) == []


def test_null_in_a_file_is_the_default(tmp_path: Path) -> None:
    config = tmp_path / "retrain.yaml"
    config.write_text("cron: 0 3 * * *\njitter: null\nname: null\nmax_attempts: null\nnotify_on: null\ntrain: null\n")
    options = parse("jobs.retrain", RetrainOptions, ["--config", str(config)])
    assert options == RetrainOptions(cron="0 3 * * *")


def test_data_of_a_cluster_are_not_looked_for_here(tmp_path: Path, data_dir: Path) -> None:
    objects = LocalObjects(tmp_path)
    for options in (TrainOptions(data_dir=data_dir, address="10.0.0.1:6379"), TrainOptions(data_dir=tmp_path)):
        assert TrainWork(objects, "s", str(tmp_path), [], options, stop_seconds=1).fingerprint() is None


def test_a_secret_of_the_webhook_is_nowhere(schedule: Schedule) -> None:
    canary = "canary-of-a-secret"
    receiver = Receiver(401)
    url = f"--notify={receiver.url}"
    assert canary in url
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}/none")
    code, stdout = schedule.run("--once", DAILY, url, "--json", train=train)
    receiver.shutdown()
    receiver.server_close()
    assert code == 3
    assert "127.0.0.1 was not told" in schedule.log()
    stored = b"".join(path.read_bytes() for path in schedule.storage.rglob("*") if path.is_file())
    assert canary not in stdout + schedule.log() + stored.decode(errors="replace")
    emitted = subprocess.run(
        [sys.executable, "-m", "jobs.retrain", "emit", "systemd", DAILY, url], cwd=ROOT, capture_output=True, text=True
    )
    assert emitted.returncode == 0
    assert canary not in emitted.stdout


def test_the_times_of_status_are_local(schedule: Schedule) -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=30)
    ahead = (noon - datetime.now(UTC)).total_seconds()
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}/none")
    schedule.run("--once", "--cron=30 14 * * *", "--tz=Asia/Tokyo", train=train, ahead=ahead)
    _, text = schedule.run("status", "--cron=30 14 * * *", "--tz=Asia/Tokyo")
    assert re.search(r"\d{4}-\d\d-\d\d 14:30 JST  failed", text), text
    assert re.search(r"Next: \w{3} \d{4}-\d\d-\d\d 14:30 JST", text)
