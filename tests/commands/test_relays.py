"""Relayed facts, judged alone: what passes on its origin's seal, and what does not (PROTOCOL §5.5, §5.6)."""

from typing import Any

import pytest
from msgspec import structs

from node.commands.introductions import IntroduceManifest
from node.commands.peers import Declaration, RecordPeerCheck, RegisterPeer
from node.errors import ManifestConflict, Refusal
from node.projections.access import EVERYTHING, may_read
from node.projections.conflicts import At
from node.projections.told_facts import told_by_id
from node.sync import PeerState
from node.times import format_ms
from tests.organisations import Organisation, b64url, be_strict, seal_message
from tests.served import NODE_ID, Served

ORG_C = "stigmem://org-c.example"
OTHER_NONCE = "00000000-0000-4000-8000-00000000c001"


@pytest.fixture
async def org_c(serve) -> Organisation:
    """A third organisation, a peer of nobody."""
    return Organisation(await serve(seed=bytes(range(200, 232)), entity_uri=ORG_C))


async def introduce(http: Served, by: Organisation, whom: Organisation) -> None:
    document = whom.documents().manifest
    await http.node.execute(IntroduceManifest(introducer=by.node_id, entity_uri=whom.node_id, document=document))


async def codes(http: Served, relay: Organisation, *facts: dict[str, Any]) -> list[str]:
    """Has the relay bring facts; the codes of those refused."""
    size = http.size
    await relay.receive(http, *facts)
    return [refused.reason for entry in http.entries(size) for refused in entry.event.outcome.refused]


async def held(http: Served, org: Organisation) -> list[dict]:
    return (await http.get("/v1/facts", entity=f"{org.node_id}/project/zeus")).expect(200)["facts"]


async def test_a_relayed_fact_passes_on_its_origin_s_seal_and_keeps_its_origin(http, org_b, org_c):
    await org_b.join(http)
    await introduce(http, org_b, org_c)
    fact = org_c.served_fact()

    assert await codes(http, org_b, fact) == []

    (record,) = await held(http, org_c)
    assert (record["origin"], record["received_from"], record["id"]) == (ORG_C, org_b.node_id, fact["id"])
    assert (record["seal"], record["hlc"], record["timestamp"]) == (fact["seal"], fact["hlc"], fact["timestamp"])


async def test_nothing_passes_in_the_name_of_somebody_nobody_introduced(http, org_b, org_c):
    await org_b.join(http)

    assert await codes(http, org_b, org_c.served_fact()) == ["source_not_owned"]
    assert await held(http, org_c) == []


def forged(org_b: Organisation, org_c: Organisation) -> dict[str, tuple[dict[str, Any], str]]:
    def resealed(signer, **changes: object) -> dict[str, Any]:
        fact = org_c.served_fact(seal=None, **changes)
        return fact | {"seal": b64url(signer.sign(seal_message(fact | {"resolves": None})))}

    good = org_c.served_fact()
    return {
        "the relay's own seal": (resealed(org_b.signer), "source_not_owned"),
        "no seal": (org_c.served_fact(seal=None), "source_not_owned"),
        "another value": (good | {"value": {"type": "string", "v": "red"}, "cid": None}, "source_not_owned"),
        "another time of day": (good | {"hlc": "1777895940001.000"}, "source_not_owned"),
        "a company fact": (org_c.served_fact(scope="company"), "scope_violation"),
        "the relay's name under a stranger's seal": (
            org_c.served_fact(source=f"{org_b.node_id}/agent/x"),
            "source_not_owned",
        ),
        "our name under a stranger's seal": (org_c.served_fact(source=f"{NODE_ID}/agent/x"), "source_not_owned"),
        "our origin under a stranger's seal": (good | {"origin": NODE_ID}, "source_not_owned"),
        "an origin that is no organisation": (good | {"origin": f"{ORG_C}/agent/x"}, "source_not_owned"),
        "another spelling of the origin": (good | {"origin": "stigmem://ORG-C.example"}, "source_not_owned"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "the relay's own seal",
        "no seal",
        "another value",
        "another time of day",
        "a company fact",
        "the relay's name under a stranger's seal",
        "our name under a stranger's seal",
        "our origin under a stranger's seal",
        "an origin that is no organisation",
        "another spelling of the origin",
    ],
)
async def test_a_relayed_fact_that_is_not_its_origin_s_word_is_refused(http, org_b, org_c, what: str):
    await org_b.join(http)
    await introduce(http, org_b, org_c)
    fact, code = forged(org_b, org_c)[what]

    assert await codes(http, org_b, fact) == [code]

    assert (await http.get("/v1/facts")).expect(200)["facts"] == []


