"""The data in tests/vectors/notes/: checkpoints that are notes by the C2SP texts, and what is none, each with its reason.

`python -m tests.independent.note_vectors` prints the file anew. Written from c2sp.org/signed-note, tlog-checkpoint and
tlog-cosignature alone, signed with the cryptography package; nothing of node/ is imported.

Members: `origin`, `public_key` (hex) and `verifier_key` of the log; `witness`, who cosigned where a case's name says so:
`name`, `public_key` (hex), `time_s`; `cases`: `name`, `note`, `why`, and `size` and `root` (hex) where the note is good, else
null. `stricter` marks the cases where our readers refuse what the texts leave open.
"""

import base64
import json
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PATH = Path(__file__).parents[1] / "vectors" / "notes" / "checkpoints.json"
ORIGIN, WITNESS = "log.example/stigmem-log", "witness.example"
KEY, WITNESS_KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2, 3))
ROOT = sha256(b"root").digest()
SIZE = 20852163
TIME_S = 1_777_896_000


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def key_hash(name: str, key: Ed25519PrivateKey, kind: int = 1) -> bytes:
    return sha256(name.encode() + b"\x0a" + bytes([kind]) + public(key)).digest()[:4]


def verifier_key(name: str, key: Ed25519PrivateKey, kind: int = 1) -> str:
    return f"{name}+{key_hash(name, key, kind).hex()}+{b64(bytes([kind]) + public(key))}"


def text_of(origin: str = ORIGIN, size: str = str(SIZE), root: str = b64(ROOT), more: str = "") -> str:
    return f"{origin}\n{size}\n{root}\n{more}"


def line_of(text: str, name: str = ORIGIN, key: Ed25519PrivateKey = KEY, key_id: bytes | None = None) -> str:
    return raw_line(name, (key_hash(name, key) if key_id is None else key_id) + key.sign(text.encode()))


def raw_line(name: str, blob: bytes) -> str:
    return f"\u2014 {name} {b64(blob)}\n"


def cosignature_of(text: str, time_s: int = TIME_S) -> str:
    signature = WITNESS_KEY.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    return raw_line(WITNESS, key_hash(WITNESS, WITNESS_KEY, 4) + time_s.to_bytes(8) + signature)


def signed(text: str) -> str:
    return f"{text}\n{line_of(text)}"


TEXT = text_of()
LINE = line_of(TEXT)
GOOD = signed(TEXT)
BAD_LINE = line_of(text_of(size="1"))
LOOSE_ROOT = b64(ROOT)[:-2] + chr(ord(b64(ROOT)[-2]) + 1) + "="
EMPTY_ROOT = sha256(b"").digest()


def good_cases() -> dict[str, tuple[str, str, int, bytes]]:
    """By name: the note, why it is good, and what it says."""
    sixteen = "".join(line_of(TEXT, f"witness-{number}.example", STRANGER) for number in range(15))
    extended = text_of(more="extension\nanother one\n")
    return {
        "plain": (GOOD, "three lines, an empty one, a signature line", SIZE, ROOT),
        "empty tree": (
            signed(text_of(size="0", root=b64(EMPTY_ROOT))),
            "the size of the empty tree is 0",
            0,
            EMPTY_ROOT,
        ),
        "one leaf": (signed(text_of(size="1")), "a size of one digit", 1, ROOT),
        "extension lines": (signed(extended), "lines behind the third are allowed, and signed", SIZE, ROOT),
        "cosigned": (GOOD + cosignature_of(TEXT), "a cosignature is a line of a key unknown as the log's", SIZE, ROOT),
        "cosigned before": (
            f"{TEXT}\n{cosignature_of(TEXT)}{LINE}",
            "signature lines stand in any order",
            SIZE,
            ROOT,
        ),
        "stranger's bad signature": (
            GOOD + line_of(text_of(size="2"), "stranger.example", STRANGER),
            "signatures of unknown keys are ignored, whether they hold or not",
            SIZE,
            ROOT,
        ),
        "same name, other key": (
            GOOD + line_of(TEXT, ORIGIN, STRANGER),
            "a key that shares the name alone is unknown",
            SIZE,
            ROOT,
        ),
        "same hash, other name": (
            GOOD + line_of(text_of(size="2"), "stranger.example", STRANGER, key_hash(ORIGIN, KEY)),
            "a key that shares the hash alone is unknown",
            SIZE,
            ROOT,
        ),
        "unknown long signature": (
            GOOD + raw_line("pq.example", bytes(4 + 2428)),
            "a signature of another algorithm is longer",
            SIZE,
            ROOT,
        ),
        "sixteen signatures": (f"{TEXT}\n{sixteen}{LINE}", "at least sixteen signatures are read", SIZE, ROOT),
        "not ASCII": (
            GOOD + line_of(TEXT, "zeuge-ä.example", STRANGER),
            "key names are UTF-8",
            SIZE,
            ROOT,
        ),
    }


