"""Files for other schedulers, read by these or by other parsers: every value arrives unchanged, or is refused."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import crontab as python_crontab  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.retrain.emit import EXAMPLES, STORAGE, cronjob, crontab, service
from jobs.retrain.options import EmitOptions
from tests.support.emitted import HOSTILE, PRINT, emitted, kubernetes_words, pod_of, printed_by, systemd_words

SYSTEMD = shutil.which("systemd-analyze")
MANAGER = Path("/usr/lib/systemd/systemd")
FLAGS = ["-m", "jobs.retrain", "--once", "--cron=0 3 * * *", "--storage=/srv/digits"]


def test_no_scheduler_retries_a_final_exit_code() -> None:
    """Exit codes to retry "once" are final, too, since the command itself has already retried after them."""
    final = {row.number for row in exit_codes.TABLE if row.retry != "yes"} - {exit_codes.DONE}
    (line,) = re.findall(r"RestartPreventExitStatus=(.*)", service(emitted("systemd"), PRINT))
    assert {*map(int, line.split())} == final


def test_the_files_in_the_repository_are_those_that_are_emitted_for_their_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/opt/mnist-jobs"))
    options = EmitOptions(scheduler="crontab", cron="0 3 * * *", storage="/srv/digits")
    python = "/opt/mnist-jobs/.venv/bin/python"
    assert crontab(options, [python, *FLAGS]) == (EXAMPLES / "crontab").read_text()
    text = service(options, [python, *(flag for flag in FLAGS if flag != "--once")])
    assert text == (EXAMPLES / "systemd/mnist-jobs-nightly.service").read_text()
    example = (EXAMPLES / "kubernetes/cronjob.yaml").read_text()
    assert yaml.safe_load(cronjob(options, kubernetes_words(example))) == yaml.safe_load(example)


@pytest.mark.parametrize("name", ["two words", "it's"])
def test_another_parser_reads_the_timetable_and_the_command_from_the_crontab(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    words = [*PRINT, *(word for word in HOSTILE if word != "#")]  # where the parser sees a comment, even in quotes
    at_time, at_boot = python_crontab.CronTab(tab=crontab(emitted("crontab", "*/15 2 * * 1-5"), words))
    assert at_time.slices.render() == "*/15 2 * * 1-5"
    assert at_boot.slices.special == "@reboot"
    assert at_time.env["CRON_TZ"] == "Europe/Berlin"
    assert at_time.is_valid()
    assert printed_by(at_time.command) == printed_by(at_boot.command) == words


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("ü" * 490, r"command: expected at most 998 bytes without % in a crontab, got 1,\d+; use emit systemd"),
        ("100%", r"command: expected at most 998 bytes without % in a crontab, got one with %; use emit"),
    ],
)
def test_a_command_that_cron_would_cut_is_refused(word: str, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        crontab(emitted("crontab"), [*PRINT, word])


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_cron_job_is_valid_by_the_published_schema(version: str) -> None:
    text = cronjob(emitted("kubernetes"), [*PRINT, *HOSTILE])
    manifest = yaml.safe_load(text)
    kubernetes_validate.validate(manifest, version, strict=True)
    assert manifest["spec"]["timeZone"] == "Europe/Berlin"
    assert kubernetes_words(text) == [*PRINT, *HOSTILE]
    assert pod_of(text)["containers"][0]["image"] == "mnist-jobs:0.1.0"


def test_the_manifest_mounts_a_volume_where_a_storage_is_accepted() -> None:
    pod = pod_of(cronjob(emitted("kubernetes"), PRINT))
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == str(STORAGE)]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert "persistentVolumeClaim" in volume


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_service(tmp_path: Path) -> None:
    file = tmp_path / "mnist-jobs-nightly.service"
    file.write_text(service(emitted("systemd"), [*PRINT, *HOSTILE]))
    command = [str(SYSTEMD), "verify", "--man=no", "--recursive-errors=one", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert systemd_words(file.read_text()) == [*PRINT, *HOSTILE]
    file.write_text(file.read_text().replace("KillMode=mixed", "KillMode=x"))
    assert "kill mode" in subprocess.run(command, capture_output=True, text=True).stderr  # the check can fail


@pytest.mark.skipif(SYSTEMD is None or not MANAGER.exists(), reason="there is no systemd")
@pytest.mark.parametrize("name", ["100% it's", "two words"])
def test_systemd_itself_reads_every_argument_and_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its test mode, systemd prints what it has read, quoted for a shell, and starts nothing."""
    words = [*PRINT, *HOSTILE, "100%", "%h", "%%"]
    monkeypatch.setattr(Path, "cwd", lambda: Path(f"/tmp/{name}"))
    text = service(emitted("systemd"), words)
    folder = Path("/tmp", f"mnist-units-{os.getpid()}")  # readable for another user
    folder.mkdir()
    folder.chmod(0o777)
    try:
        (folder / "mnist-jobs-nightly.service").write_text(text)
        command = [str(MANAGER), "--user", "--test", "--unit=mnist-jobs-nightly.service", "--no-pager"]
        if os.getuid() == 0:  # it refuses to test as root
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "XDG_RUNTIME_DIR": str(folder)}
        environment["SYSTEMD_UNIT_PATH"] = f"{folder}:/usr/lib/systemd/user"
        dump = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    finally:
        shutil.rmtree(folder)
    (line,) = re.findall(r"Command Line: (/bin/sh .*)", dump)
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"(?: |$)|([^ ]+)', line)
    arrived = [re.sub(r"\\(.)", r"\1", quoted) + plain for quoted, plain in parts]
    assert [word.replace("$$", "$") for word in arrived] == words  # it replaces $$ when it starts a command
    assert f"WorkingDirectory: /tmp/{name}\n" in dump
