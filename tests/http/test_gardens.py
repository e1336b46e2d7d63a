"""Gardens, run-time settings and the quarantine queue over HTTP (PROTOCOL §6)."""

import pytest

from tests.organisations import Organisation, be_strict
from tests.served import NODE_ID, Served

GARDENS = "/v1/gardens"


def garden(**fields: object) -> dict[str, object]:
    return {"slug": "den", "name": "Den", "scope": "company"} | fields


async def test_a_garden_is_shown_as_it_was_made_under_id_slug_and_uri(http: Served):
    made = (await http.post(GARDENS, garden(description="A place."))).expect(201)

    assert (made["garden_id"], made["created_by"], made["quarantine"]) == (f"{NODE_ID}/garden/den", NODE_ID, False)
    for name in (made["id"], "den"):
        assert (await http.get(f"{GARDENS}/{name}")).expect(200) == made
    assert (await http.get(GARDENS)).expect(200) == {"gardens": [made], "cursor": None, "has_more": False}


BAD = {
    "a slug in capitals": {"slug": "Den"},
    "no slug": {"slug": ""},
    "a slug with a slash": {"slug": "a/b"},
    "a slug that begins with a hyphen": {"slug": "-den"},
    "a slug of 65": {"slug": "d" * 65},
    "a slug like an id": {"slug": "01890000-0000-7000-8000-000000000000"},
    "a slug of other digits": {"slug": "den\u0661"},
    "no name": {"name": " "},
    "a hidden character": {"name": "a\u202eb"},
    "a long name": {"name": "x" * 201},
    "a long description": {"description": "x" * 2001},
    "a scope that nobody knows": {"scope": "secret"},
}


@pytest.mark.parametrize("fault", BAD)
async def test_a_garden_of_no_form_is_not_made(http: Served, fault: str):
    size = http.size

    (await http.post(GARDENS, garden(**BAD[fault]))).refused(422, "invalid_field")

    assert http.size == size


async def test_a_slug_is_used_once_and_stays_used_when_its_garden_is_gone(http: Served):
    (await http.post(GARDENS, garden())).expect(201)
    (await http.post(GARDENS, garden())).refused(409, "garden_exists")

    assert (await http.send("DELETE", f"{GARDENS}/den")).status == 204

    (await http.get(f"{GARDENS}/den")).refused(404, "garden_not_found")
    (await http.send("DELETE", f"{GARDENS}/den")).refused(404, "garden_not_found")
    (await http.post(GARDENS, garden())).refused(409, "garden_exists")


async def test_pages_of_gardens_follow_one_another(http: Served):
    made = [(await http.post(GARDENS, garden(slug=f"den-{n}"))).expect(201)["id"] for n in range(5)]
    seen, cursor = [], ""

    while cursor is not None:
        page = (await http.send("GET", f"{GARDENS}?limit=2&cursor={cursor}")).expect(200)
        seen += [one["id"] for one in page["gardens"]]
        cursor = page["cursor"]
        assert page["has_more"] is (cursor is not None)

    assert sorted(seen) == sorted(made) and len(seen) == 5


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"quarantine_garden_id": "none"}, 404, "garden_not_found"),
        ({"quarantine_garden_id": "den"}, 422, "garden_not_quarantine"),
        ({"trust_mode": "lax"}, 422, "invalid_field"),
        ({"quarantine_trust_threshold": 1.5}, 422, "invalid_field"),
        ({"admin_key": "x"}, 422, "unknown_field"),
        ({"blocked_sources": [""]}, 422, "invalid_uri"),
        ({"blocked_sources": ["stigmem://x.example"] * 1001}, 422, "invalid_field"),
    ],
)
async def test_a_setting_that_could_not_hold_is_not_changed(http: Served, changes: dict, status: int, code: str):
    (await http.post(GARDENS, garden())).expect(201)
    size = http.size

    refused = (await http.send("PATCH", "/v1/admin/config", {"trust_mode": "strict"} | changes)).refused(status, code)

    assert refused["detail"].startswith(next(iter(changes)))
    assert http.size == size
    assert (await http.get("/v1/admin/config")).json["trust_mode"] == "relaxed"


async def test_settings_are_an_event_survive_a_restart_and_null_goes_back(http: Served):
    size = http.size
    changed = (await http.send("PATCH", "/v1/admin/config", {"trust_mode": "off"})).expect(200)
    await http.send("PATCH", "/v1/admin/config", {"trust_mode": "off"})
    assert [entry.type for entry in http.entries(size)] == ["settings.changed.2"]

    await http.restart()

    assert (await http.get("/v1/admin/config")).json == changed
    back = (await http.send("PATCH", "/v1/admin/config", {"trust_mode": None})).expect(200)
    assert back["trust_mode"] == "relaxed"
    assert "key" not in " ".join(back)


async def test_a_garden_in_which_facts_wait_or_that_is_designated_is_not_deleted(http: Served, org_b: Organisation):
    await org_b.join(http)
    pit = await be_strict(http)
    (await http.send("DELETE", f"{GARDENS}/{pit}")).refused(409, "garden_in_use")

    await org_b.receive(http, org_b.served_fact())

    (await http.send("DELETE", f"{GARDENS}/{pit}")).refused(409, "quarantine_has_pending_facts")


async def test_promotion_needs_a_garden_of_the_fact_s_scope_that_is_no_quarantine(http: Served, org_b: Organisation):
    await org_b.join(http)
    pit = await be_strict(http)
    await org_b.receive(http, org_b.served_fact(scope="company"))
    fact_id = org_b.served_fact()["id"]
    for slug, scope in (("den", "company"), ("shelf", "team")):
        (await http.post(GARDENS, garden(slug=slug, scope=scope))).expect(201)
    size = http.size

    async def promote(target: str | None, where: str = pit):
        return await http.post(f"{GARDENS}/{where}/promote", {"fact_id": fact_id, "target_garden_id": target})

    refused = (await promote("none")).refused(404, "garden_not_found")
    assert refused["detail"].startswith("target_garden_id: ")
    (await promote("shelf")).refused(422, "garden_scope_mismatch")
    (await promote(pit)).refused(403, "quarantine_write_forbidden")
    (await promote(None, "den")).refused(404, "fact_not_found")
    (await promote(None, "none")).refused(404, "garden_not_found")
    assert {entry.type for entry in http.entries(size)} <= {"request.refused.1"}

    promoted = (await promote("den")).expect(200)
    assert (promoted["fact_id"], promoted["promoted_by"]) == (fact_id, NODE_ID)
    record = (await http.get("/v1/facts", garden_id="den")).json["facts"][0]
    assert (record["garden_id"], record["quarantine_status"]) == (promoted["target_garden_id"], "promoted")


async def test_the_queue_is_paged_newest_first_and_told_by_status(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http)
    await org_b.receive(http, *(org_b.served_fact(number=n) for n in range(1, 6)))
    seen, cursor = [], ""

    while cursor is not None:
        page = (await http.send("GET", f"/v1/quarantine?limit=2&cursor={cursor}")).expect(200)
        assert page["total"] == 5
        seen += [item["fact_id"][-1] for item in page["items"]]
        cursor = page["cursor"]
        assert page["has_more"] is (cursor is not None)

    assert seen == ["5", "4", "3", "2", "1"]
    assert (await http.get("/v1/quarantine", quarantine_status="rejected")).json["total"] == 0
