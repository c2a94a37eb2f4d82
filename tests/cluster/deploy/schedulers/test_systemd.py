"""Units of systemd, checked and read by systemd itself."""

import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from cronsim import CronSim

from cluster.deploy.schedulers import SchedulerError
from cluster.deploy.schedulers.systemd import on_calendar, units
from tests.support.emitted import (
    CRONS,
    FREE_TEXT,
    HOSTILE,
    PRINTF,
    WORDS,
    hostile,
    systemd_words,
    timer,
)

SYSTEMD = shutil.which("systemd-analyze")

MANAGER = Path("/usr/lib/systemd/systemd")


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
