"""Peer tokens: in which order one is checked, and that its nonce serves once (PROTOCOL §5.2)."""

import asyncio
import json

import pytest

from node.keys import Signer
from tests.clocks import fixed_clock
from tests.organisations import Organisation, b64url, jwt
from tests.served import NODE_ID, Answer, Served

PULL = "/v1/federation/facts"
UNKNOWN = "stigmem://nobody.example"
HOUR_MS = 3_600_000


async def pull(at: Served, token: str, query: str = "") -> Answer:
    return await at.send("GET", PULL + query, bearer=token)


async def test_a_token_that_holds_opens_the_door_once(http: Served, org_b: Organisation):
    await org_b.join(http)
    size, token = http.size, org_b.token(http)

    (await pull(http, token)).expect(200)
    (await pull(http, token)).refused(401, "nonce_already_seen")

    served, refused = http.entries(size)
    assert (served.type, served.event.nonce, served.actor.credential) == ("page.served.1", *[served.event.nonce] * 2)
    assert (refused.type, refused.event.event_type) == ("exchange.refused.1", "replay_attempt")
    assert refused.event.nonce is None


# What is wrong, worst first: each token has the faults from its own on, so the code says which check came first.
FAULTS = [
    ("malformed_token", {"scopes": "public"}),
    ("token_expired", {"exp": -1}),
    ("unknown_or_inactive_peer", {"iss": UNKNOWN}),
    ("invalid_signature", {}),
    ("invalid_sub", {"sub": UNKNOWN}),
    ("iat_in_future", {"iat": 30_001}),
    ("token_lifetime_exceeded", {"exp": 30_001 + HOUR_MS + 1}),
    ("missing_nonce", {"nonce": None}),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[code for code, _ in FAULTS])
async def test_the_checks_come_in_the_protocol_s_order(http: Served, org_b: Organisation, first: int):
    await org_b.join(http)
    changes: dict[str, object] = {}
    for _, change in reversed(FAULTS[first:]):
        changes |= change
    for name in ("iat", "exp"):
        if name in changes:
            changes[name] += http.clock.now_ms()
    signer = Signer.from_seed(bytes(32)) if first <= 3 else org_b.signer
    claims = {name: value for name, value in org_b.claims(http, **changes).items() if value is not None}
    size = http.size

    (await pull(http, jwt(signer, claims))).refused(401, FAULTS[first][0])

    # Only what follows the signature can be laid at the peer's door.
    assert [entry.event.event_type for entry in http.entries(size)] == ["rejected_token"] * (first > 3)


@pytest.mark.parametrize("nonce", [None, "", "n-1", 7, ["x"], "0" * 36, "00000000-0000-4000-8000-00000000000G"])
async def test_a_nonce_that_is_no_uuid_is_missing(http: Served, org_b: Organisation, nonce: object):
    await org_b.join(http)

    (await pull(http, org_b.token(http, nonce=nonce))).refused(401, "missing_nonce")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"iat": 30_000}, 200),
        ({"iat": 30_001}, 401),
        ({"exp": HOUR_MS}, 200),
        ({"exp": HOUR_MS + 1}, 401),
        ({"exp": 1}, 200),
    ],
)
async def test_leeway_and_lifetime_end_at_the_millisecond(
    http: Served, org_b: Organisation, changes: dict, status: int
):
    await org_b.join(http)
    times = {name: http.clock.now_ms() + ms for name, ms in changes.items()}

    assert (await pull(http, org_b.token(http, **times))).status == status


