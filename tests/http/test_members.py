"""Members of gardens, and what each role allows (PROTOCOL §6.1, §6.4)."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api_keys import SCRIBE, bearer_for
from tests.organisations import Organisation, be_strict, issue
from tests.served import NODE_ID, Answer, Served, fact

DEN = "/v1/gardens/den"
MEMBERS = f"{DEN}/members"
GARDENER, GUEST = f"{NODE_ID}/agent/gardener", f"{NODE_ID}/agent/guest"
ROLES = ("admin", "writer", "reader")


@pytest.fixture
async def den(http: Served) -> dict[str, Any]:
    """A garden that the node's admin made: the node itself is its admin."""
    return (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"})).expect(201)


async def join(http: Served, entity: str, role: str, garden: str = "den") -> dict[str, Any]:
    return (await http.post(f"/v1/gardens/{garden}/members", {"entity_uri": entity, "role": role})).expect(201)


async def key_of(http: Served, role: str, *permissions: str, garden: str = "den", **fields: object) -> str:
    """The key of a member of that role; a member is called as its role is."""
    entity = f"{NODE_ID}/agent/{role.replace(':', '-')}"
    await join(http, entity, role, garden)
    return await bearer_for(http, *(permissions or ("read", "write")), entity_uri=entity, **fields)


async def write(http: Served, bearer: str, role: str, **fields: object) -> Answer:
    stated = {"scope": "team", "garden_id": "den", "source": f"{NODE_ID}/agent/{role}"}
    return await http.post("/v1/facts", fact(**stated | fields), bearer=bearer)


async def get(http: Served, bearer: str, path: str) -> Answer:
    return await http.send("GET", path, bearer=bearer)


def at(entity: str) -> str:
    return f"{MEMBERS}/{quote(entity, safe='')}"


async def test_a_member_is_added_changed_and_removed(http: Served, den):
    added = await join(http, GARDENER, "reader")
    assert (added["entity_uri"], added["role"], added["added_by"]) == (GARDENER, "reader", NODE_ID)

    http.clock.advance(1000)
    changed = (await http.send("PATCH", at(GARDENER), {"role": "writer"})).expect(200)
    assert changed == added | {"role": "writer"}
    listed = (await http.get(MEMBERS)).expect(200)
    assert [one["role"] for one in listed["members"]] == ["admin", "writer"] and listed["members"][1] == changed
    size = http.size
    assert (await http.send("PATCH", at(GARDENER), {"role": "writer"})).expect(200) == changed
    assert http.size == size

    assert (await http.send("DELETE", at(GARDENER))).status == 204
    assert [one["entity_uri"] for one in (await http.get(MEMBERS)).json["members"]] == [NODE_ID]
    assert [entry.type for entry in http.entries(size - 2)] == [
        "garden.member_set.1",
        "garden.member_set.1",
        "garden.member_removed.1",
    ]
    for method, body in (("PATCH", {"role": "reader"}), ("DELETE", None)):
        (await http.send(method, at(GARDENER), body)).refused(404, "member_not_found")


async def test_members_survive_a_restart_and_are_paged_in_the_order_in_which_they_came(http: Served, den):
    came = [f"{NODE_ID}/agent/a{number}" for number in (3, 1, 4, 0, 2)]
    for entity in came:
        await join(http, entity, "reader")
    await http.restart()
    seen, cursor = [], ""

    while cursor is not None:
        page = (await http.send("GET", f"{MEMBERS}?limit=2&cursor={cursor}")).expect(200)
        seen += [one["entity_uri"] for one in page["members"]]
        cursor = page["cursor"]
        assert page["has_more"] is (cursor is not None)
        # What is removed or added meanwhile moves nobody.
        if len(seen) == 2:
            assert (await http.send("DELETE", at(came[0]))).status == 204

    assert seen == [NODE_ID, *came]
    (await http.send("GET", f"{MEMBERS}?cursor=x")).refused(400, "invalid_cursor")
    (await http.send("GET", f"{MEMBERS}?as_of=offset:1")).refused(422, "unsupported_parameter")


SPELLINGS = {
    "escaped whole": quote(GARDENER, safe=""),
    "as it stands": GARDENER,
    "with capitals and an empty end": "STIGMEM://ORG-A.example/Agent/Gardener/".replace("/", "%2F"),
    "with the slashes alone escaped": GARDENER.replace("/", "%2F"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_member_is_found_under_every_spelling_of_its_name(http: Served, den, spelling: str):
    await join(http, "  STIGMEM://ORG-A.example/agent/Gardener/ ", "reader")

    changed = (await http.send("PATCH", f"{MEMBERS}/{SPELLINGS[spelling]}", {"role": "writer"})).expect(200)

    assert (changed["entity_uri"], changed["role"]) == (GARDENER, "writer")
    (await http.post(MEMBERS, {"entity_uri": GARDENER, "role": "reader"})).refused(409, "member_exists")


@pytest.mark.parametrize(
    ("stated", "path"),
    [
        ("user:alice@example.com", "user:alice@example.com"),
        ("user:a/b//c?d#e", "user%3Aa%2Fb%2F%2Fc%3Fd%23e"),
        ("agent:größe 1", quote("agent:größe 1")),
        ("agent:100%", "agent:100%25"),
        ("agent:50%2Fday", "agent:50%252Fday"),
        (f"{NODE_ID}/agent/50%2Fday", f"{NODE_ID}/agent/50%2Fday"),
        (f"{NODE_ID}/agent/50%2Fday", quote(f"{NODE_ID}/agent/50%2Fday", safe="")),
        (f"{NODE_ID}/agent/münchen", quote(f"{NODE_ID}/agent/münchen", safe="")),
        (f"{NODE_ID}/agent/münchen", quote(quote(f"{NODE_ID}/agent/münchen", safe=":/"), safe="")),
    ],
)
async def test_a_name_of_any_letters_is_a_member_and_is_found_in_a_path(http: Served, den, stated: str, path: str):
    await join(http, stated, "reader")

    assert (await http.send("DELETE", f"{MEMBERS}/{path}")).status == 204


BAD = {
    "no name": ({"entity_uri": " "}, "invalid_uri"),
    "a name with a dot segment": ({"entity_uri": f"{NODE_ID}/../x"}, "invalid_uri"),
    "a hidden character": ({"entity_uri": "agent:\u202ex"}, "invalid_field"),
    "a name of 2 KiB and more": ({"entity_uri": "agent:" + "x" * 2048}, "field_too_long"),
    "a name of 2 KiB and more in normal form": ({"entity_uri": f"{NODE_ID}/x/" + "é" * 400}, "field_too_long"),
    "a role that nobody knows": ({"role": "owner"}, "invalid_field"),
    "a moderator where nothing is held": ({"role": "quarantine:moderator"}, "invalid_field"),
}


@pytest.mark.parametrize("fault", BAD)
async def test_a_member_of_no_form_is_not_added(http: Served, den, fault: str):
    changes, code = BAD[fault]
    size = http.size

    refused = (await http.post(MEMBERS, {"entity_uri": GUEST, "role": "reader"} | changes)).refused(422, code)

    assert refused["detail"].startswith(f"{next(iter(changes))}: ")
    assert http.size == size


@pytest.mark.parametrize("fault", ["a hidden character", "a name with a dot segment"])
async def test_a_name_in_a_path_that_is_none_is_refused(http: Served, den, fault: str):
    changes, code = BAD[fault]
    path = f"{MEMBERS}/{quote(changes['entity_uri'], safe='')}"

    (await http.send("PATCH", path, {"role": "reader"})).refused(422, code)
    (await http.send("DELETE", path)).refused(422, code)


async def test_a_name_of_the_node_s_own_is_no_member(http: Served, den):
    for name in ("system:stigmem", "stigmem:conflict:x"):
        (await http.post(MEMBERS, {"entity_uri": name, "role": "reader"})).refused(403, "reserved_namespace")


async def test_the_last_admin_neither_goes_nor_becomes_less_whoever_asks(http: Served, den):
    gardener = await key_of(http, "admin")
    assert (await http.send("DELETE", at(NODE_ID), bearer=gardener)).status == 204
    (await http.get(DEN)).expect(200)

    for bearer in (gardener, await bearer_for(http, "admin"), None):
        options = {} if bearer is None else {"bearer": bearer}
        for method, body in (("PATCH", {"role": "writer"}), ("DELETE", None)):
            (await http.send(method, at(f"{NODE_ID}/agent/admin"), body, **options)).refused(409, "last_admin")
    assert (await http.send("PATCH", at(f"{NODE_ID}/agent/admin"), {"role": "admin"})).status == 200


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_allows_what_it_says_and_nothing_else(http: Served, den, role: str):
    kept = await http.write(scope="team", garden_id="den")
    bearer = await key_of(http, role)

    assert (await get(http, bearer, f"/v1/facts/{kept['id']}")).expect(200)["garden_id"] == den["id"]
    assert (await get(http, bearer, f"/v1/facts/{kept['cid']}")).expect(200)["id"] == kept["id"]
    for query in ("?garden_id=den", f"?garden_id={den['id']}", "?scope=team", ""):
        listed = (await get(http, bearer, f"/v1/facts{query}")).expect(200)
        assert ([one["id"] for one in listed["facts"]], listed["total"]) == ([kept["id"]], 1)
    assert (await get(http, bearer, "/v1/gardens")).expect(200)["gardens"] == [den]
    assert (await get(http, bearer, DEN)).expect(200) == den
    assert len((await get(http, bearer, MEMBERS)).expect(200)["members"]) == 2

    written = await write(http, bearer, role)
    written.expect(201) if role != "reader" else written.refused(403, "garden_forbidden")
    mine = f"{NODE_ID}/agent/{role}"
    for asked in (
        http.post(MEMBERS, {"entity_uri": GUEST, "role": "reader"}, bearer=bearer),
        http.send("PATCH", at(GUEST), {"role": "writer"}, bearer=bearer),
        http.send("DELETE", at(GUEST), bearer=bearer),
        http.send("DELETE", at(mine), bearer=bearer),
    ):
        answer = await asked
        if role == "admin":
            assert answer.status in (200, 201, 204), answer
        else:
            answer.refused(403, "insufficient_permission")


async def test_the_creator_of_a_garden_is_its_admin_and_deletes_it_and_nobody_else_reads_it_then(http: Served):
    bearer, guest = await bearer_for(http), await bearer_for(http, entity_uri=GUEST)
    made = await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"}, bearer=bearer)
    assert made.expect(201)["created_by"] == SCRIBE
    assert (await http.post(MEMBERS, {"entity_uri": GUEST, "role": "reader"}, bearer=bearer)).status == 201
    kept = (await write(http, bearer, "scribe")).expect(201)
    assert (await get(http, guest, f"/v1/facts/{kept['id']}")).status == 200

    (await http.send("DELETE", DEN, bearer=guest)).refused(403, "insufficient_permission")
    assert (await http.send("DELETE", DEN, bearer=bearer)).status == 204

    for reader in (bearer, guest):
        (await get(http, reader, f"/v1/facts/{kept['id']}")).refused(404, "fact_not_found")
        (await get(http, reader, f"/v1/facts/{kept['id']}?as_of=offset:{kept['log_offset']}")).refused(
            404, "fact_not_found"
        )
        (await get(http, reader, "/v1/facts?garden_id=den")).refused(403, "garden_forbidden")
        assert (await get(http, reader, "/v1/facts")).json == {
            "facts": [],
            "total": 0,
            "cursor": None,
            "has_more": False,
        }
        for path in (DEN, MEMBERS):
            (await get(http, reader, path)).refused(404, "garden_not_found")
    assert (await http.get(f"/v1/facts/{kept['id']}")).expect(200)["garden_id"] == made.json["id"]


async def test_a_garden_is_made_by_keys_that_write_in_its_scope_and_one_of_quarantine_by_admins_alone(http: Served):
    stated = {"slug": "den", "name": "Den", "scope": "team"}
    size = http.size
    for bearer, changes, code in (
        (await bearer_for(http, "read"), {}, "insufficient_permission"),
        (await bearer_for(http, allowed_scopes=["public"]), {}, "scope_not_permitted"),
        (await bearer_for(http, "admin", allowed_scopes=["public"]), {}, "scope_not_permitted"),
        (await bearer_for(http), {"quarantine": True}, "insufficient_permission"),
        (await issue(http, SCRIBE, verb="admin"), {}, "insufficient_permission"),
    ):
        (await http.post("/v1/gardens", stated | changes, bearer=bearer)).refused(403, code)
    assert "garden.created.1" not in {entry.type for entry in http.entries(size)}


async def test_a_member_s_key_reaches_no_further_than_its_permissions_and_scopes(http: Served, den):
    kept = await http.write(scope="team", garden_id="den")
    await join(http, SCRIBE, "admin")
    reads, writes = await bearer_for(http, "read"), await bearer_for(http, "write")
    elsewhere = await bearer_for(http, allowed_scopes=["local", "company", "public"])

    (await write(http, reads, "scribe")).refused(403, "garden_forbidden")
    (await http.post(MEMBERS, {"entity_uri": GUEST, "role": "reader"}, bearer=reads)).refused(
        403, "insufficient_permission"
    )
    for path in ("/v1/facts", DEN, MEMBERS, "/v1/gardens", "/v1/quarantine"):
        (await get(http, writes, path)).refused(403, "insufficient_permission")
    (await write(http, writes, "scribe")).expect(201)

    (await get(http, elsewhere, f"/v1/facts/{kept['id']}")).refused(404, "fact_not_found")
    (await get(http, elsewhere, "/v1/facts?garden_id=den")).refused(403, "garden_forbidden")
    (await get(http, elsewhere, DEN)).refused(404, "garden_not_found")
    assert (await get(http, elsewhere, "/v1/gardens")).json["gardens"] == []
    (await write(http, elsewhere, "scribe")).refused(403, "garden_forbidden")
    (await write(http, elsewhere, "scribe", scope="public")).refused(403, "garden_forbidden")


async def test_a_capability_token_is_a_member_of_nothing(http: Served, den):
    await join(http, SCRIBE, "admin")
    kept = await http.write(scope="team", garden_id="den")

    for verb in ("read", "write", "admin"):
        bearer = await issue(http, SCRIBE, verb=verb)
        (await get(http, bearer, DEN)).refused(403, "insufficient_permission")
        (await http.send("DELETE", DEN, bearer=bearer)).refused(404, "garden_not_found")
        assert (await get(http, bearer, f"/v1/facts/{kept['id']}")).status in (403, 404)
        (await write(http, bearer, "scribe")).refused(403, "garden_forbidden")


async def test_a_removed_member_reads_and_writes_nothing_from_then_on(http: Served, den):
    kept = await http.write(scope="team", garden_id="den")
    bearer = await key_of(http, "writer")
    (await get(http, bearer, f"/v1/facts/{kept['id']}")).expect(200)

    assert (await http.send("DELETE", at(f"{NODE_ID}/agent/writer"))).status == 204

    (await get(http, bearer, f"/v1/facts/{kept['id']}")).refused(404, "fact_not_found")
    (await get(http, bearer, f"/v1/facts?as_of=offset:{kept['log_offset']}&garden_id=den")).refused(
        403, "garden_forbidden"
    )
    (await write(http, bearer, "writer")).refused(403, "garden_forbidden")


@pytest.fixture
async def pit(http: Served, org_b: Organisation) -> str:
    """A quarantine garden in which three facts of another organisation wait: two in `company`, one `public`."""
    await org_b.join(http)
    garden_id = await be_strict(http)
    scopes = ("company", "company", "public")
    await org_b.receive(http, *(org_b.served_fact(number=n, scope=scope) for n, scope in enumerate(scopes, 1)))
    return garden_id


def waiting(number: int) -> str:
    return f"01890000-0000-7000-8000-{number:012d}"


@pytest.mark.parametrize("role", ["admin", "quarantine:moderator"])
async def test_a_moderator_lists_reads_and_decides_about_what_waits_in_its_garden(http: Served, pit: str, role: str):
    bearer = await key_of(http, role, garden=pit)
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "company"})).expect(201)

    queue = (await get(http, bearer, f"/v1/quarantine?garden_id={pit}")).expect(200)
    assert queue == (await http.get("/v1/quarantine")).json and queue["total"] == 3
    assert (await get(http, bearer, f"/v1/facts/{waiting(1)}")).expect(200)["quarantine_status"] == "pending"
    assert (await get(http, bearer, "/v1/facts")).json["total"] == 0

    decide = {"fact_id": waiting(1), "target_garden_id": None, "reason": "known"}
    into_den = await http.post(f"/v1/gardens/{pit}/promote", decide | {"target_garden_id": "den"}, bearer=bearer)
    into_none = await http.post(f"/v1/gardens/{pit}/promote", decide | {"target_garden_id": "no"}, bearer=bearer)
    assert into_den.refused(403, "garden_forbidden") == into_none.refused(403, "garden_forbidden")
    promoted = (await http.post(f"/v1/gardens/{pit}/promote", decide, bearer=bearer)).expect(200)
    assert promoted["promoted_by"] == f"{NODE_ID}/agent/{role.replace(':', '-')}"
    rejected = {"fact_id": waiting(2), "reason": "no"}
    (await http.post(f"/v1/gardens/{pit}/reject", rejected, bearer=bearer)).expect(200)
    (await http.post(f"/v1/gardens/{pit}/reject", rejected, bearer=bearer)).refused(409, "fact_not_quarantine_pending")