async def test_relays_that_name_different_keys_open_no_seal(http, serve, org_b, org_c):
    org_d = Organisation(await serve(seed=bytes(range(60, 92)), entity_uri="stigmem://org-d.example"))
    impostor = Organisation(await serve(seed=bytes(range(90, 122)), entity_uri=ORG_C))
    await org_b.join(http)
    await org_d.join(http)
    await introduce(http, org_b, org_c)
    assert await codes(http, org_b, org_c.served_fact()) == []

    await introduce(http, org_d, impostor)

    assert await codes(http, org_b, org_c.served_fact(number=2)) == ["manifest_conflict"]
    assert await codes(http, org_d, impostor.served_fact(number=3)) == ["manifest_conflict"]


async def test_a_relay_does_not_change_the_key_it_introduced_somebody_with(http, serve, org_b, org_c):
    impostor = Organisation(await serve(seed=bytes(range(90, 122)), entity_uri=ORG_C))
    await org_b.join(http)
    await introduce(http, org_b, org_c)
    size, digests = http.size, await http.digests()

    with pytest.raises(ManifestConflict):
        await introduce(http, org_b, impostor)

    assert http.size == size and await http.digests() == digests


async def test_an_introduction_goes_when_the_organisation_registers_itself_and_its_pin_counts(http, org_b, org_c):
    await org_b.join(http)
    await introduce(http, org_b, org_c)

    await org_c.join(http)

    with http.node.view() as view:
        assert view.introductions.of(ORG_C) == []
    assert await codes(http, org_b, org_c.served_fact()) == []


async def test_an_introduction_goes_with_its_introducer(http, org_b, org_c):
    peer_id = await org_b.join(http)
    await introduce(http, org_b, org_c)

    (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).expect(204)

    with http.node.view() as view:
        assert view.introductions.of(ORG_C) == []


@pytest.mark.parametrize("wrong", ["another organisation", "a signature", "a duplicate key", "no JSON", "expired"])
async def test_a_manifest_that_does_not_hold_introduces_nobody(http, org_b, org_c, wrong: str):
    await org_b.join(http)
    document = org_c.documents().manifest
    match wrong:
        case "another organisation":
            document = org_b.documents().manifest
        case "a signature":
            document = document.replace(b'"expires_at":"2027', b'"expires_at":"2026')
        case "a duplicate key":
            document = document[:-1] + b',"entity_uri":"stigmem://x.example"}'
        case "no JSON":
            document = b"\xff"
        case "expired":
            http.clock.advance(400 * 86_400_000)
    size = http.size

    with pytest.raises(Refusal):
        command = IntroduceManifest(introducer=org_b.node_id, entity_uri=ORG_C, document=document)
        await http.node.execute(command)

    assert http.size == size


async def test_in_strict_mode_the_word_of_somebody_introduced_waits_in_quarantine(http, org_b, org_c):
    await be_strict(http)
    await org_b.join(http)
    await introduce(http, org_b, org_c)

    assert await codes(http, org_b, org_c.served_fact()) == []

    (waiting,) = (await http.get("/v1/quarantine")).expect(200)["items"]
    assert waiting["quarantine_reason"] == "auto-quarantine: no valid manifest for source"
    assert await held(http, org_c) == []


