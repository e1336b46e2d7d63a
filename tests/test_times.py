"""RFC 3339 in and out."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.times import format_ms, parse_rfc3339

FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2026-05-04T12:00:00Z", "2026-05-04T12:00:00.000Z"),
        ("2026-05-04t12:00:00z", "2026-05-04T12:00:00.000Z"),
        ("2026-05-04T14:00:00.5+02:00", "2026-05-04T12:00:00.500Z"),
        ("2026-05-03T23:30:00-12:30", "2026-05-04T12:00:00.000Z"),
        ("2026-05-04T12:00:00-00:00", "2026-05-04T12:00:00.000Z"),
        ("2026-05-04T12:00:00.1239999999999Z", "2026-05-04T12:00:00.123Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999Z"),
        ("2017-01-01T01:59:60.7+02:00", "2016-12-31T23:59:59.999Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_read_in_utc_and_cut_to_milliseconds(text, same_as):
    assert format_ms(parse_rfc3339(text)) == same_as


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-05-04",
        "2026-05-04 12:00:00Z",
        "2026-05-04T12:00:00",
        "2026-05-04T12:00Z",
        "2026-05-04T12:00:00.Z",
        "2026-05-04T12:00:00,5Z",
        "2026-05-04T12:00:00Z\n",
        " 2026-05-04T12:00:00Z",
        "2026-05-04T12:00:00+0200",
        "2026-05-04T12:00:00+24:00",
        "2026-05-04T12:00:00+02:60",
        "2026-05-04T24:00:00Z",
        "2026-05-04T12:60:00Z",
        "2026-05-04T12:00:61Z",
        "2026-05-04T12:00:60Z",
        "2026-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-00-01T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "٢٠٢٦-05-04T12:00:00Z",
    ],
    ids=repr,
)
def test_what_rfc_3339_does_not_allow_or_the_calendar_does_not_have_is_refused(text):
    with pytest.raises(ValueError):
        parse_rfc3339(text)


@given(st.integers(FIRST_MS, LAST_MS))
def test_every_millisecond_of_the_range_comes_back(ms):
    assert parse_rfc3339(format_ms(ms)) == ms


@given(st.datetimes(timezones=st.just(UTC)))
def test_reading_agrees_with_the_standard_library(moment):
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    in_ms = (since_epoch.days * 86_400 + since_epoch.seconds) * 1000 + since_epoch.microseconds // 1000
    assert parse_rfc3339(moment.isoformat()) == in_ms


@pytest.mark.parametrize("ms", [FIRST_MS - 1, LAST_MS + 1, 10**30])
def test_a_time_outside_the_range_is_not_written(ms):
    with pytest.raises(ValueError):
        format_ms(ms)


@given(st.integers(FIRST_MS, LAST_MS), st.integers(FIRST_MS, LAST_MS))
def test_written_times_sort_as_the_times_do(a, b):
    assert (a < b) == (format_ms(a) < format_ms(b))
