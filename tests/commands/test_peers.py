"""Registering, changing and removing peers (PROTOCOL §5.1)."""

import pytest
import rfc8785

from node.commands.peers import RecordPeerCheck
from node.keys import Signer
from node.times import format_ms
from tests.api_keys import bearer_for
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url
from tests.served import NODE_ID, Served

PEERS = "/v1/federation/peers"
HOUR_MS = 3_600_000


def form(**changes: object) -> dict[str, object]:
    return {"peer_url": "http://localhost:1", "peer_entity_uri": "stigmem://org-b.example"} | changes


def declaration(signer: Signer, **changes: object) -> dict[str, object]:
    members = {
        "node_url": "http://localhost:1",
        "node_id": "stigmem://org-b.example",
        "federation_pubkey": signer.public_key_b64,
        "allowed_scopes": ["public"],
        "signed_at": format_ms(START_MS),
    } | changes
    signature = b64url(signer.sign(rfc8785.dumps(members)))
    return members | {"declaration_sig": changes.get("declaration_sig", signature)}


REFUSED = {
    "this node itself": ({"peer_entity_uri": NODE_ID}, "peer_id_taken"),
    "a part of an organisation": ({"peer_entity_uri": "stigmem://org-b.example/agent/x"}, "invalid_uri"),
    "another spelling": ({"peer_entity_uri": "stigmem://ORG-B.example"}, "invalid_uri"),
    "an authority of other letters": ({"peer_entity_uri": "stigmem://\u043erg-b.example"}, "invalid_uri"),
    "no name": ({"peer_entity_uri": ""}, "invalid_field"),
    "a long name": ({"peer_entity_uri": "stigmem:node:" + "x" * 512}, "invalid_field"),
    "a hidden character": ({"peer_entity_uri": "stigmem:node:\u200b"}, "invalid_field"),
    "no scopes": ({"allowed_scopes": []}, "invalid_field"),
    "a scope twice": ({"allowed_scopes": ["public", "public"]}, "invalid_field"),
    "a scope that nobody knows": ({"allowed_scopes": ["secret"]}, "invalid_field"),
    "a private address": ({"peer_url": "http://10.0.0.1"}, "peer_url_forbidden"),
    "a link-local address": ({"peer_url": "http://169.254.169.254/latest"}, "peer_url_forbidden"),
    "another scheme": ({"peer_url": "file:///etc/passwd"}, "peer_url_forbidden"),
    "credentials": ({"peer_url": "http://a:b@localhost:1"}, "peer_url_forbidden"),
    "a query": ({"peer_url": "http://localhost:1/?x=1"}, "peer_url_forbidden"),
    "plain http abroad": ({"peer_url": "http://org-b.example"}, "peer_url_forbidden"),
    "no URL": ({"peer_url": "http://[::1"}, "peer_url_forbidden"),
    "a long URL": ({"peer_url": "http://localhost:1/" + "x" * 3000}, "invalid_field"),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_a_peer_that_could_be_none_is_not_registered(http: Served, fault: str):
    changes, code = REFUSED[fault]
    size = http.size

    (await http.post(PEERS, form(**changes))).refused(422, code)

    assert http.size == size


@pytest.mark.parametrize("scope", ["local", "team"])
async def test_scopes_that_stay_here_are_not_granted(http: Served, scope: str):
    (await http.post(PEERS, form(allowed_scopes=[scope]))).refused(403, "scope_not_permitted")


async def test_a_team_is_shared_where_that_is_allowed(serve):
    at = await serve(federation_allow_team=True)

    peer = (await at.post(PEERS, form(allowed_scopes=["team", "public"]))).expect(201)

    assert peer["allowed_scopes"] == ["public", "team"]


async def test_with_federation_off_there_are_no_peers(serve):
    at = await serve(federation_enabled=False)

    (await at.post(PEERS, form())).refused(403, "federation_disabled")


async def test_a_peer_that_does_not_answer_waits_and_says_why(http: Served):
    peer = (await http.post(PEERS, form())).expect(201)

    assert (peer["status"], peer["reason"], peer["verified_at"]) == ("pending_verification", "unreachable", None)
    assert list(peer)[:6] == ["peer_id", "node_id", "node_url", "status", "allowed_scopes", "verified_at"]
    [shown] = (await http.get(PEERS)).expect(200)["peers"]
    assert {name: shown[name] for name in ("peer_id", "status")} == {name: peer[name] for name in ("peer_id", "status")}
    (await http.post(f"{PEERS}/{peer['peer_id']}/pull", {})).refused(409, "peer_not_active")


async def test_a_peer_that_answers_is_active_at_once_and_facts_flow(http: Served, org_b: Organisation):
    await http.write(scope="public")
    for at, other in ((http, org_b.home), (org_b.home, http)):
        body = form(peer_url=f"http://127.0.0.1:{other.port}/", peer_entity_uri=other.node.node_id)
        peer = (await at.post(PEERS, body)).expect(201)
        assert (peer["status"], peer["reason"], peer["warnings"]) == ("active", None, [])

    pulled = (await org_b.home.send("POST", f"{PEERS}/{peer['peer_id']}/pull")).expect(200)
    again = (await org_b.home.post(f"{PEERS}/{peer['peer_id']}/pull", {"from": "start"})).expect(200)

    assert (pulled["ingested"], again["ingested"], again["known"]) == (1, 0, 1)
    [record] = (await org_b.home.get("/v1/facts")).json["facts"]
    assert (record["origin"], record["received_from"]) == (NODE_ID, NODE_ID)


async def test_registering_again_keeps_the_peer_s_id_and_changes_its_terms(http: Served):
    first = (await http.post(PEERS, form())).expect(201)

    second = (await http.post(PEERS, form(peer_url="http://localhost:2", allowed_scopes=["company"]))).expect(201)

    assert second["peer_id"] == first["peer_id"]
    assert (second["node_url"], second["allowed_scopes"]) == ("http://localhost:2", ["company"])


# Declarations.


async def test_a_peer_s_own_declaration_pins_its_key(http: Served, org_b: Organisation):
    (await http.post(PEERS, declaration(org_b.signer))).expect(201)

    assert org_b.peer_at(http).declared_key == org_b.signer.public_key_b64


DECLARED_BADLY = {
    "a forged signature": {"declaration_sig": b64url(bytes(64))},
    "a signature that is none": {"declaration_sig": "!"},
    "a key that is none": {"federation_pubkey": "AAAA"},
    "a weak key": {"federation_pubkey": b64url(bytes([1]) + bytes(31))},
    "a time more than an hour ago": {"signed_at": format_ms(START_MS - HOUR_MS - 1)},
    "a time more than an hour ahead": {"signed_at": format_ms(START_MS + HOUR_MS + 1)},
    "a time that is none": {"signed_at": "now"},
}


@pytest.mark.parametrize("fault", DECLARED_BADLY)
async def test_a_declaration_that_does_not_hold_is_refused(http: Served, org_b: Organisation, fault: str):
    size = http.size

    (await http.post(PEERS, declaration(org_b.signer, **DECLARED_BADLY[fault]))).refused(422, "declaration_invalid")

    assert http.size == size


async def test_no_member_of_a_declaration_can_be_changed(http: Served, org_b: Organisation):
    good = declaration(org_b.signer)
    changes = {"node_url": "http://localhost:9", "node_id": "stigmem://org-c.example", "allowed_scopes": ["company"]}
    for member, other in changes.items():
        (await http.post(PEERS, good | {member: other})).refused(422, "declaration_invalid")


async def test_a_declaration_must_be_later_than_the_last(http: Served, org_b: Organisation):
    (await http.post(PEERS, declaration(org_b.signer))).expect(201)

    (await http.post(PEERS, declaration(org_b.signer))).refused(422, "declaration_invalid")
    (await http.post(PEERS, declaration(org_b.signer, signed_at=format_ms(START_MS + 1)))).expect(201)


async def test_a_declaration_may_name_a_rate_limit_that_is_signed_with_the_rest_and_said_to_change_nothing(
    http: Served, org_b: Organisation
):
    signed = declaration(org_b.signer, rate_limit=5)

    (await http.post(PEERS, signed | {"rate_limit": 6})).refused(422, "declaration_invalid")
    (await http.post(PEERS, declaration(org_b.signer, rate_limit=0))).refused(422, "invalid_field")
    (await http.post(PEERS, signed | {"rate_limit": 1 << 53})).refused(422, "invalid_field")
    (await http.post(PEERS, declaration(org_b.signer, rate_limit="5"))).refused(422, "invalid_field")
    answer = (await http.post(PEERS, signed)).expect(201)

    assert [warning for warning in answer["warnings"] if warning.startswith("rate_limit: ")]
    later = declaration(org_b.signer, signed_at=format_ms(START_MS + 1))
    assert not [said for said in (await http.post(PEERS, later)).expect(201)["warnings"] if "rate_limit" in said]


# Changing and removing.


async def test_other_terms_start_the_pull_over_and_the_same_terms_are_no_event(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    await org_b.receive(http, org_b.served_fact(), cursor="far")
    size = http.size

    same = {"allowed_scopes": ["company", "public"], "delegated_sources": []}
    (await http.send("PATCH", f"{PEERS}/{peer_id}", same)).expect(200)
    assert http.size == size and org_b.peer_at(http).cursor == "far"

    (await http.send("PATCH", f"{PEERS}/{peer_id}", {"allowed_scopes": ["public"]})).expect(200)
    assert http.size == size + 1 and org_b.peer_at(http).cursor is None


async def test_a_removed_peer_is_shown_as_revoked_and_removing_it_again_changes_nothing(
    http: Served, org_b: Organisation
):
    peer_id = await org_b.join(http)

    assert (await http.send("DELETE", f"{PEERS}/{peer_id}")).status == 204
    size = http.size
    assert (await http.send("DELETE", f"{PEERS}/{peer_id}")).status == 204

    assert http.size == size
    [shown] = (await http.get(PEERS)).json["peers"]
    assert (shown["status"], shown["reason"]) == ("revoked", "removed")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/capabilities"),
        ("POST", "/pull"),
        ("POST", "/approve"),
        ("POST", "/check"),
    ],
)
async def test_a_peer_that_is_not_there_is_not_found(http: Served, method: str, path: str):
    body = {} if method == "PATCH" else None

    (await http.send(method, f"{PEERS}/none{path}", body)).refused(404, "peer_not_found")


