"""Timers with hostile values, and what a scheduler makes of them: readers of each format, apart from its writer."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import crontab as python_crontab  # type: ignore[import-untyped]
import hypothesis.strategies as st
import yaml

from jobs.retrain.emit import Timer

# Prints the whole command, each word with a NUL after it. It contains what systemd and the shell could change.
PRINT = ("/bin/sh", "-c", "cat /proc/$$/cmdline; :", "sh")
COMMAND = ("/usr/bin/python3", "-m", "jobs.retrain", "--once", "--cron", "0 3 * * *", "--storage", "/data/5 $HOME")
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
# Values that a scheduler could take for something else.
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
    "😀",
]
FREE_TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"], include_characters=" "), max_size=20)
# Text with what the formats escape, more often than it would come up by itself.
WORDS = st.lists(FREE_TEXT | st.text("\\%$\"' ab#;(){}`", max_size=8), min_size=1, max_size=8)


def timer(cron: str = "0 3 * * *", zone: str = "Europe/Berlin", starting_deadline: float | None = None) -> Timer:
    return Timer(
        name="nightly",
        cron=cron,
        zone=zone,
        command=COMMAND,
        folder=Path("/srv/digits"),
        starting_deadline=starting_deadline,
    )


def hostile(words: list[str], folder: str = "/", notify: str | None = None) -> Timer:
    return dataclasses.replace(timer(), command=(*PRINT, *words), folder=Path(folder), notify=notify)


def printed_by(shell_command: str) -> list[str]:
    """Return the words that arrive at a command which begins with PRINT."""
    done = subprocess.run(["sh", "-c", shell_command], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def cron_command(text: str) -> str:
    """Return what cron gives to the shell after a boot. A per cent sign would end it there."""
    (line,) = re.findall("^@reboot (.*)", text, re.MULTILINE)
    assert "%" not in line
    return str(line)


def cron_variable(text: str, name: str) -> str:
    """Return the value of a variable. Quotes around a whole value are removed, and cron knows no escapes."""
    (value,) = re.findall(f"^{name}=(.*)", text, re.MULTILINE)
    if value[:1] in ("'", '"'):
        assert value.index(value[0], 1) == len(value) - 1
        return str(value[1:-1])
    return str(value.strip())


def systemd_words(text: str) -> list[str]:
    """Return the arguments of ExecStart. Real systemd reads the same: see test_schedulers.py."""
    (line,) = re.findall("^ExecStart=(.*)", text, re.MULTILINE)
    found = re.findall(r'"((?:[^"\\]|\\["\\])*)"(?: |$)|([^\s"\'\\;]+)(?: |$)', line)
    assert re.sub(r'"((?:[^"\\]|\\["\\])*)"(?: |$)|([^\s"\'\\;]+)(?: |$)', "", line) == ""
    words = [re.sub(r"\\(.)", r"\1", quoted) + plain for quoted, plain in found]
    for mark in "%$":
        assert not any(mark in word.replace(mark * 2, "") for word in words)
        words = [word.replace(mark * 2, mark) for word in words]
    return words


def pod_of(manifest: str) -> Any:
    """Return the specification of the pod of a CronJob, the last document."""
    *_, document = yaml.load_all(manifest, yaml.CSafeLoader)
    return document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def kubernetes_words(manifest: str) -> list[str]:
    """Return the arguments of a container, after Kubernetes has replaced $(NAME) and $$."""
    words = pod_of(manifest)["containers"][0]["command"]
    assert not any(re.search(r"(?<!\$)(\$\$)*\$(?!\$)", word) for word in words)
    return [word.replace("$$", "$") for word in words]


def check_crontab(made: Timer, text: str) -> None:
    """Check that there are two jobs, and that the shell gives their command exactly its arguments."""
    *variables, at_time, _ = [line for line in text.removesuffix("\n").split("\n") if not line.startswith("#")]
    command = cron_command(text)
    assert at_time == f"0 3 * * * {command}"
    assert [name.partition("=")[0] for name in variables] == ["MNIST_JOBS_NOTIFY", "CRON_TZ"][made.notify is None :]
    if "#" not in command:  # where the other parser sees a comment, even in quotes
        assert [job.command for job in python_crontab.CronTab(tab=text)] == [command] * 2
    assert printed_by(command) == list(made.command)
