"""Hostile names, parameters, headers, credentials and bodies at every route, whoever is let in there (PROTOCOL §16).

Always: the routes are those of the route table and the fields those of what each says of itself, so a new route is attacked too.
Nothing gets a 5xx or an answer in another form; what is refused leaves nothing but that; and the node answers the next one.
"""

import gc
import json
import os
import re
from collections.abc import Iterator

import msgspec
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.http.app import ROUTES
from node.http.describe import PEER, description_of
from tests.http.test_body import HOSTILE
from tests.http.test_doors import JSON
from tests.organisations import Organisation, b64url
from tests.served import ADMIN_KEY, NODE_ID, Answer, Served, fact

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
REFUSED = {"request.refused.1", "exchange.refused.1", "refusals.counted.1"}
# A peer that is said to live where nobody listens, and a key that lies in no file here, are no fault of the node's.
NOT_ITS_FAULT = {"peer_unreachable", "peer_answer_invalid", "key_file_unwritable"}

NAMES = (
    *(
        "%00",
        "%0d%0aX:%20y",
        "%ff%fe",
        "%ed%a0%80",
        "%2e%2e",
        "%2F",
        "%252F",
        "%",
        "%zz",
        ".",
        "..",
        "-1",
        "0",
        "null",
        "NaN",
        "true",
    ),
    *(
        "'",
        "%22",
        "%7B%7D",
        "{}",
        "[]",
        "%5C",
        ";",
        "stigmem%3A%2F%2F",
        "stigmem%3A%2F%2F%2F%2F",
        "a%3Ab",
        "%E2%80%AE",
        "%C2%AD",
    ),
    *(
        "x" * 3000,
        "%F0%9F%94%91" * 200,
        "9" * 400,
        "f" * 64,
        "sha256:" + "0" * 64,
        UNKNOWN_ID.upper(),
        "stigmem:conflict:" + UNKNOWN_ID,
    ),
)
VALUES = (
    *(
        "",
        "%00",
        "%0d%0a",
        "%ff",
        "%ed%a0%80",
        "NaN",
        "-Infinity",
        "1e999",
        "1e5",
        "0x1",
        "-1",
        "0",
        "1",
        "9" * 400,
        "%D9%A1",
    ),
    *(
        "null",
        "true",
        "[]",
        "{}",
        "'",
        "*",
        "..",
        "stigmem%3A%2F%2F",
        "9999-12-31T23:59:59.999Z",
        "0001-01-01T00:00:00Z",
        "2026-02-30",
    ),
    *(
        "%E2%80%AE",
        "x" * 5000,
        b64url(b"\xc1"),
        b64url(b"\x93\x93\xff\xff\xff\x92\x00\x00\x00"),
        b64url(b"\x9f" * 60),
        "AAAA",
        "kQ==",
    ),
)
HEADERS: tuple[dict[str, str], ...] = (
    {"Idempotency-Key": "x" * 5000},
    {"Idempotency-Key": "\t"},
    {"Idempotency-Key": '"quoted"; x=1'},
    {"traceparent": "00-" + "g" * 32},
    {"traceparent": "ff-" + "f" * 32 + "-" + "f" * 16 + "-ff-" + "x" * 5000},
    {"X-Stigmem-Capability": "{" * 5000},
    {"X-Stigmem-Capability": '{"token_id":"\\ud800"}'},
    {"Accept": "text/html;q=0, " * 400},
    {"Accept-Encoding": "gzip, zstd, *;q=0"},
    {"If-None-Match": '"' * 5000},
    {"Range": "bytes=0-0,-1,5-"},
    {"Cookie": "a=b; " * 1000},
    {"Origin": "null"},
    {"X-HTTP-Method-Override": "DELETE"},
    {"X-Forwarded-Host": "evil.example", "Forwarded": "for=127.0.0.1;host=evil.example"},
    {"Stigmem-Session": "\x7e" * 8000},
    {"Content-Type": "application/json; charset=" + "x" * 8000},
)
BEARERS = (
    "",
    "{",
    "{}",
    "[]",
    "null",
    "..",
    "a.b.c",
    "{" * 4000,
    '{"a":' * 800 + "1" + "}" * 800,
    "k" * 6000,
    "\u0436" * 100,
)