async def test_a_token_expires_at_its_instant(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = org_b.token(http, exp=http.clock.now_ms() + 1000)
    http.clock.advance(1000)

    (await pull(http, token)).refused(401, "token_expired")


@pytest.mark.parametrize("status", ["removed", "unreachable", "never seen"])
async def test_a_peer_that_is_not_active_is_not_known(http: Served, org_b: Organisation, status: str):
    if status == "removed":
        peer_id = await org_b.join(http)
        await http.send("DELETE", f"/v1/federation/peers/{peer_id}")
    elif status == "unreachable":
        form = {"peer_url": "http://localhost:1", "peer_entity_uri": org_b.node_id}
        assert (await http.post("/v1/federation/peers", form)).expect(201)["status"] == "pending_verification"

    (await pull(http, org_b.token(http))).refused(401, "unknown_or_inactive_peer")


async def test_a_second_spelling_of_a_signature_is_no_token(http: Served, org_b: Organisation):
    await org_b.join(http)
    head, body, signature = org_b.token(http).split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    loose = alphabet[alphabet.index(signature[-1]) ^ 1]

    (await pull(http, f"{head}.{body}.{signature[:-1]}{loose}")).refused(401, "malformed_token")


@pytest.mark.parametrize("where", [0, 1])
async def test_a_token_with_two_members_of_one_name_is_malformed(http: Served, org_b: Organisation, where: int):
    await org_b.join(http)
    parts = ['{"alg":"EdDSA","typ":"JWT"}', json.dumps(org_b.claims(http))]
    parts[where] = parts[where][:-1] + "," + parts[where][1:]
    signed = ".".join(b64url(part.encode()) for part in parts)

    (await pull(http, f"{signed}.{b64url(org_b.signer.sign(signed.encode()))}")).refused(401, "malformed_token")


@pytest.mark.parametrize("length", [8192, 8193, 16_000])
async def test_garbage_longer_than_a_token_can_be_is_still_a_malformed_token(http: Served, length: int):
    (await pull(http, "A" * length)).refused(401, "malformed_token")


async def test_claims_that_nobody_knows_are_ignored(http: Served, org_b: Organisation):
    await org_b.join(http)

    (await pull(http, org_b.token(http, jti="x", surprise={"a": [1]}))).expect(200)


# The nonce.


async def test_of_many_copies_that_arrive_together_exactly_one_wins(http: Served, org_b: Organisation):
    await org_b.join(http)
    token, size = org_b.token(http), http.size

    answers = await asyncio.gather(*(pull(http, token) for _ in range(32)))

    assert sorted(answer.status for answer in answers) == [200] + [401] * 31
    assert {answer.json["error"] for answer in answers if answer.status == 401} == {"nonce_already_seen"}
    assert [entry.type for entry in http.entries(size)].count("page.served.1") == 1


async def test_a_nonce_is_taken_by_value_whichever_token_carries_it(http: Served, org_b: Organisation):
    await org_b.join(http)
    nonce = org_b.nonce()

    (await pull(http, org_b.token(http, nonce=nonce))).expect(200)

    other = org_b.token(http, nonce=nonce, exp=http.clock.now_ms() + 1_000_000, scopes=["company"])
    (await pull(http, other)).refused(401, "nonce_already_seen")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?scope=team", 403, "scope_not_permitted"),
        ("?limit=0", 422, "invalid_parameter"),
        ("?limit=501", 422, "invalid_parameter"),
        ("?cursor=x", 400, "invalid_cursor"),
        ("?cursor=" + b64url(bytes([1]) + bytes(28)), 400, "cursor_foreign"),
    ],
)
async def test_a_refused_request_takes_its_nonce_in_the_event_that_records_it(
    http: Served, org_b: Organisation, query: str, status: int, code: str
):
    await org_b.join(http)
    token, size = org_b.token(http), http.size

    (await pull(http, token, query)).refused(status, code)

    [recorded] = http.entries(size)
    assert (recorded.type, recorded.event.reason) == ("exchange.refused.1", code)
    assert recorded.event.event_type == ("scope_violation" if status == 403 else "rejected_request")
    (await pull(http, token)).refused(401, "nonce_already_seen")


async def test_a_token_that_fails_its_checks_takes_no_nonce(http: Served, org_b: Organisation):
    await org_b.join(http)
    nonce = org_b.nonce()
    (await pull(http, org_b.token(http, nonce=nonce, sub=UNKNOWN))).refused(401, "invalid_sub")

    (await pull(http, org_b.token(http, nonce=nonce))).expect(200)