async def test_a_received_public_fact_is_served_on_unchanged_but_not_back_and_a_company_fact_is_not(
    http, serve, org_b, org_c
):
    for org in (org_b, org_c):
        await org.join(http)
    public, company = org_b.served_fact(number=1), org_b.served_fact(number=2, scope="company")
    unsealed = org_b.served_fact(number=3, seal=None)
    await org_b.receive(http, public, company, unsealed)

    served = (await http.send("GET", "/v1/federation/facts", bearer=org_c.token(http, nonce=OTHER_NONCE))).expect(200)[
        "facts"
    ]
    back = (await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))).expect(200)["facts"]

    assert back == []
    (relayed,) = served
    assert relayed == relayed | {name: value for name, value in public.items() if name != "received_from"}
    assert relayed["received_from"] is None


async def test_our_own_fact_comes_back_by_a_relay_as_a_no_op(http, org_b):
    await org_b.join(http)
    await http.write(scope="public")
    (ours,) = (await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))).expect(200)["facts"]
    size = http.size

    assert await codes(http, org_b, ours) == []

    assert http.size == size


async def test_a_manifest_that_a_relay_introduced_is_handed_on(http, org_b, org_c):
    await org_b.join(http)
    await introduce(http, org_b, org_c)

    answer = await http.send("GET", "/v1/federation/manifest/stigmem%3A%2F%2Forg-c.example")

    assert answer.expect(200)["public_key"] == org_c.signer.public_key_b64


def fall_behind(http: Served, upstream: Organisation, lag_s: int) -> PeerState:
    """What a page of it would leave that says there is more."""
    state = http.sync.state_of(upstream.node_id)
    state.missing_from_ms, state.terms_from = http.clock.now_ms() - lag_s * 1000, upstream.peer_at(http).terms_from
    return state


@pytest.mark.parametrize(("lag_s", "told", "is_held"), [(59, None, False), (120, "120", False), (400, None, True)])
async def test_a_relay_tells_how_far_it_is_behind_and_holds_back_what_is_too_old(
    http, org_b, org_c, lag_s: int, told: str | None, is_held: bool
):
    for org in (org_b, org_c):
        await org.join(http)
    await org_b.receive(http, org_b.served_fact())
    fall_behind(http, org_b, lag_s)

    answer = await http.send("GET", "/v1/federation/facts", bearer=org_c.token(http, nonce=OTHER_NONCE))

    if is_held:
        wait_s = answer.refused(503, "relay_lag_exceeded")["retry_after_s"]
        assert wait_s <= 60 and answer.headers["Retry-After"] == str(wait_s)
    else:
        assert len(answer.expect(200)["facts"]) == 1 and answer.headers.get("X-Stigmem-Replication-Lag") == told
    discovery = (await http.get("/.well-known/stigmem")).expect(200)
    assert discovery.get("replication_lag_ms") == (lag_s * 1000 if lag_s > 60 else None)


async def test_our_own_facts_are_never_held_back_and_the_others_come_once_the_upstream_has_caught_up(
    http, org_b, org_c
):
    for org in (org_b, org_c):
        await org.join(http)
    await org_b.receive(http, org_b.served_fact())
    ours = await http.write(scope="public")
    state = fall_behind(http, org_b, 400)

    first = (await http.send("GET", "/v1/federation/facts", bearer=org_c.token(http, nonce=OTHER_NONCE))).expect(200)
    state.missing_from_ms = None
    again = f"/v1/federation/facts?cursor={first['cursor']}"
    second = (await http.send("GET", again, bearer=org_c.token(http))).expect(200)

    assert [fact["id"] for fact in first["facts"]] == [ours["id"]] and first["has_more"] is False
    assert [fact["origin"] for fact in second["facts"]] == [org_b.node_id, NODE_ID]