class Attacked:
    """A node with something of every kind, and how each route of it is asked by somebody it lets in."""

    def __init__(self, served: Served, org_b: Organisation, names: dict[str, str]) -> None:
        self.served, self._org_b, self._names = served, org_b, names

    async def ask(self, route: web.RouteDef, *, name: str | None = None, query: str = "", **options: object) -> Answer:
        if description_of(route).who == PEER:
            options.setdefault("bearer", self._org_b.token(self.served))
        path = re.sub(r"\{(\w+)[^}]*\}", lambda place: name or self._names.get(place[1], UNKNOWN_ID), route.path)
        return await self.served.send(route.method, f"{path}?{query}" if query else path, **options)

    async def attack(self, route: web.RouteDef, what: object, **options: object) -> Answer:
        size = self.served.size
        answer = await self.ask(route, **options)
        told = (route.method, route.path, str(what)[:200], answer.status, answer.body[:300])
        assert answer.status < 500 or answer.json["error"] in NOT_ITS_FAULT, told
        answer.assert_well_formed()
        if answer.status >= 400:
            assert {
                entry.type for entry in self.served.entries(size)
            } <= REFUSED or b'"batch_refused"' in answer.body, told
        return answer

    async def still_answers(self) -> None:
        (await self.served.send("GET", "/readyz", bearer=None)).expect(200)
        await self.served.write(entity=f"{NODE_ID}/after")


@pytest.fixture
async def attacked(serve, org_b: Organisation) -> Attacked:
    http: Served = await serve(federation_push_enabled=True)
    peer_id = await org_b.join(http)
    fact_id = (await http.write(scope="public"))["id"]
    await http.write(scope="public", source="agent:other", value={"type": "string", "v": "red"})
    conflict = (await http.get("/v1/conflicts")).expect(200)["conflicts"][0]["conflict_id"]
    garden = (await http.post("/v1/gardens", {"slug": "shelf", "name": "Shelf", "scope": "team"})).expect(201)["id"]
    token = {
        "issuer": NODE_ID,
        "subject": f"{NODE_ID}/agent/reader",
        "verb": "read",
        "object": "*",
        "ttl_seconds": 3600,
    }
    token_id = (await http.post("/v1/federation/capability-tokens", token)).expect(201)["token_id"]
    key = {"entity_uri": f"{NODE_ID}/agent/scribe", "permissions": ["read", "write"]}
    key_id = (await http.post("/v1/auth/keys", key)).expect(201)["key_id"]
    names = {"fact_id": fact_id, "conflict_id": conflict, "garden": garden, "token_id": token_id, "key_id": key_id}
    return Attacked(
        http, org_b, names | {"peer_id": peer_id, "entity_uri": "stigmem%3A%2F%2Forg-a.example", "asset": "start.js"}
    )


def _with_names() -> list[web.RouteDef]:
    return [route for route in ROUTES if "{" in route.path]


def _fields(struct: object) -> list[str]:
    structs = struct if isinstance(struct, tuple) else (struct,)
    return [field.encode_name for one in structs for field in msgspec.structs.fields(one)]


async def test_no_name_in_a_path_breaks_a_route(attacked: Attacked):
    for route in _with_names():
        for name in NAMES:
            await attacked.attack(route, name, name=name)
    await attacked.still_answers()


async def test_no_parameter_breaks_a_route(attacked: Attacked):
    for route in ROUTES:
        asked = description_of(route).query
        for field in _fields(asked) if asked else ["surprise"]:
            for value in VALUES if asked else VALUES[:3]:
                await attacked.attack(route, (field, value), query=f"{field}={value}")
            await attacked.attack(route, field, query=f"{field}=a&{field}=b&{field}")
    await attacked.still_answers()


async def test_no_header_breaks_a_route(attacked: Attacked):
    for route in ROUTES:
        for headers in HEADERS:
            await attacked.attack(route, headers, headers=headers)
    await attacked.still_answers()


async def test_no_credential_breaks_a_route_or_opens_it(attacked: Attacked):
    for route in ROUTES:
        for bearer in BEARERS:
            answer = await attacked.attack(route, bearer, bearer=bearer)
            assert "public" in description_of(route).who or answer.status in (401, 404), (
                route.path,
                bearer[:50],
                answer,
            )
    await attacked.still_answers()