async def test_what_is_exchanged_with_a_peer_can_be_read(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)

    shown = (await http.get(f"{PEERS}/{peer_id}/capabilities")).expect(200)

    assert (shown["node_id"], shown["allowed_scopes"], shown["pull"], shown["push"]) == (
        org_b.node_id,
        *(["public", "company"], True, False),
    )


# Approving.


async def declared(http: Served, org_b: Organisation) -> str:
    """A peer that came by its own declaration, and has been verified."""
    peer_id = (await http.post(PEERS, declaration(org_b.signer))).expect(201)["peer_id"]
    await http.node.execute(RecordPeerCheck(peer_id=peer_id, documents=org_b.documents(), failure=""))
    return peer_id


WIDER = {"another URL": {"node_url": "http://localhost:2"}, "more scopes": {"allowed_scopes": ["public", "company"]}}


async def test_an_admin_s_key_approves_no_scope_that_it_lacks(http: Served, org_b: Organisation):
    peer_id = await declared(http, org_b)
    more = declaration(org_b.signer, signed_at=format_ms(START_MS + 1), **WIDER["more scopes"])
    (await http.post(PEERS, more)).expect(201)
    lacking, having = [await bearer_for(http, "admin", allowed_scopes=["public", *more]) for more in ([], ["company"])]

    refused = await http.post(f"{PEERS}/{peer_id}/approve", {}, bearer=lacking)

    refused.refused(403, "scope_not_permitted")
    approved = (await http.post(f"{PEERS}/{peer_id}/approve", {}, bearer=having)).expect(200)
    assert approved["allowed_scopes"] == ["public", "company"]


