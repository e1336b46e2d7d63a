"""The audit: what was refused between nodes is found by peer and kind, and the whole log by time and type (PROTOCOL §5.7)."""

import json
from itertools import chain
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from node.events import EVENT_TYPES
from node.events.peers import BatchRefusal, ExchangeRefused, PeerStatus
from node.projections.audit import AuditedType
from replay.things import Kind
from tests.api_keys import bearer_for, make_key
from tests.events.samples import SUCCESSOR_SEED
from tests.organisations import Organisation, issue
from tests.replay.folders import make_folder
from tests.served import ADMIN_KEY, NODE_ID, Served, fact

AUDIT = "/v1/federation/audit"
LOG = "/v1/admin/audit-log"
PUSH = "/v1/federation/facts/push"
LINE = {"seq", "event_type", "reason", "peer_id", "fact_id", "ts", "hlc", "detail"}


@pytest.fixture
async def http(serve) -> Served:
    return await serve(federation_push_enabled=True)


@pytest.fixture
async def peer_id(http: Served, org_b: Organisation) -> str:
    return await org_b.join(http, scopes=("public",))


async def told(at: Served, path: str = AUDIT, **query: object) -> list[dict]:
    page = (await at.get(path, **query)).expect(200)
    assert page["entries"] == page["events"]
    return page["events"]


async def paged(at: Served, path: str, **query: object) -> list[dict]:
    """All pages, one behind the other."""
    found = []
    while True:
        page = (await at.get(path, **query)).expect(200)
        found += page["events"]
        assert page["has_more"] is (page["cursor"] is not None)
        if not page["has_more"]:
            return found
        query["cursor"] = page["cursor"]


async def push(at: Served, org: Organisation, *facts: object, token: str | None = None) -> None:
    await at.post(PUSH, {"facts": list(facts)}, bearer=token or org.token(at))


async def test_a_forged_source_is_told_with_the_peer_the_fact_and_the_reason(
    http: Served, org_b: Organisation, peer_id: str
):
    forged = org_b.served_fact(source=f"{NODE_ID}/agent/scribe")
    await push(http, org_b, forged)
    [entry] = http.entries(http.size - 1)

    assert (await told(http))[0] == {
        "seq": entry.offset,
        "event_type": "rejected_fact",
        "reason": "source_not_owned",
        "peer_id": peer_id,
        "fact_id": forged["id"],
        "ts": "2026-05-04T12:00:00.000Z",
        "hlc": entry.hlc,
        "detail": f"source: {NODE_ID}/agent/scribe",
    }


async def test_everything_that_is_refused_between_nodes_is_told_newest_first(
    http: Served, org_b: Organisation, peer_id: str
):
    token = org_b.token(http)
    await org_b.receive(http, org_b.served_fact(number=1), org_b.served_fact(number=2, cid="x"))
    await push(http, org_b, org_b.served_fact(number=3, scope="company"), token=token)
    await push(http, org_b, token=token)
    await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http, sub="stigmem://nobody.example"))
    await http.send("GET", "/v1/federation/facts?scope=team", bearer=org_b.token(http))
    await http.send("GET", "/v1/federation/facts?limit=0", bearer=org_b.token(http))

    lines = await told(http, peer_id=peer_id)

    assert [(line["event_type"], line["reason"]) for line in lines[:6]] == [
        ("rejected_request", "invalid_parameter"),
        ("scope_violation", "scope_not_permitted"),
        ("rejected_token", "invalid_sub"),
        ("replay_attempt", "nonce_already_seen"),
        ("scope_violation", "scope_violation"),
        ("rejected_fact", "cid_mismatch"),
    ]
    assert all(line["peer_id"] == peer_id and set(line) == LINE for line in lines)


async def test_what_becomes_of_a_peer_is_told(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http, log_entry=None)
    path = f"/v1/federation/peers/{peer_id}"
    await http.send("PATCH", path, {"delegated_sources": ["agent:"]})
    await http.send("DELETE", path)

    lines = await told(http)

    assert [line["event_type"] for line in lines] == [
        "peer_revoked",
        "peer_changed",
        "peer_verified",
        "peer_registered",
    ]
    assert (lines[0]["reason"], lines[2]["reason"]) == ("removed", "proof_missing")
    assert "agent:" in lines[1]["detail"]