async def test_no_bytes_for_a_body_break_a_route(attacked: Attacked):
    for route in _taking_bodies():
        for kind, body in HOSTILE.items():
            answer = await attacked.attack(route, kind, body=body)
            is_missing = description_of(route).is_body_optional and not body
            assert answer.status >= 400 or is_missing, (route.path, kind)
    await attacked.still_answers()


def _taking_bodies() -> list[web.RouteDef]:
    return [route for route in ROUTES if description_of(route).body is not None]


def _texts() -> Iterator[str]:
    yield from (
        "",
        "\x00",
        "\u202e",
        "\u00ad",
        "\uffff",
        "\U0010ffff",
        "x" * 70_000,
        "%2e%2e",
        "../..",
        "http://localhost:1",
        "*",
    )
    yield from (
        NODE_ID,
        f"{NODE_ID}/agent/scribe",
        "stigmem://",
        "stigmem://a/../b",
        "agent:a",
        "public",
        "team",
        "write",
        "A" * 43,
    )
    yield from (
        "2026-05-04T12:00:00Z",
        "0000-00-00T00:00:00Z",
        UNKNOWN_ID,
        "f" * 64,
        "__self_sign__",
        json.dumps({"token_id": "x"}),
    )


ANYTHING = JSON | st.sampled_from(list(_texts())) | st.lists(st.sampled_from(list(_texts())), max_size=4)


@st.composite
def bodies(draw: st.DrawFn, route: web.RouteDef) -> object:
    """What has the fields of such a body, and in them anything."""
    fields = _fields(description_of(route).body)
    body = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(fields, ANYTHING)))
    if "value" in fields and draw(st.booleans()):
        body = fact(**body)
    if "facts" in fields and draw(st.booleans()):
        body["facts"] = [
            fact(**one) for one in draw(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(fact(), ANYTHING))))
        ]
    return body


@settings(
    max_examples=3000 if LONG else 150,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
async def test_no_values_in_the_fields_of_a_body_break_a_route(attacked: Attacked, data: st.DataObject):
    route = data.draw(st.sampled_from(_taking_bodies()), label="route")
    body = data.draw(bodies(route), label="body")

    await attacked.attack(route, body, body=json.dumps(body).encode())


async def test_megabytes_of_brackets_at_every_route_cost_little(attacked: Attacked):
    """As much as the largest body may be; a smaller limit, or the number of values, refuses it unread."""
    crowded = b'{"facts":[' + b"[]," * (3 << 19) + b"1]}"
    for route in (route for route in ROUTES if route.method != "DELETE"):
        answer = await attacked.attack(route, "brackets", body=crowded)
        is_read = description_of(route).body is not None
        assert not is_read or answer.json["error"] in ("body_too_large", "malformed_json"), (route.path, answer)
    await attacked.still_answers()


async def test_a_stranger_stores_nothing_at_any_route(attacked: Attacked):
    size = attacked.served.size
    for route in ROUTES:
        for body in (None, b"{}", json.dumps(fact()).encode()):
            await attacked.attack(route, body, body=body, bearer=None)
            await attacked.attack(route, body, body=body, bearer=ADMIN_KEY[:-1])
    assert attacked.served.size == size


def _slots(served: Served) -> list[str]:
    """The slots for readers that are taken of the log and of its views."""
    stores = (served.node.log.store, served.node._views._store)
    return [line for store in stores for line in store._env.readers().splitlines()[1:]]


async def test_no_route_keeps_a_slot_for_readers_until_the_collector_looks(attacked: Attacked):
    """There are 126 of them, and the collector of a node looks seldom: requests would be refused for want of a slot."""
    for route in ROUTES:
        await attacked.ask(route, body=b"{}" if description_of(route).body is not None else None)
    taken = len(_slots(attacked.served))
    gc.disable()
    try:
        for route in ROUTES:
            await attacked.ask(route, body=b"{}" if description_of(route).body is not None else None)
        assert len(_slots(attacked.served)) <= taken + 2
    finally:
        gc.enable()