async def test_nonces_survive_a_restart(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = org_b.token(http)
    (await pull(http, token)).expect(200)

    await http.restart()

    (await pull(http, token)).refused(401, "nonce_already_seen")


async def test_without_a_window_a_token_never_serves_twice(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = org_b.token(http, exp=http.clock.now_ms() + HOUR_MS)
    (await pull(http, token)).expect(200)

    for ms in (1, 60_000, HOUR_MS - 60_002):
        http.clock.advance(ms)
        (await pull(http, token)).refused(401, "nonce_already_seen")
    http.clock.advance(1)
    (await pull(http, token)).refused(401, "token_expired")


async def test_without_a_window_a_nonce_is_forgotten_a_minute_after_its_token_expired(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    nonce = org_b.nonce()
    (await pull(http, org_b.token(http, nonce=nonce))).expect(200)

    http.clock.advance(300_000 + 59_999)
    (await pull(http, org_b.token(http, nonce=nonce))).refused(401, "nonce_already_seen")
    http.clock.advance(1)
    (await pull(http, org_b.token(http, nonce=nonce))).expect(200)


async def test_with_a_window_a_nonce_is_good_again_that_long_after_its_use(serve, org_b: Organisation):
    windowed = await serve(federation_nonce_window_s=5)
    await org_b.join(windowed)
    token = org_b.token(windowed)
    (await pull(windowed, token)).expect(200)

    windowed.clock.advance(4_999)
    (await pull(windowed, token)).refused(401, "nonce_already_seen")
    await windowed.restart()
    (await pull(windowed, token)).refused(401, "nonce_already_seen")
    windowed.clock.advance(1)
    (await pull(windowed, token)).expect(200)


async def test_refusals_of_one_peer_and_code_do_not_fill_the_log(http: Served, org_b: Organisation):
    await org_b.join(http)
    size = http.size

    for _ in range(30):
        (await pull(http, org_b.token(http, sub=UNKNOWN))).refused(401, "invalid_sub")

    assert len(http.entries(size)) == 10


async def test_with_federation_off_nobody_is_served(serve, org_b: Organisation):
    alone = await serve(federation_enabled=False)

    (await pull(alone, org_b.token(alone))).refused(403, "federation_disabled")


# What is served.


async def test_a_peer_is_served_what_it_its_token_and_its_question_all_name(http: Served, org_b: Organisation):
    await org_b.join(http)
    for scope in ("local", "team", "company", "public"):
        await http.write(scope=scope)

    async def scopes(query: str = "", **claims: object) -> list[str]:
        page = (await pull(http, org_b.token(http, **claims), query)).expect(200)
        return [fact["scope"] for fact in page["facts"]]

    assert await scopes() == ["company", "public"]
    assert await scopes("?scope=public") == ["public"]
    assert await scopes(scopes=["company", "team", "local"]) == ["company"]
    (await pull(http, org_b.token(http), "?scope=local")).refused(403, "scope_not_permitted")
    (await pull(http, org_b.token(http, scopes=[]))).refused(403, "scope_not_permitted")


async def test_a_served_fact_says_nothing_of_local_judgements(http: Served, org_b: Organisation):
    await org_b.join(http)
    await http.write(scope="public")

    [served] = (await pull(http, org_b.token(http))).expect(200)["facts"]

    assert set(served) == {
        *(
            "id",
            "entity",
            "relation",
            "value",
            "source",
            "timestamp",
            "hlc",
            "confidence",
            "scope",
            "valid_until",
            "cid",
        ),
        *("derived_from", "supersedes", "resolves", "attestation_chain", "attestation_chain_issuers", "origin", "seal"),
        "received_from",
    }


async def test_pages_follow_one_another_and_an_empty_one_echoes_its_cursor(http: Served, org_b: Organisation):
    await org_b.join(http)
    ids = [(await http.write(scope="public"))["id"] for _ in range(5)]
    seen, cursor = [], ""

    for has_more in (True, True, False):
        page = (await pull(http, org_b.token(http), f"?limit=2&cursor={cursor}")).expect(200)
        seen += [fact["id"] for fact in page["facts"]]
        cursor = page["cursor"]
        assert page["has_more"] is has_more

    assert seen == ids
    again = (await pull(http, org_b.token(http), f"?cursor={cursor}")).expect(200)
    assert again == {"facts": [], "cursor": cursor, "has_more": False}


async def test_a_cursor_of_another_grant_starts_over(http: Served, org_b: Organisation):
    await org_b.join(http)
    await http.write(scope="public")
    cursor = (await pull(http, org_b.token(http))).json["cursor"]

    page = (await pull(http, org_b.token(http, scopes=["public"]), f"?cursor={cursor}")).expect(200)

    assert len(page["facts"]) == 1


async def test_a_peer_s_own_clock_does_not_matter_but_its_token_s_times_do(serve, org_b: Organisation):
    ahead = await serve(own_clock=fixed_clock(start_ms=org_b.home.clock.now_ms() + 240_000))
    await org_b.join(ahead)

    (await pull(ahead, org_b.token(org_b.home, sub=NODE_ID))).expect(200)
    (await pull(ahead, org_b.token(org_b.home, sub=NODE_ID, exp=org_b.home.clock.now_ms() + 1))).refused(
        401, "token_expired"
    )
