"""From when to when a logged manifest holds: the one thing that folds need to read in it."""

import msgspec
from msgspec import Struct

from node.times import parse_rfc3339


class _Dates(Struct):
    issued_at: str
    expires_at: str


_decoder = msgspec.json.Decoder(_Dates)


def dates_of(manifest: bytes) -> tuple[int, int]:
    """(issued, expires) in epoch ms, of a manifest's canonical JSON."""
    dates = _decoder.decode(manifest)
    return parse_rfc3339(dates.issued_at), parse_rfc3339(dates.expires_at)
