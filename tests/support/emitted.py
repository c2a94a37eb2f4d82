"""Commands with values that a scheduler could take for something else, and readers of each format."""

import re
import subprocess
from typing import Any

import yaml

from jobs.retrain.options import EmitOptions

# Prints the whole command, each word with a NUL after it. It contains what systemd and the shell could change.
PRINT = ("/bin/sh", "-c", "cat /proc/$$/cmdline; :", "sh")
HOSTILE = [
    "",
    " ",
    ";",
    "#",
    "a b",
    "\\",
    "back\\",
    "'",
    'it\'s "quoted"',
    "$HOME",
    "$(id)",
    "$$",
    "`id`",
    "~",
    "*",
    "1e3",
]
HOSTILE += ["yes", "null", "- a", "a: b", "[a]", "!tag", "ünï", "日本", "😀"]


def emitted(scheduler: str, cron: str = "0 3 * * *") -> EmitOptions:
    return EmitOptions(scheduler=scheduler, cron=cron, tz="Europe/Berlin", storage="/storage/digits")


def printed_by(shell_command: str) -> list[str]:
    """Return the words that arrive at a command which begins with PRINT."""
    done = subprocess.run(["sh", "-c", shell_command], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def systemd_words(text: str) -> list[str]:
    """Return the arguments of ExecStart. Real systemd reads the same: see test_schedulers.py."""
    (line,) = re.findall("^ExecStart=(.*)", text, re.MULTILINE)
    word = r'"((?:[^"\\]|\\["\\])*)"(?: |$)|([^\s"\'\\;]+)(?: |$)'
    assert re.sub(word, "", line) == ""
    words = [re.sub(r"\\(.)", r"\1", quoted) + plain for quoted, plain in re.findall(word, line)]
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


def pod_of(manifest: str) -> Any:
    """Return the specification of the pod of a CronJob."""
    return yaml.safe_load(manifest)["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def kubernetes_words(manifest: str) -> list[str]:
    """Return the arguments of a container, after Kubernetes has replaced $$."""
    return [word.replace("$$", "$") for word in pod_of(manifest)["containers"][0]["command"]]
