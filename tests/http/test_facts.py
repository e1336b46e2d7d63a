"""Facts over HTTP: what may be stated, how it is stored, and what a reader is shown (PROTOCOL §2.1-§2.5)."""

import asyncio
import hashlib
import re
from base64 import urlsafe_b64decode

import pytest

from node.keys import Signer, verify
from node.times import format_ms
from tests.api_keys import bearer_for
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url, be_strict, body_of, cid_of, seal_message
from tests.served import NODE_ID, Served, fact

APOLLO = f"{NODE_ID}/project/apollo"
SCRIBE = f"{NODE_ID}/agent/scribe"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
RECORD = (
    *(
        "id",
        "entity",
        "relation",
        "value",
        "source",
        "timestamp",
        "hlc",
        "confidence",
        "scope",
        "valid_until",
        "garden_id",
    ),
    *("received_from", "contradicted", "supersedes", "origin", "seal", "source_trust", "effective_confidence"),
    *("quarantine_status", "quarantine_garden_id", "quarantine_reason", "derived_from", "attestation_chain"),
    *("attestation_chain_issuers", "attestation_verified", "cid", "log_offset", "warnings"),
)


async def refused(http: Served, status: int, code: str, **fields: object) -> str:
    """Assert a fact, expect the refusal, and that nothing of it is stored; returns the detail."""
    size, digests = http.size, await http.digests()
    body = (await http.post("/v1/facts", fact(**fields))).refused(status, code)
    assert {entry.type for entry in http.entries(size)} <= {"request.refused.1"}
    if http.size == size:
        assert await http.digests() == digests
    assert (await listed(http))["total"] == 0
    return body["detail"]


async def listed(http: Served, **query: object) -> dict:
    """A listing; contradicted facts too, which `test_conflicts.py` is about."""
    return (await http.get("/v1/facts", **({"include_contradicted": "true"} | query))).expect(200)


async def values(http: Served, **query: object) -> list[object]:
    return [record["value"].get("v") for record in (await listed(http, **query))["facts"]]


def text(v: object) -> dict[str, object]:
    return {"type": "string", "v": v}


# The record.


async def test_a_record_has_exactly_the_members_of_the_protocol_in_their_order(http: Served):
    record = await http.write(scope="public", confidence=0.85, valid_until="2027-01-01T01:00:00+01:00")

    assert tuple(record) == RECORD
    assert UUID7.fullmatch(record["id"])
    assert record["cid"] == cid_of(record) and record["origin"] == NODE_ID
    assert record["timestamp"] == format_ms(START_MS) and record["valid_until"] == "2027-01-01T00:00:00.000Z"
    assert re.fullmatch(r"[0-9]{13}\.[0-9]{3}", record["hlc"])
    assert (record["confidence"], record["effective_confidence"], record["contradicted"]) == (0.85, 0.85, False)
    assert record["log_offset"] == http.size - 1
    assert record["received_from"] is None and record["warnings"] == []


async def test_a_fact_reads_the_same_by_id_by_cid_and_in_a_listing(http: Served):
    record = await http.write()

    assert (await http.get(f"/v1/facts/{record['id']}")).expect(200) == record
    assert (await http.get(f"/v1/facts/{record['cid']}")).expect(200) == record
    assert (await listed(http)) == {"facts": [record], "total": 1, "cursor": None, "has_more": False}


async def test_the_defaults_are_local_full_confidence_and_no_end(http: Served):
    record = await http.write()

    assert (record["scope"], record["confidence"], record["valid_until"]) == ("local", 1.0, None)


async def test_the_seal_holds_over_the_record_and_local_facts_have_none(http: Served):
    sealed, local = await http.write(scope="company"), await http.write(scope="local")

    message = seal_message(sealed | {"resolves": None})
    assert verify(http.signer.public_key, message, urlsafe_b64decode(sealed["seal"] + "=="))
    assert local["seal"] is None


async def test_the_body_is_the_canonical_json_that_an_attestation_signs(http: Served):
    for value in (
        text("grün \u20ac \U0001f600"),
        {"type": "number", "v": 3},
        {"type": "boolean", "v": False},
        {"type": "null"},
    ):
        record = await http.write(value=value, confidence=0.1)

        answer = await http.get(f"/v1/facts/{record['id']}/body")

        assert answer.body == body_of(record)
        answer.assert_well_formed()


async def test_equal_statements_are_two_facts_and_their_cid_names_the_newer(http: Served):
    first, second = await http.write(), await http.write()

    assert first["id"] != second["id"] and first["cid"] == second["cid"]
    assert (await http.get(f"/v1/facts/{first['cid']}")).json["id"] == second["id"]


