"""Byte forms: against the vectors of RFC 8785's author, against json.dumps, and against each other."""

import hashlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.canonical import (
    b64url_decode,
    b64url_encode,
    canonical_json,
    fact_body,
    fact_cid,
    fact_hash,
    seal_message,
    value_text,
)
from node.errors import InvalidValue

VECTORS = Path(__file__).parent / "vectors" / "rfc8785"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FACT = {
    "entity": "stigmem://org-a.example/person/alice",
    "relation": "org:role",
    "scope": "public",
    "source": "stigmem://org-a.example/agent/cto",
    "confidence": 1.0,
}


@pytest.mark.parametrize("name", sorted(path.name for path in (VECTORS / "input").iterdir()))
def test_each_vector_of_rfc_8785_comes_out_byte_for_byte(name):
    value = json.loads((VECTORS / "input" / name).read_bytes())
    assert canonical_json(value) == (VECTORS / "output" / name).read_bytes()


def test_all_six_vectors_of_rfc_8785_are_there_and_their_bytes_are_those_of_the_hex_beside_them():
    names = {path.name for path in (VECTORS / "input").iterdir()}

    assert len(names) == 6
    assert names == {path.name for path in (VECTORS / "output").iterdir()}
    for name in names:
        digits = (VECTORS / "outhex" / name).with_suffix(".txt").read_text()
        assert (VECTORS / "output" / name).read_bytes() == bytes.fromhex(digits)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53 + 1, "\ud800", {1: 2}, pytest.param(object(), id="an object")], ids=repr
)
def test_what_json_cannot_hold_exactly_is_an_invalid_value(value):
    with pytest.raises(InvalidValue):
        canonical_json(value)


@given(st.binary(max_size=100))
def test_base64url_comes_back_with_and_without_padding(data):
    text = b64url_encode(data)
    assert "=" not in text
    assert b64url_decode(text) == data
    assert b64url_decode(text + "=" * (-len(text) % 4)) == data


@pytest.mark.parametrize(
    "text",
    [
        "AB",
        "AAB",
        "A",
        "AAAAA",
        "+A==",
        "/A",
        "A A=",
        "AA\n",
        " AA",
        "AA=",
        "AAA==",
        "AAAA=",
        "====",
        "AA=A",
        "ÄA",
        "A\x00",
    ],
    ids=repr,
)
def test_base64url_that_is_not_the_one_spelling_of_its_bytes_is_refused(text):
    with pytest.raises(ValueError):
        b64url_decode(text)


@given(st.text(alphabet="AQgwBZaz09-_=+/ \n", max_size=12))
def test_base64url_that_is_accepted_is_the_encoding_of_what_it_gives(text):
    try:
        data = b64url_decode(text)
    except ValueError:
        return
    assert b64url_encode(data) == text.rstrip("=")


@pytest.mark.parametrize(
    ("value_type", "v", "text"),
    [
        ("number", 3, "3.0"),
        ("number", 0.85, "0.85"),
        ("number", 1e-7, "1e-07"),
        ("number", 1e16, "1e+16"),
        ("boolean", True, "true"),
        ("boolean", False, "false"),
        ("null", None, "null"),
        ("string", "3", "3"),
        ("datetime", "2026-05-04T12:00:00Z", "2026-05-04T12:00:00Z"),
        ("ref", "user:alice", "user:alice"),
    ],
)
def test_the_text_of_a_value_is_that_of_every_cid_that_exists(value_type, v, text):
    assert value_text(value_type, v) == text


def test_a_number_beyond_the_doubles_is_an_invalid_value():
    with pytest.raises(InvalidValue):
        value_text("number", 10**400)


def test_the_cid_is_that_of_the_reference_node_for_the_same_fact():
    members = (
        b'{"confidence":1e-07,"entity":"stigmem://x.example/cf/1","relation":"test:value","scope":"public",'
        b'"source":"stigmem:node:4e60a01c","value_type":"string","value_v":"v"}'
    )
    cid = fact_cid(
        confidence=1e-7,
        entity="stigmem://x.example/cf/1",
        relation="test:value",
        scope="public",
        source="stigmem:node:4e60a01c",
        value_type="string",
        value_v="v",
    )
    assert cid == "sha256:" + hashlib.sha256(members).hexdigest()


