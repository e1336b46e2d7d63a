"""Where a fact came from and what became of it: CIDs, provenance, an entity's history; to none who may not read it."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from node.events.proof_bundle import LogKey, check_bundle, fact_in, open_bundle
from node.times import format_ms
from tests.api_keys import bearer_for
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url, be_strict, body_of, cid_of, issue
from tests.served import NODE_ID, Served, fact

BILLING = f"{NODE_ID}/service/billing"
CLAIM = {"entity": BILLING, "relation": "memory:state"}
UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
UNKNOWN_HASH = "0" * 64


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


async def provenance(http: Served, name: str, bearer: str | None = None, **query: object) -> dict[str, Any]:
    words = "&".join(f"{key}={value}" for key, value in query.items())
    options = {} if bearer is None else {"bearer": bearer}
    return (await http.send("GET", f"/v1/facts/{name}/provenance?{words}", **options)).expect(200)


async def history(http: Served, entity: str = BILLING, bearer: str | None = None, **query: object) -> dict[str, Any]:
    words = "&".join(f"{key}={value}" for key, value in query.items())
    options = {} if bearer is None else {"bearer": bearer}
    return (await http.send("GET", f"/v1/entities/{quote(entity, safe='')}/history?{words}", **options)).expect(200)


async def reader(http: Served, about: str = "*") -> str:
    return await issue(http, f"{NODE_ID}/agent/helper", verb="read", object=about)


# CIDs.


@pytest.mark.parametrize("name", ["id", "cid"])
async def test_a_cid_is_computed_anew_for_whoever_asks_by_either_name(http: Served, name: str):
    record = await http.write(value={"type": "number", "v": 3})

    verdict = (await http.post(f"/v1/facts/{record[name]}/verify-cid", None)).expect(200)

    assert verdict == {
        "fact_id": record["id"],
        "cid_valid": True,
        "computed_cid": record["cid"],
        "stored_cid": record["cid"],
        "mismatch_reason": None,
    }


async def test_a_peer_s_number_may_have_the_cid_of_its_integer_text(http: Served, org_b: Organisation):
    await org_b.join(http)
    fact = org_b.served_fact(value={"type": "number", "v": 3.0})
    # The body has `3`, as RFC 8785 writes it; so have the seal, and this node's CID of the text "3".
    fact["cid"] = cid_of(fact | {"value": {"type": "number", "v": 3}})
    await org_b.receive(http, fact)

    for name in (fact["id"], fact["cid"]):
        verdict = (await http.post(f"/v1/facts/{name}/verify-cid", None)).expect(200)
        assert verdict["cid_valid"] and verdict["computed_cid"] == verdict["stored_cid"] == fact["cid"]
        assert (await http.get(f"/v1/facts/{name}")).expect(200)["id"] == fact["id"]


async def test_the_cid_of_what_may_not_be_read_is_not_found(http: Served):
    record = await http.write()
    bearer = await reader(http, f"{NODE_ID}/scope/public")

    for name in (record["id"], record["cid"], UNKNOWN_ID, f"sha256:{UNKNOWN_HASH}", "x"):
        (await http.send("POST", f"/v1/facts/{name}/verify-cid", bearer=bearer)).refused(404, "fact_not_found")
        (await http.send("GET", f"/v1/facts/{name}/provenance", bearer=bearer)).refused(404, "fact_not_found")


# Ancestors.


async def test_ancestors_are_followed_by_id_and_by_hash_nearest_first_and_each_once(http: Served):
    root = await http.write(value=text("root"))
    left = await http.write(value=text("left"), derived_from=[root["id"]])
    root_hash = (await provenance(http, root["id"]))["fact_hash"]
    right = await http.write(value=text("right"), derived_from=[root_hash, UNKNOWN_HASH])
    child = await http.write(value=text("child"), derived_from=[left["id"], right["id"], UNKNOWN_ID])

    found = await provenance(http, child["id"])

    assert [(one["fact_id"], one["depth"]) for one in found["ancestors"]] == [
        (left["id"], 1),
        (right["id"], 1),
        (root["id"], 2),
    ]
    assert found["derived_from"][2] == {"parent": UNKNOWN_ID, "exists": False}
    assert found["ancestors"][1]["derived_from"] == [
        {"parent": root_hash, "exists": True, "fact_id": root["id"], "entity": root["entity"]},
        {"parent": UNKNOWN_HASH, "exists": False},
    ]
    assert found["truncated"] is False


async def test_ancestors_beyond_depth_or_limit_are_said_to_be_there(http: Served):
    line = [await http.write(value=text("0"))]
    for number in range(1, 5):
        line.append(await http.write(value=text(str(number)), derived_from=[line[-1]["id"]]))
    ids = [record["id"] for record in reversed(line)]

    for query, seen in (({"depth": 2}, 2), ({"limit": 3}, 3), ({"depth": 4}, 4), ({"limit": 4}, 4), ({}, 4)):
        found = await provenance(http, ids[0], **query)
        assert [one["fact_id"] for one in found["ancestors"]] == ids[1 : seen + 1]
        assert found["truncated"] is (seen < 4), query
    for query in ("depth=0", "depth=33", "limit=0", "limit=1001", "depth=x", "limit=1&limit=2"):
        (await http.send("GET", f"/v1/facts/{ids[0]}/provenance?{query}")).refused(422, "invalid_parameter")


async def test_a_cycle_ends_where_it_began(http: Served, org_b: Organisation):
    """Facts of a peer name each other: ids can be made up beforehand, hashes cannot."""
    await org_b.join(http)
    first, second = (f"01890000-0000-7000-8000-{number:012d}" for number in (1, 2))
    await org_b.receive(
        http,
        org_b.served_fact(number=1, derived_from=[second, first]),
        org_b.served_fact(number=2, derived_from=[first]),
    )

    found = await provenance(http, first)

    assert [one["fact_id"] for one in found["ancestors"]] == [second]
    assert found["truncated"] is False


@pytest.mark.parametrize("named_by", ["id", "hash"])
async def test_a_parent_that_may_not_be_read_looks_like_one_that_nobody_knows(http: Served, named_by: str):
    await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "public"})
    grandparent = await http.write(scope="public", value=text("open"))
    closed = [
        await http.write(scope="local", value=text("closed"), derived_from=[grandparent["id"]]),
        await http.write(scope="public", value=text("in a garden"), garden_id="den"),
    ]
    names = [(await provenance(http, record["id"]))[f"fact_{named_by}"] for record in closed]
    names.append(UNKNOWN_ID if named_by == "id" else UNKNOWN_HASH)
    child = await http.write(scope="public", value=text("child"), derived_from=names)

    found = await provenance(http, child["id"], bearer=await reader(http, f"{NODE_ID}/scope/public"))

    assert found["derived_from"] == [{"parent": name, "exists": False} for name in names]
    assert found["ancestors"] == []


# Who vouched for it.


async def test_attestations_and_seals_are_checked_under_the_keys_of_now(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    plain = org_b.served_fact()
    attested = org_b.served_fact(
        attestation_chain=[signed(org_b, plain), signed(org_b, plain)[:-4] + "AAAA"],
        attestation_chain_issuers=[org_b.node_id, "stigmem://org-c.example"],
    )
    await org_b.receive(http, attested)

    found = await provenance(http, attested["id"])

    assert [(one["issuer"], one["verified"], one["verified_now"]) for one in found["attestations"]] == [
        (org_b.node_id, True, True),
        ("stigmem://org-c.example", False, None),
    ]
    assert found["seal"] == {"origin": org_b.node_id, "seal": attested["seal"], "verified_now": True}
    assert found["origin"] == found["received_from"] == org_b.node_id

    (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).expect(204)
    found = await provenance(http, attested["id"])
    assert [(one["verified"], one["verified_now"]) for one in found["attestations"]] == [(True, None), (False, None)]
    assert found["seal"]["verified_now"] is None


def signed(org: Organisation, fact: dict[str, Any]) -> str:
    return b64url(org.signer.sign(body_of(fact)))


async def test_our_own_seal_holds_and_a_local_fact_has_none(http: Served):
    public, local = await http.write(scope="public"), await http.write(scope="local")

    assert (await provenance(http, public["id"]))["seal"] == {
        "origin": NODE_ID,
        "seal": public["seal"],
        "verified_now": True,
    }
    assert (await provenance(http, local["id"]))["seal"] is None


# The proof.


async def proven(http: Served, found: dict[str, Any]) -> Any:
    key = LogKey(public_key=http.signer.public_key, origin=http.node.log_origin(http.size))
    return check_bundle(open_bundle(json.dumps(found["log_proof"]).encode()), key)


async def test_the_log_proof_is_a_bundle_that_proves_the_fact(http: Served, org_b: Organisation):
    await org_b.join(http)
    own = await http.write()
    await org_b.receive(http, org_b.served_fact(number=1), org_b.served_fact(number=2))
    ids = [own["id"], *(f"01890000-0000-7000-8000-{number:012d}" for number in (1, 2))]

    for fact_id in ids:
        found = await provenance(http, fact_id)
        bundle = await proven(http, found)

        assert bundle.checkpoint.size == http.size
        assert (bundle.log_index, bundle.header.at) == (found["log_offset"], found["logged_at"])
        assert fact_in(bundle.header.type, bundle.item).id == fact_id


async def test_how_trust_was_weighed_is_left_out_of_a_proof_for_others_than_operators(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    own = await http.write(scope="public")
    await org_b.receive(http, org_b.served_fact(number=7))
    foreign, bearer = "01890000-0000-7000-8000-000000000007", await reader(http)

    for fact_id, is_operator, has_item in (
        (own["id"], False, True),
        (foreign, True, True),
        (foreign, False, False),
    ):
        found = await provenance(http, fact_id, **({} if is_operator else {"bearer": bearer}))
        bundle = await proven(http, found)
        assert (bundle.item is not None) is has_item
        assert ("item_salt" in found["log_proof"]) is has_item
        assert found["log_offset"] == bundle.log_index


async def test_what_is_held_is_proven_to_moderators_alone(http: Served, org_b: Organisation):
    await be_strict(http)
    await org_b.join(http)
    body = {"entity": BILLING, "relation": "memory:state", "value": text("?"), "source": org_b.assistant}
    held = (await http.post("/v1/facts", body, bearer=await issue(http, org_b.assistant))).expect(202)

    found = await provenance(http, held["id"])

    assert fact_in("fact.quarantined.1", (await proven(http, found)).item).id == held["id"]
    assert (found["live"], found["became"]) == (False, [])
    path = f"/v1/facts/{held['id']}/provenance"
    (await http.send("GET", path, bearer=await reader(http))).refused(404, "fact_not_found")
    assert (await history(http))["total"] == 0


async def test_what_the_node_itself_says_has_no_proof_and_no_seal(http: Served):
    for v in ("up", "down"):
        await http.write(**CLAIM, value=text(v))
    told = (await http.get("/v1/facts", source="system:stigmem")).expect(200)["facts"]

    found = await provenance(http, told[0]["id"])

    assert (found["log_proof"], found["seal"], found["attestations"]) == (None, None, [])
    (await http.post(f"/v1/facts/{told[0]['id']}/verify-cid", None)).expect(200)


# What became of it.


async def test_an_entity_s_history_tells_what_became_of_each_fact_where_and_when(http: Served):
    expiring = await http.write(**CLAIM, value=text("a"), source="agent:a", valid_until=format_ms(START_MS + 2000))
    http.clock.advance(1000)
    said = await http.write(**CLAIM, value=text("b"), source="agent:b")
    retraction = await http.write(**CLAIM, value=text("retracted"), confidence=0.0, source="agent:b")
    replaced = await http.write(**CLAIM, value=text("c"), source="agent:c")
    replacing = await http.write(**CLAIM, value=text("d"), source="agent:c", supersedes=True)
    http.clock.advance(5000)
    other = await http.write(**CLAIM, value=text("e"), source="agent:d")
    (conflict,) = (await http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"]
    path = f"/v1/conflicts/{conflict['conflict_id']}/resolve"
    settling = (await http.post(path, {"winning_fact_id": other["id"]})).expect(200)["resolution_fact_id"]

    page = await history(http)

    settled = {"what": "settled", "at": format_ms(START_MS + 6000), "log_offset": http.size - 1, "by": settling}
    expected = [
        (expiring, [{"what": "expired", "at": format_ms(START_MS + 2000), "log_offset": None, "by": None}], False),
        (said, [happening("retracted", retraction)], False),
        (retraction, [], False),
        (replaced, [happening("superseded", replacing)], False),
        (replacing, [settled], False),
        (other, [settled], False),
    ]
    shown = [(item["fact"]["id"], item["became"], item["live"]) for item in page["history"]]
    assert shown == [(record["id"], became, live) for record, became, live in expected] + [(settling, [], True)]
    assert [item["logged_at"] for item in page["history"]][:2] == [format_ms(START_MS), format_ms(START_MS + 1000)]
    assert (page["total"], page["cursor"], page["has_more"]) == (7, None, False)
    assert (await provenance(http, replaced["id"]))["became"] == [happening("superseded", replacing)]
    then = await history(http, as_of=f"offset:{replaced['log_offset']}")
    assert [item["live"] for item in then["history"]] == [True, False, False, True]
    assert then["history"][3]["became"] == []


def happening(what: str, by: dict[str, Any]) -> dict[str, Any]:
    return {"what": what, "at": by["timestamp"], "log_offset": by["log_offset"], "by": by["id"]}


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_history_is_read_page_by_page_and_stays_what_it_was(http: Served, order: str):
    ids = [(await http.write(**CLAIM, value=text(str(number)), supersedes=True))["id"] for number in range(5)]
    pages = [await history(http, limit=2, order=order)]
    await http.write(**CLAIM, value=text("later"), supersedes=True)
    while pages[-1]["has_more"]:
        pages.append(await history(http, limit=2, order=order, cursor=pages[-1]["cursor"]))

    items = [item for page in pages for item in page["history"]]
    assert [item["fact"]["id"] for item in items] == (ids if order == "asc" else ids[::-1])
    assert [page["total"] for page in pages] == [5, 5, 5]
    assert sum(item["live"] for item in items) == 1
    other = {"asc": "desc", "desc": "asc"}[order]
    answer = await http.get(f"/v1/entities/{quote(BILLING, safe='')}/history", order=other, cursor=pages[0]["cursor"])
    answer.refused(400, "invalid_cursor")


async def test_a_history_names_its_relation_source_and_scope(http: Served):
    for relation, source, scope in (
        ("a:b", "agent:a", "local"),
        ("a:c", "agent:a", "team"),
        ("a:b", "agent:b", "team"),
    ):
        await http.write(entity=BILLING, relation=relation, source=source, scope=scope)

    for query, total in (({"relation": "a:b"}, 2), ({"source": "agent:a"}, 2), ({"scope": "team"}, 2), ({}, 3)):
        assert (await history(http, **query))["total"] == total
    for query in ("limit=0", "order=up", "scope=secret", "relation=", "source=", "limit=1&limit=1"):
        path = f"/v1/entities/{quote(BILLING, safe='')}/history?{query}"
        (await http.send("GET", path)).refused(422, "invalid_parameter")


async def test_what_may_not_be_read_is_in_no_history_and_did_nothing_that_is_told(http: Served):
    """A retraction in a garden takes back what stands outside it; who may not read it is not told what it was."""
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "public"})).expect(201)
    said = await http.write(**CLAIM, value=text("up"), scope="public", source="agent:a")
    closed = {"scope": "public", "garden_id": "den"}
    taken = await http.write(**CLAIM, value=text("retracted"), confidence=0.0, source="agent:a", **closed)
    await http.write(**CLAIM, value=text("marker"), source="agent:b", **closed)
    bearer = await reader(http)

    page = await history(http, bearer=bearer)

    assert [item["fact"]["id"] for item in page["history"]] == [said["id"]]
    assert page["total"] == 1
    (became,) = page["history"][0]["became"]
    assert (became["what"], became["by"], became["log_offset"]) == ("retracted", None, None)
    assert (await history(http))["history"][0]["became"] == [happening("retracted", taken)]
    assert "marker" not in json.dumps(page) and taken["id"] not in json.dumps(page)


async def test_an_entity_that_nobody_mentioned_and_one_that_may_not_be_read_have_the_same_history(http: Served):
    await http.write(**CLAIM, scope="local")
    bearer = await reader(http, f"{NODE_ID}/scope/public")

    pages = [await history(http, entity, bearer=bearer) for entity in (BILLING, f"{NODE_ID}/service/nobody")]

    for page in pages:
        assert page == {"entity_uri": page["entity_uri"], "history": [], "total": 0, "cursor": None, "has_more": False}


async def test_conflicts_are_told_with_the_sides_that_may_be_read(http: Served):
    sides = [await http.write(**CLAIM, value=text(v), scope="public", source=f"agent:{v}") for v in "abc"]

    found = await provenance(http, sides[0]["id"], bearer=await reader(http))

    assert [one["fact_id"] for one in found["conflicts"]] == [side["id"] for side in sides[1:]]
    assert {one["status"] for one in found["conflicts"]} == {"unresolved"}
    assert (await provenance(http, sides[0]["id"], as_of=f"offset:{sides[0]['log_offset']}"))["conflicts"] == []


async def test_a_promoted_fact_says_so_with_the_entry_that_did_it(http: Served, org_b: Organisation):
    garden = await be_strict(http)
    await org_b.join(http)
    await org_b.receive(http, org_b.served_fact(number=3))
    fact_id = "01890000-0000-7000-8000-000000000003"
    body = {"fact_id": fact_id, "reason": "looked at"}
    (await http.post(f"/v1/gardens/{garden}/promote", body)).expect(200)

    found = await provenance(http, fact_id)

    assert [(one["what"], one["log_offset"], one["by"]) for one in found["became"]] == [
        ("promoted", http.size - 1, None)
    ]
    assert found["live"] and found["log_offset"] < http.size - 1


async def test_among_facts_that_bear_one_name_and_may_not_be_read_the_search_for_a_parent_ends(http: Served):
    bearer = await bearer_for(http)
    (await http.post("/v1/gardens", {"slug": "den", "name": "den", "scope": "local"})).expect(201)
    same = fact(timestamp=format_ms(http.clock.now_ms()))
    readable = (await http.post("/v1/facts", same)).expect(201)
    for _ in range(2):
        (await http.post("/v1/facts/batch", {"facts": [same | {"garden_id": "den"}] * 1000})).expect(201)
    shown = (await http.send("GET", f"/v1/facts/{readable['id']}/provenance", bearer=bearer)).expect(200)

    async def warnings(*parents: str) -> list[str]:
        child = fact(relation="memory:child", derived_from=parents)
        return (await http.post("/v1/facts", child, bearer=bearer)).expect(201)["warnings"]

    assert await warnings(readable["id"]) == []
    assert await warnings(shown["fact_hash"]) == [f"derived_from: {shown['fact_hash']} is not known here"]
    by_cid = fact(relation="memory:child", derived_from=[shown["cid"]])
    (await http.post("/v1/facts", by_cid, bearer=bearer)).refused(400, "provenance_hash_invalid")
    # A reader, whom nobody waits for, finds it.
    found = (await http.send("GET", f"/v1/facts/{shown['cid']}", bearer=bearer)).expect(200)
    assert found["id"] == readable["id"]
