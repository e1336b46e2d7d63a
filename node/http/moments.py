"""`as_of`: which state of the log a read looks at (PROTOCOL §2.5).

Always: `offset:N` is the log up to and with entry N, a time the log up to and with the last entry dated no later. Expiry is judged
at that time, or at the date of entry N. What is not there yet is refused, never clamped.
Always: content alone is of then; who may read it is decided by what stands now.
"""

import re

from aiohttp import web
from msgspec import Struct

from node.errors import InvalidCursor, InvalidParameter, UnsupportedParameter
from node.events.entry import open_header
from node.http.body import decode_query
from node.http.forms import AsOf
from node.http.keys import NODE
from node.projections.conflicts import WHOLE, At
from node.runtime import Node
from node.times import format_ms, parse_rfc3339

_OFFSET = re.compile(r"offset:(0|[1-9][0-9]{0,17})")


class Moment(Struct, frozen=True, array_like=True):
    """What a read looks at; `as_of` is None for a read of now, else what was asked for in its one spelling."""

    at: At
    as_of: str | None

    @property
    def past_size(self) -> int | None:
        """How much of the log a read of the past looks at; None for a read of now."""
        return None if self.as_of is None else self.at.size


class AsOfQuery(Struct, frozen=True, kw_only=True):
    as_of: AsOf | None = None


def asked_moment(request: web.Request) -> Moment:
    """The moment that a read without other parameters asks for."""
    node = request.app[NODE]
    if request.query_string and "as_of" in request.query:
        return moment_of(decode_query(request, AsOfQuery).as_of, node)
    return Moment(now_at(node), None)


def moment_of(as_of: str | None, node: Node) -> Moment:
    """The moment that a listing's first page asks for: all of the log that is announced, where it names none."""
    size = node.log.announced().size
    if as_of is None:
        return Moment(At(size, node.clock.at_ms()), None)
    offset = _OFFSET.fullmatch(as_of)
    return _at_time(as_of, size, node) if offset is None else _at_offset(int(offset[1]), size, node)


def check_moment(asked: Moment, carried: str | None) -> None:
    """A cursor carries its listing's `as_of`; naming it again is allowed, another one is not. Raises InvalidCursor."""
    if asked.as_of is not None and asked.as_of != carried:
        raise InvalidCursor("cursor: of a listing with another as_of")


def refuse_as_of(request: web.Request, why: str) -> None:
    """For reads that have no past to show: refused, not ignored, so that no answer is taken for one of then."""
    if "as_of" in request.query:
        raise UnsupportedParameter(f"as_of: {why}")


def now_at(node: Node) -> At:
    """All of the log that a view holds, at this moment."""
    return At(size=WHOLE, now_ms=node.clock.at_ms())


def _at_offset(offset: int, size: int, node: Node) -> Moment:
    if offset >= size:
        raise InvalidParameter(f"as_of: the log ends with offset {size - 1}")
    at_ms = parse_rfc3339(open_header(node.log.stored(offset)).at)
    return Moment(At(offset + 1, at_ms), f"offset:{offset}")


def _at_time(text: str, size: int, node: Node) -> Moment:
    try:
        at_ms = parse_rfc3339(text)
    except ValueError as error:
        raise InvalidParameter("as_of: neither an RFC 3339 time nor offset:N") from error
    if at_ms > node.clock.at_ms():
        raise InvalidParameter("as_of: that time has not come")
    return Moment(At(node.log.first_at(at_ms + 1, size), at_ms), format_ms(at_ms))
