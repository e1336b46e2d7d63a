"""Federation with the public reference node (INTEROP.md), played by a peer of our own that speaks exactly as it does."""

import asyncio
import hashlib
import json
from itertools import product
from urllib.parse import quote

import pytest
from yarl import URL

from node.client import NodeRefused
from node.keys import Signer
from node.peer_console import Console
from node.times import format_ms
from tests.conftest import Serve
from tests.interop_peer import DECLARED, ReferencePeer, Registered, cid_of, declare, declared_bytes, join
from tests.organisations import Organisation, b64url, be_strict
from tests.served import ADMIN_KEY, NODE_ID, Served

DAY_MS = 86_400_000


@pytest.fixture
async def relaxed(serve: Serve) -> Served:
    return await serve(trust_mode="relaxed")


async def pull(at: Served, reference: ReferencePeer, **body: str) -> dict[str, object]:
    with at.node.view() as view:
        peer_id = view.peers.of_node(reference.node_id).peer_id
    return (await at.post(f"/v1/federation/peers/{peer_id}/pull", body)).expect(200)


def string(text: str) -> dict[str, object]:
    return {"type": "string", "v": text}


# It comes to us


async def test_a_declared_reference_node_is_active_with_its_key_pinned_in_relaxed_mode(relaxed, reference):
    answer = await declare(relaxed, reference, "public")

    assert (answer["status"], answer["node_id"]) == ("active", reference.node_id)
    assert "no manifest" in answer["warnings"][0]
    with relaxed.node.view() as view:
        assert view.peers.of_node(reference.node_id).public_key == reference.public_key


async def test_a_declared_reference_node_stays_unverified_in_strict_mode(http, reference):
    await be_strict(http)

    answer = await declare(http, reference, "public")

    assert (answer["status"], answer["reason"]) == ("pending_verification", "proof_missing")
    token = reference.token(Registered("", NODE_ID, "", "", ["public"], "active"))
    (await http.send("GET", "/v1/federation/facts", bearer=token)).refused(401, "unknown_or_inactive_peer")


@pytest.mark.parametrize("changed", ["declaration_sig", "node_url", "federation_pubkey", "allowed_scopes"])
async def test_a_declaration_that_was_changed_on_the_way_is_refused(relaxed, reference, changed):
    declaration = reference.declaration("public", signed_at=format_ms(relaxed.clock.now_ms()))
    others = {
        "declaration_sig": b64url(bytes(64)),
        "node_url": "http://localhost:1",
        "federation_pubkey": Signer.from_seed(bytes(32)).public_key_b64,
        "allowed_scopes": ["company", "public"],
    }
    size = relaxed.size

    answer = await relaxed.post("/v1/federation/peers", declaration | {changed: others[changed]})

    answer.refused(422, "declaration_invalid")
    assert relaxed.size == size


@pytest.mark.parametrize("added", [{}, {"manifest_version": 1}], ids=["seven_keys", "a_version_that_is_not_signed"])
async def test_a_manifest_signed_as_the_reference_signs_is_believed(relaxed, reference, added):
    reference.published_manifest = reference.manifest() | added

    answer = await declare(relaxed, reference, "public")

    assert (answer["status"], answer["warnings"]) == ("active", ["manifest proof: none is published"])
    held = await relaxed.get(f"/v1/federation/manifest/{quote(reference.node_id, safe='')}")
    assert held.expect(200) == reference.published_manifest


async def test_what_a_manifest_says_beyond_our_version_is_ignored_and_kept_as_it_was_signed(relaxed, reference):
    members = {name: value for name, value in reference.manifest().items() if name != "signature"} | {"since": 2031}
    signature = b64url(reference.key.sign(declared_bytes(members)).signature)
    reference.published_manifest = members | {"signature": signature}

    answer = await declare(relaxed, reference, "public")

    assert answer["status"] == "active"
    held = await relaxed.get(f"/v1/federation/manifest/{quote(reference.node_id, safe='')}")
    assert held.expect(200) == reference.published_manifest


