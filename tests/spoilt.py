"""What is nearly sound: documents with one place changed, and bytes with a few changed, as a chance of the test's has it."""

import random
from collections.abc import Sequence

HOSTILE_VALUES = (
    *(
        None,
        True,
        -1,
        0,
        2**63,
        2**70,
        1e308,
        "",
        "\x00",
        "\u202e",
        "x" * 5000,
        "stigmem://",
        "stigmem://a/../b",
        "agent:a",
    ),
    *(
        [],
        {},
        [[]],
        {"a": {}},
        ["x"] * 300,
        "9999-12-31T23:59:59.999Z",
        "0",
        "sha256:" + "0" * 64,
        "A" * 86,
        "f" * 64,
        "\ud800",
    ),
)


def places(document: object) -> list[tuple[object, object]]:
    """Every place in a JSON document, at any depth: what it stands in, and its name or number there."""
    if not isinstance(document, dict | list):
        return []
    inner = list(document.items() if isinstance(document, dict) else enumerate(document))
    return [(document, key) for key, _ in inner] + [place for _, child in inner for place in places(child)]


def spoil_a_place(document: object, chance: random.Random) -> None:
    """One place, at any depth, is gone, anything else, or there again; or a member is added beside it."""
    parent, key = chance.choice(places(document))
    match chance.randrange(4), parent:
        case 0, dict():
            del parent[key]
        case 1, dict():
            parent[chance.choice(("", "__class__", "type", "x" * 300))] = chance.choice(HOSTILE_VALUES)
        case 1, list():
            parent.extend([parent[key]] * chance.choice((1, 1000)))
        case _:
            parent[key] = chance.choice(HOSTILE_VALUES)


def with_other_bytes(sound: bytes, chance: random.Random, odd: Sequence[bytes], *, longest: int = 200) -> bytes:
    """A few places changed, cut out, repeated, or with something `odd` put in between; at most `longest` bytes are cut out."""
    spoilt = bytearray(sound)
    for _ in range(chance.randint(1, 5)):
        at = chance.randint(0, len(spoilt))
        match chance.randrange(4):
            case 0:
                spoilt[at : at + 1] = chance.randbytes(1)
            case 1:
                del spoilt[at : at + chance.randint(1, longest)]
            case 2:
                spoilt[at:at] = chance.choice(odd)
            case _:
                spoilt[at:at] = spoilt[:at][-chance.randint(1, 2 * longest) :]
    return bytes(spoilt)
