import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster import errors as cluster_errors
from cluster.lanes.deaths import Kind
from jobs.console import exit_codes
from jobs.console.output import run_command
from mnist_lib import errors as mnist_errors

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (mnist_errors.SpecError, 2),
        (exit_codes.UsageError, 2),
        (mnist_errors.ImageError, 2),
        (mnist_errors.DataMissingError, 3),
        (mnist_errors.DataChecksumError, 3),
        (cluster_errors.ResourcesError, 4),
        (mnist_errors.StoreError, 6),
        (cluster_errors.ClusterError, 8),
        (mnist_errors.BusyError, 75),
        (ZeroDivisionError, 1),
    ],
)
def test_each_failure_is_one_line_and_a_fixed_exit_code(
    error: type[Exception], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(arguments: Sequence[str]) -> int:
        raise error("what\nhappened")

    assert run_command(command, []) == expected
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1].startswith(f"error[{getattr(error, 'code', 'E-BUG')}] ")
    assert "what happened" in stderr
    assert ("Traceback" in stderr) == (expected == 1)


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="jobs")

    def command(arguments: Sequence[str]) -> int:
        raise mnist_errors.DataError("damaged")

    assert run_command(command, []) == 3
    assert "Traceback" in capsys.readouterr().err


def test_every_error_class_has_an_exit_code() -> None:
    of_notices = {"E-CHECKPOINT"}  # no run ends with it
    for module in (mnist_errors, cluster_errors, exit_codes):
        for item in vars(module).values():
            code = getattr(item, "code", None)
            if isinstance(code, str) and code not in of_notices | {"E-BUG"}:
                assert exit_codes.exit_code_of(code) != 1, code


@pytest.mark.parametrize("kind", Kind)
def test_a_run_whose_every_trial_died_ends_with_5(kind: Kind) -> None:
    assert exit_codes.exit_code_of(kind.code) == (1 if kind is Kind.BUG else 5)


def test_an_error_code_of_another_kind_is_a_bug_not_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    class HttpError(Exception):
        code = 404

    def command(arguments: Sequence[str]) -> int:
        raise HttpError("not found")

    assert run_command(command, []) == 1
    assert "error[E-BUG] HttpError: not found" in capsys.readouterr().err


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_a_reader_that_has_gone_does_not_change_the_exit_code(length: int) -> None:
    code = (
        "import sys; from jobs.console.output import print_result, run_command;"
        f"command = lambda arguments: print_result('x' * {length}) or 9; sys.exit(run_command(command, []))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 9
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