async def test_refusals_beyond_ten_a_minute_are_told_as_a_count(http: Served, org_b: Organisation, peer_id: str):
    await push(http, org_b, *(org_b.served_fact(number=n, source=NODE_ID) for n in range(1, 15)))
    for _ in range(12):
        await http.post("/v1/facts", fact(relation="stigmem:x"))
    http.clock.advance(60_000)
    await http.node.keep_up()

    lines = await told(http, peer_id=peer_id)

    assert [line["event_type"] for line in lines[:11]] == ["refusals_counted", *["rejected_fact"] * 10]
    assert (lines[0]["reason"], lines[0]["detail"][:6]) == ("source_not_owned", "4 more")


async def test_an_audit_is_asked_for_by_peer_by_type_or_by_both(http: Served, org_b: Organisation, peer_id: str):
    await push(http, org_b, org_b.served_fact(number=1, source=NODE_ID), org_b.served_fact(number=2, scope="team"))
    (
        await http.post("/v1/federation/peers", {"peer_url": "http://localhost:1", "peer_entity_uri": "stigmem://c"})
    ).expect(201)

    async def counted(**query: object) -> int:
        return len(await told(http, **query))

    assert await counted() == 6
    assert await counted(peer_id=peer_id) == await counted(peer_id=org_b.node_id) == 4
    assert await counted(event_type="rejected_fact") == await counted(event_type="scope_violation") == 1
    assert await counted(event_type="peer_registered") == 2
    assert await counted(event_type="peer_registered", peer_id=peer_id) == 1
    assert await counted(peer_id="stigmem://nobody.example") == await counted(event_type="tls_refused") == 0


async def test_pages_of_the_audit_repeat_and_miss_nothing_while_more_is_refused(
    http: Served, org_b: Organisation, peer_id: str
):
    for number in range(1, 6):
        await push(http, org_b, org_b.served_fact(number=number, source=NODE_ID), org_b.served_fact(number=number + 50))
    lines = await told(http, event_type="rejected_fact")
    first = (await http.get(AUDIT, event_type="rejected_fact", limit=2)).expect(200)

    await push(http, org_b, org_b.served_fact(number=9, source=NODE_ID))
    rest = await paged(http, AUDIT, event_type="rejected_fact", limit=1, cursor=first["cursor"])

    assert [*first["events"], *rest] == lines
    assert len(await paged(http, AUDIT, limit=3)) == len(await told(http))


async def test_the_audit_survives_a_restart_and_a_fold_from_nothing(http: Served, org_b: Organisation, peer_id: str):
    await push(http, org_b, org_b.served_fact(source=NODE_ID))
    lines = await told(http)

    await http.restart()

    assert await told(http) == lines


async def test_only_an_operator_reads_the_audit(http: Served, org_b: Organisation, peer_id: str):
    for path in (AUDIT, LOG):
        assert (await http.send("GET", path, bearer=org_b.token(http))).status == 401
        assert (await http.send("GET", path, bearer=None)).status == 401


async def test_a_key_reads_the_audit_that_administers_and_reads_every_scope(http: Served):
    for path in (AUDIT, LOG):
        auditor = await bearer_for(http, "admin")
        (await http.send("GET", path, bearer=auditor)).expect(200)
        for permissions, fields in (
            (("read", "write", "federate"), {}),
            (("read", "admin"), {"allowed_scopes": ["local", "team", "public"]}),
        ):
            bearer = await bearer_for(http, *permissions, **fields)
            (await http.send("GET", path, bearer=bearer)).refused(403, "insufficient_permission")


# The whole log.


async def test_every_event_is_told_newest_first_with_who_caused_it(http: Served, org_b: Organisation, peer_id: str):
    written = await http.write()
    await http.post("/v1/facts", fact(relation="stigmem:x"))
    await push(http, org_b, org_b.served_fact())

    lines = await told(http, LOG)

    entries = http.entries(0)[::-1]
    assert [(line["seq"], line["event_type"], line["hlc"]) for line in lines] == [
        (entry.offset, entry.type, entry.hlc) for entry in entries
    ]
    pushed, refused, asserted = lines[:3]
    assert (pushed["peer_id"], pushed["principal"], pushed["via"]) == (peer_id, org_b.node_id, "peer")
    assert (refused["reason"], refused["detail"][:14]) == ("reserved_namespace", "POST /v1/facts")
    assert (asserted["fact_id"], asserted["via"], asserted["principal"]) == (written["id"], "admin", NODE_ID)