@pytest.mark.parametrize(
    "changed",
    [{"manifest_version": 2}, {"expires_at": "2027-01-01T00:00:00Z"}, {"extra": 1}],
    ids=lambda c: next(iter(c)),
)
async def test_a_manifest_that_was_changed_is_not(relaxed, reference, changed):
    reference.published_manifest = reference.manifest() | changed

    answer = await declare(relaxed, reference, "public")

    assert answer["status"] == "rejected"


# We come to it


def console_of(at: Served, *, is_raw: bool = False) -> Console:
    return Console(url=f"http://localhost:{at.port}", bearer=ADMIN_KEY, is_raw=is_raw)


async def test_our_declaration_has_the_bytes_that_the_reference_verifies(relaxed, reference):
    said = await asyncio.to_thread(console_of(relaxed).declare, ["public", "company"])

    declaration = json.loads(said)
    assert set(declaration) == {*DECLARED, "declaration_sig"}
    assert declaration | {"declaration_sig": ""} == {
        "allowed_scopes": ["company", "public"],
        "declaration_sig": "",
        "federation_pubkey": relaxed.signer.public_key_b64,
        "node_id": NODE_ID,
        "node_url": f"http://localhost:{relaxed.port}",
        "signed_at": format_ms(relaxed.clock.now_ms()),
    }
    signed = declared_bytes({name: declaration[name] for name in DECLARED})
    assert declaration["declaration_sig"] == b64url(relaxed.signer.sign(signed))
    assert await reference.registered(declaration) == "active"
    assert reference.peers[NODE_ID].allowed_scopes == ["company", "public"]


async def test_a_declaration_brought_by_the_command_waits_for_the_references_admin(relaxed, reference):
    said = await asyncio.to_thread(console_of(relaxed).declare_to, reference.url, reference.federate_key, [])

    [peer] = reference.peers.values()
    fingerprint = hashlib.sha256(relaxed.signer.public_key_b64.encode()).hexdigest()
    assert (peer.node_id, peer.status, peer.allowed_scopes) == (NODE_ID, "pending_approval", ["public"])
    assert said.splitlines() == [
        f"{reference.url}: pending_approval",
        f"  its admin approves {peer.peer_id} with pubkey_fingerprint sha256:{fingerprint}",
    ]


async def test_a_declaration_that_the_reference_does_not_take_is_an_error_for_the_operator(serve, relaxed, reference):
    # Where its URL leads, the peer finds another key than the one that signed.
    elsewhere = await serve(seed=bytes(32), entity_uri="stigmem://org-d.example", node_url=reference.url)
    await join(relaxed, reference)
    key = reference.federate_key
    cases = [
        (relaxed, "wrong", "401.*Invalid"),
        (relaxed, key, "409.*already registered"),
        (elsewhere, key, "rejected$"),
    ]

    for at, bearer, words in cases:
        with pytest.raises(NodeRefused, match=words):
            await asyncio.to_thread(console_of(at).declare_to, reference.url, bearer, [])


async def test_whatever_else_a_peer_answers_is_an_error_in_printable_characters(relaxed, reference):
    for status, answer, words in [
        (201, {"peer_id": "p", "status": "active\u001b]0;owned\u0007"}, r"active\?\]0;owned\?$"),
        (201, {"status": "active"}, "not that of a registration"),
        (201, {"peer_id": "p" * 70_000, "status": "active"}, "more than 65536 bytes"),
        (307, {}, "307"),
    ]:
        reference.registration_answer = (
            status,
            answer,
            {"Location": f"http://localhost:{relaxed.port}/v1/federation/peers"},
        )

        with pytest.raises(NodeRefused, match=words):
            await asyncio.to_thread(console_of(relaxed).declare_to, reference.url, reference.federate_key, [])


async def test_our_declaration_is_taken_by_a_node_of_our_kind(relaxed, org_b: Organisation):
    at_b = f"http://localhost:{org_b.home.port}"

    said = await asyncio.to_thread(console_of(relaxed, is_raw=True).declare_to, at_b, ADMIN_KEY, ["public"])

    assert (json.loads(said)["status"], json.loads(said)["node_id"]) == ("active", NODE_ID)


