"""Cursors: the text in which a page says where the next one begins (PROTOCOL §1 'Pages').

Always: a cursor that was changed on its way, or given out by another listing or for other parameters, is refused; but for those
that peers keep, which say no more than how far they are (`kept_cursor_text`).
A caller may send any text back, and can make one that passes, because its check is no secret: that what it says is possible is the
listing's to check, and whoever made it fools nobody else.
"""

import hashlib
from typing import TypeVar

import msgspec

from node.canonical import b64url_decode, b64url_encode
from node.errors import InvalidCursor

FOREIGN = "cursor: not one of this listing's"

Cursor = TypeVar("Cursor")

_CHECK_BYTES = 4


def cursor_text(cursor: object | None, *listing: str | None) -> str | None:
    """None where there is no next page. `listing` is which one it is, and what it was asked for that the cursor does not say."""
    if cursor is None:
        return None
    content = msgspec.msgpack.encode(cursor)
    return b64url_encode(content + _check_of(content, listing))


def opened_cursor(text: str, form: type[Cursor], *listing: str | None) -> Cursor:
    """Raises InvalidCursor for what is not of the form, or was not made by `cursor_text` for this listing."""
    try:
        raw = b64url_decode(text)
        content, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        cursor = msgspec.msgpack.decode(content, type=form)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidCursor(FOREIGN) from error
    if check != _check_of(content, listing):
        raise InvalidCursor(FOREIGN)
    return cursor


def kept_cursor_text(offset: int) -> str:
    """For a listing that peers follow: they keep its cursors, so every version reads those of every other one."""
    return b64url_encode(msgspec.msgpack.encode(offset))


def opened_kept_cursor(text: str) -> int:
    """An offset. Raises InvalidCursor."""
    try:
        offset = msgspec.msgpack.decode(b64url_decode(text), type=int)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidCursor(FOREIGN) from error
    if offset < 0:
        raise InvalidCursor(FOREIGN)
    return offset


def _check_of(content: bytes, listing: tuple[str | None, ...]) -> bytes:
    return hashlib.blake2b(content + msgspec.msgpack.encode(listing), digest_size=_CHECK_BYTES).digest()