async def test_an_instruction_is_admitted_by_who_may_write_one(http: Served, pit: str, org_b: Organisation):
    bearer = await key_of(http, "quarantine:moderator", garden=pit)
    writes_them = await bearer_for(
        http, "write", "instruction:write", entity_uri=f"{NODE_ID}/agent/quarantine-moderator"
    )
    value = {"type": "text", "v": "go", "interpret_as": "instruction"}
    await org_b.receive(http, org_b.served_fact(number=9, scope="company", value=value))
    promote, decide = f"/v1/gardens/{pit}/promote", {"fact_id": waiting(9), "target_garden_id": None, "reason": ""}
    size = http.size

    (await http.post(promote, decide, bearer=bearer)).refused(403, "insufficient_permission")
    assert {entry.type for entry in http.entries(size)} == {"request.refused.1"}
    (await http.post(promote, decide, bearer=writes_them)).expect(200)


async def test_what_a_moderator_promoted_into_another_s_garden_is_no_longer_the_moderator_s(http: Served, pit: str):
    moderator = await key_of(http, "quarantine:moderator", garden=pit)
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "company"})).expect(201)
    before = http.size - 1

    (await http.post(f"/v1/gardens/{pit}/promote", {"fact_id": waiting(1), "target_garden_id": "den"})).expect(200)

    for query in ("", f"?as_of=offset:{before}", "?quarantine_status=promoted", f"?garden_id={pit}"):
        queue = (await get(http, moderator, f"/v1/quarantine{query}")).expect(200)
        assert queue["total"] == len(queue["items"]) == (0 if "promoted" in query else 2)
    (await get(http, moderator, f"/v1/facts/{waiting(1)}")).refused(404, "fact_not_found")
    (await get(http, moderator, f"/v1/facts/{waiting(1)}?as_of=offset:{before}")).refused(404, "fact_not_found")
    again = await http.post(f"/v1/gardens/{pit}/reject", {"fact_id": waiting(1)}, bearer=moderator)
    again.refused(404, "fact_not_found")

    await join(http, f"{NODE_ID}/agent/quarantine-moderator", "reader")
    assert (await get(http, moderator, f"/v1/facts/{waiting(1)}")).expect(200)["quarantine_status"] == "promoted"
    assert (await get(http, moderator, "/v1/quarantine")).json["total"] == 3