@pytest.mark.parametrize(
    ("scopes", "code"),
    [
        (["local"], "scope_not_permitted"),
        (["team", "public"], "scope_not_permitted"),
        ([], "invalid_field"),
        (["public", "public"], "invalid_field"),
        (["secret"], "invalid_field"),
    ],
    ids=["local", "team", "nothing", "one_twice", "no_scope"],
)
async def test_nothing_is_declared_that_could_not_be_exchanged(relaxed, scopes, code):
    answer = await relaxed.post("/v1/federation/declaration", {"allowed_scopes": scopes})

    answer.refused(403 if code == "scope_not_permitted" else 422, code)


async def test_a_node_that_exchanges_nothing_declares_nothing(serve):
    alone = await serve(federation_enabled=False)

    (await alone.post("/v1/federation/declaration", {})).refused(403, "federation_disabled")


async def test_a_node_whose_url_is_not_ascii_is_told_how_to_spell_it(serve):
    far = await serve(node_url="http://knoten.münchen.example")

    refused = (await far.post("/v1/federation/declaration", {})).refused(422, "invalid_field")

    assert "STIGMEM_NODE_URL" in refused["detail"]


async def test_no_token_has_a_declaration_signed(relaxed):
    asked = {"issuer": NODE_ID, "subject": f"{NODE_ID}/agent/a", "verb": "write", "object": "*", "ttl_seconds": 60}
    token = (await relaxed.post("/v1/federation/capability-tokens", asked)).expect(201)["token_json"]

    answer = await relaxed.post("/v1/federation/declaration", {}, bearer=token)

    answer.refused(403, "insufficient_permission")