@pytest.mark.parametrize(
    "name",
    [
        "01890000-0000-7000-8000-000000000000",
        "sha256:" + "0" * 64,
        "nothing",
        "sha256:",
        "0" * 36,
        "%00",
        "-" * 36,
        "é" * 36,
    ],
)
async def test_a_name_that_no_fact_has_is_not_found(http: Served, name: str):
    await http.write()

    for path in (f"/v1/facts/{name}", f"/v1/facts/{name}/body"):
        (await http.get(path)).refused(404, "fact_not_found")


# Values.

GOOD_VALUES = {
    "an empty string": (text(""), text("")),
    "text of 64 KiB": (text("x" * 65_536), text("x" * 65_536)),
    "an integer": ({"type": "number", "v": 3}, {"type": "number", "v": 3.0}),
    "the last exact integer": ({"type": "number", "v": 2**53}, {"type": "number", "v": 2.0**53}),
    "a great exact integer": ({"type": "number", "v": 2**63}, {"type": "number", "v": 2.0**63}),
    "a small fraction": ({"type": "number", "v": 5e-324}, {"type": "number", "v": 5e-324}),
    "false": ({"type": "boolean", "v": False}, {"type": "boolean", "v": False}),
    "null": ({"type": "null"}, {"type": "null"}),
    "null spelled out": ({"type": "null", "v": None}, {"type": "null"}),
    "a leap second": (
        {"type": "datetime", "v": "2016-12-31T23:59:60Z"},
        {"type": "datetime", "v": "2016-12-31T23:59:60Z"},
    ),
    "a datetime in small letters": (
        {"type": "datetime", "v": "2026-05-04t14:00:00.5z"},
        {"type": "datetime", "v": "2026-05-04t14:00:00.5z"},
    ),
    "a datetime as sent": (
        {"type": "datetime", "v": "2026-05-04T14:00:00+02:00"},
        {"type": "datetime", "v": "2026-05-04T14:00:00+02:00"},
    ),
    "a ref to an informal name": ({"type": "ref", "v": "user:alice"}, {"type": "ref", "v": "user:alice"}),
    "an instruction": (text("go") | {"interpret_as": "instruction"}, text("go") | {"interpret_as": "instruction"}),
    "plain content": (text("go") | {"interpret_as": "content"}, text("go")),
}


@pytest.mark.parametrize("kind", GOOD_VALUES)
async def test_a_value_is_stored_as_stated_numbers_as_floats(http: Served, kind: str):
    stated, stored = GOOD_VALUES[kind]

    record = await http.write(value=stated)

    assert record["value"] == stored
    if stated["type"] == "number":
        assert isinstance(record["value"]["v"], float)


BAD_VALUES = {
    "an integer that a double cannot hold": {"type": "number", "v": 2**53 + 1},
    "a boolean as number": {"type": "number", "v": True},
    "text as number": {"type": "number", "v": "3"},
    "no number": {"type": "number"},
    "null as number": {"type": "number", "v": None},
    "a number as boolean": {"type": "boolean", "v": 1},
    "text as boolean": {"type": "boolean", "v": "true"},
    "a number as string": {"type": "string", "v": 1},
    "no text": {"type": "text"},
    "something beside null": {"type": "null", "v": "x"},
    "an empty ref": {"type": "ref", "v": ""},
    "a date that does not exist": {"type": "datetime", "v": "2026-02-30T00:00:00Z"},
    "a word as datetime": {"type": "datetime", "v": "tomorrow"},
}


@pytest.mark.parametrize("kind", BAD_VALUES)
async def test_a_value_that_is_not_of_its_type_is_refused(http: Served, kind: str):
    await refused(http, 422, "invalid_value", value=BAD_VALUES[kind])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"type": "json", "v": "{}"}, "invalid_field"),
        ({"v": "x"}, "missing_field"),
        ("text", "invalid_field"),
        (text("x") | {"extra": 1}, "unknown_field"),
        (text("x") | {"interpret_as": "command"}, "invalid_field"),
        (text(["x"]), "invalid_field"),
    ],
)
async def test_a_value_of_another_form_is_refused(http: Served, value: object, code: str):
    await refused(http, 422, code, value=value)


@pytest.mark.parametrize("value_type", ["string", "text", "ref", "datetime"])
async def test_text_above_64_kib_is_too_large_counted_in_bytes(http: Served, value_type: str):
    for v in ("x" * 65_537, "é" * 32_769):
        await refused(http, 413, "text_too_large", value={"type": value_type, "v": v})


async def test_a_number_beyond_a_double_is_no_json(http: Served):
    answer = await http.post("/v1/facts", b'{"value":{"type":"number","v":1e400}}')

    answer.refused(400, "malformed_json")


