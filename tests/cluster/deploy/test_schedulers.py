"""The files for other schedulers, each checked by the scheduler's own parser, another parser, or a published schema."""

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
import hypothesis.strategies as st
import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from cronsim import CronSim

from cluster.deploy.schedulers import COMMENT, SchedulerError, Timer, UnwritableError, kubernetes
from cluster.deploy.schedulers.crontab import crontab
from cluster.deploy.schedulers.kubernetes import STORAGE, cronjob, raycronjob
from cluster.deploy.schedulers.systemd import on_calendar, units
from jobs.console import exit_codes
from jobs.retrain.emit import FINAL_EXIT_CODES
from tests.support.deploy_files import JOB_SCHEMA
from tests.support.emitted import (
    PRINTF,
    cron_command,
    cron_variable,
    kubernetes_words,
    pod_of,
    printed_by,
    systemd_words,
)

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
    assert kubernetes_words(cronjob(timer(), "an-image:1")) == list(COMMAND)
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


# Values that a scheduler could take for something else

HOSTILE = [
    "",
    " ",
    ";",
    "#",
    "a b",
    "100%",
    "50\\%d",
    "\\",
    "\\\\",
    "back\\",
    "\\\\%",
    "'",
    '"',
    'it\'s "quoted"',
    "$HOME",
    "$(touch /canary)",
    "${HOME}",
    "$$",
    "$",
    "`id`",
    "%h",
    "%%",
    "~",
    "*",
    "-",
    "&& id",
    "1e3",
    "0o17",
    "yes",
    "null",
    "- a",
    "a: b",
    "[a]",
    "!tag",
    "ünï",
    "$é",
    "日本",
    "\u00a0",
    "\ufeff",
    "😀",
]
CONTROLS = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"]
FREE_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=20)
# Text with what the formats escape, more often than it would come up by itself.
WORDS = st.lists(FREE_TEXT | st.text("\\%$\"' ab#;(){}`", max_size=8), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def short_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CronJob with only the fields that are filled in: PyYAML takes a tenth of a second for the others."""
    template = tmp_path_factory.mktemp("templates") / "cronjob.yaml"
    container = {"env": [{"name": "MNIST_JOBS_NOTIFY"}]}
    job = {"podFailurePolicy": {"rules": [{"onExitCodes": {}}]}, "template": {"spec": {"containers": [container]}}}
    spec = {"jobTemplate": {"spec": job}}
    template.write_text(yaml.safe_dump({"kind": "CronJob", "metadata": {"labels": {}}, "spec": spec}))
    return template


def hostile(words: list[str], folder: str = "/", notify: str | None = None) -> Timer:
    return dataclasses.replace(timer(), command=(*PRINTF, *words), folder=Path(folder), notify=notify)


def check_crontab(made: Timer, text: str) -> None:
    """Check that there are two jobs, and that the shell gives their command exactly its arguments."""
    *variables, at_time, at_boot = [line for line in text.removesuffix("\n").split("\n") if not line.startswith("#")]
    line = at_boot.removeprefix("@reboot ")
    assert at_time == f"0 3 * * * {line}"
    assert [name.partition("=")[0] for name in variables] == ["MNIST_JOBS_NOTIFY", "CRON_TZ"][made.notify is None :]
    if "#" not in line:  # where the other parser sees a comment, even in quotes
        read = [job.command for job in python_crontab.CronTab(tab=text)]
        assert read == [cron_command(line, halves_backslashes=False)] * 2
    for halves_backslashes in (False, True):
        assert printed_by(cron_command(line, halves_backslashes=halves_backslashes)) == list(made.command[2:])


@pytest.mark.parametrize("name", ["back\\", "100%", "it's", "two words", "$HOME", "-", 'a"b', " "])
def test_a_crontab_changes_to_a_folder_with_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    text = crontab(hostile(HOSTILE[:5], str(tmp_path / name)))
    check_crontab(hostile(HOSTILE[:5]), text)
    (line,) = re.findall("^@reboot (.*)", text, re.MULTILINE)
    command = cron_command(line, halves_backslashes=False).partition(" && /usr/bin/printf")[0]
    assert subprocess.check_output(["sh", "-c", f"{command} && pwd"], text=True) == f"{tmp_path / name}\n"


def test_every_hostile_argument_arrives_unchanged() -> None:
    made = hostile(HOSTILE)
    check_crontab(made, crontab(made))
    assert systemd_words(units(made)["mnist-jobs-nightly.service"]) == list(made.command)
    assert kubernetes_words(cronjob(made, "i")) == list(made.command)
    *_, ray_job = yaml.safe_load_all(raycronjob(made, "i"))
    assert printed_by(ray_job["spec"]["jobTemplate"]["entrypoint"]) == HOSTILE


@pytest.mark.fuzz
@hypothesis.given(WORDS, FREE_TEXT.map(str.strip).filter(bool))
def test_u9_any_argument_comes_back_from_a_crontab(words: list[str], notify: str) -> None:
    made = hostile(words, notify=notify)
    try:
        text = crontab(made)
    except UnwritableError:  # too long, or both kinds of quotes
        return
    check_crontab(made, text)
    assert cron_variable(text, "MNIST_JOBS_NOTIFY") == notify


@pytest.mark.fuzz
@hypothesis.given(WORDS, FREE_TEXT, FREE_TEXT)
def test_u9_any_argument_comes_back_from_a_unit(words: list[str], folder: str, notify: str) -> None:
    files = units(hostile(words, f"/{folder}", notify))
    service = files["mnist-jobs-nightly.service"]
    assert systemd_words(service) == [*PRINTF, *words]
    (value,) = re.findall("^WorkingDirectory=(.*)/$", service, re.MULTILINE)
    assert value.replace("%%", "%") == str(Path(f"/{folder}"))
    variables = files["nightly.env"]
    assert shlex.split(variables, comments=True) == [f"MNIST_JOBS_NOTIFY={notify}"] or "`" in notify or "$" in notify
    assert len(variables.splitlines()) == 2


@pytest.mark.fuzz
@hypothesis.given(WORDS, FREE_TEXT, FREE_TEXT)
def test_u9_any_argument_comes_back_from_a_manifest(
    short_template: Path, words: list[str], image: str, notify: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes, "CRONJOB", short_template)
        text = cronjob(hostile(words, notify=notify), image)
    assert kubernetes_words(text) == [*PRINTF, *words]
    assert pod_of(text)["containers"][0]["image"] == image
    secret, _ = yaml.load_all(text, yaml.CSafeLoader)
    assert secret["stringData"] == {"url": notify}


@pytest.mark.parametrize("c", [*CONTROLS, "\ud800", "\ufdd0", "\uffff", "\U0010fffe"])
def test_a_control_character_is_refused_in_everything_that_is_written(c: str) -> None:
    changes: list[dict[str, Any]] = [{"command": ("python", c)}, {"folder": Path(f"/a{c}b")}, {"notify": f"cat{c}"}]
    for change in changes:
        with pytest.raises(UnwritableError, match="expected UTF-8 without control characters"):
            dataclasses.replace(timer(), **change)
    for field in ("name", "cron", "zone", "about"):
        change = {field: f"a{c}b"}
        with pytest.raises(UnwritableError, match="expected printable ASCII"):
            dataclasses.replace(timer(), **change)
    for emit in (cronjob, raycronjob):
        with pytest.raises(UnwritableError, match="image: "):
            emit(timer(), f"an-image{c}")


def test_a_command_that_debians_cron_would_cut_is_refused() -> None:
    with pytest.raises(UnwritableError, match=r"command: expected at most 998 bytes in a crontab, got 1,\d+; use emit"):
        crontab(hostile(["ü" * 490]))


def test_a_receiver_of_notices_is_in_the_environment_and_not_in_the_command() -> None:
    for notify in ("https://hooks.example.com/canary?a=1%2F&b=$x", "'/opt/my tools/notify' --to \\x", '"a b" `c`'):
        made = dataclasses.replace(timer(), notify=notify)
        assert cron_variable(crontab(made), "MNIST_JOBS_NOTIFY") == notify
        files = units(made)
        script = '. /dev/stdin; printf %s "$MNIST_JOBS_NOTIFY"'
        assert subprocess.check_output(["sh", "-c", script], input=files["nightly.env"], text=True) == notify
        assert "EnvironmentFile=%E/mnist-jobs/nightly.env" in files["mnist-jobs-nightly.service"]  # it must exist
        assert notify not in files["mnist-jobs-nightly.service"]
        for manifest in (cronjob(made, "i"), raycronjob(made, "i")):
            secret, job = yaml.safe_load_all(manifest)
            assert (secret["kind"], secret["stringData"]) == ("Secret", {"url": notify})
            (variable,) = [v for v in pod_of(manifest)["containers"][0]["env"] if v["name"] == "MNIST_JOBS_NOTIFY"]
            assert variable["valueFrom"] == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "url"}}
            assert "canary" not in yaml.dump(job)
    kubernetes_validate.validate(secret, "1.31", strict=True)
    with pytest.raises(UnwritableError, match="both kinds of quotes"):
        crontab(dataclasses.replace(timer(), notify="'it' \"is\""))


def test_both_manifests_mount_a_volume_where_a_storage_is_accepted() -> None:
    for manifest in (cronjob(timer(), "i"), raycronjob(timer(), "i")):
        (mount,) = [m for m in pod_of(manifest)["containers"][0]["volumeMounts"] if m["mountPath"] == str(STORAGE)]
        (volume,) = [volume for volume in pod_of(manifest)["volumes"] if volume["name"] == mount["name"]]
        assert "persistentVolumeClaim" in volume


MANAGER = Path("/usr/lib/systemd/systemd")


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
    (line,) = re.findall(r"Command Line: (/usr/bin/printf .*)", dump)
    found = re.findall(r'"((?:[^"\\]|\\.)*)"(?: |$)|([^ ]+)', line)
    words = [re.sub(r"\\(.)", r"\1", quoted) + plain for quoted, plain in found]
    assert [word.replace("$$", "$") for word in words] == [*PRINTF, *HOSTILE]  # it replaces $$ when it starts a command
    assert f"WorkingDirectory: /tmp/{name}\n" in dump