VALUES = {
    "string": string("from-a"),
    "text": {"type": "text", "v": "naïve “text”\n\u2028"},
    "integer": {"type": "number", "v": 5},
    "negative_integer": {"type": "number", "v": -3},
    "fraction": {"type": "number", "v": 0.1},
    "large": {"type": "number", "v": 1e22},
    "boolean": {"type": "boolean", "v": True},
    "null": {"type": "null", "v": None},
    "datetime": {"type": "datetime", "v": "2026-05-04T12:00:00+00:00"},
    "ref": {"type": "ref", "v": "stigmem://x.example/test/e1"},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_a_fact_of_the_reference_is_taken_as_it_made_it(relaxed, reference, value):
    await join(relaxed, reference)
    wall_ms = relaxed.clock.now_ms()
    sent = reference.write(1, value, hlc=f"{wall_ms}.0", confidence=0.85)

    done = await pull(relaxed, reference)

    assert (done["ingested"], done["refused"]) == (1, 0)
    taken = (await relaxed.get(f"/v1/facts/{sent['id']}")).expect(200)
    kept = ("id", "entity", "relation", "source", "timestamp", "hlc", "confidence", "scope", "valid_until", "cid")
    assert {name: taken[name] for name in kept} == {name: sent[name] for name in kept}
    assert taken["value"].get("v") == sent["value"]["v"]
    assert (taken["received_from"], taken["origin"]) == (reference.node_id, reference.node_id)


async def test_a_cid_that_is_of_neither_spelling_of_the_number_is_refused_and_the_page_goes_on(relaxed, reference):
    await join(relaxed, reference)
    wall_ms = relaxed.clock.now_ms()
    reference.write(1, {"type": "number", "v": 5}, hlc=f"{wall_ms}.0")["value"]["v"] = 6.0
    reference.write(2, {"type": "number", "v": 5}, hlc=f"{wall_ms}.1")

    done = await pull(relaxed, reference)

    assert (done["ingested"], done["refused"], done["cursor"]) == (1, 1, f"{wall_ms}.1")


async def test_no_fact_is_lost_where_the_reference_compares_its_cursors_as_text(relaxed, reference):
    await join(relaxed, reference)
    wall_ms = relaxed.clock.now_ms()
    for counter in range(10):
        reference.write(counter, string("x"), hlc=f"{wall_ms}.{counter}")
    first = await pull(relaxed, reference)
    for counter in range(10, 17):
        reference.write(counter, string("x"), hlc=f"{wall_ms}.{counter}")

    second = await pull(relaxed, reference)
    third = await pull(relaxed, reference)

    assert [done["ingested"] for done in (first, second, third)] == [10, 7, 0]
    assert first["cursor"] == f"{wall_ms}.9"


async def test_a_restarted_node_goes_on_from_the_references_cursor(relaxed, reference):
    await join(relaxed, reference)
    wall_ms = relaxed.clock.now_ms()
    reference.write(1, string("x"), hlc=f"{wall_ms - 1}.0")
    reference.write(2, string("x"), hlc=f"{wall_ms}.3")
    await pull(relaxed, reference)
    await relaxed.restart()

    done = await pull(relaxed, reference)

    assert reference.asked[-1]["cursor"] == f"{wall_ms}."
    assert (done["ingested"], done["known"]) == (0, 1)


async def test_a_reference_without_facts_echoes_that_it_was_asked_for_no_cursor(relaxed, reference):
    await join(relaxed, reference)

    empty = await pull(relaxed, reference)
    reference.write(1, string("x"), hlc=f"{relaxed.clock.now_ms()}.0")
    done = await pull(relaxed, reference)

    assert (empty["cursor"], done["ingested"]) == (None, 1)


async def test_more_than_a_page_of_one_millisecond_arrives_whole(relaxed, reference):
    await join(relaxed, reference)
    wall_ms = relaxed.clock.now_ms()
    for counter in range(620):
        reference.write(counter, string("x"), hlc=f"{wall_ms}.{counter}")

    done = await pull(relaxed, reference)
    again = await pull(relaxed, reference)

    assert (done["ingested"], again["ingested"], again["known"]) == (620, 0, 620)


async def test_what_the_reference_serves_of_others_or_out_of_scope_is_refused_one_by_one(relaxed, reference):
    await join(relaxed, reference)
    wall_ms = relaxed.clock.now_ms()
    reference.write(1, string("x"), hlc=f"{wall_ms}.0", source="stigmem://org-c.example/user/alice")
    reference.write(2, string("x"), hlc=f"{wall_ms}.1", source=f"{NODE_ID}/agent/scribe")
    reference.write(3, string("x"), hlc=f"{wall_ms}.2", source="agent:cto")
    good = reference.write(4, string("x"), hlc=f"{wall_ms}.3")

    done = await pull(relaxed, reference)

    assert (done["ingested"], done["refused"]) == (1, 3)
    assert [fact["id"] for fact in (await relaxed.get("/v1/facts")).expect(200)["facts"]] == [good["id"]]


@pytest.mark.parametrize(
    ("status", "detail"), [(401, "peer_not_approved"), (403, "no permitted scopes"), (422, "x"), (404, "Not Found")]
)
async def test_a_refusal_with_nothing_but_a_detail_is_told_to_the_operator(relaxed, reference, status, detail):
    await join(relaxed, reference)
    reference.pull_answer = (status, {"detail": detail}, {})
    with relaxed.node.view() as view:
        peer_id = view.peers.of_node(reference.node_id).peer_id

    refused = await relaxed.post(f"/v1/federation/peers/{peer_id}/pull", {})

    assert refused.refused(503, "peer_answer_invalid")["detail"] == f"it answered {status} {detail}"


# It pulls from us


async def test_the_reference_takes_what_we_serve_page_by_page(relaxed, reference):
    peer = await join(relaxed, reference)
    empty = await reference.pull(NODE_ID)
    begun = peer.cursor
    written = [await relaxed.write(entity=f"{NODE_ID}/item/{number}", scope="public") for number in range(130)]

    pages = [await reference.pull(NODE_ID) for _ in range(3)]

    assert (empty, isinstance(begun, str)) == ([], True)
    assert [len(page) for page in pages] == [100, 30, 0]
    assert list(reference.received) == [fact["id"] for fact in written]
    took = next(iter(reference.received.values()))
    assert {name: took[name] for name in ("source", "timestamp", "hlc", "cid")} == {
        name: written[0][name] for name in ("source", "timestamp", "hlc", "cid")
    }


OURS = VALUES | {
    "negative_zero": {"type": "number", "v": -0.0},
    "small": {"type": "number", "v": 1e-7},
    "largest": {"type": "number", "v": 1.7976931348623157e308},
    "big_integer": {"type": "number", "v": 2**53},
    "informal_ref": {"type": "ref", "v": "user:alice"},
    "escapes": string('"\\/\u0001\u007f\U0001f600'),
}


async def test_the_reference_finds_every_cid_of_ours_right(relaxed, reference):
    await join(relaxed, reference)
    for number, (value, confidence) in enumerate(product(OURS.values(), (1.0, 0.0, 1e-07, 0.85))):
        stated = value if value["v"] is not None else {"type": "null"}
        entity = f"stigmem://x.example/Ä b/ö{number}"
        await relaxed.write(value=stated, scope="public", confidence=confidence, entity=entity)

    taken = await reference.pull(NODE_ID)

    assert len(taken) == 4 * len(OURS)
    assert [fact["cid"] for fact in taken] == [cid_of(fact) for fact in taken]


async def test_an_old_fact_is_served_to_the_reference_without_the_hlc_it_would_stall_on(relaxed, reference):
    peer = await join(relaxed, reference)
    old = await relaxed.write(scope="public")
    relaxed.clock.advance(31 * DAY_MS)
    new = await relaxed.write(scope="public", entity=f"{NODE_ID}/item/2")

    first, second = await reference.pull(NODE_ID)

    assert (first["id"], "hlc" in first, first["seal"], first["timestamp"]) == (
        old["id"],
        False,
        None,
        old["timestamp"],
    )
    assert (second["hlc"], second["seal"]) == (new["hlc"], new["seal"])
    assert await reference.pull(NODE_ID) == []
    assert peer.cursor


async def test_a_fact_is_served_without_hlc_while_our_clock_is_behind_what_it_was(relaxed, reference):
    await join(relaxed, reference)
    await relaxed.write(scope="public")
    relaxed.clock.advance(-3_500_000)
    await relaxed.write(scope="public", entity=f"{NODE_ID}/item/2")

    taken = await reference.pull(NODE_ID)

    assert ["hlc" in fact for fact in taken] == [False, False]


async def test_an_old_fact_keeps_hlc_and_seal_for_a_node_of_our_kind(relaxed, org_b):
    await org_b.join(relaxed)
    written = await relaxed.write(scope="public")
    relaxed.clock.advance(31 * DAY_MS)

    page = (await relaxed.send("GET", "/v1/federation/facts", bearer=org_b.token(relaxed))).expect(200)

    assert [(fact["hlc"], fact["seal"]) for fact in page["facts"]] == [(written["hlc"], written["seal"])]


async def test_an_instruction_is_not_served_to_the_reference_and_holds_nothing_up(relaxed, reference):
    await join(relaxed, reference)
    await relaxed.write(scope="public", value=string("do it") | {"interpret_as": "instruction"})
    plain = await relaxed.write(scope="public", entity=f"{NODE_ID}/item/2")

    taken = await reference.pull(NODE_ID)

    assert [fact["id"] for fact in taken] == [plain["id"]]
    assert await reference.pull(NODE_ID) == []


async def test_only_the_scopes_declared_on_both_sides_leave_and_never_local_or_team(relaxed, reference):
    await join(relaxed, reference, "company", "public")
    for scope in ("local", "team", "company", "public"):
        await relaxed.write(scope=scope, entity=f"{NODE_ID}/item/{scope}")

    taken = await reference.pull(NODE_ID)

    assert [fact["scope"] for fact in taken] == ["company", "public"]


async def test_its_question_for_tombstones_is_answered_to_its_peer_token(relaxed, reference):
    peer = await join(relaxed, reference)

    status, body = await reference.ask(peer, URL(f"{peer.node_url}/v1/federation/tombstones?limit=200"))

    assert (status, body) == (200, {"tombstones": [], "cursor": None, "has_more": False})


async def test_its_token_of_an_hour_is_taken_once(relaxed, reference):
    peer = await join(relaxed, reference)
    token = reference.token(peer)

    (await relaxed.send("GET", "/v1/federation/facts", bearer=token)).expect(200)

    (await relaxed.send("GET", "/v1/federation/facts", bearer=token)).refused(401, "nonce_already_seen")
