"""Counts, shares and durations as text."""

import pytest

from mnist_lib.wording import counted, duration, one_line, percent


@pytest.mark.parametrize(("count", "text"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (1000, "1,000 trials")])
def test_a_count_of_one_is_singular_and_every_other_plural(count: int, text: str) -> None:
    assert counted(count, "trial") == text


def test_a_share_is_a_percentage_with_two_decimals() -> None:
    assert percent(0.97134) == "97.13%"


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (59.6, "1:00"), (185, "3:05"), (3599.4, "59:59"), (7385, "2:03:05")]
)
def test_a_duration_of_a_minute_or_more_is_written_with_colons(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", "ValueError"),
        ("one\ntwo\n\nthree", "one two"),
        ('in user code:\n\n    File "a.py", line 2, in f\n        g()\n\n    KeyError: 3\n', "KeyError: 3"),
        (
            "Graph execution error:\n\nDetected at node X defined at (most recent call last):\n<stack traces ...>"
            "\nassertion failed: [0]\n\t [[{{node X}}]] [Op:__inference_f_1]",
            "assertion failed: [0]",
        ),
    ],
)
def test_an_error_is_written_as_one_line_without_headings_and_places(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line
