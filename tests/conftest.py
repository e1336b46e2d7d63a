"""Nodes for tests: opened in `tmp_path`, closed at the end, and then compared with a fresh fold of their log."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from node.keys import Signer
from node.runtime import Node
from tests import organisations, served
from tests.clocks import CountedClock, fixed_clock
from tests.interop_peer import ReferencePeer
from tests.loopback import stays_on_loopback, watch_network
from tests.organisations import Organisation
from tests.served import Served, config_for

Serve = Callable[..., Awaitable[Served]]

__all__ = ["stays_on_loopback"]
watch_network()


@pytest.fixture
def clock() -> CountedClock:
    return fixed_clock()


@pytest.fixture
async def serve(tmp_path: Path, clock: CountedClock) -> AsyncIterator[Serve]:
    """`await serve(**settings)` starts a node with these settings; `seed` is its key's, `own_clock` where it shares none."""
    running: list[Served] = []

    async def start(*, seed: bytes = served.SEED, own_clock: CountedClock = clock, **settings: object) -> Served:
        folder = tmp_path / f"node-{len(running)}"
        started = Served(folder, own_clock, Signer.from_seed(seed), config_for(folder, **settings))
        running.append(await started.start())
        return started

    yield start
    for one in reversed(running):
        await one.closed()


@pytest.fixture
async def http(serve: Serve) -> Served:
    """A node with the tests' usual settings, federation on, behind its HTTP surface."""
    return await serve()


@pytest.fixture
def node(http: Served) -> Node:
    return http.node


@pytest.fixture
async def org_b(serve: Serve) -> Organisation:
    """Another organisation, not yet a peer of anybody."""
    return Organisation(await serve(seed=organisations.SEED, entity_uri=organisations.NODE_ID))


@pytest.fixture
async def reference(clock: CountedClock) -> AsyncIterator[ReferencePeer]:
    """A peer that speaks as the public reference node does, not yet known to anybody."""
    peer = await ReferencePeer(now_ms=clock.now_ms).start()
    yield peer
    await peer.stop()
