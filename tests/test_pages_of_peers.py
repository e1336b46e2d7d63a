"""Pages as a peer answers them: what cannot be read is refused by itself, and what happens to the peer meanwhile is said."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web

from node.sync import MAX_CYCLE_PAGES
from tests.conftest import Serve
from tests.interop_peer import ReferencePeer, join
from tests.organisations import b64url, seal_message
from tests.served import Answer, Served

Meanwhile = Callable[[], Awaitable[object]]


class Scribe(ReferencePeer):
    """A peer that answers each pull with `page` as it stands, and does something else before."""

    page = b'{"facts":[],"cursor":"end","has_more":false}'
    meanwhile: Meanwhile | None = None

    async def _serve_facts(self, request: web.Request) -> web.Response:
        if self.meanwhile is not None:
            await self.meanwhile()
        return web.Response(body=self.page, content_type="application/json")


class Relay(Scribe):
    """It also has the manifests of `strangers`, whose facts are on its page."""

    strangers: dict[str, ReferencePeer]

    async def start(self) -> "Relay":
        app = web.Application()
        app.router.add_get("/.well-known/stigmem", self._well_known)
        app.router.add_get("/v1/federation/facts", self._serve_facts)
        app.router.add_get("/v1/federation/manifest/{entity_uri:.+}", self._introduce)
        app.router.add_post("/v1/federation/peers", self._register)
        app.router.add_post("/v1/federation/peers/{peer_id}/approve", self._approve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://localhost:{self._runner.addresses[0][1]}"
        self._session = ClientSession()
        return self

    async def _introduce(self, request: web.Request) -> web.Response:
        return web.json_response(self.strangers[request.match_info["entity_uri"]].manifest())


def sealed(origin: ReferencePeer, number: int) -> dict[str, Any]:
    """A fact of an organisation's own node, as a relay passes it on."""
    fact = {
        "id": f"01890000-0000-7000-8000-{number:012d}",
        "entity": f"{origin.node_id}/project/zeus",
        "relation": "memory:status",
        "value": {"type": "string", "v": "blue"},
        "source": origin.node_id,
        "timestamp": "2026-05-04T11:59:00.000Z",
        "hlc": "1777895940000.000",
        "confidence": 0.9,
        "scope": "public",
        "valid_until": None,
        "derived_from": [],
        "supersedes": [],
        "resolves": None,
        "origin": origin.node_id,
    }
    return fact | {"seal": b64url(origin.key.sign(seal_message(fact)).signature)}


@pytest.fixture
async def relaxed(serve: Serve) -> Served:
    return await serve(trust_mode="relaxed")


@pytest.fixture
async def scribe(relaxed: Served) -> AsyncIterator[Scribe]:
    peer = await Scribe(now_ms=relaxed.clock.now_ms).start()
    await join(relaxed, peer)
    yield peer
    await peer.stop()


def peer_path(at: Served, peer: Scribe) -> str:
    with at.node.view() as view:
        return f"/v1/federation/peers/{view.peers.of_node(peer.node_id).peer_id}"


async def pull(at: Served, peer: Scribe) -> Answer:
    return await at.post(f"{peer_path(at, peer)}/pull", {})


def written(peer: Scribe, number: int) -> dict[str, Any]:
    return peer.write(number, {"type": "string", "v": "x"}, hlc=f"{peer.now_ms()}.{number}")


UNREADABLE = {
    "a key twice": lambda text: text[:-1] + ',"extra":1,"extra":2}',
    "nested too deep": lambda text: text[:-1] + ',"extra":' + "[" * 40 + "]" * 40 + "}",
    "nested too deep for its page": lambda text: text[:-1] + ',"extra":' + "[" * 30 + "]" * 30 + "}",
    "nested without end": lambda text: text[:-1] + ',"extra":' + '{"a":["]",' * 50_000 + "1" + "]}" * 50_000 + "}",
    "a lone surrogate": lambda text: text.replace('"test:value"', '"test:\\ud800"'),
    "no number": lambda text: text.replace('"confidence": 1.0', '"confidence": NaN'),
    "a number too large": lambda text: text.replace('"confidence": 1.0', '"confidence": 1e999'),
    "an integer too long": lambda text: text[:-1] + ',"extra":' + "9" * 5000 + "}",
    "not UTF-8": lambda text: text.replace("test:value", "test:\udcff"),
    "nothing": lambda text: "null",
    "a list": lambda text: f"[{text}]",
}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_fact_that_cannot_be_read_is_refused_and_those_beside_it_are_taken(relaxed, scribe, how: str):
    before, bad, after = (json.dumps(written(scribe, number)) for number in (1, 2, 3))
    page = f'{{"facts":[{before},{UNREADABLE[how](bad)},{after}],"cursor":"on","has_more":false}}'
    scribe.page = page.encode(errors="surrogateescape")

    done = (await pull(relaxed, scribe)).expect(200)

    assert done == {"ingested": 2, "known": 0, "refused": 1, "cursor": "on"}
    [refused] = (await relaxed.get("/v1/federation/audit", event_type="rejected_fact")).expect(200)["events"]
    is_named = how not in ("nothing", "a list")
    assert (refused["reason"], refused["fact_id"] or None) == (
        "invalid_fact",
        json.loads(bad)["id"] if is_named else None,
    )


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"null",
        b'{"facts":[],"cursor":"a","cursor":"b","has_more":false}',
        b'{"facts":{},"cursor":"a","has_more":NaN}',
        b'{"facts":[],"cursor":"\\ud800","has_more":false}',
        b'{"facts":[' + b"[" * 100_000 + b'],"cursor":"a","has_more":false}',
    ],
    ids=["empty", "null", "a_cursor_twice", "no_list", "a_surrogate", "endless_nesting"],
)
async def test_what_is_no_page_is_refused_whole_and_leaves_nothing(relaxed, scribe, page: bytes):
    scribe.page = page
    size = relaxed.size

    (await pull(relaxed, scribe)).refused(503, "peer_answer_invalid")

    assert relaxed.size == size


