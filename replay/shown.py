"""Text from a log on its way to a person's terminal, and bytes on their way to a pipe.

Always: what a terminal would act on, and what is invisible or turns the direction of writing, is shown as an escape; a
backslash too, so that no name passes for an escaped one. The set is fixed here: the same log, the same bytes, on any machine.
"""

import re
from typing import BinaryIO

_UNSEEN = re.compile(
    "[\\\\\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180e\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\ue000-\uf8ff"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)


def plain(text: str) -> str:
    """The text with every character that is not plainly visible as `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`."""
    return _UNSEEN.sub(_escaped, text)


def readable(text: str) -> str:
    """Text that may hold a file's name, for JSON: bytes of it that are no UTF-8 as `\\xNN`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def cut(text: str, most: int) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


class Output:
    """Lines in UTF-8, whatever the locale says."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """A line for people, made plain."""
        self._stream.write(plain(text).encode() + b"\n")

    def raw(self, line: bytes) -> None:
        """A line of JSON as it stands."""
        self._stream.write(line + b"\n")


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
