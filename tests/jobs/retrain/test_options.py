"""Options of jobs.retrain: what is refused, configuration files, help texts, emitted commands, and secrets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobs.console.options import parse
from jobs.retrain import __main__ as retrain
from jobs.retrain.options import RetrainOptions, check_train, train_options
from jobs.retrain.work import TrainWork
from jobs.train.options import TrainOptions
from mnist_lib.objects.local import LocalObjects
from tests.support.bounds import at_most_processor_seconds
from tests.support.emitted import kubernetes_words, systemd_words
from tests.support.job import ROOT
from tests.support.receiver import Receiver
from tests.support.schedule import DAILY, HOURLY, Schedule, terminate

OWN_MODELS = Path(__file__).parents[2] / "support/own_models.py"


@pytest.mark.long
@pytest.mark.slow
def test_each_emitted_command_runs_on_this_machine(schedule: Schedule) -> None:
    config = schedule.folder / "retrain.yaml"
    train = {"models": ["scratch"], "epochs": 2, "data_dir": str(schedule.data_dir)}
    config.write_text(yaml.safe_dump({"cron": "0 0 * * *", "storage": str(schedule.storage), "train": train}))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def emitted(scheduler: str, *options: str) -> str:
        command = [sys.executable, "-m", "jobs.retrain", "emit", scheduler, "--config", str(config), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def run(command: str | list[str]) -> subprocess.CompletedProcess[str]:
        shell = isinstance(command, str)
        return subprocess.run(command, shell=shell, cwd=ROOT, env=environment, capture_output=True, text=True)

    (line,) = [line for line in emitted("crontab").splitlines() if line.startswith("@reboot ")]
    first = run(line.removeprefix("@reboot ").replace(r"\%", "%"))
    assert first.returncode == 0, first.stderr
    assert "scratch@1 has" in first.stdout
    mounted = "--storage=/storage/digits"
    cron_job = kubernetes_words(emitted("kubernetes", mounted))
    here = f"--storage={schedule.storage}"  # in place of the volume
    done = run([here if word == mounted else word for word in cron_job])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nightly: nothing is due; next: ")  # the run of this slot is done
    daemon = subprocess.Popen(
        systemd_words(emitted("systemd")), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert daemon.stderr is not None
    assert "schedule nightly: 0 0 * * * in UTC; next: " in daemon.stderr.readline()
    assert terminate(daemon) == 143


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--cron=61 * * * *"],
            "error[E-CRON] cron: expected five fields",
        ),
        (["--cron=0 3 * *"], "error[E-CRON] cron: expected five fields"),
        (["--cron=0 0 30 2 *"], "error[E-CRON] cron: expected"),
        ([HOURLY, "--tz=Mars/Base"], "error[E-CRON] tz: expected a time zone"),
        ([], "error[E-USAGE] cron: expected a value (timetable, as minute hour day month weekday"),
        ([HOURLY, "--once", "--now"], "error[E-USAGE] once, now: expected one of them, got both"),
        ([HOURLY, "--name=../x"], "error[E-USAGE] name: expected"),
        ([HOURLY, "--lease-seconds=nan"], "error[E-USAGE] lease_seconds: expected a number of at least 3, got nan"),
        ([HOURLY, "--notify-on=succes"], "error[E-USAGE] notify_on: "),
        ([HOURLY, "--", "--epochs=0"], "error[E-USAGE] epochs: "),
        (
            [HOURLY, "--", "--storage=x"],
            "error[E-USAGE] storage: not allowed among the options of jobs.train in a schedule; give it before --",
        ),
        ([HOURLY, "--", "--run-name=x"], "error[E-USAGE] run_name: "),
        (
            ["emit", "crontab", HOURLY, "--", "--finish-by=2126-01-01T06:00:00Z"],
            "error[E-USAGE] finish_by: not allowed among the options of jobs.train in a schedule; use --max-seconds,",
        ),
        (
            [HOURLY, "--dataset=./icons"],
            "error[E-USAGE] --dataset is an option of jobs.train; give it after --, as in: -- --dataset=./icons",
        ),
        (
            ["emit", "crontab", HOURLY, "--vary", "momentum=0,0.9"],
            "error[E-USAGE] --vary is an option of jobs.search; give it after --, as in: -- --vary momentum=0,0.9",
        ),
        (["emit", "cron", HOURLY], "error[E-USAGE] scheduler: "),
        (["emit", HOURLY], "error[E-USAGE] scheduler: expected one of crontab, systemd, kubernetes, got "),
        (["status", "--cronn=x"], "error[E-USAGE] --cronn is not an option; did you mean --cron?"),
        (["emit", "kubernetes", HOURLY], "error[E-USAGE] storage: expected no path of this machine"),
        (["stats"], "error[E-USAGE] command: "),
        (
            ["emit", "kubernetes", HOURLY, "--storage=/storage", "--", f"--models={OWN_MODELS}:sequential"],
            "error[E-USAGE] models: expected no path of this machine, since the container has only its volume",
        ),
        (
            ["emit", "kubernetes", HOURLY, "--storage=/storage", "--", "--dataset=/pictures"],
            "error[E-USAGE] dataset: expected no path of this machine, since the container has only its volume",
        ),
    ],
)
def test_i7_an_invalid_option_is_refused_with_exit_code_2_before_anything_starts(
    arguments: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with at_most_processor_seconds(2):
        assert retrain.main(arguments) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(error)
    assert list(tmp_path.iterdir()) == []


def test_null_in_a_configuration_file_means_the_default(tmp_path: Path) -> None:
    config = tmp_path / "retrain.yaml"
    config.write_text("cron: 0 3 * * *\nname: null\nmax_attempts: null\nnotify_on: null\ntrain: null\n")
    options = parse("jobs.retrain", RetrainOptions, ["--config", str(config)])
    assert options == RetrainOptions(cron="0 3 * * *")


USED_BY_STATUS = {"--name", "--cron", "--tz", "--storage", "--last", "--json", "--config", "--help", "--version"}
NOT_USED_BY_EMIT = {"--once", "--now"}


def flags_in(help_text: str) -> set[str]:
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", help_text, re.MULTILINE))


@pytest.mark.parametrize("subcommand", ["status", "emit"])
def test_the_help_of_a_subcommand_lists_only_options_that_it_uses(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def help_of(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            retrain.main([*words, "--help"])
        assert not ended.value.code
        return capsys.readouterr().out

    of_daemon, listed = flags_in(help_of()), flags_in(help_of(subcommand))
    expected = {
        "status": USED_BY_STATUS,
        "emit": (of_daemon | {"--image"}) - NOT_USED_BY_EMIT,
    }
    assert listed == expected[subcommand]


def test_one_configuration_file_serves_every_subcommand_and_wrong_keys_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "retrain.yaml"
    used = {"cron": "0 3 * * *", "tz": "Europe/Berlin", "storage": str(tmp_path), "once": True}
    config.write_text(yaml.safe_dump({**used, "max_attempts": 2, "notify": "cat", "train": {"epochs": 2}}))
    for words in (["status"], ["emit", "crontab"]):
        assert retrain.main([*words, "--config", str(config)]) == 0
    emitted = capsys.readouterr().out
    assert "--max-attempts=2" in emitted
    assert "notify" not in emitted.rpartition("@reboot ")[2]
    config.write_text("cron: 0 3 * * *\nmax_attemps: 2\n")
    assert retrain.main(["status", "--config", str(config)]) == 2
    assert "--max-attemps is not an option; did you mean --max-attempts?" in capsys.readouterr().err


def test_a_model_file_in_a_schedule_needs_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    config = tmp_path / "retrain.yaml"
    config.write_text(yaml.safe_dump({"cron": "0 3 * * *", "train": {"models": f"{OWN_MODELS}:sequential"}}))
    arguments = ["emit", "crontab", "--config", str(config), f"--storage={tmp_path}"]
    assert retrain.main(arguments) == 2
    assert "error[E-MODEL] models: sequential is code in own_models.py, sha256 " in capsys.readouterr().err
    assert retrain.main([*arguments, "--", "--trust"]) == 0
    assert "own_models.py:sequential" in capsys.readouterr().out


def test_a_schedule_searches_if_its_configuration_says_so(tmp_path: Path) -> None:
    config = tmp_path / "retrain.yaml"
    plans = pytest.importorskip("jobs.search.plan")
    search = {"vary": {"learning_rate": "1e-4..1e-1:log", "hidden_units": [16, 32]}, "trials": 9, "epochs": 3}
    config.write_text(yaml.safe_dump({"cron": "0 3 * * *", "train": search}))
    options: RetrainOptions = parse("jobs.retrain", RetrainOptions, ["--config", str(config)])
    given = check_train(train_options(options, ["--trials=12"]))
    assert isinstance(given, plans.SearchOptions)
    assert (given.COMMAND, given.trials, given.epochs) == ("jobs.search", 12, 3)
    assert plans.SearchPlan.of(given).variation.document() == {
        "learning_rate": "0.0001..0.1:log",
        "hidden_units": [16, 32],
    }
    assert type(train_options(RetrainOptions(cron="0 3 * * *"), ["--epochs=3"])) is TrainOptions


def test_the_fingerprint_of_data_that_are_not_prepared_is_unknown(tmp_path: Path) -> None:
    for address in (None, "10.0.0.1:6379"):
        options = TrainOptions(dataset="mnist", data_dir=tmp_path, address=address)
        assert TrainWork(LocalObjects(tmp_path), str(tmp_path), [], options, {}, stop_seconds=1).fingerprint() is None


@pytest.mark.slow
def test_the_url_of_the_webhook_is_not_in_the_output_the_log_or_any_file(schedule: Schedule) -> None:
    canary = "canary-of-a-secret"
    receiver = Receiver(401)
    url = f"--notify={receiver.url}"
    assert canary in url
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}")
    code, stdout = schedule.run("--once", DAILY, url, "--json", train=train)
    receiver.close()
    assert code == 3
    assert "a notice to 127.0.0.1 was abandoned" in schedule.log()
    stored = b"".join(path.read_bytes() for path in schedule.storage.rglob("*") if path.is_file())
    assert canary not in stdout + schedule.log() + stored.decode(errors="replace")


@pytest.mark.long
@pytest.mark.slow
def test_status_prints_times_in_the_time_zone_of_the_tz_option(schedule: Schedule) -> None:
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}")
    schedule.run("--once", "--cron=30 14 * * *", "--tz=Asia/Tokyo", train=train)
    _, text = schedule.run("status", "--cron=30 14 * * *", "--tz=Asia/Tokyo")
    assert re.search(r"\d{4}-\d\d-\d\d 14:30 JST  failed", text), text
    assert re.search(r"Next: \w{3} \d{4}-\d\d-\d\d 14:30 JST", text)
