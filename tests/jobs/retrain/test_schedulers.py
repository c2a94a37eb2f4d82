"""Files for other schedulers, read by these or by other parsers: every value arrives unchanged, or is refused."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import crontab as python_crontab  # type: ignore[import-untyped]
import hypothesis
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from cronsim import CronSim

from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.retrain.emit import (
    EXAMPLES,
    STORAGE,
    Timer,
    cronjob,
    crontab,
    on_calendar,
    units,
)
from mnist_lib.errors import CronError
from tests.support.emitted import (
    COMMAND,
    CRONS,
    FREE_TEXT,
    HOSTILE,
    PRINT,
    WORDS,
    check_crontab,
    cron_command,
    cron_variable,
    hostile,
    kubernetes_words,
    pod_of,
    systemd_words,
    timer,
)

SYSTEMD = shutil.which("systemd-analyze")
MANAGER = Path("/usr/lib/systemd/systemd")
COMMENT = """\
# The command itself finds missed slots and unfinished runs by reading the schedule's journal in the storage. It holds
# the schedule's lease, so that one process works at a time and no slot is run twice.
"""

# All files


def test_each_file_says_what_the_command_itself_takes_care_of() -> None:
    for text in (crontab(timer()), cronjob(timer(), "i"), units(timer())["mnist-jobs-nightly.service"]):
        assert COMMENT in text


def test_no_scheduler_retries_a_final_exit_code() -> None:
    """Exit codes to retry "once" are final, too, since the command itself has already retried after them."""
    final = {row.number for row in exit_codes.TABLE if row.retry != "yes"} - {exit_codes.DONE}
    (line,) = re.findall(r"RestartPreventExitStatus=(.*)", units(timer())["mnist-jobs-nightly.service"])
    assert {*map(int, line.split())} == final


def test_every_hostile_argument_arrives_unchanged() -> None:
    made = hostile(HOSTILE)
    assert systemd_words(units(made)["mnist-jobs-nightly.service"]) == list(made.command)
    assert kubernetes_words(cronjob(made, "i")) == list(made.command)
    made = hostile([word for word in HOSTILE if "%" not in word])
    check_crontab(made, crontab(made))


@pytest.mark.parametrize("c", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\ud800", "\ufdd0", "\uffff"])
def test_a_character_that_is_not_printable_is_refused(c: str) -> None:
    changes: list[dict[str, Any]] = [{"command": ("python", c)}, {"folder": Path(f"/a{c}b")}, {"notify": f"cat{c}"}]
    for change in changes:
        with pytest.raises(UsageError, match=r"(command|folder|notify): expected printable characters, got"):
            dataclasses.replace(timer(), **change)


RECEIVERS = ("https://hooks.example.com/canary?a=1%2F&b=$x", "/opt/tools/notify --to \\x \"a b\" `c` 'd'")


@pytest.mark.parametrize("notify", RECEIVERS)
def test_a_receiver_of_notices_is_in_the_environment_and_not_in_the_command(notify: str) -> None:
    made = dataclasses.replace(timer(), notify=notify)
    assert cron_variable(crontab(made), "MNIST_JOBS_NOTIFY") == notify
    files = units(made)
    script = '. /dev/stdin; printf %s "$MNIST_JOBS_NOTIFY"'
    assert subprocess.check_output(["sh", "-c", script], input=files["nightly.env"], text=True) == notify
    assert "EnvironmentFile=%E/mnist-jobs/nightly.env" in files["mnist-jobs-nightly.service"]  # the file must exist
    assert notify not in files["mnist-jobs-nightly.service"]
    secret, job = yaml.safe_load_all(cronjob(made, "i"))
    assert (secret["kind"], secret["stringData"]) == ("Secret", {"url": notify})
    (variable,) = [v for v in pod_of(cronjob(made, "i"))["containers"][0]["env"] if v["name"] == "MNIST_JOBS_NOTIFY"]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "url"}}
    assert "canary" not in yaml.dump(job)
    kubernetes_validate.validate(secret, "1.31", strict=True)


@pytest.mark.fuzz
@hypothesis.given(WORDS, FREE_TEXT.map(str.strip).filter(bool), FREE_TEXT)
@pytest.mark.slow
def test_u9_any_argument_comes_back_from_each_file_or_is_refused(words: list[str], notify: str, other: str) -> None:
    """`other` is the image for Kubernetes, and the name of the working folder for systemd."""
    made = hostile(words, f"/{other}", notify)
    manifest = cronjob(made, other)
    assert kubernetes_words(manifest) == [*PRINT, *words]
    assert pod_of(manifest)["containers"][0]["image"] == other
    secret, _ = yaml.load_all(manifest, yaml.CSafeLoader)
    assert secret["stringData"] == {"url": notify}
    service, variables = units(made)["mnist-jobs-nightly.service"], units(made)["nightly.env"]
    assert systemd_words(service) == [*PRINT, *words]
    (value,) = re.findall("^WorkingDirectory=(.*)/$", service, re.MULTILINE)
    assert value.replace("%%", "%") == str(Path(f"/{other}"))
    assert shlex.split(variables, comments=True) == [f"MNIST_JOBS_NOTIFY={notify}"] or "`" in notify or "$" in notify
    assert len(variables.splitlines()) == 2
    made = dataclasses.replace(made, folder=Path("/"))
    is_refused = any("%" in word for word in words) or notify[0] in "\"'" or len(shlex.join(words).encode()) > 900
    try:
        text = crontab(made)
    except UsageError:
        assert is_refused
        return
    check_crontab(made, text)
    assert cron_variable(text, "MNIST_JOBS_NOTIFY") == notify


# Cron


@pytest.mark.parametrize("cron", [cron for cron in CRONS if "L" not in cron])
def test_another_parser_reads_the_same_timetable_from_the_crontab(cron: str) -> None:
    at_time, at_boot = python_crontab.CronTab(tab=crontab(timer(cron)))
    assert at_time.slices.render() in (cron, python_crontab.CronSlices(cron).render())
    assert at_boot.slices.special == "@reboot"
    assert at_time.env["CRON_TZ"] == "Europe/Berlin"
    assert at_time.command == at_boot.command
    assert at_time.is_valid()


def test_cron_syntax_that_only_some_implementations_understand_is_refused() -> None:
    for cron in ("0 4 L * *", "0 4 * * 5#2", "0 4 LW * *", "0 4 * * 5L"):
        with pytest.raises(CronError, match="a crontab does not understand L, LW or #"):
            crontab(timer(cron))
        with pytest.raises(CronError, match="Kubernetes does not understand L, LW or #"):
            cronjob(timer(cron), "i")
    crontab(timer("0 4 * JUL WED"))


@pytest.mark.parametrize("name", ["back\\", "it's", "two words", "$HOME", "-", 'a"b', " "])
def test_a_crontab_changes_to_a_folder_with_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    text = crontab(hostile(HOSTILE[:5], str(tmp_path / name)))
    check_crontab(hostile(HOSTILE[:5]), text)
    command = cron_command(text).partition(" && /bin/sh")[0]
    assert subprocess.check_output(["sh", "-c", f"{command} && pwd"], text=True) == f"{tmp_path / name}\n"


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (
            hostile(["ü" * 490]),
            r"command: expected at most 998 bytes without % in a crontab, got 1,\d+; use emit systemd",
        ),
        (hostile(["100%"]), r"command: expected at most 998 bytes without % in a crontab, got one with %; use emit"),
        (hostile([], "/50%"), r"command: expected .* got one with %"),
        (hostile([], notify="'/opt/a b' x"), r"notify: expected no quote at the beginning in a crontab, got one; use"),
    ],
)
def test_what_a_crontab_cannot_hold_is_refused(made: Timer, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        crontab(made)


# Kubernetes


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_cron_job_is_valid_by_the_published_schema(version: str) -> None:
    text = cronjob(timer(starting_deadline=600), "an-image:1")
    made = yaml.safe_load(text)
    kubernetes_validate.validate(made, version, strict=True)
    assert made["spec"]["timeZone"] == "Europe/Berlin"
    assert made["spec"]["startingDeadlineSeconds"] == 600
    assert kubernetes_words(text) == list(COMMAND)
    assert pod_of(text)["containers"][0]["image"] == "an-image:1"


def test_the_cron_job_in_the_repository_is_the_one_that_is_emitted_for_its_own_command() -> None:
    text = (EXAMPLES / "kubernetes/cronjob.yaml").read_text()
    example = yaml.safe_load(text)
    (container,) = pod_of(text)["containers"]
    made = Timer(name="nightly", cron="0 3 * * *", zone="UTC", command=tuple(container["command"]), folder=Path("/"))
    assert yaml.safe_load(cronjob(made, container["image"])) == example


@pytest.mark.parametrize("name", ["a.b", "a_b", "A-b", "a-", "a--b", "x" * 47])
def test_a_name_that_kubernetes_does_not_accept_is_refused(name: str) -> None:
    assert "name: mnist-a-b\n" in cronjob(dataclasses.replace(timer(), name="a-b"), "i")
    expected = "name: Kubernetes expects at most 46 lower-case letters, digits and single hyphens, got "
    with pytest.raises(UsageError, match=expected):
        cronjob(dataclasses.replace(timer(), name=name), "i")


@pytest.mark.parametrize("cron", ["0 3 * * 7", "0 3 * * 5-7"])
def test_sunday_as_7_is_refused_for_kubernetes(cron: str) -> None:
    with pytest.raises(CronError, match="cron: Kubernetes expects Sunday as 0 or SUN, got 7 in "):
        cronjob(timer(cron), "i")


def test_the_manifest_mounts_a_volume_where_a_storage_is_accepted() -> None:
    pod = pod_of(cronjob(timer(), "i"))
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == str(STORAGE)]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert "persistentVolumeClaim" in volume


# systemd


def test_the_other_files_in_the_repository_are_those_that_are_emitted_for_their_command() -> None:
    flags = ("-m", "jobs.retrain", "--once", "--name=nightly", "--cron=0 3 * * *", "--tz=UTC", "--storage=/srv/digits")
    folder = Path("/opt/mnist-jobs")
    made = Timer(name="nightly", cron="0 3 * * *", zone="UTC", command=(".venv/bin/python", *flags), folder=folder)
    assert crontab(made) == (EXAMPLES / "crontab").read_text()
    made = dataclasses.replace(made, command=("/opt/mnist-jobs/.venv/bin/python", *flags))
    for name, text in units(made).items():
        assert text == (EXAMPLES / "systemd" / name).read_text()


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    files = units(timer())
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "srv").mkdir()
    command = [str(SYSTEMD), "verify", "--man=no", "--recursive-errors=one", *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "mnist-jobs-nightly.timer").write_text(files["mnist-jobs-nightly.timer"].replace("03:00", "33:00"))
    assert "33:00" in subprocess.run(command, capture_output=True, text=True).stderr  # the check can fail


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("cron", CRONS)
def test_the_systemd_timer_elapses_when_the_cron_job_is_due(cron: str) -> None:
    base, zone = datetime(2026, 1, 2, 12, tzinfo=UTC), ZoneInfo("Europe/Berlin")
    due = CronSim(cron, base.astimezone(zone))
    expected = [next(due).astimezone(UTC) for _ in range(6)]  # none on a day when the clocks change
    elapsed: set[datetime] = set()
    for expression in on_calendar(cron, "Europe/Berlin"):
        command = [str(SYSTEMD), "calendar", "--iterations=6", f"--base-time={base:%Y-%m-%d %H:%M:%S} UTC", expression]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env={"TZ": "UTC"}).stdout
        times = re.findall(r"(?:Next elapse|Iteration #\d+): \w+ (\S+ \S+) UTC", output)
        elapsed |= {datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times}
    assert sorted(elapsed)[:6] == expected


def test_a_timetable_that_systemd_cannot_express_is_refused() -> None:
    for cron in ("0 4 * * 5#2", "0 4 LW * *", "0 4 * * 5L"):
        with pytest.raises(CronError, match="n-th or last weekday"):
            units(timer(cron))


@pytest.mark.skipif(SYSTEMD is None or not MANAGER.exists(), reason="there is no systemd")
@pytest.mark.parametrize("name", ["back\\", "100% it's", '"', " "])
def test_systemd_itself_reads_every_hostile_argument_and_folder(name: str, tmp_path: Path) -> None:
    """In its test mode, systemd prints what it has read, quoted for a shell, and starts nothing."""
    files = units(hostile(HOSTILE, f"/tmp/{name}"))
    folder = Path("/tmp", f"mnist-units-{os.getpid()}")  # readable for another user
    folder.mkdir()
    folder.chmod(0o777)
    try:
        for file, text in files.items():
            (folder / file).write_text(text)
        command = [str(MANAGER), "--user", "--test", "--unit=mnist-jobs-nightly.service", "--no-pager"]
        if os.getuid() == 0:  # it refuses to test as root
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "XDG_RUNTIME_DIR": str(folder)}
        environment["SYSTEMD_UNIT_PATH"] = f"{folder}:/usr/lib/systemd/user"
        dump = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    finally:
        shutil.rmtree(folder)
    (line,) = re.findall(r"Command Line: (/bin/sh .*)", dump)
    found = re.findall(r'"((?:[^"\\]|\\.)*)"(?: |$)|([^ ]+)', line)
    words = [re.sub(r"\\(.)", r"\1", quoted) + plain for quoted, plain in found]
    assert [word.replace("$$", "$") for word in words] == [*PRINT, *HOSTILE]  # it replaces $$ when it starts a command
    assert f"WorkingDirectory: /tmp/{name}\n" in dump