def bad_cases() -> dict[str, tuple[str, str]]:
    """By name: the bytes, and why they are no checkpoint of this log."""
    crlf = TEXT.replace("\n", "\r\n")
    odd_text = {
        "leading zero": (text_of(size=f"0{SIZE}"), "no leading zeroes in the size"),
        "size 00": (text_of(size="00"), "the empty tree's size is 0, not 00"),
        "plus sign": (text_of(size=f"+{SIZE}"), "the size is digits alone"),
        "minus sign": (text_of(size="-1"), "the size is digits alone"),
        "space before the size": (text_of(size=f" {SIZE}"), "the size is digits alone"),
        "hexadecimal size": (text_of(size="0x10"), "the size is decimal"),
        "other digits": (text_of(size="\u0662\u0660"), "the size is ASCII"),
        "underscore in the size": (text_of(size="1_000"), "the size is digits alone"),
        "no size": (text_of(size=""), "no line is empty"),
        "short root": (text_of(root=b64(ROOT[:31])), "an RFC 6962 root has 32 bytes"),
        "long root": (text_of(root=b64(ROOT + b"\0")), "an RFC 6962 root has 32 bytes"),
        "root in hex": (text_of(root=ROOT.hex()), "the root is base64"),
        "root in base64url": (
            text_of(root=base64.urlsafe_b64encode(b"\xff" * 32).decode()),
            "the root is standard base64",
        ),
        "root without padding": (text_of(root=b64(ROOT).rstrip("=")), "RFC 4648 section 4 pads"),
        "two lines": (f"{ORIGIN}\n{SIZE}\n", "there are at least three lines"),
        "empty extension line": (text_of(more="one\n\ntwo\n"), "extension lines are not empty"),
        "empty last line": (text_of(more="\n"), "extension lines are not empty"),
        "another origin": (text_of("other.example/stigmem-log"), "the first line names another log"),
        "no origin": (text_of(""), "the origin is not empty"),
        "CRLF": (crlf, "no control characters but the newline"),
        "tab": (text_of(more="an\textension\n"), "no control characters but the newline"),
        "NUL": (text_of(more="an\0extension\n"), "no control characters but the newline"),
    }
    return {name: (signed(text), why) for name, (text, why) in odd_text.items()} | {
        "empty": ("", "there is nothing"),
        "newlines": ("\n\n", "there is no signature line"),
        "no signature": (TEXT, "a note has one signature line or more"),
        "no signature line": (f"{TEXT}\n", "a note has one signature line or more"),
        "no empty line": (TEXT + LINE, "an empty line stands before the signatures"),
        "no newline at the end": (GOOD[:-1], "a signature line ends in a newline"),
        "text behind the signatures": (GOOD + "more\n", "every line below the empty one is a signature line"),
        "empty line at the end": (f"{GOOD}\n", "the last empty line is the one before the signatures"),
        "CRLF in the signature line": (GOOD[:-1] + "\r\n", "no control characters but the newline"),
        "hyphen": (GOOD.replace("\u2014", "-"), "a signature line begins with an em dash"),
        "en dash": (GOOD.replace("\u2014", "\u2013"), "a signature line begins with an em dash"),
        "two spaces": (GOOD.replace(f"{ORIGIN} ", f"{ORIGIN}  "), "one space stands between name and signature"),
        "space at the end": (GOOD[:-1] + " \n", "a signature line ends with its base64"),
        "no name": (f"{TEXT}\n{line_of(TEXT, '')}", "a key name is not empty"),
        "no name beside a good line": (GOOD + line_of(TEXT, "", STRANGER), "a key name is not empty"),
        "plus in a name": (GOOD + line_of(TEXT, "a+b.example", STRANGER), "a key name has no plus"),
        "space in a name": (GOOD + line_of(TEXT, "a\u00a0b.example", STRANGER), "a key name has no Unicode space"),
        "bad base64": (GOOD[:-2] + "*\n", "the signature is base64"),
        "bad base64 of a stranger": (GOOD + "\u2014 stranger.example ****\n", "the signature is base64"),
        "no base64": (GOOD + "\u2014 stranger.example \n", "the signature is 4 bytes and more"),
        "three bytes": (GOOD + raw_line("stranger.example", b"abc"), "the signature is 4 bytes and more"),
        "hash alone": (f"{TEXT}\n{raw_line(ORIGIN, key_hash(ORIGIN, KEY))}", "there is no signature behind the hash"),
        "cut signature": (
            f"{TEXT}\n{raw_line(ORIGIN, key_hash(ORIGIN, KEY) + KEY.sign(TEXT.encode())[:-1])}",
            "the known key's signature does not hold",
        ),
        "longer signature": (
            f"{TEXT}\n{raw_line(ORIGIN, key_hash(ORIGIN, KEY) + KEY.sign(TEXT.encode()) + bytes(1))}",
            "the known key's signature does not hold",
        ),
        "other text": (GOOD.replace(f"\n{SIZE}\n", f"\n{SIZE + 1}\n"), "the signature is over another text"),
        "stranger alone": (f"{TEXT}\n{line_of(TEXT, 'stranger.example', STRANGER)}", "no known key signed"),
        "stranger under our name": (f"{TEXT}\n{line_of(TEXT, ORIGIN, STRANGER)}", "no known key signed"),
        "our key, another name": (f"{TEXT}\n{line_of(TEXT, 'other.example')}", "a key is its name and its hash"),
        "hash without the kind": (
            f"{TEXT}\n{line_of(TEXT, key_id=sha256(ORIGIN.encode() + public(KEY)).digest()[:4])}",
            "the key hash is over name, newline, kind and key",
        ),
        "stranger under our hash": (
            f"{TEXT}\n{line_of(TEXT, ORIGIN, STRANGER, key_hash(ORIGIN, KEY))}",
            "the known key's signature does not hold",
        ),
        "cosignature alone": (f"{TEXT}\n{cosignature_of(TEXT)}", "a witness is not the log"),
        "signed without the last newline": (
            f"{TEXT}\n{line_of(TEXT[:-1])}",
            "the last newline belongs to the text",
        ),
        "signed with the empty line": (
            f"{TEXT}\n{line_of(TEXT + chr(10))}",
            "the empty line does not belong to the text",
        ),
    }


