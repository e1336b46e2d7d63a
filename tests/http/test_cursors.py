"""Cursors of all listings: one that was changed, or that another listing gave out, leads nowhere (PROTOCOL §1 'Pages')."""

from urllib.parse import quote

import pytest

from node.canonical import b64url_decode, b64url_encode
from tests.http.test_facts import text
from tests.served import Served

# Each with the parameters under which another of its pages is asked for, and others, under which its cursor means nothing.
LISTINGS = {
    "/v1/facts": ("include_contradicted=true", "include_contradicted=true&scope=local"),
    "/v1/conflicts": ("status=unresolved", "status=resolved"),
    "/v1/gardens": ("", None),
    "/v1/gardens/north/members": ("", None),
    "/v1/gardens/south/members": ("", None),
    "/v1/auth/keys": ("", None),
    "/v1/tombstones": ("of=node", "of=peers"),
    "/v1/admin/audit-log": ("event_type=fact.asserted", "event_type=garden.created"),
    "/v1/entities/user:many/history": ("", "relation=memory:status"),
}


@pytest.fixture
async def cursors(http: Served) -> dict[str, str]:
    """A cursor of each listing."""
    for slug in ("north", "south"):
        (await http.post("/v1/gardens", {"slug": slug, "name": slug, "scope": "team"})).expect(201)
        member = {"entity_uri": "user:alice", "role": "reader"}
        (await http.post(f"/v1/gardens/{slug}/members", member)).expect(201)
    for number in range(3):
        await http.write(entity="user:many", value=text(str(number)))
        key = {"entity_uri": f"user:key-{number}", "permissions": ["read"]}
        (await http.post("/v1/auth/keys", key)).expect(201)
        stone = {"entity_uri": f"user:gone-{number}", "scope": "*", "reason": "asked"}
        (await http.post("/v1/tombstones", stone)).expect(201)
    return {path: await _cursor(http, path, query) for path, (query, _) in LISTINGS.items()}


async def _cursor(http: Served, path: str, query: str) -> str:
    page = (await http.send("GET", f"{path}?limit=1&{query}")).expect(200)
    assert page["has_more"]
    return page["cursor"]


async def test_a_cursor_leads_on_in_the_listing_that_gave_it_out_and_in_no_other(http: Served, cursors: dict[str, str]):
    for path, (query, other) in LISTINGS.items():
        for giver, cursor in cursors.items():
            answer = await http.send("GET", f"{path}?limit=1&{query}&cursor={cursor}")
            answer.expect(200) if giver == path else answer.refused(400, "invalid_cursor")
        if other is not None:
            answer = await http.send("GET", f"{path}?limit=1&{other}&cursor={cursors[path]}")
            answer.refused(400, "invalid_cursor")


async def test_a_cursor_that_was_changed_anywhere_is_refused(http: Served, cursors: dict[str, str]):
    for path, (query, _) in LISTINGS.items():
        given = b64url_decode(cursors[path])
        changed = [given[:at] + bytes([given[at] ^ 1]) + given[at + 1 :] for at in range(len(given))]
        for raw in (*changed, given[:-1], given + b"\0", given[1:]):
            answer = await http.send("GET", f"{path}?limit=1&{query}&cursor={quote(b64url_encode(raw))}")
            answer.refused(400, "invalid_cursor")
