"""Quotas at the door: who is refused when its minute is used up, what it is told, and what stays as it was (PROTOCOL §13)."""

import pytest

from tests.api_keys import make_key
from tests.organisations import NODE_ID as ORG_B
from tests.organisations import Organisation, issue
from tests.served import Served, fact

READS, WRITES = 4, 3
AGENT = f"{ORG_B}/agent/assistant"


@pytest.fixture
async def http(serve) -> Served:
    """Few reads and fewer writes a minute, and a clock that stands."""
    return await serve(quota_reads_per_minute=READS, quota_writes_per_minute=WRITES)


@pytest.fixture(autouse=True)
async def peer_id(http: Served, org_b: Organisation) -> str:
    return await org_b.join(http)


async def read(http: Served, bearer: str):
    return await http.send("GET", "/v1/facts", bearer=bearer)


async def test_who_has_used_up_its_reads_is_told_how_long_to_wait(http: Served):
    reader = await issue(http, AGENT, verb="read")
    for _ in range(READS):
        (await read(http, reader)).expect(200)

    answer = await read(http, reader)

    body = answer.refused(429, "quota_exceeded")
    assert (body["retry_after"], answer.headers["Retry-After"]) == (15, "15")
    assert "reads" in body["detail"]
    http.clock.advance(14_999)
    assert (await read(http, reader)).refused(429, "quota_exceeded")["retry_after"] == 1
    http.clock.advance(1)
    (await read(http, reader)).expect(200)
    (await read(http, reader)).refused(429, "quota_exceeded")


async def test_writes_are_counted_by_themselves_and_nothing_is_stored_beyond_them(http: Served):
    writer = await issue(http, AGENT, verb="write")
    body = fact(source=AGENT)
    for _ in range(WRITES):
        (await http.post("/v1/facts", body, bearer=writer)).expect(201)
    size = http.size

    for sent in (body, {"entity": ""}):
        (await http.post("/v1/facts", sent, bearer=writer)).refused(429, "quota_exceeded")

    assert {entry.type for entry in http.entries(size)} == {"request.refused.1"}
    reader = await issue(http, AGENT, verb="read")
    (await read(http, reader)).expect(200)


async def test_a_batch_costs_as_much_as_its_facts_one_by_one(http: Served):
    writer = await issue(http, AGENT, verb="write")

    async def write(facts: int):
        return await http.post("/v1/facts/batch", {"facts": [fact(source=AGENT)] * facts}, bearer=writer)

    (await write(WRITES - 1)).expect(201)
    size = http.size
    # One request is left, and not two facts; it was spent on reading how many they are.
    assert (await write(2)).refused(429, "quota_exceeded")["retry_after"] == 40
    assert (await write(2)).refused(429, "quota_exceeded")["retry_after"] == 20
    assert {entry.type for entry in http.entries(size)} == {"request.refused.1"}
    http.clock.advance(40_000)
    (await write(2)).expect(201)
    http.clock.advance(60_000)
    (await write(WRITES)).expect(201)
    (await http.post("/v1/facts", fact(source=AGENT), bearer=writer)).refused(429, "quota_exceeded")


async def test_what_is_refused_for_another_reason_counts_and_what_the_quota_refused_does_not(http: Served):
    writer = await issue(http, AGENT, verb="write")
    for _ in range(WRITES):
        (await http.post("/v1/facts", {"entity": ""}, bearer=writer)).refused(422, "missing_field")
    for _ in range(5):
        (await http.post("/v1/facts", fact(source=AGENT), bearer=writer)).refused(429, "quota_exceeded")

    http.clock.advance(60_000 // WRITES)

    (await http.post("/v1/facts", fact(source=AGENT), bearer=writer)).expect(201)


async def test_a_subject_has_one_share_however_many_tokens_it_has_and_another_has_its_own(http: Served):
    first, second = [await issue(http, AGENT, verb="read") for _ in range(2)]
    other = await issue(http, f"{ORG_B}/agent/other", verb="read")
    for _ in range(READS):
        (await read(http, first)).expect(200)

    (await read(http, second)).refused(429, "quota_exceeded")
    (await read(http, other)).expect(200)


async def test_each_api_key_has_its_own_share_one_that_administers_too(http: Served):
    first, second = [(await make_key(http, "read", "admin", entity_uri="agent:twin"))["raw_key"] for _ in range(2)]
    for _ in range(READS):
        (await read(http, first)).expect(200)

    (await read(http, first)).refused(429, "quota_exceeded")
    me = (await http.send("GET", "/v1/me", bearer=second)).expect(200)
    assert me["quota"]["reads"]["remaining"] == READS


async def test_what_is_left_is_shown_for_nothing_to_whoever_has_nothing_left(http: Served):
    key = (await make_key(http, "read"))["raw_key"]
    for _ in range(READS):
        (await read(http, key)).expect(200)

    for _ in range(2):
        me = (await http.send("GET", "/v1/me", bearer=key)).expect(200)
        assert me["quota"]["reads"]["remaining"] == 0
    (await read(http, key)).refused(429, "quota_exceeded")


async def test_the_operators_are_never_shut_out(http: Served):
    for _ in range(3 * READS):
        (await http.get("/v1/facts")).expect(200)
        await http.write()

    assert (await http.get("/v1/me")).expect(200)["quota"] == {"reads": None, "writes": None}


async def test_whoever_asks_is_shown_what_is_left_of_its_minute(http: Served):
    writer = await issue(http, AGENT, verb="write")
    await http.post("/v1/facts", fact(source=AGENT), bearer=writer)

    me = (await http.send("GET", "/v1/me", bearer=writer)).expect(200)

    assert me["quota"] == {
        "reads": {"limit": READS, "remaining": READS, "resets_in_s": 0},
        "writes": {"limit": WRITES, "remaining": WRITES - 1, "resets_in_s": 20},
    }


async def test_a_peer_s_token_is_not_used_up_by_a_refusal_for_want_of_quota(http: Served, org_b: Organisation):
    async def pull(token: str):
        return await http.send("GET", "/v1/federation/facts", bearer=token)

    for _ in range(READS):
        (await pull(org_b.token(http))).expect(200)
    token = org_b.token(http)

    answer = await pull(token)

    answer.refused(429, "quota_exceeded")
    [entry] = [entry for entry in http.entries(0) if entry.type == "request.refused.1"]
    assert (entry.actor.principal, entry.actor.via, entry.event.code) == (org_b.node_id, "peer", "quota_exceeded")
    http.clock.advance(15_000)
    (await pull(token)).expect(200)
    (await pull(token)).refused(429, "quota_exceeded")
    http.clock.advance(15_000)
    (await pull(token)).refused(401, "nonce_already_seen")


async def test_a_stranger_has_no_bucket_and_leaves_none(http: Served):
    size = http.size
    for _ in range(3 * READS):
        (await read(http, "sk_" + "x" * 43)).refused(401, "invalid_credentials")
        assert (await read(http, "{}")).status == 401

    assert (len(http.node.read_quota), http.size) == (0, size)


async def test_of_a_flood_ten_refusals_a_minute_are_on_record_and_then_their_number(http: Served):
    reader = await issue(http, AGENT, verb="read")
    size = http.size
    for _ in range(READS + 15):
        await read(http, reader)

    refused = http.entries(size)

    assert [(entry.type, entry.event.code) for entry in refused] == [("request.refused.1", "quota_exceeded")] * 10
    assert {entry.actor.principal for entry in refused} == {AGENT}
    http.clock.advance(60_000)
    await http.node.keep_up()
    assert (http.entries(size)[-1].type, http.entries(size)[-1].event.count) == ("refusals.counted.1", 5)
