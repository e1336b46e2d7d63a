"""RFC 3339 text to epoch milliseconds and back.

Always: what `format_ms` writes, `parse_rfc3339` reads back as the same number; both cover the UTC years 0001 to 9999.
Finer fractions than a millisecond are cut off, never rounded, so no time moves into the future by being read.

Does not know: what the time is now (see node/clock.py).
"""

import re
from datetime import date, timedelta
from functools import lru_cache

_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH = date(1970, 1, 1)
_EPOCH_DAY = _EPOCH.toordinal()
_DAY_MS = 86_400_000
_FIRST_MS = (date.min.toordinal() - _EPOCH_DAY) * _DAY_MS
_LAST_MS = (date.max.toordinal() - _EPOCH_DAY + 1) * _DAY_MS - 1


def parse_rfc3339(text: str) -> int:
    """Epoch milliseconds; ValueError for what RFC 3339 refuses and for dates that do not exist."""
    # Our own form, which a log has in every header; a leap second is none of its own.
    if len(text) == 24 and text[19] == "." and text[23] == "Z" and text[17] != "6":
        milliseconds = text[20:23]
        if milliseconds.isascii() and milliseconds.isdecimal():
            return _second_ms(text[:19]) + int(milliseconds)
    return _parsed(text)


def is_rfc3339(text: str) -> bool:
    """Whether `parse_rfc3339` reads it."""
    try:
        parse_rfc3339(text)
    except ValueError:
        return False
    return True


# Consecutive entries share their second.
@lru_cache(maxsize=64)
def _second_ms(second: str) -> int:
    return _parsed(f"{second}Z")


def _parsed(text: str) -> int:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("no such time of day")
    day_number = date(year, month, day).toordinal() - _EPOCH_DAY
    utc_minute = (day_number * 24 + hour) * 60 + minute - _offset_minutes(match[8], match[9], match[10])
    epoch_ms = utc_minute * 60_000 + _ms_of_minute(second, match[7], utc_minute)
    if not _FIRST_MS <= epoch_ms <= _LAST_MS:
        raise ValueError("outside the years 0001 to 9999")
    return epoch_ms


# A write names its millisecond three times, and a batch shares a few.
@lru_cache(maxsize=64)
def format_ms(ms: int) -> str:
    """UTC with milliseconds and `Z` (PROTOCOL §1)."""
    day, rest = divmod(ms, _DAY_MS)
    seconds, milliseconds = divmod(rest, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{_day_text(day)}T{hour:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}Z"


# A page of facts spans few days; the calendar is the dear part of writing a time.
@lru_cache(maxsize=1024)
def _day_text(day: int) -> str:
    try:
        return (_EPOCH + timedelta(days=day)).isoformat()
    except OverflowError as error:
        raise ValueError("outside the years 0001 to 9999") from error


def _offset_minutes(sign: str | None, hours: str | None, minutes: str | None) -> int:
    if sign is None:
        return 0
    if int(hours) > 23 or int(minutes) > 59:
        raise ValueError("no such offset")
    offset = int(hours) * 60 + int(minutes)
    return -offset if sign == "-" else offset


def _ms_of_minute(second: int, fraction: str | None, utc_minute: int) -> int:
    if second == 60:
        # Epoch time has no leap seconds: the last millisecond before it is the nearest that keeps order.
        if utc_minute % 1440 != 1439:
            raise ValueError("a leap second stands only at the end of a UTC day")
        return 59_999
    return second * 1000 + int((fraction or "")[:3].ljust(3, "0"))
