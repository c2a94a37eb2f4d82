"""Small faults that are put into the code on purpose, and that tests must notice.

A mutant replaces one piece of source text in a copy of the project, in which its tests are then run. What no test
notices is not tested, however many lines tests execute.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.job import ROOT

NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".*_cache", ".hypothesis")
NO_TESTS = 5  # exit code of pytest if no test has the marks
WORLDS = 1_000  # that are simulated at most
OPTIONS = ("-x", "--quiet", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider")
LIMITED = ("prlimit", "--cpu=600")  # seconds of processor time, since a fault may let a process run forever
# Errors by which a test fails because the mutant is no valid code, which shows nothing.
INVALID_CODE = ("ImportError", "ModuleNotFoundError", "NameError", "SyntaxError", "UnboundLocalError")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A fault. Either tests or simulated worlds notice it.

    Args:
        name: what the program does wrong.
        file, old, new: in this file, `old` is replaced by `new`.
        why: what it would mean for a user; for worlds, their invariants say so.
        tests: the tests, below `tests/`, that are run until one of them fails.
        invariants: one of them must be broken, see `tests.support.simulation.invariants`.
        first_world: the seed of the first world that is simulated; the fault shows in this world or soon after.
        excuse: why the fault changes nothing, so that no test can notice it.
    """

    name: str
    file: str
    old: str
    new: str
    why: str = ""
    tests: tuple[str, ...] = ()
    invariants: tuple[str, ...] = ()
    first_world: int = 0
    excuse: str = ""


def put_into_a_copy(mutant: Mutant, folder: Path) -> None:
    """Copy the project, with its compiled files, and put the fault into the copy."""
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has {text.count(mutant.old)} times: {mutant.old}"
    path.write_text(text.replace(mutant.old, mutant.new))


def broken_invariant(mutant: Mutant, folder: Path) -> str:
    """Return the invariant that the mutant breaks first, and the seed of the world; "" if it breaks none."""
    put_into_a_copy(mutant, folder)
    campaign = ["-m", "tests.support.simulation.campaign", str(WORLDS), str(mutant.first_world), "--first"]
    return _run(campaign, folder).stdout


def failed_test(mutant: Mutant, folder: Path) -> str:
    """Return the test that notices the mutant, and its error in one line; "" if none does.

    A test whose fixtures fail shows nothing, and is an error; one that cannot be imported does not count.
    """
    put_into_a_copy(mutant, folder)
    tests = [f"tests/{test}" for test in mutant.tests]
    done = _run(["-m", "pytest", *OPTIONS, *tests], folder)
    found = re.search(r"^FAILED (?P<test>\S+.*?) - (?P<error>[\w.]*).*", done.stdout, re.MULTILINE)
    ended = done.returncode in (0, 1) and not re.search(r"^ERROR ", done.stdout, re.MULTILINE)
    assert ended, f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}"
    return "" if found is None or found["error"] in INVALID_CODE else found[0]


def run_tests(tests: list[str], marks: str, folder: Path) -> str:
    """Run the tests with these marks in a copy until one fails, and return what failed; "" if nothing did."""
    done = _run(["-m", "pytest", *OPTIONS, "-m", marks, *tests], folder)
    found = re.search(r"^(FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    return found[0] if found else f"pytest ended with {done.returncode}" if done.returncode not in (0, NO_TESTS) else ""


def _run(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    # Without what pytest tells its processes about themselves, and wide, so that no error in the summary is cut.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*LIMITED, sys.executable, *arguments],
        cwd=folder,
        env={**variables, "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
