"""Pages as a peer answers them: what cannot be read is refused by itself, and what happens to the peer meanwhile is said."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import Serve
from tests.interop_peer import ReferencePeer, join
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