@pytest.mark.parametrize("confidence", [-0.1, 1.1, 2, -1])
async def test_a_confidence_outside_0_to_1_is_refused(http: Served, confidence: float):
    assert "confidence" in await refused(http, 422, "invalid_field", confidence=confidence)


async def test_a_confidence_of_minus_zero_is_zero(http: Served):
    record = await http.write(confidence=-0.0)

    assert str(record["confidence"]) == "0.0"
    assert record["cid"] == cid_of(record | {"confidence": 0.0})


# Names.


@pytest.mark.parametrize("field", ["entity", "source"])
async def test_a_name_that_is_stored_can_be_sent_again_as_it_is_shown(http: Served, field: str):
    prefix = f"{NODE_ID}/x/"
    letters = (2048 - len(prefix)) // 6
    shown = (await http.write(**{field: prefix + "é" * letters}))[field]

    assert (await http.write(**{field: shown}))[field] == shown == prefix + "%C3%A9" * letters
    assert (await listed(http, **{field: shown}))["total"] == 2


@pytest.mark.parametrize("field", ["entity", "source"])
async def test_a_name_above_2_kib_in_normal_form_is_too_long(http: Served, field: str):
    assert field in await refused(http, 422, "field_too_long", **{field: f"{NODE_ID}/x/" + "é" * 400})


@pytest.mark.parametrize("field", ["entity", "relation", "source"])
async def test_a_name_above_2_kib_is_too_long(http: Served, field: str):
    prefix = {"entity": f"{NODE_ID}/x/", "relation": "memory:", "source": f"{NODE_ID}/x/"}[field]
    fits = prefix + "y" * (2048 - len(prefix))

    assert field in await refused(http, 422, "field_too_long", **{field: fits + "y"})
    assert (await http.write(**{field: fits}))[field] == fits


@pytest.mark.parametrize("field", ["entity", "relation", "source"])
@pytest.mark.parametrize("hidden", ["\x00", "\n", "\x7f", "\x85", "\u200b", "\u202e", "\u2066", "\ufeff"])
async def test_a_name_that_hides_characters_is_refused(http: Served, field: str, hidden: str):
    assert field in await refused(http, 422, "invalid_field", **{field: f"memory:a{hidden}b"})


BAD_URIS = [
    "",
    "  ",
    "stigmem://",
    "stigmem:///x",
    f"{NODE_ID}//x",
    f"{NODE_ID}/a/../b",
    f"{NODE_ID}/./a",
    f"{NODE_ID}/a/%2e%2e/b",
    "stigmem://org_a.example/x",
    "stigmem://user@org-a.example/x",
    "stigmem://org-a..example/x",
    "stigmem://\u043erg-a.example/x",
    "stigmem://org-a.example:0/x",
    "stigmem://org-a.example:99999/x",
    f"{NODE_ID}/%zz",
    f"{NODE_ID}/%",
]


@pytest.mark.parametrize("uri", BAD_URIS)
async def test_what_is_no_uri_is_no_entity_and_no_source(http: Served, uri: str):
    for field in ("entity", "source"):
        body = (await http.post("/v1/facts", fact(**{field: uri}))).refused(422, "invalid_uri")
        assert body["detail"].startswith(f"{field}: ")


SPELLINGS = {
    "  stigmem://ORG-A.example/Project/Apollo  ": APOLLO,
    "STIGMEM://org-a.example/project/apollo/": APOLLO,
    f"{NODE_ID}/project/%61pollo": APOLLO,
    f"{NODE_ID}/project/big   bang": f"{NODE_ID}/project/big-bang",
    f"{NODE_ID}/project/grün": f"{NODE_ID}/project/gr%C3%BCn",
    f"{NODE_ID}/project/gr%c3%bcn": f"{NODE_ID}/project/gr%C3%BCn",
    "  user:Alice ": "user:Alice",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_name_is_stored_and_found_in_its_one_spelling(http: Served, spelling: str):
    normal = SPELLINGS[spelling]

    record = await http.write(entity=spelling)

    assert record["entity"] == normal
    for asked in (spelling, normal):
        assert [found["id"] for found in (await listed(http, entity=asked))["facts"]] == [record["id"]]


async def test_a_relation_is_trimmed_and_its_prefix_is_in_lower_case(http: Served):
    record = await http.write(relation=" MeMory:Status ")

    assert record["relation"] == "memory:Status"
    assert (await listed(http, relation="MEMORY:Status"))["total"] == 1
    assert (await listed(http, relation="memory:status"))["total"] == 0


@pytest.mark.parametrize("relation", ["", " ", ":x", "x:", " : ", "memory: "])
async def test_a_relation_with_an_empty_part_is_refused(http: Served, relation: str):
    await refused(http, 422, "invalid_field", relation=relation)


async def test_what_is_informal_or_without_prefix_is_stored_with_a_warning_each(http: Served):
    record = await http.write(entity="user:alice", relation="status", source="agent:cto")

    assert [warning.partition(":")[0] for warning in record["warnings"]] == ["entity", "source", "relation"]


RESERVED = {
    "relation": ["stigmem:resolves", "STIGMEM:x", "Stigmem :x", " stigmem:received_from "],
    "entity": ["stigmem:conflict:1", "Stigmem:x", " STIGMEM:node", "stigmem :x", "stigmem:/x"],
    "source": ["system:stigmem", "SYSTEM:Stigmem", " system:stigmem ", "system :stigmem"],
}


@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in RESERVED.items() for name in names])
async def test_a_name_of_the_node_s_own_is_reserved_in_any_spelling(http: Served, field: str, name: str):
    assert field in await refused(http, 403, "reserved_namespace", **{field: name})


