"""Two organisations' facts of one id: a peer sees others' ids and may use them, which must not get its word taken for theirs."""

import pytest

from tests.organisations import Organisation, be_strict
from tests.served import Served

ORG_C = "stigmem://org-c.example"


@pytest.fixture
async def org_c(serve) -> Organisation:
    return Organisation(await serve(seed=bytes(range(200, 232)), entity_uri=ORG_C))


@pytest.fixture
async def waiting(http: Served, org_b: Organisation, org_c: Organisation) -> tuple[str, str]:
    """Two held facts of one id; the garden's id and theirs."""
    garden_id = await be_strict(http)
    for org in (org_b, org_c):
        await org.join(http)
        await org.receive(http, org.served_fact(number=1))
    return garden_id, org_b.served_fact(number=1)["id"]


async def standing(http: Served) -> list[str]:
    return [fact["origin"] for fact in (await http.get("/v1/facts")).expect(200)["facts"]]


@pytest.mark.parametrize("verb", ["promote", "reject"])
async def test_what_waits_under_an_id_of_two_is_decided_by_naming_the_origin_alone(http, org_b, waiting, verb: str):
    garden_id, fact_id = waiting
    size = http.size

    answer = await http.post(f"/v1/gardens/{garden_id}/{verb}", {"fact_id": fact_id})

    answer.refused(409, "fact_ambiguous")
    assert http.size == size
    path = f"/v1/gardens/{garden_id}/{verb}"
    (await http.post(path, {"fact_id": fact_id, "origin": "stigmem://nobody.example"})).refused(404, "fact_not_found")
    (await http.post(path, {"fact_id": fact_id, "origin": org_b.node_id})).expect(200)
    (await http.post(path, {"fact_id": fact_id, "origin": org_b.node_id})).refused(409, "fact_not_quarantine_pending")


async def test_once_one_is_decided_the_other_needs_no_further_word(http, org_c, waiting):
    garden_id, fact_id = waiting
    path = f"/v1/gardens/{garden_id}"
    (await http.post(f"{path}/promote", {"fact_id": fact_id, "origin": ORG_C})).expect(200)
    assert await standing(http) == [ORG_C]

    (await http.post(f"{path}/reject", {"fact_id": fact_id})).expect(200)

    assert await standing(http) == [ORG_C]