async def test_every_type_of_event_is_told_with_what_it_is_about_and_can_be_asked_for(serve, tmp_path: Path):
    entries = make_folder(tmp_path / "node-0", is_rotated=True)
    http = await serve(seed=SUCCESSOR_SEED)

    lines = {line["seq"]: line for line in await told(http, LOG, limit=1000)}

    assert {line["event_type"] for line in lines.values()} == set(EVENT_TYPES)
    for entry in entries:
        line = lines[entry.offset]
        assert set(line) == LINE | {"subject", "principal", "via", "credential", "trace_id"}
        assert (line["principal"], line["via"], line["credential"], line["trace_id"]) == (
            entry.actor.principal,
            entry.actor.via,
            entry.actor.credential,
            entry.actor.trace_id,
        )
        assert line["subject"]["kind"] in get_args(Kind) and line["subject"]["id"], entry.type
    for event_type in EVENT_TYPES:
        [*shown] = await told(http, LOG, event_type=event_type, limit=1000)
        assert {line["event_type"] for line in shown} == {event_type}
        assert [line["seq"] for line in shown] == [n for n in sorted(lines, reverse=True) if lines[n] in shown]


async def test_every_type_of_the_federation_s_audit_can_be_asked_for_and_no_other(serve, tmp_path: Path):
    make_folder(tmp_path / "node-0", is_rotated=True)
    http = await serve(seed=SUCCESSOR_SEED)
    types = get_args(AuditedType)
    refused = {get_args(get_type_hints(event)["event_type"]) for event in (ExchangeRefused, BatchRefusal)}

    lines = await told(http, limit=500)

    assert {line["event_type"] for line in lines} | {f"peer_{status}" for status in get_args(PeerStatus)} <= set(types)
    assert set(chain.from_iterable(refused)) <= set(types)
    for event_type in types:
        expected = [line for line in lines if line["event_type"] == event_type]
        assert await told(http, event_type=event_type, limit=500) == expected
    for event_type in ("", "nothing", "peer.registered", "peer_registered "):
        (await http.get(AUDIT, event_type=event_type)).refused(422, "invalid_parameter")


async def test_no_value_no_document_and_no_secret_is_told(serve, tmp_path: Path):
    make_folder(tmp_path / "node-0", is_rotated=True)
    http = await serve(seed=SUCCESSOR_SEED)
    await http.write(value={"type": "text", "v": "what only the fact says"})
    logged = {entry.type: entry.event for entry in http.entries(0)}

    said = json.dumps((await http.get(LOG, limit=1000)).expect(200), ensure_ascii=False)

    hidden = ["what only the fact says", logged["capability.issued.1"].grant.nonce, ADMIN_KEY]
    hidden += [logged["admin_key.created.1"].key_hash, logged["attestation.signed.1"].fact_body.decode()]
    hidden += [logged["manifest.published.1"].manifest.decode(), logged["checkpoint.cosigned.1"].cosignature]
    assert [text for text in hidden if text in said] == []
    assert logged["capability.issued.1"].grant.token_id in said


