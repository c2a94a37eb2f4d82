"""The files for other schedulers, each checked by the scheduler's own parser, another parser, or a published schema."""

import dataclasses
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import crontab as python_crontab  # type: ignore[import-untyped]
import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from cronsim import CronSim

from cluster.deploy.schedulers import COMMENT, SchedulerError, Timer
from cluster.deploy.schedulers.crontab import crontab
from cluster.deploy.schedulers.kubernetes import cronjob, raycronjob
from cluster.deploy.schedulers.systemd import on_calendar, units
from jobs.console import exit_codes
from jobs.retrain.emit import FINAL_EXIT_CODES
from tests.support.deploy_files import JOB_SCHEMA

SYSTEMD = shutil.which("systemd-analyze")
COMMAND = ("/usr/bin/python3", "-m", "jobs.retrain", "--once", "--cron", "0 3 * * *", "--storage", "/data/50% $HOME")
CRONS = [
    "0 3 * * *",
    "*/15 * * * *",
    "30 2,14 * * 1-5",
    "0 4 1 * *",
    "0 4 L * *",
    "5-50/15 1-23/2 * JAN,JUN SUN",
    "0 12 13 * 5",  # on the 13th, and on Fridays
    "0 0 1,15 */3 *",
    "0 3 1 * 0-6",  # on the 1st, and on every day of the week: every day
]
RAY_CRON_JOB_SCHEMA = {  # raycronjob_types.go of KubeRay; timeZone is missing in its first versions
    "type": "object",
    "properties": {
        "schedule": {"type": "string"},
        "timeZone": {"type": "string"},
        "suspend": {"type": "boolean"},
        "jobTemplate": JOB_SCHEMA,
    },
    "required": ["schedule", "jobTemplate"],
    "additionalProperties": False,
}


def timer(cron: str = "0 3 * * *", zone: str = "Europe/Berlin", starting_deadline: float | None = None) -> Timer:
    return Timer(
        name="nightly",
        cron=cron,
        zone=zone,
        command=COMMAND,
        folder=Path("/srv/digits"),
        about="Retraining of 100% of the digits",
        final_exit_codes=FINAL_EXIT_CODES,
        starting_deadline=starting_deadline,
    )


@pytest.mark.parametrize("cron", [cron for cron in CRONS if "L" not in cron])
def test_another_parser_reads_the_same_timetable_from_the_crontab(cron: str) -> None:
    read = python_crontab.CronTab(tab=crontab(timer(cron)))
    at_time, at_boot = read
    assert at_time.slices.render() in (cron, python_crontab.CronSlices(cron).render())
    assert at_boot.slices.special == "@reboot"
    assert at_time.env["CRON_TZ"] == "Europe/Berlin"
    assert at_time.command == at_boot.command
    assert at_time.is_valid()


def test_a_shell_splits_the_command_of_a_crontab_into_its_arguments() -> None:
    (line,) = [line for line in crontab(timer()).splitlines() if line.startswith("@reboot ")]
    command = line.removeprefix("@reboot ").replace(r"\%", "%")  # as cron does
    assert "%" not in line.replace(r"\%", "")
    words = command.replace("cd /srv/digits && /usr/bin/python3", "printf '%s\\n'")
    printed = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == list(COMMAND[1:])


def test_cron_syntax_that_only_some_implementations_understand_is_refused() -> None:
    for cron in ("0 4 L * *", "0 4 * * 5#2", "0 4 LW * *", "0 4 * * 5L"):
        with pytest.raises(SchedulerError, match="a crontab does not understand L, LW or #"):
            crontab(timer(cron))
    crontab(timer("0 4 * JUL WED"))


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
        with pytest.raises(SchedulerError, match="n-th or last weekday"):
            units(timer(cron))


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_cron_job_is_valid_by_the_published_schema(version: str) -> None:
    made = yaml.safe_load(cronjob(timer(starting_deadline=600), "an-image:1"))
    kubernetes_validate.validate(made, version, strict=True)
    assert made["spec"]["timeZone"] == "Europe/Berlin"
    assert made["spec"]["startingDeadlineSeconds"] == 600
    (container,) = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == list(COMMAND)
    assert container["image"] == "an-image:1"


@pytest.mark.parametrize(("zone", "expected"), [("UTC", None), ("Europe/Berlin", "Europe/Berlin")])
def test_the_ray_cron_job_has_only_fields_of_kuberay(zone: str, expected: str | None) -> None:
    made = yaml.safe_load(raycronjob(timer(zone=zone), "an-image:1"))
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayCronJob")
    jsonschema.validate(made["spec"], RAY_CRON_JOB_SCHEMA)
    assert made["spec"].get("timeZone") == expected
    assert made["spec"]["jobTemplate"]["entrypoint"].startswith("/usr/bin/python3 -m jobs.retrain --once")
    assert set(re.findall(r"image: (\S+)", yaml.dump(made))) == {"an-image:1"}


@pytest.mark.parametrize("name", ["a_", "x" * 60, "A.B", "nightly"])
def test_the_name_of_the_object_is_valid_in_kubernetes(name: str) -> None:
    for text in (
        cronjob(dataclasses.replace(timer(), name=name), "i"),
        raycronjob(dataclasses.replace(timer(), name=name), "i"),
    ):
        assert re.fullmatch("[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", yaml.safe_load(text)["metadata"]["name"])


def test_schedules_whose_names_differ_get_different_objects_in_kubernetes() -> None:
    names = ["a-b", "a.b", "a_b", "A-b", "x" * 60, "x" * 61]
    made = [yaml.safe_load(cronjob(dataclasses.replace(timer(), name=name), "i"))["metadata"]["name"] for name in names]
    assert len({*made}) == len(names)
    assert made[0] == "mnist-a-b"


@pytest.mark.parametrize(("cron", "schedule"), [("0 3 * * 7", "0 3 * * 0"), ("0 3 * * 5-7", "0 3 * * 0,5,6")])
def test_sunday_is_0_in_kubernetes(cron: str, schedule: str) -> None:
    assert yaml.safe_load(cronjob(timer(cron), "i"))["spec"]["schedule"] == schedule
    assert yaml.safe_load(raycronjob(timer(cron), "i"))["spec"]["schedule"] == schedule


def test_a_timetable_that_kubernetes_does_not_understand_is_refused() -> None:
    with pytest.raises(SchedulerError, match="Kubernetes does not understand L, LW or #"):
        cronjob(timer("0 3 L * *"), "i")


def test_each_file_says_what_the_command_itself_takes_care_of() -> None:
    for text in (crontab(timer()), cronjob(timer(), "i"), raycronjob(timer(), "i")):
        assert COMMENT in text
    for text in units(timer()).values():
        assert COMMENT in text or "The command runs that slot" in text


def test_no_scheduler_retries_a_final_exit_code() -> None:
    """Exit codes to retry "once" are final, too, since the command itself has already retried after them."""
    assert set(FINAL_EXIT_CODES) == {row.number for row in exit_codes.TABLE if row.retry != "yes"} - {exit_codes.DONE}
    (line,) = re.findall(r"RestartPreventExitStatus=(.*)", units(timer())["mnist-jobs-nightly.service"])
    assert [*map(int, line.split())] == [*FINAL_EXIT_CODES]
    job = yaml.safe_load(cronjob(timer(), "i"))["spec"]["jobTemplate"]["spec"]
    by_code = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert [(rule["action"], rule["onExitCodes"]["operator"]) for rule in by_code] == [("FailJob", "In")]
    assert by_code[0]["onExitCodes"]["values"] == [*FINAL_EXIT_CODES]