@pytest.mark.parametrize("change", WIDER)
async def test_a_repeated_declaration_that_asks_for_more_waits_for_an_admin(
    http: Served, org_b: Organisation, change: str
):
    peer_id = await declared(http, org_b)
    more = declaration(org_b.signer, signed_at=format_ms(START_MS + 1), **WIDER[change])

    waiting = (await http.post(PEERS, more)).expect(201)

    assert (waiting["status"], waiting["reason"]) == ("pending_verification", "awaiting_approval")
    assert (waiting["node_url"], waiting["allowed_scopes"]) == ("http://localhost:1", ["public"])
    [shown] = (await http.get(PEERS)).json["peers"]
    assert shown["proposed"] == {name: more[name] for name in ("node_url", "allowed_scopes")}
    (await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))).refused(401, "unknown_or_inactive_peer")
    (await http.post(f"{PEERS}/{peer_id}/pull", {})).refused(409, "peer_not_active")

    approved = (await http.post(f"{PEERS}/{peer_id}/approve", {})).expect(200)

    assert {name: approved[name] for name in ("node_url", "allowed_scopes")} == shown["proposed"]
    assert (approved["reason"], approved["proposed"]) == ("unreachable", None)
    (await http.post(f"{PEERS}/{peer_id}/approve", {})).refused(409, "not_awaiting_approval")


