"""What jobs.retrain is told: refusals, files, what it writes for other schedulers, and what it keeps to itself."""

import os
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from jobs.console.options import parse
from jobs.retrain.options import RetrainOptions
from jobs.retrain.work import TrainWork
from jobs.train.options import TrainOptions
from mnist_lib.store.local import LocalObjects
from tests.jobs.retrain.test_notices import Receiver
from tests.support.job import ROOT
from tests.support.schedule import DAILY, HOURLY, Schedule

pytestmark = pytest.mark.slow


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
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}")
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
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}")
    schedule.run("--once", "--cron=30 14 * * *", "--tz=Asia/Tokyo", train=train, ahead=ahead)
    _, text = schedule.run("status", "--cron=30 14 * * *", "--tz=Asia/Tokyo")
    assert re.search(r"\d{4}-\d\d-\d\d 14:30 JST  failed", text), text
    assert re.search(r"Next: \w{3} \d{4}-\d\d-\d\d 14:30 JST", text)