async def test_what_an_event_is_about_is_told(http: Served, org_b: Organisation, peer_id: str):
    written = await http.write()
    garden = (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"})).expect(201)
    token = json.loads(await issue(http, f"{org_b.node_id}/agent/x"))
    await http.post(f"/v1/federation/capability-tokens/{token['token_id']}/revoke", {"reason": "gone"})
    await http.post("/v1/facts", fact(relation="stigmem:x"))

    lines = await told(http, LOG)

    assert [(line["event_type"], line["subject"]["kind"], line["subject"]["id"]) for line in lines[:5]] == [
        ("request.refused.1", "request", "POST /v1/facts"),
        ("capability.revoked.1", "token", token["token_id"]),
        ("capability.issued.1", "token", token["token_id"]),
        ("garden.created.1", "garden", garden["id"]),
        ("fact.asserted.1", "fact", written["id"]),
    ]
    assert lines[1]["reason"] == "gone"


async def test_who_became_a_member_and_how_often_a_refusal_came_again_is_told(http: Served):
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"})).expect(201)
    (await http.post("/v1/gardens/den/members", {"entity_uri": "agent:guest", "role": "reader"})).expect(201)
    (await http.send("DELETE", "/v1/gardens/den/members/agent:guest")).expect(204)
    for _ in range(12):
        await http.post("/v1/facts", fact(relation="stigmem:x"))
    http.clock.advance(60_000)
    await http.node.keep_up()

    lines = {line["event_type"]: line["detail"] for line in await told(http, LOG)}

    assert lines["garden.member_set.1"] == "agent:guest: reader"
    assert lines["garden.member_removed.1"] == "agent:guest"
    assert lines["refusals.counted.1"] == "2 more in the minute of 2026-05-04T12:00:00.000Z"


async def test_what_was_done_under_a_token_is_told_with_the_token(http: Served, org_b: Organisation, peer_id: str):
    agent = f"{org_b.node_id}/agent/x"
    token = await issue(http, agent)
    await http.write(bearer=token, source=agent)
    (await http.get("/v1/facts")).expect(200)
    (await http.send("GET", "/v1/facts", bearer=token)).refused(403, "insufficient_capability")

    refused, asserted = (await told(http, LOG))[:2]

    for line in (refused, asserted):
        assert (line["principal"], line["via"]) == (agent, "capability")
        assert line["credential"] == json.loads(token)["token_id"]


async def test_what_was_done_with_a_key_is_told_with_the_key_s_id_and_never_with_the_key(http: Served):
    made = await make_key(http, "write")
    await http.write(bearer=made["raw_key"])
    (await http.send("GET", "/v1/facts", bearer=made["raw_key"])).refused(403, "insufficient_permission")
    (await http.send("DELETE", f"/v1/auth/keys/{made['key_id']}")).expect(204)
    (await http.post("/v1/facts", fact(), bearer=made["raw_key"])).refused(401, "api_key_revoked")

    page = (await http.get(LOG)).expect(200)

    after, revoked, refused, asserted, created = page["events"][:5]
    for line, reason in ((after, "api_key_revoked"), (refused, "insufficient_permission"), (asserted, "")):
        assert (line["principal"], line["via"], line["credential"]) == (made["entity_uri"], "key", made["key_id"])
        assert line["reason"] == reason
    for line in (revoked, created):
        assert (line["subject"], line["via"]) == ({"kind": "api_key", "id": made["key_id"]}, "admin")
    assert made["raw_key"] not in json.dumps(page)


async def test_the_log_is_asked_for_by_time_and_type(http: Served):
    for _ in range(3):
        http.clock.advance(1000)
        await http.write()

    async def found(**query: object) -> list[str]:
        return [line["ts"][17:19] for line in await told(http, LOG, event_type="fact.asserted.1", **query)]

    assert await found() == ["03", "02", "01"]
    assert await found(after="2026-05-04T12:00:01Z") == ["03", "02"]
    assert await found(before="2026-05-04T12:00:03.000Z") == ["02", "01"]
    assert await found(after="2026-05-04T12:00:01Z", before="2026-05-04T14:00:03+02:00") == ["02"]
    assert await found(after="2027-01-01T00:00:00Z") == await found(before="2020-01-01T00:00:00Z") == []
    assert len(await told(http, LOG, event_type="fact.asserted")) == 3


async def test_pages_of_the_log_repeat_and_miss_nothing_while_it_grows(http: Served):
    for _ in range(5):
        await http.write()
    lines = await told(http, LOG)
    first = (await http.get(LOG, limit=2)).expect(200)

    await http.write()
    rest = await paged(http, LOG, limit=1, cursor=first["cursor"])

    assert [*first["events"], *rest] == lines
    assert lines[-1]["event_type"] == "node.created.1"


async def test_a_page_ends_when_it_has_looked_at_enough_and_the_next_goes_on(http: Served):
    for _ in range(5):
        await http.write()
    log, found, end = http.node.log, [], http.size

    while end > 0:
        entries, left = log.read_back(0, end, types={"node.created.1"}, limit=10, max_reads=3)
        assert end - left <= 3
        found, end = found + entries, left

    assert [entry.offset for entry in found] == [0]
