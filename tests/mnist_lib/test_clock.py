"""Times as text."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mnist_lib.environment import as_file_name, moment_of, text_of

MOMENT = datetime(2026, 11, 26, 4, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))


def test_a_time_is_written_in_utc_and_cut_to_the_second() -> None:
    assert text_of(MOMENT) == "2026-11-26T03:00:00Z"
    assert text_of(datetime(99, 1, 1, tzinfo=UTC)) == "0099-01-01T00:00:00Z"


def test_a_written_time_is_read_back() -> None:
    assert moment_of(text_of(MOMENT)) == MOMENT.replace(microsecond=0)


@pytest.mark.parametrize("text", ["2026-11-26T03:00:00", "2026-11-26T04:00:00+01:00", "2026-11-26", "now"])
def test_a_time_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a UTC time|Invalid isoformat"):
        moment_of(text)


def test_the_text_of_a_time_can_be_a_file_name() -> None:
    assert as_file_name(text_of(MOMENT)) == "2026-11-26T03-00-00Z"
