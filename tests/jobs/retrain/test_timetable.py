"""The slots of a timetable, including those around changes of the clocks."""

import re
from datetime import UTC, datetime, timedelta

import hypothesis
import hypothesis.strategies as st
import pytest

from jobs.retrain.slots import MAX_COUNTED, Timetable
from mnist_lib.errors import CronError

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(timetable: Timetable, after: str, until: str) -> list[str]:
    moment, found = timetable.next(utc(after)), []
    while moment <= utc(until):
        found.append(f"{moment:%d %H:%M}")
        moment = timetable.next(moment)
    return found


@pytest.mark.parametrize(
    ("cron", "zone", "message"),
    [
        ("61 * * * *", "UTC", "got '61 * * * *': Bad minute"),
        ("0 3 * *", "UTC", "cron: expected five fields (minute, hour, day-of-month, month, day-of-week), such as"),
        ("0 0 3 * * *", "UTC", "got 6"),
        ("0 0 30 2 *", "UTC", "got '0 0 30 2 *': Bad day-of-month"),
        ("0 24 * * *", "UTC", "got '0 24 * * *': Bad hour"),
        ("0 3 * XYZ *", "UTC", "got '0 3 * XYZ *': Bad month"),
        ("0 3 * * 8", "UTC", "got '0 3 * * 8': Bad day-of-week"),
        ("0 3 * * *", "Europe/Berln", "tz: expected a time zone such as Europe/Berlin, got 'Europe/Berln'"),
        ("0 3 * * *", "../../etc/passwd", "tz: expected a time zone"),
    ],
)
def test_i7_an_invalid_timetable_is_refused_and_the_error_names_the_field(cron: str, zone: str, message: str) -> None:
    with pytest.raises(CronError, match=re.escape(message)):
        Timetable(cron, zone)


def test_i8_a_local_time_that_does_not_exist_is_due_once_right_after_the_gap() -> None:
    found = slots(Timetable("30 2 * * *", BERLIN), "2026-03-27T12:00", "2026-03-30T12:00")
    assert found == ["28 01:30", "29 01:00", "30 00:30"]  # on the 29th at 03:00 CEST


def test_i8_a_local_time_that_occurs_twice_is_one_slot() -> None:
    found = slots(Timetable("30 2 * * *", BERLIN), "2026-10-24T12:00", "2026-10-26T12:00")
    assert found == ["25 00:30", "26 01:30"]


def test_i8_an_hourly_job_is_due_in_both_occurrences_of_a_repeated_hour() -> None:
    found = slots(Timetable("30 * * * *", BERLIN), "2026-10-24T23:00", "2026-10-25T02:00")
    assert found == ["24 23:30", "25 00:30", "25 01:30"]


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 3 * * *", "30 * * * *", "*/15 2 * * *", "0 2,3 * * *", "0 1 * * 0"])
@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24", "2026-06-01"])
def test_next_latest_and_count_agree_on_the_slots_from_any_minute(cron: str, day: str) -> None:
    timetable, begin = Timetable(cron, BERLIN), utc(f"{day}T00:00")
    every = [timetable.latest(begin)]
    while every[-1] < begin + timedelta(days=3):
        every.append(timetable.next(every[-1]))
    assert every == sorted(set(every))
    end, second = begin + timedelta(days=2), timedelta(seconds=1)
    around = {slot + distance for slot in every for distance in (-second, timedelta(0), second)}
    between = {begin + timedelta(minutes=minute) for minute in range(0, 2 * 24 * 60, 31)}
    for moment in sorted(moment for moment in around | between if begin <= moment < end):
        before = [slot for slot in every if slot <= moment]
        assert Timetable(cron, BERLIN).latest(moment) == before[-1]
        assert timetable.next(moment) == every[len(before)]
        assert timetable.count(begin, moment) == len(before) - 1


def test_at_the_time_of_a_slot_that_slot_is_the_latest_and_the_next_is_later() -> None:
    timetable = Timetable("0 3 * * *")
    assert timetable.latest(utc("2026-01-02T03:00")) == utc("2026-01-02T03:00")
    assert timetable.next(utc("2026-01-02T03:00")) == utc("2026-01-03T03:00")


def test_counting_the_slots_of_a_long_outage_stops_at_the_maximum() -> None:
    assert Timetable("* * * * *").count(utc("2016-01-01T00:00"), utc("2026-01-01T00:00")) == MAX_COUNTED


FIELD = st.text("0123456789*,-/LW#?%JANSUN ٣²", max_size=6) | st.text(max_size=4)


@pytest.mark.fuzz
@hypothesis.given(st.lists(FIELD, max_size=6).map(" ".join), st.sampled_from(["UTC", "Europe"]) | st.text())
def test_any_text_is_either_refused_or_a_timetable_with_a_next_slot(cron: str, zone: str) -> None:
    try:
        timetable = Timetable(cron, zone)
    except CronError:
        return
    assert timetable.next(datetime(2026, 1, 1, tzinfo=UTC)) > datetime(2026, 1, 1, tzinfo=UTC)