@given(
    st.fixed_dictionaries(
        {"confidence": FINITE}
        | dict.fromkeys(["entity", "relation", "scope", "source", "value_type", "value_v"], TEXT),
    )
)
def test_the_cid_hashes_exactly_what_json_dumps_writes(members):
    written = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert fact_cid(**members) == "sha256:" + hashlib.sha256(written).hexdigest()


def test_an_integer_confidence_has_the_cid_of_its_float():
    of_integer = fact_cid(**(FACT | {"confidence": 1}), value_type="string", value_v="v")
    assert of_integer == fact_cid(**FACT, value_type="string", value_v="v")


def test_lone_surrogates_are_an_invalid_value_in_every_form():
    with pytest.raises(InvalidValue):
        fact_cid(**FACT, value_type="string", value_v="\ud800")
    with pytest.raises(InvalidValue):
        fact_body(**FACT, value_type="string", value_v="\ud800", interpret_as=None, timestamp="t")
    with pytest.raises(InvalidValue):
        seal_message(**(SEALED | {"id": "\ud800"}))


@pytest.mark.parametrize("number", [math.nan, math.inf, 10**400], ids=["nan", "infinity", "too_large"])
def test_a_body_with_a_number_that_is_no_finite_double_is_refused(number):
    with pytest.raises(InvalidValue):
        fact_body(**FACT, value_type="number", value_v=number, interpret_as=None, timestamp="t")


TYPED_VALUES = st.one_of(
    st.tuples(st.sampled_from(["string", "text", "datetime", "ref"]), TEXT),
    st.tuples(st.just("number"), FINITE),
    st.tuples(st.just("boolean"), st.booleans()),
)


MEMBERS = st.fixed_dictionaries(
    {"confidence": FINITE} | dict.fromkeys(["entity", "relation", "scope", "source"], TEXT),
)


@given(TYPED_VALUES, MEMBERS, TEXT, st.sampled_from([None, "content", "instruction"]))
def test_the_fact_body_is_the_canonical_json_of_its_seven_members(typed, members, timestamp, interpret_as):
    value_type, v = typed
    body = fact_body(**members, value_type=value_type, value_v=v, interpret_as=interpret_as, timestamp=timestamp)
    value = {"type": value_type, "v": v} | ({"interpret_as": "instruction"} if interpret_as == "instruction" else {})
    assert body == canonical_json({**members, "ts": timestamp, "value": value})


def test_a_null_value_has_no_v_in_the_body():
    body = fact_body(**FACT, value_type="null", value_v=None, interpret_as=None, timestamp="2026-05-04T12:00:00.000Z")
    assert json.loads(body)["value"] == {"type": "null"}
    assert fact_hash(body) == hashlib.sha256(body).hexdigest()


SEALED = {
    "origin": "stigmem://org-a.example",
    "id": "019df2dc-0a00-7291-9f24-380d7ed4622a",
    "hlc": "1777896000000.000",
    "fact_hash": "ab" * 32,
    "valid_until": None,
    "derived_from": ["cd" * 32],
    "supersedes": [],
    "resolves": None,
}


def test_a_seal_is_over_its_domain_line_and_eight_members():
    assert seal_message(**SEALED) == b"stigmem-fact/v1\n" + canonical_json(SEALED)


@given(TEXT, st.lists(TEXT), st.one_of(st.none(), TEXT))
def test_the_seal_message_is_canonical_json_whatever_the_texts(text, texts, maybe_text):
    members = SEALED | {"id": text, "derived_from": texts, "supersedes": texts, "valid_until": maybe_text}
    assert seal_message(**members) == b"stigmem-fact/v1\n" + canonical_json(members)
