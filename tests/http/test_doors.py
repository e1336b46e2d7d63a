"""Every door of the node: who may knock, what may be brought in, and that whatever is refused leaves nothing behind."""

import asyncio
import base64
import copy
import gzip
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.http.app import ROUTES
from node.keys import Signer
from tests.organisations import Organisation, b64url, jwt
from tests.served import ADMIN_KEY, NODE_ID, SEED, Answer, Served, fact

UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
PLACES = {
    "{fact_id}": UNKNOWN_ID,
    "{garden}": "shelf",
    "{asset}": "start.js",
    "{conflict_id}": f"stigmem:conflict:{UNKNOWN_ID}",
    "{peer_id}": UNKNOWN_ID,
    "{token_id}": UNKNOWN_ID,
    "{key_id}": UNKNOWN_ID,
    "{tombstone_id}": "tomb_01890000000070008000000000000dead",
    "{entity_uri:.+}": "stigmem%3A%2F%2Forg-a.example",
}
PUBLIC = {
    "GET /.well-known/stigmem",
    "GET /.well-known/stigmem-manifest.json",
    "GET /.well-known/stigmem-manifest-proof.json",
    "GET /healthz",
    "GET /readyz",
    "GET /openapi.json",
    "GET /docs",
    "GET /docs/{asset}",
    "GET /v1/federation/manifest/{entity_uri:.+}",
    "POST /v1/federation/capability-tokens/verify",
    "GET /v1/log/checkpoint",
    "GET /v1/log/proof/inclusion",
    "GET /v1/log/proof/consistency",
}
PEERS_ALONE = {
    "GET /v1/federation/facts",
    "POST /v1/federation/facts/push",
    "POST /v1/federation/attest",
    "POST /v1/log/cosignatures",
}
SIGNER = Signer.from_seed(SEED)
MANIFEST = {
    "manifest_version": 1,
    "entity_uri": NODE_ID,
    "public_key": SIGNER.public_key_b64,
    "key_id": SIGNER.key_id,
    "entities": [NODE_ID],
    "rotation_events": [],
    "issued_at": "2026-05-04T12:00:00Z",
    "expires_at": "2027-05-04T12:00:00Z",
    "signature": "__self_sign__",
}
# A body of the right form for each route that takes one, and the size that the route takes.
BODIES: dict[str, tuple[dict[str, object], int]] = {
    "POST /v1/facts": (fact(), 1 << 20),
    "POST /v1/facts/batch": ({"facts": [fact()], "atomic": True}, 8 << 20),
    "PATCH /v1/admin/config": ({"trust_mode": "relaxed", "blocked_sources": ["stigmem://mallory.example"]}, 1 << 20),
    "POST /v1/gardens": ({"slug": "den", "name": "Den", "scope": "team"}, 1 << 16),
    "POST /v1/gardens/{garden}/members": ({"entity_uri": "user:alice", "role": "reader"}, 1 << 16),
    "PATCH /v1/gardens/{garden}/members/{entity_uri:.+}": ({"role": "reader"}, 1 << 16),
    "POST /v1/gardens/{garden}/promote": ({"fact_id": UNKNOWN_ID, "target_garden_id": None, "reason": ""}, 1 << 16),
    "POST /v1/gardens/{garden}/reject": ({"fact_id": UNKNOWN_ID, "reason": ""}, 1 << 16),
    "POST /v1/conflicts/{conflict_id}/resolve": (
        {"winning_fact_id": UNKNOWN_ID, "new_value": {"type": "null"}, "resolution_note": "checked"},
        1 << 20,
    ),
    "PUT /v1/federation/manifest": (MANIFEST, 1 << 20),
    "POST /v1/federation/declaration": ({"allowed_scopes": ["public"]}, 1 << 16),
    "POST /v1/federation/peers": (
        {"peer_url": "http://10.0.0.1", "peer_entity_uri": "stigmem://org-c.example"},
        1 << 16,
    ),
    "PATCH /v1/federation/peers/{peer_id}": ({"allowed_scopes": ["public"], "delegated_sources": []}, 1 << 16),
    "POST /v1/federation/peers/{peer_id}/approve": ({"accept_checkpoint": True}, 1 << 16),
    "POST /v1/federation/peers/{peer_id}/pull": ({"from": "start"}, 1 << 16),
    "POST /v1/federation/capability-tokens": (
        {
            "issuer": NODE_ID,
            "subject": "stigmem://org-b.example/agent/assistant",
            "verb": "write",
            "object": "*",
            "ttl_seconds": 60,
        },
        1 << 16,
    ),
    "POST /v1/auth/keys": (
        {
            "entity_uri": f"{NODE_ID}/agent/scribe",
            "permissions": ["read", "write"],
            "raw_key": "sk_" + "b" * 43,
            "allowed_scopes": ["company"],
            "allowed_sources": ["agent:"],
            "expires_at": "2026-06-04T12:00:00Z",
            "description": "the scribe's",
        },
        1 << 16,
    ),
    "POST /v1/admin/keys/rotate": ({"compromised": True, "since": "2026-05-04T12:00:00Z"}, 1 << 16),
    "POST /v1/federation/capability-tokens/verify": ({"token_json": "{}"}, 1 << 16),
    "POST /v1/federation/capability-tokens/{token_id}/revoke": ({"reason": "gone"}, 1 << 16),
    "POST /v1/tombstones": (
        {"entity_uri": f"{NODE_ID}/user/nobody", "scope": "*", "reason": "asked to be forgotten", "legal_hold": False},
        1 << 16,
    ),
    "POST /v1/tombstones/{tombstone_id}/lift-hold": ({"reason": "the case is closed"}, 1 << 16),
    "POST /v1/tombstones/{tombstone_id}/revoke": ({"reason": "by mistake"}, 1 << 16),
    "POST /v1/facts/{fact_id}/verify-cid": ({}, 1 << 16),
    "POST /v1/admin/restore/confirm": ({}, 1 << 16),
    "POST /v1/federation/peers/{peer_id}/check": ({}, 1 << 16),
    "POST /v1/federation/capability-tokens/{token_id}/accept": ({}, 1 << 16),
}
REQUIRED = {
    "POST /v1/facts": ("entity", "relation", "value", "source"),
    "POST /v1/facts/batch": ("facts",),
    "POST /v1/gardens": ("slug", "name", "scope"),
    "POST /v1/gardens/{garden}/members": ("entity_uri", "role"),
    "PATCH /v1/gardens/{garden}/members/{entity_uri:.+}": ("role",),
    "POST /v1/gardens/{garden}/promote": ("fact_id",),
    "POST /v1/gardens/{garden}/reject": ("fact_id",),
    "POST /v1/conflicts/{conflict_id}/resolve": (),
    "PUT /v1/federation/manifest": tuple(MANIFEST),
    "POST /v1/federation/declaration": (),
    "POST /v1/federation/peers": ("peer_url", "peer_entity_uri"),
    "POST /v1/auth/keys": ("entity_uri", "permissions"),
    "POST /v1/admin/keys/rotate": (),
    "POST /v1/federation/capability-tokens": ("issuer", "subject", "verb", "object"),
    "POST /v1/federation/capability-tokens/verify": ("token_json",),
    "POST /v1/tombstones": ("entity_uri",),
}
NO_JSON = {
    "no JSON": b"{",
    "a duplicate key": b'{"reason":"a","reason":"a"}',
    "a duplicate key deep inside": b'{"value":{"type":"null","\\u0074ype":"null"}}',
    "NaN": b'{"confidence":NaN}',
    "an infinite number": b'{"confidence":1e400}',
    "nesting of 33": b'{"a":' * 33 + b"1" + b"}" * 33,
    "nesting of a hundred thousand": b"[" * 30_000 + b"]" * 30_000,
    "bad UTF-8": b'{"reason":"\xff"}',
    "UTF-16": "{}".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a lone surrogate": b'{"reason":"\\ud800"}',
    "an integer of a thousand digits": b'{"confidence":' + b"9" * 1000 + b"}",
}
NOT_PLAIN_JSON = {
    "text": {"Content-Type": "text/plain"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "JSON in Latin-1": {"Content-Type": "application/json; charset=latin-1"},
    "a kin of JSON": {"Content-Type": "application/ld+json"},
}


def name_of(route) -> str:
    return f"{route.method} {route.path}"


def path_of(name: str) -> str:
    path = name.partition(" ")[2]
    for place, value in PLACES.items():
        path = path.replace(place, value)
    return path


async def send(http: Served, name: str, body: object = None, **options: object) -> Answer:
    return await http.send(name.partition(" ")[0], path_of(name), body, **options)


NAMES = [name_of(route) for route in ROUTES]
PROTECTED = [name for name in NAMES if name not in PUBLIC]


@pytest.fixture
async def http(serve) -> Served:
    """Every door stands there: pushes are taken too."""
    return await serve(federation_push_enabled=True)


@pytest.fixture
async def unmoved(http: Served):
    """The log stands where it stood, and every table holds what it held."""
    size, digests = http.size, await http.digests()
    yield
    assert http.size == size
    assert await http.digests() == digests


def test_every_route_that_takes_a_body_is_tried_here():
    without_body = PEERS_ALONE - {"GET /v1/federation/facts"}
    with_body = {name for name in NAMES if name.startswith(("POST", "PUT", "PATCH"))}

    assert set(BODIES) == with_body - without_body
    assert set(NAMES) >= PUBLIC | PEERS_ALONE


# Who is asking.


@pytest.mark.parametrize("name", PROTECTED)
async def test_without_a_credential_a_route_asks_for_one(http: Served, unmoved, name: str):
    answer = await send(http, name, BODIES.get(name, (None,))[0], bearer=None)

    answer.refused(401, "authentication_required")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("name", PROTECTED)
async def test_a_credential_is_asked_for_before_a_body_is_read(http: Served, unmoved, name: str):
    answer = await send(http, name, b"{", bearer=None, headers={"Content-Type": "text/plain"})

    answer.refused(401, "authentication_required")


@pytest.mark.parametrize("name", PROTECTED)
async def test_a_bearer_that_is_not_known_opens_no_door(http: Served, unmoved, name: str):
    for bearer in ("wrong", ADMIN_KEY[:-1], ADMIN_KEY + "x", "sk_" + "a" * 43, "a.b.c", "{}"):
        answer = await send(http, name, BODIES.get(name, (None,))[0], bearer=bearer)

        assert answer.status == 401, (bearer, answer)
        answer.assert_well_formed()


@pytest.mark.parametrize("name", sorted(PUBLIC))
async def test_a_public_route_answers_whoever_asks(http: Served, unmoved, name: str):
    query = "?offset=0&size=1&from=1&to=1" if "proof/" in name else ""
    answer = await http.send(name.partition(" ")[0], path_of(name) + query, BODIES.get(name, (None,))[0], bearer=None)

    assert answer.status == 200
    answer.assert_well_formed()


@pytest.mark.parametrize("name", sorted(PEERS_ALONE))
async def test_the_admin_key_is_no_peer_token(http: Served, unmoved, name: str):
    (await send(http, name)).refused(401, "malformed_token")


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Basic {base64.b64encode(b'a:b').decode()}", ADMIN_KEY, f"Digest {ADMIN_KEY}"],
)
async def test_another_scheme_than_bearer_is_no_credential(http: Served, unmoved, authorization: str):
    answer = await http.send("GET", "/v1/me", bearer=None, headers={"Authorization": authorization})

    answer.refused(401, "invalid_credentials")