async def test_a_moderator_sees_of_what_waits_only_its_own_scopes(http: Served, pit: str):
    bearer = await key_of(http, "quarantine:moderator", garden=pit, allowed_scopes=["company"])

    queue = (await get(http, bearer, "/v1/quarantine")).expect(200)
    assert (queue["total"], {one["scope"] for one in queue["items"]}) == (2, {"company"})
    (await get(http, bearer, f"/v1/facts/{waiting(3)}")).refused(404, "fact_not_found")
    for decision in ("promote", "reject"):
        answer = await http.post(f"/v1/gardens/{pit}/{decision}", {"fact_id": waiting(3)}, bearer=bearer)
        answer.refused(404, "fact_not_found")


async def test_nobody_else_moderates_or_lists_and_gets_one_answer_for_every_garden(http: Served, pit: str):
    await join(http, SCRIBE, "writer", pit)
    member, stranger = await bearer_for(http), await bearer_for(http, entity_uri=GUEST)
    token = await issue(http, SCRIBE, verb="admin")

    for bearer in (member, stranger):
        assert (await get(http, bearer, "/v1/quarantine")).expect(200)["total"] == 0
        answers = [await get(http, bearer, f"/v1/quarantine?garden_id={name}") for name in (pit, "none")]
        assert answers[0].refused(403, "garden_forbidden") == answers[1].json
        (await get(http, bearer, f"/v1/facts/{waiting(1)}")).refused(404, "fact_not_found")
    (await get(http, token, "/v1/quarantine")).refused(403, "insufficient_permission")
    for bearer in (member, stranger, token):
        for decision in ("promote", "reject"):
            body = {"fact_id": waiting(1)}
            answers = [await http.post(f"/v1/gardens/{name}/{decision}", body, bearer=bearer) for name in (pit, "none")]
            assert answers[0].refused(403, "insufficient_permission") == answers[1].json
    assert (await http.get("/v1/quarantine", quarantine_status="pending")).json["total"] == 3


async def test_another_authority_s_garden_of_the_same_slug_is_not_ours(http: Served, den):
    for name, status in ((f"{NODE_ID}/garden/den", 200), ("stigmem://org-b.example/garden/den", 404)):
        assert (await http.send("GET", f"/v1/gardens/{quote(name, safe='')}")).status == status
