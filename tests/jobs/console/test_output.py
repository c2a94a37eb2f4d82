"""What commands print: errors, results and tables."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from rich.text import Text

from cluster import errors as cluster_errors
from jobs.console import exit_codes
from jobs.console.output import CommandResult, as_text, entry_point, log_to_stderr, table
from mnist_lib import errors as mnist_errors
from tests.support.job import ROOT

HEADINGS = ("version", "", "test accuracy", "run", "what")
ROWS = [
    ("keras@1", "champion", "97.10%", "2026-11-25T03-00-00Z-mnist-mini", "the first version of this model"),
    ("keras-cnn@12", "", "99.20%", "nightly", "E-DATA-MISSING mnist: no such folder; give --data-source DIR"),
]


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
def test_each_error_is_one_line_with_a_fixed_exit_code(
    error: type[Exception], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @entry_point
    def command(arguments: Sequence[str]) -> int:
        raise error("what\nhappened")

    assert command([]) == expected
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1].startswith(f"error[{getattr(error, 'code', 'E-BUG')}] ")
    assert "what happened" in stderr
    assert ("Traceback" in stderr) == (expected == 1)


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    """The loggers of the packages, whose handlers are restored afterwards."""
    loggers = [logging.getLogger(package) for package in ("jobs", "mnist_lib", "cluster")]
    before = [(logger.level, [*logger.handlers]) for logger in loggers]
    yield loggers
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_password_in_an_error_a_traceback_or_the_log_is_not_printed(
    loggers: list[logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr(verbose=True)

    @entry_point
    def command(arguments: Sequence[str]) -> int:
        loggers[0].warning("connecting to %s", "https://user:canary@host/?key=canary")
        raise ValueError("https://user:canary@host/?key=canary is wrong")

    assert command([]) == 1
    stderr = capsys.readouterr().err
    assert stderr.count("https://***@host/?***") == 4  # in the log, the traceback with its line of code, and the error
    assert "user:canary" not in stderr


def test_verbose_prints_the_traceback(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="jobs")

    @entry_point
    def command(arguments: Sequence[str]) -> int:
        raise mnist_errors.DataError("damaged")

    assert command([]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_an_exception_whose_code_is_not_an_error_code_is_reported_as_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    class HttpError(Exception):
        code = 404

    @entry_point
    def command(arguments: Sequence[str]) -> int:
        raise HttpError("not found")

    assert command([]) == 1
    assert "error[E-BUG] HttpError: not found" in capsys.readouterr().err


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_a_closed_standard_output_does_not_change_the_exit_code(length: int) -> None:
    code = (
        "import sys; from jobs.console.output import print_result, entry_point;"
        f"command = lambda arguments: print_result('x' * {length}) or 9; sys.exit(entry_point(command)([]))"
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


@pytest.mark.parametrize(("json", "expected"), [(True, '{\n  "a": 1\n}\n'), (False, "one\\x1b\ntwo\n")])
def test_a_result_is_printed_as_json_or_as_lines_before_what_comes_afterwards(
    json: bool, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = list[str]()

    @entry_point
    def command(arguments: Sequence[str]) -> CommandResult:
        afterwards = lambda: printed.append(capsys.readouterr().out)  # noqa: E731
        return CommandResult({"a": 1}, ["one\x1b", "two"], 9, json=json, afterwards=afterwards)

    assert command([]) == 9
    assert printed == [expected]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """Make standard output a terminal, with the number of columns in the parameter."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "xterm-256color")
    return int(request.param)


@pytest.mark.parametrize("terminal", [40, 60, 80, 120], indirect=True)
def test_a_table_is_never_wider_than_the_terminal(terminal: int) -> None:
    assert max(map(len, table(HEADINGS, ROWS).splitlines())) <= terminal


@pytest.mark.parametrize("terminal", [80], indirect=True)
def test_a_table_breaks_lines_between_words_if_the_longest_words_fit(terminal: int) -> None:
    text = table(HEADINGS[:1] + HEADINGS[3:], [row[:1] + row[3:] for row in ROWS])
    assert len(text.splitlines()) > 3
    words = {word for row in ROWS for cell in row[:1] + row[3:] for word in cell.split()}
    assert words <= set(text.split())


@pytest.mark.parametrize("terminal", [40], indirect=True)
def test_a_word_that_does_not_fit_is_cut_or_folded(terminal: int) -> None:
    name = "a" * 30 + "b" * 30
    assert "…" in table(("file", "bytes"), [(name, "1")])
    folded = table(("file", "bytes"), [(name, "1")], fold=["file"])
    assert "…" not in folded
    assert folded.count("b") == 31  # 30 in the name, one in "bytes"


@pytest.mark.parametrize("terminal", [40], indirect=True)
def test_lines_of_text_break_between_words_on_a_terminal_only(terminal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/a/path/that/is/longer/than/the/terminal/and/stays/whole"
    text = f"{15 * 'word '}{path} [bold]\nnext"
    lines = as_text(*text.split("\n")).splitlines()
    assert path in lines
    assert all(len(line) <= terminal for line in lines if line != path)
    assert " ".join(lines) == text.replace("\n", " ")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert as_text(*text.split("\n")) == text


def test_a_pipe_gets_each_row_in_a_line_without_trailing_spaces_or_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = table(HEADINGS, [(*ROWS[0][:4], Text("green", style="green")), ROWS[1]])
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_cells_are_escaped_and_not_read_as_markup() -> None:
    text = table(("name",), [("\x1b[31mred\n[bold]x[/] :smile:",)])
    assert text.splitlines()[1] == "\\x1b[31mred\\n[bold]x[/] :smile:"


def test_a_message_is_printed_once_even_if_two_commands_run_in_one_process(
    loggers: list[logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        log_to_stderr(verbose=False)
    loggers[0].info("a message")
    assert capsys.readouterr().err == "a message\n"