async def test_the_scheme_is_read_in_any_case(http: Served):
    answer = await http.send("GET", "/v1/me", bearer=None, headers={"Authorization": f"bEaReR  {ADMIN_KEY}"})

    assert answer.expect(200)["entity_uri"] == NODE_ID


async def test_two_credentials_at_once_are_none(http: Served, unmoved):
    head = "GET /v1/me HTTP/1.1\r\nHost: localhost\r\n" + f"Authorization: Bearer {ADMIN_KEY}\r\n" * 2 + "\r\n"

    status, body = await raw(http, head.encode())

    assert (status, json.loads(body)["error"]) == (401, "invalid_credentials")


# Routes and methods.


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/facts/", "/v1/facts/x/y", "/%00", "/v1/facts/%2e%2e/x", "/../etc"]
)
async def test_an_unknown_route_is_not_found_in_json(http: Served, unmoved, path: str):
    for method in ("GET", "POST", "DELETE"):
        (await http.send(method, path)).refused(404, "not_found")


@pytest.mark.parametrize("path", sorted({path_of(name) for name in NAMES}))
async def test_a_method_that_a_route_does_not_take_is_named_with_those_it_takes(http: Served, unmoved, path: str):
    taken = {name.partition(" ")[0] for name in NAMES if path_of(name) == path}
    taken |= {"HEAD"} & ({"HEAD"} if "GET" in taken else set())
    # A GET of these is one token's or fact's, under the id "verify" or "batch", which none has.
    elsewhere = {"GET"} if path.endswith(("/verify", "/batch")) else set()
    for method in {"GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - taken - elsewhere:
        answer = await http.send(method, path)

        answer.refused(405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) == taken


# Bodies.


@pytest.mark.parametrize("name", BODIES)
async def test_what_is_no_strict_json_is_refused(http: Served, unmoved, name: str):
    for kind, body in NO_JSON.items():
        answer = await send(http, name, body)

        assert (answer.status, answer.json["error"]) == (400, "malformed_json"), kind
        answer.assert_well_formed()


@pytest.mark.parametrize("name", [name for name in BODIES if BODIES[name][0]])
async def test_an_empty_body_is_no_json_where_a_field_must_be_there(http: Served, unmoved, name: str):
    answer = await send(http, name, b"")

    if name in REQUIRED or name.startswith("PATCH"):
        answer.refused(400, "malformed_json")
    else:
        assert answer.status == 404  # nothing to be said: it goes on to look for what the path names


@pytest.mark.parametrize("name", [name for name in BODIES if not BODIES[name][0]])
async def test_where_a_body_has_no_members_none_is_as_good(http: Served, name: str):
    without = await send(http, name)

    for body in (b"", {}):
        answer = await send(http, name, body)
        assert (answer.status, answer.json) == (without.status, without.json)


async def test_chunks_that_turn_out_to_be_none_once_the_request_is_under_way_are_no_body(http: Served):
    written = await http.write()
    head = f"POST /v1/facts/{written['id']}/verify-cid HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(f"{head}Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode())
    # The node is told that there is no chunk only when it waits for the first one.
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(b"0\r\n\r\n")

    answer = await reader.read()

    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"cid_valid":true' in answer


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_of_another_type_or_packed_is_refused(http: Served, unmoved, name: str):
    body = json.dumps(BODIES[name][0]).encode()

    for kind, headers in NOT_PLAIN_JSON.items():
        answer = await send(http, name, body, headers=headers)
        assert (answer.status, answer.json["error"]) == (415, "unsupported_media_type"), kind
    packed = await send(http, name, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    packed.refused(415, "unsupported_encoding")


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_above_the_limit_is_refused_whether_or_not_it_says_its_size(http: Served, unmoved, name: str):
    limit = BODIES[name][1]
    too_much = b'{"a":"' + b"x" * (limit - 7) + b'"}'
    assert len(too_much) == limit + 1

    (await send(http, name, too_much)).refused(413, "body_too_large")
    (await send(http, name, b" " * (limit + 1))).refused(413, "body_too_large")
    head = (
        f"{name.partition(' ')[0]} {path_of(name)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    )
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    status, body = await raw(http, head.encode() + chunk * (limit // 65_536 + 1) + b"0\r\n\r\n")
    assert (status, json.loads(body)["error"]) == (413, "body_too_large")


@pytest.mark.parametrize("name", BODIES)
async def test_a_field_that_nobody_knows_is_refused_by_name(http: Served, unmoved, name: str):
    body = (await send(http, name, BODIES[name][0] | {"surprise": 1})).refused(422, "unknown_field")

    assert "surprise" in body["detail"]


@pytest.mark.parametrize("name", REQUIRED)
async def test_a_field_that_must_be_there_is_missed_by_name(http: Served, unmoved, name: str):
    for field in REQUIRED[name]:
        body = {key: value for key, value in BODIES[name][0].items() if key != field}

        refused = (await send(http, name, body)).refused(422, "missing_field")

        assert field in refused["detail"]


@pytest.mark.parametrize("name", [name for name in BODIES if not name.endswith("verify")])
async def test_a_field_of_another_type_is_refused(http: Served, unmoved, name: str):
    for field, value in BODIES[name][0].items():
        for wrong in ([[]], {"x": 1}, 1.5 if not isinstance(value, float) else "1.5"):
            answer = await send(http, name, BODIES[name][0] | {field: wrong})

            assert answer.status == 422, (field, wrong, answer)
            answer.assert_well_formed()


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_no_object_is_refused(http: Served, unmoved, name: str):
    for body in (b"[]", b"null", b"1", b'"text"', b"true"):
        (await send(http, name, body)).refused(422, "invalid_field")


# Queries.

BAD_QUERIES = {
    "/v1/facts": [
        *(
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=1e2",
            "limit=",
            "limit=" + "9" * 400,
            "limit=1&limit=2",
        ),
        *("min_confidence=2", "min_confidence=-0.1", "min_confidence=nan", "min_confidence=1e999", "min_confidence=x"),
        *(
            "min_confidence=",
            "min_confidence=0.5&min_confidence=0.5",
            "include_contradicted=True",
            "include_expired=yes",
        ),
        *("include_retracted=", "include_retracted=true&include_retracted=true", "order=", "order=ASC", "scope="),
        *(
            "relation=",
            "relation=%3Aname",
            "source=",
            "after=",
            "before=&after=",
            "garden_id=",
            "limit=%201",
            "limit=0x10",
        ),
        *("scope=secret", "order=up", "include_expired=maybe", "after=yesterday", "before=2026-02-30T00:00:00Z"),
        *(
            "entity=",
            "entity=stigmem%3A%2F%2F",
            "entity=stigmem%3A%2F%2FA..b%2Fx",
            "source=%00",
            "entity=stigmem%3A%2F%2Fx%2F%2e%2e",
        ),
    ],
    "/v1/conflicts": ["limit=0", "limit=1001", "status=open"],
    "/v1/quarantine": ["limit=0", "limit=1001", "quarantine_status=gone"],
    "/v1/gardens": ["limit=0", "limit=1001", "limit=ten"],
    "/v1/auth/keys": ["limit=0", "limit=1001", "limit=ten"],
    "/v1/federation/audit": [
        "limit=0",
        "limit=501",
        "limit=x",
        "cursor=a&cursor=b",
        "event_type=",
        "event_type=fact.asserted",
    ],
    "/v1/admin/audit-log": [
        *("limit=0", "limit=1001", "limit=x", "after=yesterday", "before=2026-02-30T00:00:00Z", "after="),
        *("event_type=fact", "event_type=", "event_type=fact.asserted.2", "event_type=a&event_type=b"),
    ],
    "/v1/trust": ["source=agent%3Ax&scope=secret"],
    "/v1/log/proof/inclusion": ["offset=x", "offset=-1", "offset=0&size=x", "offset=99999999999999999999"],
    "/v1/log/proof/consistency": ["from=x", "from=-1", "from=1&to=x", "from=1.5"],
}


@pytest.mark.parametrize(
    ("path", "query"), [(path, query) for path, queries in BAD_QUERIES.items() for query in queries]
)
async def test_a_query_parameter_out_of_range_or_form_is_refused(http: Served, unmoved, path: str, query: str):
    answer = await http.send("GET", f"{path}?{query}")

    answer.refused(422, "invalid_parameter")


LISTINGS = [
    "/v1/facts",
    "/v1/conflicts",
    "/v1/quarantine",
    "/v1/gardens",
    "/v1/auth/keys",
    "/v1/federation/audit",
    "/v1/admin/audit-log",
]


@pytest.mark.parametrize("path", LISTINGS)
async def test_a_cursor_that_nobody_gave_out_is_refused(http: Served, unmoved, path: str):
    for cursor in (
        "x",
        "%00",
        "AAAA",
        "kQ",
        "!",
        "a" * 3000,
        b64url(b"\x93\x93\xff\xff\xff\x92\x00\x00\x00"),
        b64url(b"\xc1"),
    ):
        (await http.send("GET", f"{path}?cursor={cursor}")).refused(400, "invalid_cursor")


@pytest.mark.parametrize("path", [*LISTINGS, "/v1/log/checkpoint", "/healthz"])
async def test_a_query_parameter_that_nobody_knows_is_ignored(http: Served, path: str):
    assert (await http.send("GET", f"{path}?include_low_trust=true&surprise=%ff")).status == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/log/proof/inclusion", "/v1/log/proof/consistency", "/v1/trust"],
)
async def test_a_query_parameter_that_must_be_there_is_missed(http: Served, unmoved, path: str):
    (await http.send("GET", path)).refused(422, "missing_field")


@pytest.mark.parametrize(
    "query",
    [
        "inclusion?offset=5&size=3",
        "inclusion?offset=0&size=9999",
        "inclusion?offset=9999",
        "consistency?from=0",
        "consistency?from=2&to=1",
        "consistency?from=1&to=9999",
    ],
)
async def test_a_proof_beyond_the_log_is_refused(http: Served, unmoved, query: str):
    (await http.send("GET", f"/v1/log/proof/{query}")).refused(422, "proof_out_of_range")


# Bearers that are made to break something.

BEARERS = {
    "a token of no form": "{}",
    "an array in braces": '{"a":[}',
    "a token with a duplicate key": '{"token_version":1,"token_version":1}',
    "a token nested deep": '{"a":' * 200 + "1" + "}" * 200,
    "a token with a lone surrogate": '{"token_id":"\\ud800"}',
    "a token with a number beyond 64 bits": '{"token_version":' + "9" * 200 + "}",
    "non-ASCII": "schlüssel",
    "an emoji": "{\U0001f511}",
    "nothing but dots": "..",
    "a very long key": "k" * 6000,
    "a JWT of three empty parts": ". .",
}


def bearers(org_b: Organisation, http: Served) -> Iterator[tuple[str, str]]:
    """Forged and broken credentials, each with what is wrong with it."""
    yield from BEARERS.items()
    claims = org_b.claims(http)
    none = ".".join([b64url(b'{"alg":"none","typ":"JWT"}'), b64url(json.dumps(claims).encode()), ""])
    yield "alg none", none
    signed = b64url(b'{"alg":"HS256","typ":"JWT"}') + "." + b64url(json.dumps(claims).encode())
    mac = hmac.new(org_b.signer.public_key, signed.encode(), hashlib.sha256).digest()
    yield "alg HS256 under the public key", f"{signed}.{b64url(mac)}"
    for header in (
        {"alg": "EdDSA", "typ": "JWT", "jwk": {"kty": "OKP", "x": "AAAA"}},
        {"alg": "EdDSA", "typ": "JWT", "kid": "../../etc/passwd"},
        {"alg": "EdDSA"},
        {"alg": "eddsa", "typ": "JWT"},
        {"alg": ["EdDSA"], "typ": "JWT"},
        [],
        None,
        "EdDSA",
    ):
        yield f"header {header}", jwt(org_b.signer, claims, header if header is not None else "null")
    for claim in ("iss", "sub", "iat", "exp", "scopes"):
        for wrong in (None, [], {}, "x", 1.5, True, -1, 2**63, 2**70, "\ud800", "x" * 5000, [[["x"]]]):
            if (claim, wrong) in (("iat", -1), ("scopes", [])) or (claim in ("iss", "sub") and isinstance(wrong, str)):
                continue
            yield f"{claim} {str(wrong)[:20]!a}", jwt(org_b.signer, claims | {claim: wrong})
    yield "claims that are a list", jwt(org_b.signer, [claims])
    yield "claims nested deep", deep_jwt(org_b, claims)
    yield "an issuer that no text can hold", jwt(org_b.signer, claims | {"iss": "\ud800"})
    yield "another's signature", jwt(http.signer, claims)
    good = org_b.token(http)
    yield "a signature cut short", good[:-4]
    yield "padding in the middle", good.replace(".", "=.", 1)
    yield "a fourth part", f"{good}.AAAA"


def deep_jwt(org_b: Organisation, claims: dict[str, object]) -> str:
    header = b64url(b'{"alg":"EdDSA","typ":"JWT"}')
    body = json.dumps(claims | {"nonce": 0}).replace('"nonce": 0', '"nonce":' + "[" * 2500 + "]" * 2500)
    signed = f"{header}.{b64url(body.encode())}"
    return f"{signed}.{b64url(org_b.signer.sign(signed.encode()))}"


@pytest.mark.parametrize("path", ["/v1/facts", "/v1/me", "/v1/federation/facts"])
async def test_a_bearer_made_to_break_something_is_refused_and_never_carried_out(
    http: Served, org_b: Organisation, path: str
):
    await org_b.join(http)

    for kind, bearer in bearers(org_b, http):
        size = http.size
        answer = await http.send("GET", path, bearer=bearer)

        assert answer.status == 401, (kind, answer)
        answer.assert_well_formed()
        # What the peer itself signed, and nothing else, is on record against it (PROTOCOL §5.2).
        is_own_word = answer.json["error"] in (
            "iat_in_future",
            "token_lifetime_exceeded",
            "invalid_sub",
            "missing_nonce",
        )
        assert [entry.type for entry in http.entries(size)] == ["exchange.refused.1"] * is_own_word, kind


@pytest.mark.parametrize(
    "value",
    [b"\x01", b"\xff\xfe", b"a\tb", b"k" * 100_000, b"{\xed\xa0\x80}", b"\x7f", "ключ".encode()],
    ids=["control", "not UTF-8", "tab", "huge", "surrogate", "delete", "other letters"],
)
async def test_bytes_in_a_bearer_that_no_key_has_are_refused(http: Served, unmoved, value: bytes):
    head = b"GET /v1/facts HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + value + b"\r\n\r\n"

    status, _ = await raw(http, head)

    assert status in (400, 401)


async def raw(http: Served, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the answer's status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    try:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(sizes[0].partition(b":")[2]) if sizes else 0
        return int(head.split()[1]), await reader.readexactly(size)
    finally:
        writer.close()


# Bodies that nobody thought of.

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(
        [
            *(
                "stigmem://",
                NODE_ID,
                f"{NODE_ID}/x",
                "STIGMEM://ORG-A.example/A b",
                "stigmem:x",
                "system:stigmem",
                "agent:a",
            ),
            *(
                "stigmem://org-b.example/x",
                "*",
                "a:b",
                ":",
                "public",
                "team",
                "write",
                "strict",
                "string",
                "null",
                "datetime",
            ),
            *(
                "2026-05-04T12:00:00Z",
                "9999-12-31T23:59:59.999Z",
                "0001-01-01T00:00:00Z",
                UNKNOWN_ID,
                "f" * 64,
                "shelf",
            ),
            *("sha256:" + "0" * 64, "x" * 2049, "\x00", "\u202e", "%2e%2e", "http://[::1", "http://localhost:1", ""),
        ]
    ),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
EXTRA = {
    "POST /v1/facts": {
        "confidence": 0.5,
        "scope": "public",
        "valid_until": "2027-01-01T00:00:00Z",
        "garden_id": "shelf",
        "supersedes": True,
        "derived_from": ["f" * 64],
        "attestation_chain": ["AAAA"],
        "attestation_chain_issuers": [NODE_ID],
        "timestamp": "2026-05-04T12:00:00Z",
        "write_mode": "assert",
    },
    "PATCH /v1/admin/config": {
        "quarantine_garden_id": "shelf",
        "quarantine_trust_threshold": 0.2,
        "trust_weights": [0.35, 0.3, 0.25, 0.1],
    },
    "POST /v1/gardens": {"description": "d", "quarantine": True},
    "POST /v1/federation/capability-tokens": {"expiry": "2026-06-01T00:00:00Z"},
    "POST /v1/federation/peers": {"allowed_scopes": ["public"]},
}


@st.composite
def mutations(draw: st.DrawFn, body: dict[str, object]) -> object:
    """A body with a few of its parts dropped, added or replaced, at any depth."""
    mutated = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        target, key = draw(st.sampled_from(list(slots(mutated)) or [(mutated, "x")]))
        match draw(st.integers(0, 3)):
            case 0 if isinstance(target, dict):
                target.pop(key, None)
            case 1 if isinstance(target, dict):
                target[draw(st.text(max_size=6))] = draw(JSON)
            case _:
                target[key] = draw(JSON)
    return mutated


def slots(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict | list):
        for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from slots(child)


@pytest.mark.parametrize("name", BODIES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_a_mutated_body_is_carried_out_or_refused_and_a_refused_one_leaves_nothing(
    http: Served, name: str, data: st.DataObject
):
    body = data.draw(mutations(BODIES[name][0] | EXTRA.get(name, {})))
    size = http.size

    answer = await send(http, name, json.dumps(body).encode())

    # Nodes of these tests keep their keys in no file.
    assert answer.status < 500 or answer.json["error"] in ("peer_unreachable", "key_file_unwritable"), answer
    answer.assert_well_formed()
    if answer.status >= 400:
        assert {entry.type for entry in http.entries(size)} <= {"request.refused.1"}
        assert http.size == size or answer.status == 403 or answer.json["error"] == "batch_refused"


Ask = Callable[[Served, Organisation], Awaitable[Answer]]


async def test_a_stranger_cannot_make_the_log_grow(http: Served, unmoved):
    for name in NAMES:
        for bearer in (None, "wrong", "{}"):
            await send(http, name, b"{", bearer=bearer)


async def test_a_known_caller_s_refusals_are_recorded_ten_times_a_minute_and_then_counted(http: Served):
    size = http.size
    for _ in range(14):
        (await http.post("/v1/facts", fact(relation="stigmem:x"))).refused(403, "reserved_namespace")

    assert [entry.type for entry in http.entries(size)] == ["request.refused.1"] * 10

    http.clock.advance(60_000)
    await http.node.keep_up()

    counted = http.entries(size)[-1]
    assert (counted.type, counted.event.code, counted.event.count) == ("refusals.counted.1", "reserved_namespace", 4)


async def test_what_a_known_caller_merely_got_wrong_is_no_event(http: Served, unmoved):
    for fields in ({"entity": ""}, {"confidence": 2}, {"value": {"type": "number", "v": "1"}}, {"garden_id": "none"}):
        assert (await http.post("/v1/facts", fact(**fields))).status in (404, 422)


# A node without authentication.


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""]
)
async def test_a_node_without_authentication_answers_to_loopback_names_alone(serve, host: str):
    open_node = await serve(auth_required=False, admin_key=None)

    (await open_node.send("GET", "/v1/me", bearer=None, headers={"Host": host})).refused(421, "wrong_host")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example", "https://[::2]"])
async def test_a_node_without_authentication_serves_no_foreign_page(serve, origin: str):
    open_node = await serve(auth_required=False, admin_key=None)

    (await open_node.send("GET", "/v1/me", bearer=None, headers={"Origin": origin})).refused(421, "wrong_host")


async def test_a_node_without_authentication_takes_whoever_asks_on_loopback_for_its_operator(serve):
    open_node = await serve(auth_required=False, admin_key=None)

    for headers in ({}, {"Host": "localhost:1"}, {"Host": "[::1]:80"}, {"Origin": "http://localhost:3000"}):
        me = (await open_node.send("GET", "/v1/me", bearer=None, headers=headers)).expect(200)
        assert (me["kind"], me["entity_uri"]) == ("anonymous", NODE_ID)
