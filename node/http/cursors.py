"""Cursors: the text in which a page says where the next one begins (PROTOCOL §1 'Pages').

A caller may send any text back: that it is of the listing's form is checked here, that the listing could have given it out is the
listing's to check.
"""

from typing import TypeVar

import msgspec

from node.canonical import b64url_decode, b64url_encode
from node.errors import InvalidCursor

FOREIGN = "cursor: not one of this listing's"

Cursor = TypeVar("Cursor")


def cursor_text(cursor: object | None) -> str | None:
    """None where there is no next page."""
    return None if cursor is None else b64url_encode(msgspec.msgpack.encode(cursor))


def opened_cursor(text: str, form: type[Cursor]) -> Cursor:
    """Raises InvalidCursor for what is not of the form."""
    try:
        return msgspec.msgpack.decode(b64url_decode(text), type=form)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidCursor(FOREIGN) from error
