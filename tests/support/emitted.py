"""What a scheduler makes of an emitted file: readers of each format, apart from the code that writes it."""

import re
import subprocess
from typing import Any

import yaml

# Prints its arguments, each with a NUL after it. Its own first argument contains what cron and the shell could change.
PRINTF = ("/usr/bin/printf", r"%s\0")


def printed_by(shell_command: str) -> list[str]:
    """Return the arguments that arrive at a command which begins with PRINTF."""
    done = subprocess.run(["sh", "-c", shell_command], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def cron_command(line: str, *, halves_backslashes: bool) -> str:
    """Return what cron gives to the shell. An escaped % loses its backslash, and with FreeBSD's cron so does \\\\."""
    command, escaped = "", False
    for c in line:
        if escaped and (c == "%" or (halves_backslashes and c == "\\")):
            command = command[:-1]
        elif c == "%":
            raise AssertionError(f"cron ends the command here: {command}")
        command += c
        escaped = c == "\\" and not escaped
    return command


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
    """Return the specification of the pod that runs the command of a CronJob or RayCronJob, the last document."""
    *_, document = yaml.load_all(manifest, yaml.CSafeLoader)
    template = document["spec"]["jobTemplate"]
    if document["kind"] == "RayCronJob":
        return template["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    return template["spec"]["template"]["spec"]


def kubernetes_words(manifest: str) -> list[str]:
    """Return the arguments of a container, after Kubernetes has replaced $(NAME) and $$."""
    words = pod_of(manifest)["containers"][0]["command"]
    assert not any(re.search(r"(?<!\$)(\$\$)*\$(?!\$)", word) for word in words)
    return [word.replace("$$", "$") for word in words]