@pytest.mark.parametrize(
    ("method", "change"), [("DELETE", None), ("PATCH", {"allowed_scopes": ["company"]})], ids=["removed", "other terms"]
)
async def test_what_a_peer_brought_is_passed_on_though_it_was_behind_when_its_terms_ended(
    http, org_b, org_c, method: str, change: dict[str, object] | None
):
    for org in (org_b, org_c):
        await org.join(http)
    theirs = org_b.served_fact()
    await org_b.receive(http, theirs)
    fall_behind(http, org_b, 400)
    path = f"/v1/federation/peers/{org_b.peer_at(http).peer_id}"
    assert (await http.send(method, path, change)).status in (200, 204)

    answer = await http.send("GET", "/v1/federation/facts", bearer=org_c.token(http, nonce=OTHER_NONCE))

    assert [fact["id"] for fact in answer.expect(200)["facts"]] == [theirs["id"]]


async def test_from_whom_a_fact_came_is_read_as_a_fact_about_it(http, org_b, org_c):
    await org_b.join(http)
    await introduce(http, org_b, org_c)
    fact = org_c.served_fact()
    await org_b.receive(http, fact)
    ours = await http.write(scope="public")

    (said,) = (await http.get("/v1/facts", entity=fact["id"])).expect(200)["facts"]

    assert (said["relation"], said["value"]["v"]) == ("stigmem:received_from", org_b.node_id)
    # PROTOCOL §5.5: a local fact, whatever the scope of the one it is about.
    assert (said["source"], said["scope"], said["origin"]) == ("system:stigmem", "local", NODE_ID)
    assert (await http.get("/v1/facts", entity=ours["id"])).expect(200)["facts"] == []


async def test_from_whom_facts_came_is_read_by_its_own_id_and_listed_by_its_relation(http, org_b, org_c):
    await org_b.join(http)
    await introduce(http, org_b, org_c)
    for number in (1, 2):
        await http.write(scope="public")
        await org_b.receive(http, org_b.served_fact(number=2 * number), org_c.served_fact(number=2 * number + 1))
    await http.write(scope="public")
    ids = [f"01890000-0000-7000-8000-{number:012d}" for number in (2, 3, 4, 5)]

    newest = await read_in_pages(http, relation="stigmem:received_from")
    oldest = await read_in_pages(http, relation="stigmem:received_from", order="asc")

    assert [said["entity"] for said in oldest] == ids and newest == oldest[::-1]
    assert [said for said in await read_in_pages(http, source="system:stigmem") if "from" in said["relation"]] == newest
    assert (await read_in_pages(http, source="system:stigmem", order="asc"))[-1] == oldest[-1]
    for said in newest:
        assert (await http.get(f"/v1/facts/{said['id']}")).expect(200) == said
    (await http.get(f"/v1/facts/{(await http.write(scope='public'))['id'][:14]}8000-8000-000000000000")).refused(
        404, "fact_not_found"
    )


async def read_in_pages(http: Served, **query: str) -> list[dict]:
    found, cursor = [], {}
    while cursor is not None:
        page = (await http.get("/v1/facts", **query, **cursor, limit=1)).expect(200)
        found += page["facts"]
        cursor = {"cursor": page["cursor"]} if page["cursor"] else None
    return found


async def test_who_may_not_read_a_fact_may_not_read_from_whom_it_came(http, org_b):
    await org_b.join(http)
    await org_b.receive(http, org_b.served_fact())
    [said] = (await http.get("/v1/facts", relation="stigmem:received_from")).expect(200)["facts"]
    at_home = structs.replace(EVERYTHING, scopes=("local",))

    with http.node.view() as view:
        row = told_by_id(view, At(http.size, http.clock.now_ms()), said["id"])
        assert may_read(row, view, EVERYTHING) and not may_read(row, view, at_home)


