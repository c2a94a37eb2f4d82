"""Counts, shares and durations as text."""

import pytest

from mnist_lib.wording import counted, duration, percent


@pytest.mark.parametrize(("count", "text"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (1000, "1,000 trials")])
def test_a_count_of_one_is_singular_and_every_other_plural(count: int, text: str) -> None:
    assert counted(count, "trial") == text


def test_a_share_is_a_percentage_with_two_decimals() -> None:
    assert percent(0.97134) == "97.13%"


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (59.6, "1:00"), (185, "3:05"), (3599.4, "59:59"), (7385, "2:03:05")]
)
def test_a_duration_from_a_minute_on_is_written_with_colons(seconds: float, text: str) -> None:
    assert duration(seconds) == text
