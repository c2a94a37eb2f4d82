"""Standard output and standard error: text of others cannot act on a terminal, and lost output is an error."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from jobs.console.output import table
from jobs.console.terminal import SafeStream
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import publish
from tests.support.hostile import ANY_TEXT, is_harmless
from tests.support.job import ROOT
from tests.support.store.fake_versions import about, files

STORAGE = "--storage=results"
COMMANDS = [
    "jobs.models list --json",
    "jobs.models list",
    "jobs.models show keras@1",
    "jobs.models diff keras@1 keras@2",
    "jobs.models champion",
    "jobs.models history --json",
    "jobs.models verify",
    "jobs.models gc --keep=5",
    "jobs.models promote keras@2 --always",
    "jobs.models rollback keras",
    "jobs.retrain emit crontab --cron=0_3_*_*_*",
    "jobs.retrain status",
    "jobs.retrain status --json",
    "jobs.train --plan",
    "jobs.doctor --json",
    "jobs.show --json",
]
# Each command gets a new standard output, and the list of exit codes goes to the file `codes`.
MANY_COMMANDS = """
import importlib, json, os, pathlib, sys
full = os.dup(1)
codes = {}
for line in sys.argv[1:]:
    os.dup2(full, 1)
    name, *words = (word.replace("_", " ") for word in line.split())
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    codes[line] = module.main(words)
pathlib.Path("codes").write_text(json.dumps(codes))
"""


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two versions of keras and a champion, in the folder `results`."""
    objects = LocalObjects(tmp_path / "results")
    for right in (100, 150):
        version = publish(objects, "keras", f"run-{right}", files(right), about(right=right))
        promote(objects, version, Rule(promote="always"))
    return tmp_path


@pytest.mark.slow
def test_u10_every_command_ends_with_74_if_its_output_is_lost(storage: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT)}  # buffered output fails late
    command = ["sh", "-c", 'exec "$0" "$@" >/dev/full', sys.executable, "-c", MANY_COMMANDS, *COMMANDS]
    done = subprocess.run(command, cwd=storage, env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((storage / "codes").read_text()) == dict.fromkeys(COMMANDS, 74), done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error[")] == len(COMMANDS) * [
        "error[E-OUTPUT] standard output cannot be written (No space left on device); send the output to another place"
    ]
    assert "Traceback" not in done.stderr


def test_a_command_whose_output_is_lost_still_does_its_work(storage: Path) -> None:
    command = [sys.executable, "-m", "jobs.models", "promote", "keras@1", "--always", STORAGE]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=storage, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (74, 1)
    current = champion(LocalObjects(storage / "results"), "keras", "mnist")
    assert current is not None
    assert current.version == 1


def test_a_lost_standard_error_changes_no_exit_code_and_no_output() -> None:
    code = "import sys; from jobs.console.output import *; sys.exit(entry_point(lambda _: %s or 9)([]))"
    both = code % "print_stderr('a line') or print_result('a result')"
    command = ["sh", "-c", 'exec "$0" "$@" 2>/dev/full', sys.executable, "-c", both]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": ""}, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (9, b"a result\n")


EVERYWHERE = """
import logging, sys, threading, warnings
from rich.console import Group
from rich.text import Text
from jobs.console.output import *
from tests.support.hostile import HOSTILE

def fail():
    raise ValueError(HOSTILE)

def command(_):
    log_to_stderr(verbose=True)
    logging.getLogger("jobs").warning("logged %s", HOSTILE)
    print_stderr(f"printed {HOSTILE}")
    sys.stderr.write(HOSTILE)
    warnings.warn(HOSTILE)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    print_result(f"result {HOSTILE}")
    by_rich = (Group(HOSTILE), table([HOSTILE, ""], [[HOSTILE, Text("drawn")]]))
    print_result(as_text(HOSTILE, table([HOSTILE], [[HOSTILE]]), *by_rich))
    fail()

sys.exit(entry_point(command)([]))
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_of_others_is_escaped_wherever_it_is_printed(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", EVERYWHERE], cwd=ROOT, env=environment, capture_output=True)
    stdout, stderr = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 1
    for text in (stdout, stderr):
        assert is_harmless(text)
    assert stdout.count(r"b\x1b]0;x") == stdout.count("[red]e") == 7
    assert stdout.count(r"\n[red]e") == 5  # a line feed is escaped in a line and in the cells of a table
    assert r"logged b\x1b]0;x" in stderr
    assert stderr.splitlines()[-1].startswith(r"error[E-BUG] ValueError: b\x1b]0;x")


@pytest.mark.fuzz
@given(text=ANY_TEXT, encoding=st.sampled_from(["utf-8", "ascii"]))
def test_no_text_can_act_on_a_terminal_or_fail_to_be_printed(text: str, encoding: str) -> None:
    file = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(file, encoding))
    stream.write(text)
    stream.flush()
    assert stream.error is None
    assert is_harmless(file.getvalue().decode(encoding).replace("\t", ""))


@pytest.mark.fuzz
@given(names=st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_a_table_has_one_line_for_each_row_whatever_the_names(names: list[str]) -> None:
    for count in ("7", Text("7")):
        text = table(("name", "count"), [(name, count) for name in names])
        assert is_harmless(text)
        assert [line.split()[-1] for line in text.splitlines()] == ["count", *len(names) * "7"]
