"""Pushing to peers: own new facts, to whoever takes them, once; whoever refuses is left to its pull (PROTOCOL §5.4)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from node.peer_client import PeerClient
from node.push import Pusher
from tests import organisations
from tests.organisations import Organisation, issue
from tests.served import NODE_ID, Served, fact

DEADLINE_S = 10.0
POLL_S = 0.005
PUSH = "/v1/federation/facts/push"


@pytest.fixture
async def http(serve) -> Served:
    return await serve(federation_push_enabled=True)


@pytest.fixture
async def client() -> AsyncIterator[PeerClient]:
    client = PeerClient(allow_loopback=True, allow_private=False, allow_insecure_http=False)
    await client.start()
    yield client
    await client.close()


@asynccontextmanager
async def pushing(at: Served, client: PeerClient, to: str = organisations.NODE_ID) -> AsyncIterator[Pusher]:
    """`at` pushes to a peer, as `Sync` would have it do; once it knows where to, if it ever does."""
    pusher = Pusher(at.node, client)
    task = asyncio.create_task(pusher.tend(to))
    try:
        yield pusher
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so: Callable[[], object], what: str) -> None:
    for _ in range(int(DEADLINE_S / POLL_S)):
        if is_so():
            return
        await asyncio.sleep(POLL_S)
    pytest.fail(f"not within {DEADLINE_S:g} s: {what}")


async def until_ready(pusher: Pusher) -> None:
    await until(lambda: pusher.url_of(organisations.NODE_ID), "it knows where to push")


def pushes(at: Served, start: int = 0) -> list:
    return [entry.event for entry in at.entries(start) if entry.type == "push.received.1"]


async def befriend(one: Served, other: Served, *, scopes: tuple[str, ...] = ("public",)) -> None:
    form = {
        "peer_url": f"http://localhost:{other.port}",
        "peer_entity_uri": other.node.node_id,
        "allowed_scopes": list(scopes),
    }
    assert (await one.post("/v1/federation/peers", form)).expect(201)["status"] == "active"


@pytest.fixture
async def friend(serve, http: Served) -> Served:
    """Another node that takes pushes of public facts from this one."""
    other = await serve(
        seed=organisations.SEED, entity_uri=organisations.NODE_ID, federation_push_enabled=True, trust_mode="off"
    )
    await befriend(http, other, scopes=("public", "company"))
    await befriend(other, http)
    return other


async def test_a_new_fact_reaches_the_peer_once_by_push_and_by_pull(http: Served, friend: Served, client: PeerClient):
    await http.write(scope="public", entity="user:before")
    async with pushing(http, client) as pusher:
        await until_ready(pusher)
        written = await http.write(scope="public")
        await until(lambda: pushes(friend), "the fact was pushed")

    [record] = (await friend.get("/v1/facts")).json["facts"]
    for name in ("id", "entity", "value", "source", "timestamp", "hlc", "cid", "origin", "seal"):
        assert record[name] == written[name], name

    cycle = await friend.sync.pull_now(NODE_ID, from_start=False)
    assert (cycle.ingested, cycle.known) == (1, 1)
    assert len((await friend.get("/v1/facts")).json["facts"]) == 2


async def test_only_our_own_word_that_peers_may_have_is_pushed(
    http: Served, friend: Served, org_c: Organisation, client: PeerClient
):
    await org_c.join(http)
    token = await issue(http, org_c.assistant)
    await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "public"})
    async with pushing(http, client) as pusher:
        await until_ready(pusher)
        await http.write(scope="local")
        await http.write(scope="team")
        await http.write(scope="public", garden_id="den")
        await http.post("/v1/facts", fact(source=org_c.assistant, scope="public"), bearer=token)
        await org_c.receive(http, org_c.served_fact())
        last = await http.write(scope="public")
        await until(lambda: pushes(friend), "the last one was pushed")

    received = [receipt.fact.id for event in pushes(friend) for receipt in event.receipts]
    assert received == [last["id"]]
    assert [refusal for event in pushes(friend) for refusal in event.outcome.refused] == []


async def test_a_scope_that_the_peer_refuses_is_left_to_its_pull(http: Served, friend: Served, client: PeerClient):
    async with pushing(http, client) as pusher:
        await until_ready(pusher)
        for number in range(1, 4):
            await http.write(scope="company")
            await http.write(scope="public")
            await until(
                lambda number=number: sum(len(event.receipts) for event in pushes(friend)) == number,
                "the public fact was pushed",
            )

    refused = [refusal.reason for event in pushes(friend) for refusal in event.outcome.refused]
    assert refused == ["scope_violation"]


async def test_a_peer_that_is_removed_gets_nothing_more(http: Served, friend: Served, client: PeerClient):
    with http.node.view() as view:
        peer = view.peers.of_node(friend.node.node_id)
    async with pushing(http, client) as pusher:
        await until_ready(pusher)
        (await http.send("DELETE", f"/v1/federation/peers/{peer.peer_id}")).expect(204)
        await until(lambda: pusher.url_of(friend.node.node_id) is None, "it has stopped")
        await http.write(scope="public")

    assert pushes(friend) == []


async def test_discovery_and_capabilities_say_whether_pushes_are_taken(serve, http: Served, org_b: Organisation):
    for at, is_on in ((http, True), (await serve(), False)):
        peer_id = await org_b.join(at)
        named = (await at.get("/.well-known/stigmem")).expect(200)["federation_endpoints"]["push"]
        told = (await at.get(f"/v1/federation/peers/{peer_id}/capabilities")).expect(200)

        assert named == (PUSH if is_on else None)
        assert (told["push"], told["push_url"]) == (is_on, None)
        assert (await at.get("/v1/admin/config")).json["federation_push_enabled"] is is_on


async def test_a_node_that_runs_pushes_and_says_where_to(http: Served, friend: Served):
    with http.node.view() as view:
        peer = view.peers.of_node(friend.node.node_id)
    await http.sync.start()
    try:
        await until(lambda: http.sync.push_url_of(peer.node_id), "it knows where to push")
        told = (await http.get(f"/v1/federation/peers/{peer.peer_id}/capabilities")).expect(200)
        await http.write(scope="public")
        await until(lambda: pushes(friend), "the fact was pushed")
    finally:
        await http.sync.close()

    assert told["push_url"] == f"http://localhost:{friend.port}{PUSH}"


# Peers that behave otherwise.


class Peer:
    """A peer of few words: a discovery document, and `answers` to pushes, the last one again and again."""

    def __init__(self, push: object, *answers: tuple[int, bytes]) -> None:
        self.push, self.answers = push, list(answers)
        self.looks, self.bodies = 0, []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def discovery(self, _: web.Request) -> web.Response:
        self.looks += 1
        return web.json_response({"federation_endpoints": {"push": self.push}})

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(json.loads(await request.read()))
        await self.gate.wait()
        status, body = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return web.Response(status=status, body=body, content_type="application/json")


@asynccontextmanager
async def standing(peer: Peer) -> AsyncIterator[Peer]:
    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.get("/.well-known/stigmem", peer.discovery), web.post(PUSH, peer.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    peer.url = f"http://localhost:{runner.addresses[0][1]}"
    try:
        yield peer
    finally:
        peer.gate.set()
        await runner.cleanup()


TAKEN = (202, b'{"accepted":1,"rejected":0,"errors":[]}')


@pytest.mark.parametrize(
    "push",
    [None, 7, "", "push", "//evil.example/push", "http://evil.example/v1/push", "https://localhost/v1/push"],
)
async def test_a_peer_that_names_no_place_of_its_own_gets_no_push(
    http: Served, org_b: Organisation, client: PeerClient, push: object
):
    async with standing(Peer(push, TAKEN)) as peer:
        await org_b.join(http, node_url=peer.url)
        async with pushing(http, client) as pusher:
            await until(lambda: peer.looks, "it has looked")
            await http.write(scope="public")
            assert pusher.url_of(org_b.node_id) is None

    assert peer.bodies == []


@pytest.mark.parametrize(
    "answer",
    [
        (405, b'{"error":"push_disabled"}'),
        (403, b'{"detail":"source_not_owned"}'),
        (401, b'{"detail":"peer not registered"}'),
        (429, b'{"error":"quota_exceeded"}'),
        (503, b"{}"),
        (200, b"no JSON"),
        (202, b'{"accepted":1,"accepted":1}'),
        (202, b'{"accepted":"1"}'),
        (202, b'{"accepted":0,"rejected":1,"errors":[{"fact_id":"x","error":"source_not_owned"}]}'),
        (302, b""),
    ],
)
async def test_a_peer_that_refuses_is_left_to_its_pull_and_looked_at_again_later(
    http: Served, org_b: Organisation, client: PeerClient, answer: tuple[int, bytes]
):
    async with standing(Peer(PUSH, answer, TAKEN)) as peer:
        await org_b.join(http, node_url=peer.url)
        async with pushing(http, client) as pusher:
            await until_ready(pusher)
            first = await http.write(scope="public")
            await until(lambda: pusher.url_of(org_b.node_id) is None, "it has given up for now")
            await http.write(scope="public")
            pusher.wake(org_b.node_id)
            await until_ready(pusher)
            last = await http.write(scope="public")
            await until(lambda: len(peer.bodies) == 2, "it pushes again")

    assert [[sent["id"] for sent in body["facts"]] for body in peer.bodies] == [[first["id"]], [last["id"]]]


async def test_what_is_written_while_a_push_is_under_way_goes_in_pages_of_500_at_most(
    http: Served, org_b: Organisation, client: PeerClient
):
    async with standing(Peer(PUSH, TAKEN)) as peer:
        await org_b.join(http, node_url=peer.url)
        async with pushing(http, client) as pusher:
            await until_ready(pusher)
            peer.gate.clear()
            first = await http.write(scope="public")
            await until(lambda: peer.bodies, "the first fact is under way")
            rest = await asyncio.gather(*(http.write(scope="public", entity=f"user:{n}") for n in range(501)))
            peer.gate.set()
            await until(lambda: len(peer.bodies) == 3, "all are pushed")

    sizes = [len(body["facts"]) for body in peer.bodies]
    ids = [sent["id"] for body in peer.bodies for sent in body["facts"]]
    assert sizes == [1, 500, 1]
    assert sorted(ids) == sorted([first["id"], *(record["id"] for record in rest)])
    assert peer.bodies[0]["sender_hlc"] == first["hlc"]


async def test_a_peer_that_speaks_as_the_reference_does_is_not_pushed_a_scope_it_refused(
    http: Served, org_b: Organisation, client: PeerClient
):
    async with standing(Peer(PUSH, TAKEN)) as peer:
        await org_b.join(http, node_url=peer.url)
        async with pushing(http, client) as pusher:
            await until_ready(pusher)
            peer.gate.clear()
            refused = await http.write(scope="company")
            await until(lambda: peer.bodies, "it is under way")
            error = {"fact_id": refused["id"], "error": "scope_not_permitted"}
            peer.answers = [(202, json.dumps({"accepted": 0, "rejected": 1, "errors": [error]}).encode()), TAKEN]
            peer.gate.set()
            await http.write(scope="company")
            last = await http.write(scope="public")
            await until(lambda: len(peer.bodies) >= 2 and ids_of(peer)[-1] == last["id"], "the public one is pushed")

    assert ids_of(peer) == [refused["id"], last["id"]]


def ids_of(peer: Peer) -> list[str]:
    return [sent["id"] for body in peer.bodies for sent in body["facts"]]


@pytest.fixture
async def org_c(serve) -> Organisation:
    return Organisation(await serve(seed=bytes(range(50, 82)), entity_uri="stigmem://org-c.example"))