async def test_nothing_is_believed_of_a_peer_that_waits_for_approval(http: Served, org_b: Organisation):
    peer_id = await declared(http, org_b)
    more = declaration(org_b.signer, signed_at=format_ms(START_MS + 1), allowed_scopes=["company"])
    (await http.post(PEERS, more)).expect(201)
    size = http.size

    await http.node.execute(RecordPeerCheck(peer_id=peer_id, documents=org_b.documents(), failure=""))

    assert http.size == size


async def test_a_repeated_declaration_that_asks_for_no_more_takes_effect_at_once(http: Served, org_b: Organisation):
    first = declaration(org_b.signer, allowed_scopes=["public", "company"])
    (await http.post(PEERS, first)).expect(201)

    less = (await http.post(PEERS, declaration(org_b.signer, signed_at=format_ms(START_MS + 1)))).expect(201)

    assert (less["reason"], less["allowed_scopes"]) == ("unreachable", ["public"])


async def test_no_line_is_taken_of_a_peer_that_cannot_be_asked_for_it(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    size = http.size

    (await http.post(f"{PEERS}/{peer_id}/approve", {"accept_checkpoint": True})).refused(503, "peer_unreachable")

    assert http.size == size


@pytest.mark.parametrize("body", [None, {}, {"accept_checkpoint": False}])
async def test_where_nothing_waits_there_is_nothing_to_approve(http: Served, org_b: Organisation, body: object):
    peer_id = await org_b.join(http)
    size = http.size

    (await http.send("POST", f"{PEERS}/{peer_id}/approve", body)).refused(409, "not_awaiting_approval")

    assert http.size == size


# With a key that may federate.


@pytest.fixture
async def herald(http: Served) -> str:
    """A key that may bring declarations and do nothing else."""
    return await bearer_for(http, "federate", allowed_scopes=[])


async def test_a_peer_that_a_key_declares_waits_for_an_admin_and_is_asked_nothing_before(
    http: Served, org_b: Organisation, herald: str
):
    waiting = (await http.post(PEERS, declaration(org_b.signer), bearer=herald)).expect(201)

    assert (waiting["status"], waiting["reason"]) == ("pending_verification", "awaiting_approval")
    assert waiting["detail"] == "its declaration waits for an admin"
    assert {entry.actor.via for entry in http.entries(http.size - 2)} == {"key"}
    peer_id, size = waiting["peer_id"], http.size
    (await http.post(f"{PEERS}/{peer_id}/check", {})).refused(409, "peer_not_active")
    await http.node.execute(RecordPeerCheck(peer_id=peer_id, documents=org_b.documents(), failure=""))
    assert http.size == size

    approved = (await http.post(f"{PEERS}/{peer_id}/approve", {})).expect(200)

    assert (approved["reason"], approved["proposed"], approved["allowed_scopes"]) == ("unreachable", None, ["public"])
    await http.node.execute(RecordPeerCheck(peer_id=peer_id, documents=org_b.documents(), failure=""))
    assert org_b.peer_at(http).status == "active"


@pytest.mark.parametrize("second", [{}, {"allowed_scopes": ["public", "company"]}, {"node_url": "http://localhost:2"}])
async def test_declaring_again_is_no_way_around_the_admin(
    http: Served, org_b: Organisation, herald: str, second: dict[str, object]
):
    for n, terms in enumerate(({}, second, {})):
        later = declaration(org_b.signer, signed_at=format_ms(START_MS + n), **terms)
        waiting = (await http.post(PEERS, later, bearer=herald)).expect(201)

        assert (waiting["status"], waiting["reason"]) == ("pending_verification", "awaiting_approval")


async def test_a_removed_peer_that_a_key_declares_waits_too(http: Served, org_b: Organisation, herald: str):
    peer_id = await org_b.join(http)
    (await http.send("DELETE", f"{PEERS}/{peer_id}")).expect(204)

    waiting = (await http.post(PEERS, declaration(org_b.signer), bearer=herald)).expect(201)

    assert (waiting["peer_id"], waiting["reason"]) == (peer_id, "awaiting_approval")


async def test_a_known_peer_s_own_declaration_may_ask_for_less_at_once_and_for_more_of_an_admin(
    http: Served, org_b: Organisation, herald: str
):
    await declared(http, org_b)
    same = declaration(org_b.signer, signed_at=format_ms(START_MS + 1))
    more = declaration(org_b.signer, signed_at=format_ms(START_MS + 2), allowed_scopes=["public", "company"])

    assert (await http.post(PEERS, same, bearer=herald)).expect(201)["reason"] == "unreachable"
    assert (await http.post(PEERS, more, bearer=herald)).expect(201)["reason"] == "awaiting_approval"


async def test_a_stranger_s_signature_does_not_touch_a_peer_that_is_known(
    http: Served, org_b: Organisation, herald: str
):
    await org_b.join(http)
    before = org_b.peer_at(http)
    forged = declaration(Signer.from_seed(bytes(range(5, 37))), signed_at=format_ms(START_MS + 1))

    (await http.post(PEERS, forged, bearer=herald)).refused(422, "declaration_invalid")

    assert org_b.peer_at(http) == before


async def test_a_key_that_may_federate_names_no_peer_by_itself_and_approves_none(
    http: Served, org_b: Organisation, herald: str
):
    waiting = (await http.post(PEERS, declaration(org_b.signer), bearer=herald)).expect(201)

    (await http.post(PEERS, form(), bearer=herald)).refused(403, "insufficient_permission")
    approve = f"{PEERS}/{waiting['peer_id']}/approve"
    (await http.post(approve, {}, bearer=herald)).refused(403, "insufficient_permission")
    assert (await http.send("GET", PEERS, bearer=herald)).expect(200)["peers"][0]["status"] == "pending_verification"
    for path in ("/v1/facts", "/v1/federation/audit", f"{PEERS}/{waiting['peer_id']}/capabilities"):
        (await http.send("GET", path, bearer=herald)).refused(403, "insufficient_permission")


async def test_a_key_without_the_permission_brings_no_declaration(http: Served, org_b: Organisation):
    reader = await bearer_for(http, "read", "write")

    (await http.post(PEERS, declaration(org_b.signer), bearer=reader)).refused(403, "insufficient_permission")
