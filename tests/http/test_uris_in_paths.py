"""A URI in a path means the same however a client spells it: sent over a bare socket, because HTTP clients tidy paths up."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.served import ADMIN_KEY, NODE_ID, Served

SLASHED = f"{NODE_ID}/doc/a%2Fb"
SPELLINGS = {
    "as it is": (f"{NODE_ID}/user/alice", f"{NODE_ID}/user/alice"),
    "escaped": (quote(f"{NODE_ID}/user/alice", safe=""), f"{NODE_ID}/user/alice"),
    "escaped in lower case": (quote(f"{NODE_ID}/user/alice", safe="").lower(), f"{NODE_ID}/user/alice"),
    "its colon alone escaped": (f"stigmem%3A//{NODE_ID[10:]}/user/alice", f"{NODE_ID}/user/alice"),
    "its letters escaped": (f"{NODE_ID}/us%65r/%61lice", f"{NODE_ID}/user/alice"),
    "with a slash at the end": (f"{NODE_ID}/user/alice/", f"{NODE_ID}/user/alice"),
    "in other case": (f"{NODE_ID.upper().replace('STIGMEM', 'stigmem')}/User/Alice", f"{NODE_ID}/user/alice"),
    "an authority alone": (NODE_ID, NODE_ID),
    "deep": (f"{NODE_ID}/doc/a/b/c/history", f"{NODE_ID}/doc/a/b/c/history"),
    "an escaped slash of its own, as it is": (SLASHED, SLASHED),
    "an escaped slash of its own, escaped": (quote(SLASHED, safe=""), SLASHED),
    "an escaped slash of its own, half escaped": (quote(SLASHED, safe=":/"), SLASHED),
    "white space": (f"{NODE_ID}/doc/two%20words", f"{NODE_ID}/doc/two-words"),
    "other letters": (f"{NODE_ID}/user/jos%C3%A9", f"{NODE_ID}/user/jos%C3%A9"),
    "other letters, escaped twice": (quote(f"{NODE_ID}/user/jos%C3%A9", safe=""), f"{NODE_ID}/user/jos%C3%A9"),
    "an informal name": ("user:alice", "user:alice"),
    "an informal name, escaped": ("user%3Aalice", "user:alice"),
    "an informal name in other letters": (quote("użytkownik:zażółć 🙂", safe=""), "użytkownik:zażółć 🙂"),
    "an informal name with slashes": (quote("agent:a/b//c", safe=""), "agent:a/b//c"),
}


# Of these, one that is read as something else would be the name of another.
NOT_UTF_8 = ("%ff", "user:%C3%28", "user:%ed%a0%80", f"{NODE_ID}/user/%ff", "%25%ff", "user%3A%c0%80")


async def ask(http: Served, path: str, method: str = "GET") -> tuple[int, Any]:
    """One request over a socket of its own: the path goes out as it stands here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body) if body else None


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_an_entity_s_history_is_found_however_its_name_is_spelled(http: Served, spelling: str):
    sent, entity = SPELLINGS[spelling]
    written = await http.write(entity=entity)

    status, answer = await ask(http, f"/v1/entities/{sent}/history")

    assert status == 200, answer
    assert answer["entity_uri"] == entity
    assert [item["fact"]["id"] for item in answer["history"]] == [written["id"]]


@pytest.mark.parametrize(
    "sent",
    [
        *("stigmem://", "stigmem%3A%2F%2F", "stigmem://x//y", "stigmem://x/../y", "stigmem://x/%2e%2e/y"),
        *("stigmem://x/doc/%zz", "a%00b", "%20", "a%E2%80%8Bb", "stigmem://j%C3%B6rg/doc/a"),
    ],
)
async def test_what_is_no_name_is_refused(http: Served, sent: str):
    status, answer = await ask(http, f"/v1/entities/{sent}/history")

    assert (status, answer["error"], answer["detail"][:12]) == (422, "invalid_uri", "entity_uri: ")


@pytest.mark.parametrize(
    "sent", [NODE_ID, f"{NODE_ID}/", quote(NODE_ID, safe=""), f"{quote(NODE_ID, safe='')}/", "stigmem://ORG-A.example"]
)
async def test_a_manifest_is_found_however_its_entity_is_spelled(http: Served, sent: str):
    status, answer = await ask(http, f"/v1/federation/manifest/{sent}")

    assert status == 200, answer
    assert answer["entity_uri"] == NODE_ID


async def test_a_path_is_no_other_route_s_because_of_what_stands_in_a_name(http: Served):
    status, answer = await ask(http, f"/v1/entities/{NODE_ID}/user/alice")

    assert (status, answer["error"]) == (404, "not_found")


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_member_is_removed_however_its_name_is_spelled_and_no_other(http: Served, spelling: str):
    sent, entity = SPELLINGS[spelling]
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"})).expect(201)
    for name in {entity, f"{NODE_ID}/doc/a/b"}:
        (await http.post("/v1/gardens/den/members", {"entity_uri": name, "role": "reader"})).expect(
            409 if name == NODE_ID else 201
        )

    status, answer = await ask(http, f"/v1/gardens/den/members/{sent}", "DELETE")

    # The node itself is the garden's last admin.
    assert status == (409 if entity == NODE_ID else 204), answer
    left = [one["entity_uri"] for one in (await http.get("/v1/gardens/den/members")).expect(200)["members"]]
    assert left == [NODE_ID, f"{NODE_ID}/doc/a/b"]


@pytest.mark.parametrize("name", NOT_UTF_8)
async def test_escapes_that_are_no_utf_8_name_nothing(http: Served, name: str):
    await http.write(entity="user:\ufffd")

    for method, path in (
        ("GET", f"/v1/entities/{name}/history"),
        ("GET", f"/v1/federation/manifest/{name}"),
        ("DELETE", f"/v1/gardens/nowhere/members/{name}"),
    ):
        status, answer = await ask(http, path, method)
        assert (status, answer["error"]) == (422, "invalid_uri"), path
    for parameter in ("entity", "source", "garden_id"):
        status, answer = await ask(http, f"/v1/facts?{parameter}={name}")
        assert (status, answer) == (422, {"error": "invalid_parameter", "detail": f"{parameter}: not UTF-8"})
    status, answer = await ask(http, "/v1/facts?entity=user:%EF%BF%BD&surprise=x")
    assert (status, answer["total"]) == (200, 1)
