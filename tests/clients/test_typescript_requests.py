"""The requests of stigmem-ts and of the MCP server on it, as Node's `fetch` sends them, against a real node.

Neither is in a registry; what they send is written down here, and what they read of the answers is looked at.
"""

import json
import socket
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.clients.conftest import AGENT, NODE_ID
from tests.scenarios.nodes import REQUEST_DEADLINE_S, Answer, RunningNode

GREEN, RED = ({"type": "string", "v": word} for word in ("green", "red"))
# In this order, and with these names, Node's fetch sends them; the client gives the three in the middle, on every request.
HEAD = (
    "{method} {path} HTTP/1.1\r\n"
    "host: localhost:{port}\r\n"
    "connection: close\r\n"
    "Accept: application/json\r\n"
    "Content-Type: application/json\r\n"
    "Authorization: Bearer {key}\r\n"
    "{more}"
    "accept-language: *\r\n"
    "sec-fetch-mode: cors\r\n"
    "user-agent: node\r\n"
    "accept-encoding: gzip, deflate\r\n"
)


class TypeScript:
    """Sends what the client sends. `params` are written as the client writes them, with `encodeURIComponent`."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key

    def request(
        self, method: str, path: str, body: object = None, params: dict[str, object] | None = None, headers: str = ""
    ) -> Answer:
        if params:
            path += "?" + "&".join(f"{quote(name)}={encoded(value)}" for name, value in params.items())
        head = HEAD.format(method=method, path=path, port=self._port, key=self._key, more=headers)
        content = b"" if body is None else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        head += f"content-length: {len(content)}\r\n\r\n" if body is not None else "\r\n"
        with socket.create_connection(("127.0.0.1", self._port), REQUEST_DEADLINE_S) as connection:
            connection.sendall(head.encode() + content)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]), body)

    def assert_fact(self, entity: str, value: dict[str, Any] = GREEN, headers: str = "", **options: object) -> Any:
        body = {"entity": entity, "relation": "memory:status", "value": value, "source": AGENT, "confidence": 1}
        return self.request("POST", "/v1/facts", body | {"scope": "company"} | options, headers=headers).expect(201)


def encoded(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return quote(text, safe="!'()*-._~")


@pytest.fixture
def client(node: RunningNode, key: str) -> TypeScript:
    return TypeScript(node.port, key)


def test_node_info(client: TypeScript):
    info = client.request("GET", "/.well-known/stigmem").expect(200)

    assert (info["node_id"], info["auth"], info["federation"]) == (NODE_ID, "required", "enabled")
    assert isinstance(info["namespaces"], list)


def test_a_fact_with_all_that_the_mcp_server_says_of_it(client: TypeScript, entity: str):
    parent = client.assert_fact(f"{entity}/parent")

    record = client.assert_fact(
        entity,
        {"type": "number", "v": 3},
        headers=f"Stigmem-Session: mcp:{uuid4()}\r\n",
        valid_until="2999-12-31T23:59:59Z",
        write_mode="summarize_with_provenance",
        derived_from=[{"fact_id": parent["id"]}],
    )

    assert (record["value"], record["derived_from"]) == ({"type": "number", "v": 3.0}, [parent["id"]])
    assert (record["contradicted"], record["valid_until"]) == (False, "2999-12-31T23:59:59.000Z")
    plain = client.assert_fact(f"{entity}/plain", write_mode="assert", derived_from=[])
    assert plain["derived_from"] == []


def test_a_retraction(client: TypeScript, entity: str):
    client.assert_fact(entity)
    client.assert_fact(entity, {"type": "string", "v": "retracted"}, confidence=0)

    assert client.request("GET", "/v1/facts", params={"entity": entity, "limit": 50}).expect(200)["facts"] == []


def test_a_fact_by_its_id_and_by_its_cid(client: TypeScript, entity: str):
    written = client.assert_fact(entity)
    session = "Stigmem-Session: mcp:1\r\n"

    for name in (written["id"], written["cid"], written["cid"].replace(":", "%3A")):
        assert client.request("GET", f"/v1/facts/{name}", headers=session).expect(200)["id"] == written["id"]


def test_a_query_with_every_parameter_that_the_client_knows(client: TypeScript, entity: str):
    written = [client.assert_fact(f"{entity}/{number}", scope="team") for number in range(3)]
    params = {
        "entity": f"{entity}/1",
        "relation": "memory:status",
        "source": AGENT,
        "scope": "team",
        "min_confidence": 0.5,
        "include_contradicted": False,
        "include_expired": False,
        "after": "2026-01-01T00:00:00.000Z",
        "limit": 500,
    }

    page = client.request("GET", "/v1/facts", params=params, headers="Stigmem-Session: mcp:1\r\n").expect(200)

    assert [fact["id"] for fact in page["facts"]] == [written[1]["id"]]
    assert (page["total"], page["cursor"]) == (1, None)


def test_a_poll_of_a_scope_goes_on_behind_its_cursor(client: TypeScript, entity: str):
    written = [client.assert_fact(f"{entity}/{number}", scope="public") for number in range(3)]
    first = client.request("GET", "/v1/facts", params={"scope": "public", "limit": 2}).expect(200)

    params = {"scope": "public", "cursor": first["cursor"], "limit": 2}
    second = client.request("GET", "/v1/facts", params=params).expect(200)

    assert [fact["id"] for fact in first["facts"] + second["facts"]][:3] == [fact["id"] for fact in written[::-1]]


def test_a_contradiction_is_listed_and_resolved_under_an_id_with_colons(client: TypeScript, entity: str):
    first = client.assert_fact(entity, GREEN)
    client.assert_fact(entity, RED, source=f"{AGENT}/night-shift")
    page = client.request("GET", "/v1/conflicts", params={"status": "unresolved", "limit": 50}).expect(200)
    [found] = [each for each in page["conflicts"] if each["fact_a"]["entity"] == entity]
    path = f"/v1/conflicts/{found['conflict_id']}/resolve"
    assert path.count(":") == 2

    resolution = client.request("POST", path, {"resolution_note": "", "winning_fact_id": first["id"]}).expect(200)

    assert resolution["conflict_status"] == "resolved"
    record = client.request("GET", f"/v1/facts/{resolution['resolution_fact_id']}").expect(200)
    assert record["value"] == GREEN
    client.request("POST", path, {"resolution_note": "", "new_value": RED}).refused(409, "conflict_already_resolved")
    escaped = path.replace("stigmem:conflict:", "stigmem%3Aconflict%3A")
    client.request("POST", escaped, {"new_value": RED}).refused(409, "conflict_already_resolved")


def test_the_peers(client: TypeScript):
    assert isinstance(client.request("GET", "/v1/federation/peers").expect(200)["peers"], list)


def test_an_error_has_a_detail_that_is_text(client: TypeScript, node: RunningNode, entity: str):
    wrong = {"entity": entity, "relation": "memory:status", "value": {"type": "number", "v": "3"}, "source": AGENT}
    answers = [
        (TypeScript(node.port, "wrong").request("GET", "/v1/facts", params={"limit": 50}), 401),
        (client.request("POST", "/v1/facts", wrong | {"source": "system:stigmem", "value": GREEN}), 403),
        (client.request("GET", f"/v1/facts/{uuid4()}"), 404),
        (client.request("POST", "/v1/facts", wrong), 422),
        (client.request("GET", "/v1/facts", params={"limit": 0}), 422),
    ]

    for answer, status in answers:
        assert isinstance(answer.expect(status)["detail"], str)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/recall", {"query": "what now", "scope": "local", "token_budget": 4000, "depth": 2}),
        ("GET", f"/v1/cards/{NODE_ID}/project/apollo?scope=local", None),
        ("GET", "/v1/cards/user:alice?scope=company&refresh=true", None),
        ("POST", "/v1/lint", {"scope": "company", "checks": ["contradiction"]}),
    ],
)
def test_what_is_not_served_yet_is_not_found(client: TypeScript, method: str, path: str, body: object):
    client.request(method, path, body).refused(404, "not_found")
