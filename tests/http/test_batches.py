"""POST /v1/facts/batch: many facts in one append, each judged by itself (PROTOCOL §2.7)."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from tests.organisations import Organisation, be_strict, body_of, issue
from tests.served import NODE_ID, Answer, Served, fact

BATCH = "/v1/facts/batch"
ODD_FACTS: dict[str, tuple[object, str]] = {
    "no object": ([], "invalid_field"),
    "a number": (7, "invalid_field"),
    "null": (None, "invalid_field"),
    "an unknown field": (fact(surprise=1), "unknown_field"),
    "a missing field": ({"entity": "user:x"}, "missing_field"),
    "another's source": (fact(source="system:stigmem"), "reserved_namespace"),
    "a value of another type": (fact(value={"type": "number", "v": "1"}), "invalid_value"),
    "a text too large": (fact(value={"type": "text", "v": "x" * 65_537}), "text_too_large"),
    "larger than a single one may be": (fact(derived_from=["x" * (1 << 20)]), "body_too_large"),
    "a key of its own": (fact(idempotency_key="k"), "invalid_field"),
    "a garden that is not there": (fact(garden_id="nowhere"), "garden_not_found"),
}


async def send(http: Served, *facts: object, atomic: bool = False, **more: Any) -> Answer:
    return await http.send("POST", BATCH, {"facts": facts, "atomic": atomic}, **more)


def numbered(number: int, **fields: object) -> dict[str, object]:
    return fact(entity=f"{NODE_ID}/thing/{number}") | fields


async def total(http: Served) -> int:
    return (await http.get("/v1/facts", include_contradicted=True, include_retracted=True)).expect(200)["total"]


async def test_a_batch_is_stored_in_its_order_with_one_append(http: Served):
    size, appends = http.size, []
    append = asyncio.create_task(send(http, *(numbered(i) for i in range(20))))
    while not append.done():
        appends.append(http.size)
        await asyncio.sleep(0)

    answer = append.result().expect(201)

    assert (answer["accepted"], answer["rejected"]) == (20, 0)
    assert [set(result) for result in answer["results"]] == [{"index", "status", "fact_id"}] * 20
    assert [result["index"] for result in answer["results"]] == list(range(20))
    entries = http.entries(size)
    assert [entry.type for entry in entries] == ["fact.asserted.1"] * 20
    assert [entry.event.fact.id for entry in entries] == [result["fact_id"] for result in answer["results"]]
    assert [entry.event.fact.hlc for entry in entries] == [entry.hlc for entry in entries]
    assert set(appends) <= {size, size + 20}


@pytest.mark.parametrize("kind", ODD_FACTS)
async def test_an_odd_fact_is_refused_alone_with_the_code_of_a_single_write(http: Served, kind: str):
    odd, code = ODD_FACTS[kind]

    answer = (await send(http, numbered(1), odd, numbered(2))).expect(201)

    assert [result["status"] for result in answer["results"]] == ["accepted", "rejected", "accepted"]
    assert set(answer["results"][1]) == {"index", "status", "error", "detail"}
    assert answer["results"][1]["error"] == code
    assert (answer["accepted"], answer["rejected"], await total(http)) == (2, 1, 2)


@pytest.mark.parametrize("kind", ODD_FACTS)
async def test_an_odd_fact_of_an_atomic_batch_keeps_every_fact_out(http: Served, kind: str):
    odd, code = ODD_FACTS[kind]
    await http.write(entity=f"{NODE_ID}/thing/1")
    size, digests = http.size, await http.digests()

    refused = (await send(http, numbered(1), odd, numbered(2), atomic=True)).refused(422, "batch_refused")

    assert (refused["accepted"], refused["rejected"]) == (0, 1)
    assert [result["status"] for result in refused["results"]] == ["not_stored", "rejected", "not_stored"]
    assert refused["results"][1]["error"] == code
    assert not any("fact_id" in result for result in refused["results"])
    recorded = [entry.type for entry in http.entries(size)]
    assert recorded == (["request.refused.1"] if code == "reserved_namespace" else [])
    facts = ("facts", "conflicts", "sources", "gardens")
    assert {name: (await http.digests())[name] for name in facts} == {name: digests[name] for name in facts}


async def test_an_atomic_batch_tells_everything_that_is_wrong_with_it(http: Served):
    refused = (await send(http, [], numbered(1), fact(surprise=1), atomic=True)).refused(422, "batch_refused")

    assert [result.get("error") for result in refused["results"]] == ["invalid_field", None, "unknown_field"]


async def test_an_atomic_batch_without_fault_is_stored_whole(http: Served):
    answer = (await send(http, numbered(1), numbered(2), atomic=True)).expect(201)

    assert (answer["accepted"], answer["rejected"], await total(http)) == (2, 0, 2)


async def test_a_batch_in_which_nothing_is_accepted_is_answered_all_the_same(http: Served):
    size = http.size

    answer = (await send(http, [], {})).expect(201)

    assert (answer["accepted"], answer["rejected"], http.size) == (0, 2, size)


async def test_a_fact_sees_those_before_it(http: Served):
    parent = fact(timestamp="2026-05-04T12:00:00.000Z")
    parent_hash = hashlib.sha256(body_of(parent | {"confidence": 1.0, "scope": "local"})).hexdigest()
    await be_strict(http)

    answer = await send(
        http,
        parent,
        numbered(1, derived_from=[parent_hash]),
        fact(value={"type": "string", "v": "red"}),
        fact(value={"type": "string", "v": "blue"}, supersedes=True),
        atomic=True,
    )

    ids = [result["fact_id"] for result in answer.expect(201)["results"]]
    last = (await http.get(f"/v1/facts/{ids[3]}")).expect(200)
    assert set(last["supersedes"]) == {ids[0], ids[2]}
    assert (await http.get("/v1/conflicts")).expect(200)["conflicts"][0]["status"] == "resolved"
    shown = (await http.get("/v1/facts", entity=f"{NODE_ID}/project/apollo")).expect(200)
    assert [record["id"] for record in shown["facts"]] == [ids[3]]


async def test_the_fact_before_it_is_not_there_for_one_outside_the_batch(http: Served):
    parent_hash = hashlib.sha256(b"nothing").hexdigest()
    await be_strict(http)

    answer = (await send(http, numbered(1, derived_from=[parent_hash]), numbered(2))).expect(201)

    assert answer["results"][0]["error"] == "provenance_unknown_parent"
    assert answer["results"][1]["status"] == "accepted"


async def test_what_waits_in_quarantine_is_stored_and_said_so(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http)
    token = await issue(http, org_b.assistant)
    stated = {"source": org_b.assistant, "scope": "company"}

    answer = await send(http, numbered(1, **stated), numbered(2, source="agent:x", scope="company"), bearer=token)

    held, refused = answer.expect(201)["results"]
    assert (held["status"], refused["status"], refused["error"]) == ("quarantined", "rejected", "source_not_owned")
    assert (answer.json["accepted"], answer.json["rejected"]) == (1, 1)
    waiting = (await http.get("/v1/quarantine")).expect(200)
    assert [item["fact_id"] for item in waiting["items"]] == [held["fact_id"]]


async def test_what_a_known_caller_may_not_do_is_on_record_ten_times_in_a_batch_too(http: Served):
    size = http.size

    (await send(http, *(fact(relation="stigmem:x") for _ in range(14)))).expect(201)

    assert [entry.type for entry in http.entries(size)] == ["request.refused.1"] * 10


@pytest.mark.parametrize(
    ("facts", "status", "code"),
    [([], 422, "invalid_field"), ([fact()] * 1001, 413, "body_too_large"), ({}, 422, "invalid_field")],
    ids=["none", "more than a thousand", "no list"],
)
async def test_a_batch_of_another_size_is_refused(http: Served, facts: object, status: int, code: str):
    size = http.size

    (await http.post(BATCH, {"facts": facts})).refused(status, code)

    assert http.size == size


async def test_a_document_that_is_no_strict_json_is_refused_whole(http: Served):
    size = http.size
    for odd in ('{"entity":"a","entity":"b"}', '{"confidence":NaN}', '"\\ud800"', "1e999"):
        body = f'{{"facts":[{json.dumps(fact())},{odd}]}}'.encode()
        (await http.send("POST", BATCH, body)).refused(400, "malformed_json")

    assert http.size == size


async def test_a_thousand_facts_are_one_batch_and_single_writes_go_on_beside_them(http: Served):
    batch = asyncio.create_task(send(http, *(numbered(i) for i in range(1000)), atomic=True))
    singles = [http.write(entity=f"{NODE_ID}/single/{i}") for i in range(20)]

    await asyncio.gather(*singles)

    assert (await batch).expect(201)["accepted"] == 1000
    assert await total(http) == 1020


async def test_a_batch_of_megabytes_under_a_key_is_carried_out_once_however_it_is_spelled(http: Served):
    facts = [numbered(n, value={"type": "text", "v": "x" * 3000}) for n in range(400)]
    spelled = [
        json.dumps({"facts": facts, "idempotency_key": "once"}).encode(),
        json.dumps(
            {"idempotency_key": "once", "facts": [dict(reversed(one.items())) for one in facts]}, indent=1
        ).encode(),
    ]

    answers = await asyncio.gather(*(http.send("POST", BATCH, body) for body in [*spelled, *spelled]))

    assert len({answer.body for answer in answers}) == 1 and answers[0].expect(201)["accepted"] == 400
    assert await total(http) == 400
    other = json.dumps({"facts": facts[1:], "idempotency_key": "once"}).encode()
    (await http.send("POST", BATCH, other)).refused(409, "idempotency_key_reused")


async def test_a_million_facts_are_refused_for_their_number_before_any_is_read(http: Served):
    size = http.size
    for body in (b'{"facts":[' + b"{}," * 1_000_000 + b'{}],"surprise":1}', b'{"facts":[' + b"0," * 1_000_000 + b"0]}"):
        (await http.send("POST", BATCH, body)).refused(413, "body_too_large")
    assert http.size == size


async def test_batches_and_single_writes_that_arrive_together_keep_their_own_outcome(http: Served):
    atomic = [send(http, numbered(i), {} if i % 2 else numbered(100 + i), atomic=True) for i in range(10)]
    loose = [send(http, numbered(i), {}) for i in range(10)]
    single = [http.post("/v1/facts", numbered(i)) for i in range(10)]

    answers = [answer.status for answer in await asyncio.gather(*atomic, *loose, *single)]

    assert answers == [201, 422] * 5 + [201] * 10 + [201] * 10
    assert await total(http) == 10 + 10 + 10


async def test_a_taken_back_batch_takes_nothing_of_its_neighbours_along(http: Served):
    size = http.size
    sound = [send(http, numbered(i), numbered(100 + i)) for i in range(3)]
    refused = send(http, numbered(50), {}, atomic=True)
    after = [send(http, numbered(200 + i), atomic=True) for i in range(3)]

    answers = await asyncio.gather(*sound, refused, *after)

    assert [answer.status for answer in answers] == [201] * 3 + [422] + [201] * 3
    told = [result["fact_id"] for answer in answers if answer.status == 201 for result in answer.json["results"]]
    assert sorted(entry.event.fact.id for entry in http.entries(size)) == sorted(told)
