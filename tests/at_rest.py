"""Looking for what was said in what lies on the disk: every spelling in which a text could show."""

import base64
from collections.abc import Iterable
from pathlib import Path

# Of base64 the first and the last of a piece depend on what stands beside it; what is shorter stands anywhere by chance.
_MARGIN, _TELLING = 4, 6


def spellings(text: str) -> set[bytes]:
    """As it is, lower and upper case, hex, UTF-16, and base64 of both alphabets wherever in a longer text it may begin."""
    found: set[bytes] = set()
    for form in (text, text.lower(), text.upper()):
        raw = form.encode()
        found |= {raw, raw.hex().encode(), raw.hex().upper().encode(), form.encode("utf-16-le")}
        for shift in range(3):
            encoded = base64.b64encode(bytes(shift) + raw)[_MARGIN : -_MARGIN or None]
            found |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    return {spelling for spelling in found if len(spelling) >= _TELLING}


def found_in(folder: Path, texts: Iterable[str], *, but: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Which of the texts stand in which files below the folder, their names included; files named in `but` are not looked into."""
    contents = {
        str(path.relative_to(folder)): path.read_bytes() + b"\n" + path.name.encode()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in but
    }
    return [
        (name, text)
        for text in texts
        for name, content in contents.items()
        if any(spelling in content for spelling in spellings(text))
    ]


def state_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything that can be told of a folder's files: size, time of the last change in ns, content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