async def name_peer(http: Served, org: Organisation) -> str:
    """Registered as an operator would, and not verified yet; returns its peer_id."""
    registered = RegisterPeer(
        principal=http.admin,
        node_id=org.node_id,
        node_url="http://localhost:1",
        allowed_scopes=("public",),
        declaration=None,
    )
    return (await http.node.execute(registered)).reply


async def test_an_organisation_that_waits_to_be_verified_is_a_stranger_whose_word_a_relay_brings(http, org_b, org_c):
    await org_b.join(http)
    await name_peer(http, org_c)
    await introduce(http, org_b, org_c)

    assert await codes(http, org_b, org_c.served_fact()) == []

    (record,) = await held(http, org_c)
    assert (record["origin"], record["received_from"]) == (ORG_C, org_b.node_id)


async def test_what_introduced_an_organisation_stays_until_it_is_verified(http, org_b, org_c):
    await org_b.join(http)
    await introduce(http, org_b, org_c)

    peer_id = await name_peer(http, org_c)

    assert await codes(http, org_b, org_c.served_fact(number=1)) == []
    verified = RecordPeerCheck(peer_id=peer_id, documents=org_c.documents(), failure="")
    await http.node.execute(verified)
    with http.node.view() as view:
        assert view.introductions.of(ORG_C) == []
    assert await codes(http, org_b, org_c.served_fact(number=2)) == []


async def test_a_key_once_pinned_opens_seals_while_its_organisation_waits_and_no_other_does(http, serve, org_b, org_c):
    impostor = Organisation(await serve(seed=bytes(range(90, 122)), entity_uri=ORG_C))
    await org_b.join(http)
    await org_c.join(http)
    await name_peer(http, org_c)
    await introduce(http, org_b, impostor)

    assert await codes(http, org_b, impostor.served_fact(number=1)) == ["source_not_owned"]
    assert await codes(http, org_b, org_c.served_fact(number=2)) == []


async def test_a_declared_key_and_an_introduced_one_that_differ_open_no_seal(http, serve, org_b, org_c):
    impostor = Organisation(await serve(seed=bytes(range(90, 122)), entity_uri=ORG_C))
    await org_b.join(http)
    declared = Declaration(
        public_key=impostor.signer.public_key_b64,
        signed_at=format_ms(http.clock.now_ms()),
        signature=b64url(impostor.signer.sign(b"{}")),
        signed=b"{}",
    )
    registered = RegisterPeer(
        principal=http.admin,
        node_id=ORG_C,
        node_url="http://localhost:1",
        allowed_scopes=("public",),
        declaration=declared,
    )
    await http.node.execute(registered)
    await introduce(http, org_b, org_c)

    assert await codes(http, org_b, org_c.served_fact()) == ["manifest_conflict"]


@pytest.mark.parametrize("how", ["revoked", "rejected"])
async def test_nothing_passes_in_the_name_of_a_peer_that_was_shut_out(http, org_b, org_c, how: str):
    await org_b.join(http)
    await introduce(http, org_b, org_c)
    peer_id = await name_peer(http, org_c)
    if how == "revoked":
        (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).expect(204)
    else:
        foreign = org_c.documents(node_id="stigmem://org-x.example")
        await http.node.execute(RecordPeerCheck(peer_id=peer_id, documents=foreign, failure=""))
    await introduce(http, org_b, org_c)

    assert org_c.peer_at(http).status == how
    assert await codes(http, org_b, org_c.served_fact()) == ["source_not_owned"]


async def test_in_strict_mode_the_word_of_an_organisation_that_waits_goes_into_quarantine(http, org_b, org_c):
    await be_strict(http)
    await org_b.join(http)
    await name_peer(http, org_c)
    await introduce(http, org_b, org_c)

    assert await codes(http, org_b, org_c.served_fact()) == []

    assert len((await http.get("/v1/quarantine")).expect(200)["items"]) == 1
    assert await held(http, org_c) == []
