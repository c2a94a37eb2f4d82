"""The table of exit codes and error codes is complete and consistent."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import cluster
import jobs
from cluster.lanes import Cause
from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes

INTERNAL = {
    "E-BUG",  # the code of every exception that defines none
    "E-CHECKPOINT",  # no run ends with it: the worker restarts the trial without the checkpoint
}


def codes_of_classes() -> Iterator[str]:
    """Yield the codes of the exception classes in mnist_lib.errors and in every module of jobs and cluster."""
    names = ["mnist_lib.errors"]
    for package in (cluster, jobs):
        names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in names:
        for item in vars(importlib.import_module(name)).values():
            code = getattr(item, "code", None)
            if isinstance(item, type) and issubclass(item, Exception) and isinstance(code, str):
                yield code


def test_every_error_class_has_an_exit_code() -> None:
    codes = {*codes_of_classes()}
    assert {"E-USAGE", "E-DATA", "E-STORE", "E-CLUSTER", "E-BUSY"} <= codes
    assert codes <= exit_codes.ERRORS.keys() | INTERNAL


def test_the_table_has_exactly_the_error_codes_in_the_source() -> None:
    files = [path for folder in SOURCE_FOLDERS for path in folder.rglob("*.py") if path.name != "exit_codes.py"]
    written = {code for path in files for code in re.findall(r'"(E-[A-Z][A-Z-]+)"', path.read_text())}
    assert written - INTERNAL <= exit_codes.ERRORS.keys()
    in_exit_codes = {exit_codes.UsageError.code, exit_codes.TrainingError("").code}
    assert exit_codes.ERRORS.keys() <= written | INTERNAL | in_exit_codes


def test_no_code_is_in_two_rows_and_every_code_has_a_meaning() -> None:
    codes = [code for row in exit_codes.TABLE for code in row.errors]
    assert len(codes) == len(set(codes))
    numbers = [row.number for row in exit_codes.TABLE]
    assert numbers == sorted(set(numbers))
    assert all(row.meaning for row in exit_codes.TABLE)
    assert all(error.meaning for error in exit_codes.ERRORS.values())


@pytest.mark.parametrize("row", exit_codes.TABLE, ids=lambda row: str(row.number))
def test_an_exit_code_is_retried_if_and_only_if_one_of_its_errors_is(row: exit_codes.ExitCode) -> None:
    if row.errors and row.number != 1:  # 1 is also the exit code of a driver that Ray ended
        assert (row.retry != "no") == any(error.retry for error in row.errors.values())


@pytest.mark.parametrize("kind", Cause)
def test_every_kind_of_death_has_exit_code_5_except_a_bug_which_has_1(kind: Cause) -> None:
    assert exit_codes.exit_code_of(kind.code) == (1 if kind is Cause.BUG else 5)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("E-NAN", False), ("E-TIMEOUT", False), ("E-OOM", True), ("E-NODE-LOST", True), ("E-X", False)],
)
def test_the_error_code_decides_whether_a_retry_is_worth_it(code: str, expected: bool) -> None:
    assert exit_codes.is_worth_a_retry(code) == expected
