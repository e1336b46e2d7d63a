"""What operators see of a peer: how far either side lags, what went wrong in words, and what a check found (PROTOCOL §5.1)."""

import asyncio

import pytest

from node.commands.peers import RegisterPeer
from node.http import peer_records
from tests.api_keys import bearer_for
from tests.clocks import START_MS
from tests.organisations import Organisation, issue
from tests.served import ADMIN_KEY, Served

PEERS = "/v1/federation/peers"
FACTS = "/v1/federation/facts"


async def peer_of(at: Served) -> dict:
    [peer] = (await at.get(PEERS)).expect(200)["peers"]
    return peer


async def to_peer(at: Served) -> dict:
    return (await peer_of(at))["lag"]["to_peer"]


async def read_all(http: Served, org_b: Organisation, **claims: object) -> None:
    """Org B reads on as far as it goes, and asks once more from there, as its next cycle would."""
    cursor = ""
    for _ in range(2):
        answer = await http.send("GET", f"{FACTS}?limit=500&cursor={cursor}", bearer=org_b.token(http, **claims))
        cursor = answer.expect(200)["cursor"]


async def test_what_a_peer_has_not_asked_for_is_counted_from_the_oldest_on(http: Served, org_b: Organisation):
    await org_b.join(http)
    assert await to_peer(http) == {"facts": 0, "has_more": False, "seconds": 0}
    for number, scope in enumerate(("public", "company", "local", "team")):
        await http.write(scope=scope, relation=f"memory:r{number}")
        http.clock.advance(10_000)

    assert await to_peer(http) == {"facts": 2, "has_more": False, "seconds": 40}
    await read_all(http, org_b)
    assert await to_peer(http) == {"facts": 0, "has_more": False, "seconds": 0}
    await http.write(scope="public", relation="memory:r9")
    http.clock.advance(1500)
    assert await to_peer(http) == {"facts": 1, "has_more": False, "seconds": 1.5}


async def test_a_peer_lags_behind_in_nothing_that_its_tokens_do_not_ask_for(http: Served, org_b: Organisation):
    await org_b.join(http)
    await http.write(scope="public")
    await http.write(scope="company", relation="memory:other")

    await read_all(http, org_b, scopes=["public"])

    assert (await to_peer(http))["facts"] == 0


async def test_a_count_of_what_a_peer_lacks_ends_somewhere(http: Served, org_b: Organisation):
    await org_b.join(http)
    writes = [http.write(scope="public", relation=f"memory:r{n}") for n in range(peer_records.MAX_LAG_FACTS + 1)]
    await asyncio.gather(*writes)

    lag = await to_peer(http)

    assert (lag["facts"], lag["has_more"]) == (peer_records.MAX_LAG_FACTS, True)


async def test_what_we_lack_of_a_peer_is_dated_from_the_last_whole_reading(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http, node_url=f"http://127.0.0.1:{org_b.home.port}")
    await Organisation(http).join(org_b.home)
    assert (await peer_of(http))["lag"]["from_peer"] == {"has_more": None, "seconds": None}

    (await http.post(f"{PEERS}/{peer_id}/pull", {})).expect(200)
    http.clock.advance(7000)

    assert (await peer_of(http))["lag"]["from_peer"] == {"has_more": False, "seconds": 7}


async def test_a_revoked_peer_lags_behind_in_nothing(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    (await http.send("DELETE", f"{PEERS}/{peer_id}")).expect(204)

    assert (await peer_of(http))["lag"] is None


async def test_the_last_error_is_in_words_and_the_next_try_has_a_time(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    await http.sync.start()
    try:
        async with asyncio.timeout(10):
            while (await peer_of(http))["next_try_at"] is None:
                continue
        peer = await peer_of(http)
    finally:
        await http.sync.close()

    assert peer["last_error"] == "no connection"
    assert peer["next_try_at"] > "2026-05-04T12:00:00.000Z" and http.clock.now_ms() == START_MS
    (await http.post(f"{PEERS}/{peer_id}/pull", {})).refused(503, "peer_unreachable")


@pytest.fixture
async def checked(http: Served, org_b: Organisation) -> str:
    """Org B's peer_id at `http`, which can reach it."""
    return await org_b.join(http, node_url=f"http://127.0.0.1:{org_b.home.port}")


async def test_a_check_says_what_the_peer_s_documents_are_worth(http: Served, org_b: Organisation, checked: str):
    size = http.size

    shown = (await http.send("POST", f"{PEERS}/{checked}/check")).expect(200)

    assert shown["found"] == {"status": "active", "reason": "", "detail": "", "warnings": []}
    assert (shown["status"], shown["node_id"], http.size) == ("active", org_b.node_id, size)


async def test_a_check_finds_what_an_active_peer_outlives(http: Served, org_b: Organisation, checked: str):
    await org_b.home.stop()
    try:
        shown = (await http.send("POST", f"{PEERS}/{checked}/check")).expect(200)
    finally:
        await org_b.home.start()

    assert (shown["found"]["reason"], shown["found"]["detail"]) == ("unreachable", "no connection")
    assert shown["status"] == "active"


async def test_a_check_makes_a_peer_active_that_answers_now(http: Served, org_b: Organisation):
    # Known here, never yet reached: as a registration leaves it while the peer is down.
    registered = RegisterPeer(
        principal=http.admin,
        node_id=org_b.node_id,
        node_url=f"http://127.0.0.1:{org_b.home.port}",
        allowed_scopes=("public",),
        declaration=None,
    )
    peer_id = (await http.node.execute(registered)).reply
    assert (await peer_of(http))["status"] == "pending_verification"

    shown = (await http.send("POST", f"{PEERS}/{peer_id}/check")).expect(200)

    assert (shown["status"], shown["found"]["status"]) == ("active", "active")


async def test_nothing_is_fetched_from_a_removed_peer(http: Served, org_b: Organisation, checked: str):
    (await http.send("DELETE", f"{PEERS}/{checked}")).expect(204)
    size = http.size

    (await http.send("POST", f"{PEERS}/{checked}/check")).refused(409, "peer_not_active")

    assert http.size == size


# Who is no admin.

OF_ALL = {"peer_id", "node_id", "node_url", "status", "allowed_scopes", "established_at"}


async def test_whoever_reads_facts_may_know_who_the_peers_are_and_no_more(http: Served, org_b: Organisation):
    await org_b.join(http)
    whole, reader = await peer_of(http), await bearer_for(http, "read", allowed_scopes=["local"])
    federating = await bearer_for(http, "federate")

    for query in ("", f"?as_of=offset:{http.size - 1}"):
        for bearer in (reader, federating):
            [peer] = (await http.send("GET", PEERS + query, bearer=bearer)).expect(200)["peers"]
            assert peer == {name: whole[name] for name in OF_ALL}
    assert (await http.send("GET", f"{PEERS}?as_of=offset:1", bearer=reader)).expect(200)["peers"] == []


async def test_whoever_reads_no_facts_is_told_of_no_peers(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = await issue(http, f"{org_b.node_id}/agent/x", verb="read")

    for bearer in (await bearer_for(http, "write", "instruction:write"), token):
        (await http.send("GET", PEERS, bearer=bearer)).refused(403, "insufficient_permission")


async def test_the_peers_are_listed_with_federation_off(serve):
    http = await serve(federation_enabled=False)

    for bearer in (ADMIN_KEY, await bearer_for(http, "read")):
        assert (await http.send("GET", PEERS, bearer=bearer)).expect(200) == {"peers": []}