def strict_cases() -> dict[str, tuple[str, str]]:
    """What the texts leave open (SHOULD, MAY or nothing), and our readers refuse."""
    return {
        "good and bad of one key": (GOOD + BAD_LINE, "a known key's line that does not hold: clients SHOULD reject"),
        "bad and good of one key": (
            f"{TEXT}\n{BAD_LINE}{LINE}",
            "a known key's line that does not hold: clients SHOULD reject",
        ),
        "loose bits in the root": (
            signed(text_of(root=LOOSE_ROOT)),
            "RFC 4648 section 3.5: decoders MAY refuse loose bits",
        ),
        "loose bits in a line": (
            GOOD + f"\u2014 stranger.example {b64(bytes(68))[:-2]}B=\n",
            "RFC 4648 section 3.5: decoders MAY refuse loose bits",
        ),
        "a size of twenty digits": (signed(text_of(size="1" + "0" * 19)), "more than any log can have"),
    }


def build_vectors() -> dict[str, object]:
    return {
        "origin": ORIGIN,
        "public_key": public(KEY).hex(),
        "verifier_key": verifier_key(ORIGIN, KEY),
        "witness": {"name": WITNESS, "public_key": public(WITNESS_KEY).hex(), "time_s": TIME_S},
        "cases": [
            *(
                {"name": name, "note": note, "why": why, "size": size, "root": root.hex(), "stricter": False}
                for name, (note, why, size, root) in good_cases().items()
            ),
            *_refused(bad_cases(), stricter=False),
            *_refused(strict_cases(), stricter=True),
        ],
    }


def _refused(cases: dict[str, tuple[str, str]], *, stricter: bool) -> list[dict[str, object]]:
    return [
        {"name": name, "note": note, "why": why, "size": None, "root": None, "stricter": stricter}
        for name, (note, why) in cases.items()
    ]


if __name__ == "__main__":
    print(json.dumps(build_vectors(), indent=1, ensure_ascii=False))