# Whose word.


@pytest.mark.parametrize("source", [SCRIBE, NODE_ID, "agent:cto", "stigmem://nobody.example/agent/x"])
async def test_the_admin_speaks_for_any_source_that_is_no_peer_s(http: Served, org_b: Organisation, source: str):
    await org_b.join(http)

    assert (await http.write(source=source))["source"] == source


async def test_the_admin_may_not_speak_for_a_registered_peer_in_any_spelling(http: Served, org_b: Organisation):
    await org_b.join(http)

    for source in (org_b.node_id, org_b.assistant, org_b.assistant.replace("org-b", "ORG-B"), f"{org_b.node_id}/x/%79"):
        await refused(http, 403, "source_not_owned", source=source)
    await refused(http, 403, "source_not_owned", source=org_b.assistant, timestamp=format_ms(START_MS))


async def test_a_removed_peer_s_name_is_no_peer_s(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    assert (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).status == 204

    await http.write(source=org_b.assistant)


async def test_a_name_that_only_begins_like_a_peer_s_is_not_the_peer_s(http: Served, org_b: Organisation):
    await org_b.join(http)

    await http.write(source=f"{org_b.node_id}.evil.example/agent/x")


# Replacing and retracting.


async def test_superseding_everything_hides_this_source_s_facts_of_that_entity_relation_and_scope_alone(http: Served):
    old = [await http.write(value=text(str(n))) for n in range(2)]
    await http.write(value=text("other source"), source="agent:cto")
    await http.write(value=text("other scope"), scope="team")
    await http.write(value=text("other relation"), relation="memory:owner")

    new = await http.write(value=text("new"), supersedes=True)

    assert sorted(new["supersedes"]) == sorted(record["id"] for record in old)
    assert sorted(await values(http)) == ["new", "other relation", "other scope", "other source"]
    assert (await listed(http, include_retracted=True))["total"] == 6
    assert (await http.get(f"/v1/facts/{old[0]['id']}")).status == 200


async def test_supersedes_true_names_no_fact_of_a_garden_that_readers_of_the_record_may_not_know(http: Served):
    for slug in ("den", "hut"):
        (await http.post("/v1/gardens", {"slug": slug, "name": slug, "scope": "local"})).expect(201)
    outside = await http.write(value=text("outside"))
    den = await http.write(value=text("den"), garden_id="den")
    hut = await http.write(value=text("hut"), garden_id="hut")

    assert (await http.write(value=text("den 2"), garden_id="den", supersedes=True))["supersedes"] == [
        den["id"],
        outside["id"],
    ]
    again = await http.write(value=text("outside 2"))
    assert (await http.write(value=text("outside 3"), supersedes=True))["supersedes"] == [again["id"]]
    shown = (await http.get("/v1/facts", garden_id="hut")).expect(200)["facts"]
    assert [record["id"] for record in shown] == [hut["id"]]
    # Who names an id says so itself.
    assert (await http.write(value=text("4"), supersedes=[hut["id"]]))["supersedes"] == [hut["id"]]


async def test_superseding_by_id_hides_those_alone_and_superseding_nothing_hides_nothing(http: Served):
    first, _ = await http.write(value=text("1")), await http.write(value=text("2"))

    await http.write(value=text("3"), supersedes=[first["id"]])
    await http.write(value=text("4"), supersedes=[])
    await http.write(value=text("5"), supersedes=False)

    assert sorted(await values(http)) == ["2", "3", "4", "5"]


async def test_what_is_superseded_must_be_this_source_s_own(http: Served):
    other = await http.write(source="agent:cto")
    size = http.size

    for foreign in (other["id"], "01890000-0000-7000-8000-000000000000", "nothing"):
        (await http.post("/v1/facts", fact(supersedes=[foreign]))).refused(403, "superseded_not_owned")
    assert {entry.type for entry in http.entries(size)} == {"request.refused.1"}


@pytest.mark.parametrize("blanket", [{"type": "null"}, text("retracted")], ids=["null", "retracted"])
async def test_a_blanket_retraction_hides_all_that_its_source_said_before(http: Served, blanket: dict):
    for n in range(2):
        await http.write(value=text(str(n)))
    await http.write(value=text("other"), source="agent:cto")

    await http.write(value=blanket, confidence=0)
    await http.write(value=text("after"))

    assert sorted(await values(http)) == ["after", "other"]
    assert (await listed(http, include_retracted=True))["total"] == 5


async def test_a_retraction_by_value_hides_that_value_alone(http: Served):
    for value in (text("1"), text("2"), {"type": "number", "v": 1}, {"type": "text", "v": "1"}):
        await http.write(value=value)

    await http.write(value=text("1"), confidence=0)

    found = [(record["value"]["type"], record["value"]["v"]) for record in (await listed(http))["facts"]]
    assert found == [("text", "1"), ("number", 1.0), ("string", "2")]


@pytest.mark.parametrize(
    "elsewhere",
    [{"entity": f"{NODE_ID}/project/other"}, {"relation": "memory:owner"}, {"scope": "team"}, {"source": "agent:cto"}],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_retraction_reaches_its_own_entity_relation_scope_and_source_alone(http: Served, elsewhere: dict):
    await http.write()

    await http.write(value={"type": "null"}, confidence=0, **elsewhere)

    assert await values(http) == ["green"]


# Reading.


async def test_facts_are_listed_newest_first_or_the_other_way_round(http: Served):
    for n in range(3):
        await http.write(value=text(str(n)))

    assert await values(http) == ["2", "1", "0"]
    assert await values(http, order="desc") == ["2", "1", "0"]
    assert await values(http, order="asc") == ["0", "1", "2"]


FILTERS = [
    ({"entity": APOLLO}, {"1", "2", "3", "4"}),
    ({"entity": f"{NODE_ID}/project"}, set()),
    ({"relation": "memory:owner"}, {"2"}),
    ({"source": "agent:cto"}, {"3", "5"}),
    ({"scope": "team"}, {"4"}),
    ({"min_confidence": 0.5}, {"1", "2", "3", "4"}),
    ({"min_confidence": 0.4}, {"1", "2", "3", "4", "5"}),
    ({"entity": APOLLO, "relation": "memory:status", "source": SCRIBE, "scope": "local"}, {"1"}),
    ({"entity": "user:nobody"}, set()),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS, ids=[str(query) for query, _ in FILTERS])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_filter_shows_what_it_asks_for_and_counts_it(http: Served, query: dict, expected: set, order: str):
    await http.write(value=text("1"))
    await http.write(value=text("2"), relation="memory:owner")
    await http.write(value=text("3"), source="agent:cto")
    await http.write(value=text("4"), scope="team")
    await http.write(value=text("5"), entity="user:bob", source="agent:cto", confidence=0.4)

    page = await listed(http, order=order, **query)

    assert {record["value"]["v"] for record in page["facts"]} == expected
    assert page["total"] == len(expected)


async def test_after_and_before_exclude_the_instant_itself(http: Served):
    for n in range(3):
        await http.write(value=text(str(n)))
        http.clock.advance(1000)
    at = format_ms(START_MS + 1000)

    assert await values(http, after=at) == ["2"]
    assert await values(http, before=at) == ["0"]
    assert await values(http, after=format_ms(START_MS), before=format_ms(START_MS + 2000)) == ["1"]
    assert await values(http, after="2026-05-04T14:00:01+02:00") == ["2"]


async def test_a_fact_expires_at_the_instant_it_names_and_is_shown_then_only_when_asked_for(http: Served):
    record = await http.write(valid_until=format_ms(START_MS + 1000))

    http.clock.advance(999)
    assert (await listed(http))["total"] == 1
    http.clock.advance(1)
    assert (await listed(http))["total"] == 0
    assert (await listed(http, include_expired=True))["facts"][0]["id"] == record["id"]
    assert (await http.get(f"/v1/facts/{record['id']}")).status == 200


@pytest.mark.parametrize("valid_until", ["", "soon", "2026-05-04", "2026-13-01T00:00:00Z"])
async def test_an_end_that_is_no_time_is_refused(http: Served, valid_until: str):
    assert "valid_until" in await refused(http, 422, "invalid_field", valid_until=valid_until)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_repeat_nothing_and_miss_nothing_while_writes_go_on(http: Served, order: str):
    written = [(await http.write(value=text(str(n))))["id"] for n in range(10)]
    seen, cursor = [], None

    while True:
        page = await listed(http, limit=3, order=order, **({"cursor": cursor} if cursor else {}))
        assert page["total"] == 10
        seen += [record["id"] for record in page["facts"]]
        await http.write(value=text("meanwhile"))
        await http.write(value=text("0"), confidence=0)
        cursor = page["cursor"]
        if cursor is None:
            break

    assert seen == (written if order == "asc" else written[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_what_is_promoted_between_two_pages_is_in_neither(http: Served, org_b: Organisation, order: str):
    await org_b.join(http)
    garden = await be_strict(http)
    written = [(await http.write(value=text("0")))["id"]]
    await org_b.receive(http, org_b.served_fact())
    written.append((await http.write(value=text("1")))["id"])
    first = await listed(http, limit=1, order=order)

    (await http.post(f"/v1/gardens/{garden}/promote", {"fact_id": org_b.served_fact()["id"]})).expect(200)

    second = await listed(http, order=order, cursor=first["cursor"])
    seen = [record["id"] for page in (first, second) for record in page["facts"]]
    assert seen == (written if order == "asc" else written[::-1])
    assert (await listed(http))["total"] == 3


async def test_a_page_that_holds_the_last_fact_has_no_cursor(http: Served):
    for n in range(4):
        await http.write(value=text(str(n)))

    first = await listed(http, limit=2)
    second = await listed(http, limit=2, cursor=first["cursor"])

    assert first["cursor"] is not None and second["cursor"] is None
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (await listed(http, limit=4))["cursor"] is None


async def test_a_cursor_tells_nobody_how_much_another_may_read(http: Served):
    for n in range(4):
        await http.write(entity=f"user:{n}", scope="team" if n % 2 else "company")
    bearer = await bearer_for(http, "read", allowed_scopes=["company"])
    first = (await http.get("/v1/facts", limit=1)).expect(200)
    assert first["total"] == 4

    page = (await http.send("GET", f"/v1/facts?limit=1&cursor={first['cursor']}", bearer=bearer)).expect(200)

    assert page["total"] == 2 and len(page["facts"]) == 1
    following = await http.send("GET", f"/v1/facts?limit=1&cursor={page['cursor']}", bearer=bearer)
    assert following.expect(200)["total"] == 2


async def test_a_cursor_belongs_to_what_was_asked(http: Served):
    for n in range(3):
        await http.write(value=text(str(n)))
    cursor = (await listed(http, limit=1))["cursor"]

    for query in ({"order": "asc"}, {"scope": "local"}, {"entity": APOLLO}, {"include_expired": True}):
        (await http.get("/v1/facts", cursor=cursor, **query)).refused(400, "invalid_cursor")
    for broken in (cursor[:-2], cursor + "AA", cursor[::-1]):
        (await http.get("/v1/facts", cursor=broken)).refused(400, "invalid_cursor")
    assert (await listed(http, cursor=cursor, limit=5))["total"] == 3


async def test_parallel_writes_all_stand_each_at_its_own_offset(http: Served):
    records = await asyncio.gather(*(http.write(value=text(str(n))) for n in range(40)))

    offsets = sorted(record["log_offset"] for record in records)
    assert offsets == list(range(offsets[0], offsets[0] + 40))
    assert sorted(await values(http, limit=40)) == sorted(str(n) for n in range(40))


async def test_facts_survive_a_restart_as_they_were(http: Served):
    await http.write(scope="public")
    await http.write(value=text("gone"), confidence=0)
    before = await listed(http, include_retracted=True)

    await http.restart()

    assert await listed(http, include_retracted=True) == before


# Provenance.


async def test_parents_are_named_by_id_by_hash_or_as_objects(http: Served):
    parent = await http.write()
    fact_hash = hashlib.sha256(body_of(parent)).hexdigest()

    child = await http.write(value=text("child"), derived_from=[parent["id"], fact_hash, {"fact_id": parent["id"]}])

    assert child["derived_from"] == [parent["id"], fact_hash, parent["id"]]
    assert child["warnings"] == []


async def test_a_relation_whose_small_letters_take_more_room_is_too_long_too(http: Served):
    assert "relation" in await refused(http, 422, "field_too_long", relation="İ" * 1000 + ":x")


async def test_parents_are_named_by_objects_that_have_a_hash_too(http: Served):
    parent, other = await http.write(), await http.write(value=text("other"))
    by_hash = {"hash": parent["cid"]}

    named = [by_hash, {"fact_id": other["id"], "hash": parent["cid"]}, {"fact_id": None} | by_hash]
    child = await http.write(value=text("child"), derived_from=named)

    assert (child["derived_from"], child["warnings"]) == ([parent["id"], other["id"], parent["id"]], [])


async def test_an_object_that_names_no_parent_is_refused(http: Served):
    for nameless in ({}, {"fact_id": None, "hash": None}):
        await refused(http, 422, "missing_field", derived_from=[nameless])
    for named in ({"hash": ""}, {"fact_id": "", "hash": "f" * 64}):
        await refused(http, 400, "provenance_hash_invalid", derived_from=[named])
    await refused(http, 422, "unknown_field", derived_from=[{"fact_id": "f" * 64, "note": "x"}])


async def test_a_parent_that_is_named_by_its_cid_stands_there_by_its_id(http: Served):
    older, newer = await http.write(), await http.write()
    assert older["cid"] == newer["cid"]

    child = await http.write(value=text("child"), derived_from=[newer["cid"], {"fact_id": newer["cid"]}])

    assert (child["derived_from"], child["warnings"]) == ([newer["id"]] * 2, [])


@pytest.mark.parametrize(
    "parent", ["", "x", "f" * 63, "F" * 64, "sha256:" + "f" * 64, "zzzzzzzz-0000-7000-8000-000000000000"]
)
async def test_a_parent_of_no_known_form_is_refused(http: Served, parent: str):
    await refused(http, 400, "provenance_hash_invalid", derived_from=[parent])


@pytest.mark.parametrize("parent", ["f" * 64, "01890000-0000-7000-8000-000000000000"])
async def test_an_unknown_parent_is_warned_of_or_in_strict_mode_refused(http: Served, parent: str):
    assert len((await http.write(derived_from=[parent]))["warnings"]) == 1

    (await http.send("PATCH", "/v1/admin/config", {"trust_mode": "strict"})).expect(200)
    (await http.post("/v1/facts", fact(derived_from=[parent]))).refused(400, "provenance_unknown_parent")


async def test_more_than_64_parents_are_refused(http: Served):
    await refused(http, 422, "invalid_field", derived_from=["f" * 64] * 65)


# Attestations.


def signed(http: Served, signer: Signer, issuer: str, **fields: object) -> dict[str, object]:
    """A fact as a signing client sends it."""
    stated = fact(timestamp=format_ms(http.clock.now_ms()), confidence=1.0, scope="local") | fields
    return stated | {
        "attestation_chain": [b64url(signer.sign(body_of(stated)))],
        "attestation_chain_issuers": [issuer],
    }


async def test_a_signing_client_s_attestation_verifies_and_its_timestamp_stands(http: Served):
    http.clock.advance(1000)
    sent = signed(http, http.signer, NODE_ID, timestamp="2026-05-04T14:00:00.5+02:00")

    record = (await http.post("/v1/facts", sent)).expect(201)

    assert record["attestation_verified"] == [True] and record["timestamp"] == sent["timestamp"]
    assert record["warnings"] == []
    assert (await http.get(f"/v1/facts/{record['id']}/body")).body == body_of(sent)


async def test_a_registered_peer_s_attestation_is_checked_under_its_manifest(http: Served, org_b: Organisation):
    await org_b.join(http)

    record = (await http.post("/v1/facts", signed(http, org_b.signer, org_b.node_id))).expect(201)

    assert record["attestation_verified"] == [True]


@pytest.mark.parametrize("mode", ["relaxed", "strict"])
async def test_an_attestation_that_does_not_hold_is_warned_of_or_in_strict_mode_refused(serve, mode: str):
    http = await serve(trust_mode=mode)
    good = signed(http, http.signer, NODE_ID)
    twice = {name: good[name] * 2 for name in ("attestation_chain", "attestation_chain_issuers")}
    bad = [
        good | {"value": text("another")},
        good | {"attestation_chain_issuers": ["stigmem://nobody.example"]},
        good | {"attestation_chain": ["AAAA"]},
        good | {"attestation_chain": ["not base64!"]},
        good | {"attestation_chain": [good["attestation_chain"][0] + "="]},
        good | twice,
        signed(http, Signer.from_seed(bytes(32)), NODE_ID),
    ]
    for sent in bad:
        answer = await http.post("/v1/facts", sent)

        if mode == "strict":
            answer.refused(400, "provenance_invalid")
        else:
            assert answer.expect(201)["warnings"]


async def test_attestations_without_one_issuer_each_or_too_many_are_refused(http: Served):
    good = signed(http, http.signer, NODE_ID)

    for chain, issuers in (
        (good["attestation_chain"], []),
        ([], [NODE_ID]),
        (good["attestation_chain"] * 2, [NODE_ID]),
    ):
        sent = good | {"attestation_chain": chain, "attestation_chain_issuers": issuers}
        (await http.post("/v1/facts", sent)).refused(422, "attestation_chain_mismatch")
    many = good | {"attestation_chain": ["AAAA"] * 17, "attestation_chain_issuers": [f"agent:{n}" for n in range(17)]}
    (await http.post("/v1/facts", many)).refused(400, "attestation_chain_too_long")


@pytest.mark.parametrize("seconds", [-301, 301, 86_400])
async def test_a_timestamp_more_than_five_minutes_from_now_is_refused(http: Served, seconds: int):
    await refused(http, 422, "timestamp_out_of_window", timestamp=format_ms(START_MS + seconds * 1000))


@pytest.mark.parametrize("seconds", [-300, 0, 300])
async def test_a_timestamp_within_five_minutes_is_taken(http: Served, seconds: int):
    await http.write(timestamp=format_ms(START_MS + seconds * 1000))


async def test_a_signed_fact_keeps_its_spelling_and_is_found_by_its_normal_form(http: Served):
    record = await http.write(entity="stigmem://org-a.example/Project/Apollo", timestamp=format_ms(START_MS))

    assert record["entity"] == "stigmem://org-a.example/Project/Apollo"
    assert (await listed(http, entity=APOLLO))["total"] == 1


async def test_a_signed_fact_whose_source_or_relation_is_not_in_normal_form_is_refused(http: Served):
    for field, name in (("source", "stigmem://ORG-A.example/agent/scribe"), ("relation", "Memory:status")):
        await refused(http, 422, "invalid_field", timestamp=format_ms(START_MS), **{field: name})


async def test_what_today_s_clients_send_beside_the_fact_is_taken(http: Served):
    headers = {"Stigmem-Session": "s-1", "Stigmem-Verify": "true"}

    answer = await http.send("POST", "/v1/facts", fact(write_mode="summarize_with_provenance"), headers=headers)

    answer.expect(201)


# Gardens.


async def test_a_fact_in_a_garden_is_found_there_and_has_no_seal(http: Served):
    garden = (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"})).expect(201)
    for name in (garden["id"], "den", garden["garden_id"]):
        record = await http.write(garden_id=name, scope="team")
        assert (record["garden_id"], record["seal"]) == (garden["id"], None)
    await http.write(scope="team")

    for name in (garden["id"], "den", garden["garden_id"]):
        assert (await listed(http, garden_id=name))["total"] == 3
    (await http.get("/v1/facts", garden_id="none")).refused(403, "garden_forbidden")


async def test_a_garden_takes_its_own_scope_alone_and_a_quarantine_garden_nothing(http: Served):
    for slug, is_quarantine in (("den", False), ("pit", True)):
        body = {"slug": slug, "name": slug, "scope": "team", "quarantine": is_quarantine}
        (await http.post("/v1/gardens", body)).expect(201)

    await refused(http, 422, "garden_scope_mismatch", garden_id="den", scope="public")
    await refused(http, 403, "quarantine_write_forbidden", garden_id="pit", scope="team")
    assert (await refused(http, 404, "garden_not_found", garden_id="none", scope="team")).startswith("garden_id: ")


async def test_a_clock_that_jumps_back_leaves_the_log_in_order(http: Served):
    await http.write(value=text("before"))
    http.clock.advance(-3_600_000)

    await http.write(value=text("after"))

    assert await values(http) == ["after", "before"]
    entries = http.entries(0)
    assert [entry.hlc for entry in entries] == sorted(entry.hlc for entry in entries)
    assert [entry.at_ms for entry in entries] == sorted(entry.at_ms for entry in entries)


async def test_superseding_everything_does_not_walk_over_all_that_stands_in_gardens(http: Served):
    (await http.post("/v1/gardens", {"slug": "den", "name": "den", "scope": "local"})).expect(201)
    outside = await http.write(value=text("outside"))
    for batch in range(2):
        held = [fact(garden_id="den", value={"type": "number", "v": 1000 * batch + n}) for n in range(1000)]
        (await http.post("/v1/facts/batch", {"facts": held})).expect(201)

    assert (await http.write(value=text("new"), supersedes=True))["supersedes"] == []
    # The newest that stands is the one outside that has just been written.
    assert len((await http.write(value=text("newer"), supersedes=True))["supersedes"]) == 1
    assert (await http.write(value=text("newest"), supersedes=[outside["id"]]))["supersedes"] == [outside["id"]]
