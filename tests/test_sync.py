"""Backoff towards peers that are busy, broken or down, with the pulling tasks running in real time.

Times are only ever bounded from below: a busy machine may be later than it should, never earlier.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from tests.conftest import Serve
from tests.interop_peer import ReferencePeer, join
from tests.served import NODE_ID, Served


@asynccontextmanager
async def pulling(*nodes: Served) -> AsyncIterator[None]:
    """The nodes' pulling tasks, as `stigmem serve` runs them."""
    for node in nodes:
        await node.sync.start()
    try:
        yield
    finally:
        for node in nodes:
            await node.sync.close()


async def until(holds: Callable[[], object], *, within_s: float = 15) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what it waits for is another task's counter, not an event
            await asyncio.sleep(0.01)


def gaps(reference: ReferencePeer) -> list[float]:
    """Seconds between the requests it was sent; one that HTTP repeated on a new connection has the same token."""
    first = {asked["token"]: asked["at"] for asked in reversed(reference.asked)}
    return [later - earlier for earlier, later in pairwise(sorted(first.values()))]


@pytest.mark.parametrize("status", [429, 503, 0], ids=["too_many_requests", "unavailable", "connection_broken"])
async def test_peers_in_trouble_are_asked_ever_less_often_and_not_in_step(serve: Serve, reference, status):
    random.seed(7)
    node = await serve(trust_mode="relaxed", federation_pull_interval_s=1)
    other = await ReferencePeer(now_ms=node.clock.now_ms).start()
    for peer in (reference, other):
        await join(node, peer)
        peer.pull_answer = (status, {"detail": "later"}, {})

    async with pulling(node):
        await until(lambda: min(len(gaps(reference)), len(gaps(other))) >= 2)

    await other.stop()
    for peer in (reference, other):
        assert all(gap >= 0.5 * 2**failures for failures, gap in enumerate(gaps(peer)))
    assert abs(gaps(reference)[0] - gaps(other)[0]) > 0.01


async def test_a_peer_that_says_how_long_to_wait_is_left_alone_that_long(serve: Serve, reference):
    node = await serve(trust_mode="relaxed", federation_pull_interval_s=1)
    await join(node, reference)
    reference.pull_answer = (429, {"detail": "too many requests"}, {"Retry-After": "2"})

    async with pulling(node):
        await until(lambda: len(reference.asked) >= 2)

    assert gaps(reference)[0] >= 2.0


async def test_a_sign_of_life_ends_a_backoff(serve: Serve, reference):
    node = await serve(trust_mode="relaxed", federation_pull_interval_s=30)
    await join(node, reference)
    reference.pull_answer = (503, {"detail": "starting"}, {"Retry-After": "300"})
    async with pulling(node):
        await until(lambda: node.sync.state_of(reference.node_id).failures == 1)
        reference.pull_answer = None

        await reference.pull(NODE_ID)

        await until(lambda: len(reference.asked) == 2)
        await until(lambda: node.sync.state_of(reference.node_id).failures == 0)


async def test_a_peer_that_answers_no_page_and_knocks_after_each_request_is_not_asked_at_its_pace(
    serve: Serve, reference
):
    node = await serve(trust_mode="relaxed", federation_pull_interval_s=30)
    await join(node, reference)
    reference.pull_answer = (503, {"detail": "later"}, {})

    async with pulling(node):
        for requests in (1, 2, 3):
            await until(lambda requests=requests: len(reference.asked) >= requests)
            await reference.pull(NODE_ID)

    # One early try is free; after that the backoff holds.
    assert gaps(reference)[1] >= 1.0
