"""What one party could once do to another: each was possible, and is refused."""

import pytest

from node.events.peers import BatchReceived
from tests.organisations import Organisation, be_strict, issue
from tests.served import Served, fact


@pytest.fixture
async def peer_id(http: Served, org_b: Organisation) -> str:
    return await org_b.join(http)


async def test_two_facts_whose_ids_differ_in_case_are_not_moderated_as_one(
    http: Served, org_b: Organisation, peer_id: str
):
    garden_id = await be_strict(http)
    benign = org_b.served_fact(id="aaaaaaaa-0000-4000-8000-00000000000a", value={"type": "string", "v": "benign"})
    evil = org_b.served_fact(id="AAAAAAAA-0000-4000-8000-00000000000A", value={"type": "string", "v": "evil"})

    outcome = await org_b.receive(http, benign, evil)

    assert (outcome.reply.ingested, outcome.reply.refused) == (1, 1)
    await org_b.receive(http, evil, cursor="d")
    (await http.post(f"/v1/gardens/{garden_id}/promote", {"fact_id": benign["id"]})).expect(200)
    shown = (await http.get("/v1/facts")).json["facts"]
    assert [record["value"]["v"] for record in shown] == ["benign"]


@pytest.mark.parametrize("scope", ["local", "team", "company"])
async def test_a_token_for_a_scope_reaches_no_entity_that_is_called_like_it(
    http: Served, org_b: Organisation, peer_id: str, scope: str
):
    target = f"{http.node.node_id}/scope/public"
    token = await issue(http, org_b.assistant, object=target)
    stated = fact(entity=f"{target}/atlas", source=org_b.assistant, scope=scope)

    (await http.post("/v1/facts", stated, bearer=token)).refused(403, "insufficient_capability")


async def test_a_peer_s_refused_facts_are_recorded_singly_ten_times_a_minute_and_no_more(
    http: Served, org_b: Organisation, peer_id: str
):
    bad = [org_b.served_fact(number=number, cid="sha256:0") for number in range(1, 41)]
    await org_b.receive(http, *bad[:20])
    size = http.size

    outcome = await org_b.receive(http, *bad[20:], cursor="d")

    assert outcome.reply.refused == 20
    assert http.size == size
    batches = [entry.event for entry in http.entries(0) if isinstance(entry.event, BatchReceived)]
    assert sum(len(batch.outcome.refused) for batch in batches) == 10


async def test_a_digest_is_known_whole_or_not_at_all(http: Served):
    await be_strict(http)
    record = await http.write()
    digest = record["cid"].removeprefix("sha256:")

    for wrong in (digest[:32] + "0" * 32, "%20" * 64, digest.upper()):
        (await http.get(f"/v1/facts/sha256:{wrong}")).refused(404, "fact_not_found")
    (await http.get(f"/v1/facts/sha256:{digest}")).expect(200)
    parent = http.entries(http.size - 1)[0].event.fact.fact_hash
    answer = await http.post("/v1/facts", fact(derived_from=[parent[:32] + "f" * 32]))
    answer.refused(400, "provenance_unknown_parent")


async def test_tokens_meant_for_others_use_up_none_of_a_peer_s_signatures(
    http: Served, org_b: Organisation, peer_id: str
):
    for _ in range(61):
        bearer = org_b.token(http, sub="stigmem://org-c.example")
        (await http.post("/v1/federation/attest", {}, bearer=bearer)).refused(401, "invalid_sub")

    answer = await http.post("/v1/federation/attest", {}, bearer=org_b.token(http))

    answer.refused(422, "missing_field")


async def test_an_instruction_by_a_token_of_our_own_is_refused(http: Served):
    own = f"{http.node.node_id}/agent/x"
    token = await issue(http, own)
    value = {"type": "string", "v": "do it", "interpret_as": "instruction"}

    (await http.post("/v1/facts", fact(source=own, value=value), bearer=token)).refused(403, "insufficient_permission")


@pytest.mark.parametrize("number", [1e20, 5e20, -1e19, 2**64])
async def test_a_whole_number_that_a_double_holds_is_taken_in_either_spelling(http: Served, number: float):
    for literal in (f"{float(number)!r}", f"{int(number)}"):
        body = b'{"entity":"e:1","relation":"a:b","source":"agent:x","value":{"type":"number","v":%s}}'
        record = (await http.post("/v1/facts", body % literal.encode())).expect(201)
        assert record["value"]["v"] == float(number)


async def test_a_whole_number_that_no_double_holds_is_refused_as_a_value(http: Served):
    stated = fact(value={"type": "number", "v": 2**64 + 1})

    (await http.post("/v1/facts", stated)).refused(422, "invalid_value")


@pytest.mark.parametrize("path", ["/v1/facts?relation=:", "/v1/facts?entity=stigmem://", "/v1/trust?source="])
async def test_a_name_in_a_query_that_no_fact_carries_is_an_invalid_parameter(http: Served, path: str):
    (await http.send("GET", path)).refused(422, "invalid_parameter")