class Endless(Scribe):
    """A peer that has one and the same fact at every place of its log, and always more of it."""

    answered = 0

    async def _serve_facts(self, request: web.Request) -> web.Response:
        self.answered += 1
        return web.json_response({"facts": self.facts, "cursor": str(self.answered), "has_more": True})


async def test_a_peer_that_never_comes_to_an_end_is_left_for_the_next_cycle(relaxed):
    endless = await Endless(now_ms=relaxed.clock.now_ms).start()
    await join(relaxed, endless)
    written(endless, 1)

    done = (await pull(relaxed, endless)).expect(200)
    await endless.stop()

    assert done == {"ingested": 1, "known": MAX_CYCLE_PAGES - 1, "refused": 0, "cursor": f"{MAX_CYCLE_PAGES}"}


async def test_of_a_peer_that_is_removed_while_it_is_read_nothing_is_taken_and_the_operator_is_told(relaxed, scribe):
    path = peer_path(relaxed, scribe)
    scribe.page = json.dumps({"facts": [written(scribe, 1)], "cursor": "on", "has_more": False}).encode()
    scribe.meanwhile = lambda: relaxed.send("DELETE", path)

    (await pull(relaxed, scribe)).refused(409, "peer_not_active")

    assert (await relaxed.get("/v1/facts")).expect(200)["facts"] == []


async def test_a_peer_that_was_removed_is_behind_no_longer(relaxed, scribe):
    scribe.page = json.dumps({"facts": [written(scribe, 1)], "cursor": "on", "has_more": True}).encode()
    (await pull(relaxed, scribe)).expect(200)
    assert relaxed.sync.lags_ms().keys() == {scribe.node_id}
    await relaxed.sync.start()

    (await relaxed.send("DELETE", peer_path(relaxed, scribe))).expect(204)

    async with asyncio.timeout(10):
        while relaxed.sync.lags_ms():  # noqa: ASYNC110 - what it waits for is another task's table, not an event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("status", "code", "is_behind"),
    [
        (403, "scope_not_permitted", False),
        (401, "unknown_or_inactive_peer", False),
        (401, "token_expired", True),
        (503, "overloaded", True),
    ],
)
async def test_a_peer_that_grants_nothing_any_more_is_behind_no_longer_and_one_in_trouble_is(
    relaxed, scribe, status: int, code: str, is_behind: bool
):
    scribe.page = json.dumps({"facts": [written(scribe, 1)], "cursor": "on", "has_more": True}).encode()
    (await pull(relaxed, scribe)).expect(200)

    async def refuse() -> None:
        answer = web.HTTPForbidden(text=json.dumps({"error": code, "detail": code}), content_type="application/json")
        answer.set_status(status)
        raise answer

    scribe.meanwhile = refuse
    (await pull(relaxed, scribe)).refused(503, "peer_unreachable" if status == 503 else "peer_answer_invalid")

    assert (scribe.node_id in relaxed.sync.lags_ms()) == is_behind


async def test_a_page_may_hold_the_word_of_many_whom_nobody_has_met_yet(relaxed):
    names = [f"stigmem://org-{number}.example" for number in range(60)]
    relay = Relay(now_ms=relaxed.clock.now_ms)
    relay.strangers = {name: ReferencePeer(now_ms=relaxed.clock.now_ms, node_id=name) for name in names}
    facts = [sealed(relay.strangers[name], number) for number, name in enumerate(names)]
    relay.page = json.dumps({"facts": facts, "cursor": "on", "has_more": False}).encode()
    await join(relaxed, await relay.start())

    done = (await pull(relaxed, relay)).expect(200)
    await relay.stop()

    assert done == {"ingested": 60, "known": 0, "refused": 0, "cursor": "on"}
