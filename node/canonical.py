"""The byte forms that are hashed and signed: canonical JSON, strict base64url, CID, fact body and seal message.

Always: one value has one byte form here. What these functions once returned stands in logs and on peers for ever, so a
change of a single byte is a new format.

Does not check: whether a fact's fields are allowed (see node/commands/facts.py). Numbers are to be finite.
"""

import binascii
import hashlib
import json.encoder
from collections.abc import Sequence

import msgspec
import rfc8785

from node.errors import InvalidValue

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_SEAL_DOMAIN = b"stigmem-fact/v1\n"
# Its escapes are those of RFC 8785 and of json.dumps(ensure_ascii=False) alike: one function serves body and CID.
_quoted = json.encoder.encode_basestring


def canonical_json(value: object) -> bytes:
    """RFC 8785 of plain Python values: dict, list, str, int, float, bool, None."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise InvalidValue(str(error)) from error


def b64url_encode(data: bytes) -> str:
    # Not by the base64 module, whose layers around these calls take twice their time: a page of seals is decoded and encoded.
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Bytes of `text`, with its full padding or none; ValueError for every other spelling of the same bytes."""
    bare = text.rstrip("=")
    if len(text) - len(bare) not in (0, -len(bare) % 4):
        raise ValueError("wrong padding")
    data = binascii.a2b_base64(bare.encode("ascii").translate(_FROM_URL) + b"=" * (-len(bare) % 4))
    # The library skips foreign characters and loose last bits: one signature could be spelled, and counted, many times.
    if b64url_encode(data) != bare:
        raise ValueError("not strict base64url")
    return data


def value_text(value_type: str, v: object) -> str:
    """The text that stands for a fact's value in its CID (PROTOCOL §2.3)."""
    match value_type:
        case "number":
            return repr(_double(v))
        case "boolean":
            return "true" if v else "false"
        case "null":
            return "null"
        case _:
            return str(v)


def fact_cid(
    *, confidence: float, entity: str, relation: str, scope: str, source: str, value_type: str, value_v: str
) -> str:
    """CID over the value's text, so that a caller can try another spelling of a number (PROTOCOL §2.3).

    Not RFC 8785: the confidence is written as Python's repr writes a float, because every CID that exists was.
    """
    text = (
        f'{{"confidence":{float(confidence)!r},"entity":{_quoted(entity)},"relation":{_quoted(relation)},'
        f'"scope":{_quoted(scope)},"source":{_quoted(source)},"value_type":{_quoted(value_type)},'
        f'"value_v":{_quoted(value_v)}}}'
    )
    return "sha256:" + hashlib.sha256(_utf8(text)).hexdigest()


def fact_body(
    *,
    entity: str,
    relation: str,
    value_type: str,
    value_v: str | float | bool | None,
    interpret_as: str | None,
    scope: str,
    source: str,
    confidence: float,
    timestamp: str,
) -> bytes:
    """Canonical JSON of the seven members that an attestation signs (PROTOCOL §2.4); `value_v` is the value itself.

    Written out by hand: rfc8785 takes 20 us for it, on the path of every write.
    """
    instruction = '"interpret_as":"instruction",' if interpret_as == "instruction" else ""
    v = "" if value_type == "null" else f',"v":{_value_json(value_type, value_v)}'
    return _utf8(
        f'{{"confidence":{_number_json(confidence)},"entity":{_quoted(entity)},"relation":{_quoted(relation)},'
        f'"scope":{_quoted(scope)},"source":{_quoted(source)},"ts":{_quoted(timestamp)},'
        f'"value":{{{instruction}"type":{_quoted(value_type)}{v}}}}}'
    )


def fact_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def seal_message(
    *,
    origin: str,
    id: str,
    hlc: str,
    fact_hash: str,
    valid_until: str | None,
    derived_from: Sequence[str],
    supersedes: Sequence[str] | None,
    resolves: str | Sequence[str] | None,
) -> bytes:
    """What the origin node signs for its own record (PROTOCOL §2.4)."""
    members = {
        "derived_from": derived_from,
        "fact_hash": fact_hash,
        "hlc": hlc,
        "id": id,
        "origin": origin,
        "resolves": resolves,
        "supersedes": supersedes,
        "valid_until": valid_until,
    }
    try:
        # Already in key order and without numbers, where compact JSON is canonical JSON, at a twentieth of the time.
        return _SEAL_DOMAIN + msgspec.json.encode(members)
    except UnicodeEncodeError as error:
        raise InvalidValue("lone surrogates are refused") from error


def _value_json(value_type: str, v: object) -> str:
    match value_type:
        case "number":
            return _number_json(v)
        case "boolean":
            return "true" if v else "false"
        case _:
            return _quoted(str(v))


def _number_json(v: object) -> str:
    number = _double(v)
    # Between these bounds Python's shortest digits and ECMAScript's are the same but for a trailing `.0`.
    if 1e-4 <= abs(number) < 1e16:
        return repr(number).removesuffix(".0")
    return canonical_json(number).decode("ascii")


def _double(v: object) -> float:
    try:
        return float(v)
    except OverflowError as error:
        raise InvalidValue("a number beyond the range of a double") from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidValue("lone surrogates are refused") from error
