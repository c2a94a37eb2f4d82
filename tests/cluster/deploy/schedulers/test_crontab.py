"""Lines for cron, read by another parser and run by a shell."""

import re
import subprocess
from pathlib import Path

import crontab as python_crontab  # type: ignore[import-untyped]
import hypothesis
import pytest

from cluster.deploy.schedulers import SchedulerError, UnwritableError
from cluster.deploy.schedulers.crontab import crontab
from tests.support.emitted import (
    COMMAND,
    CRONS,
    FREE_TEXT,
    HOSTILE,
    WORDS,
    check_crontab,
    cron_command,
    cron_variable,
    hostile,
    timer,
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


@pytest.mark.parametrize("name", ["back\\", "100%", "it's", "two words", "$HOME", "-", 'a"b', " "])
def test_a_crontab_changes_to_a_folder_with_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    text = crontab(hostile(HOSTILE[:5], str(tmp_path / name)))
    check_crontab(hostile(HOSTILE[:5]), text)
    (line,) = re.findall("^@reboot (.*)", text, re.MULTILINE)
    command = cron_command(line, halves_backslashes=False).partition(" && /usr/bin/printf")[0]
    assert subprocess.check_output(["sh", "-c", f"{command} && pwd"], text=True) == f"{tmp_path / name}\n"


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


def test_a_command_that_debians_cron_would_cut_is_refused() -> None:
    with pytest.raises(UnwritableError, match=r"command: expected at most 998 bytes in a crontab, got 1,\d+; use emit"):
        crontab(hostile(["ü" * 490]))
