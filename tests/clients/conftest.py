"""A real node, and today's clients pointed at it.

The node serves all tests of a run, so each test writes about entities of its own.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.clients.sdk import Driver, Sdk
from tests.scenarios.nodes import RunningNode

NODE_ID = "stigmem://org-a.example"
AGENT = f"{NODE_ID}/agent/scribe"
# Set up by the Makefile beside what the tests themselves need.
CLIENTS = Path(sys.prefix) / "clients"

MakeSdk = Callable[..., Sdk]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    if not (CLIENTS / ".installed").exists():
        pytest.fail(f"today's clients are not installed in {CLIENTS}; `make {CLIENTS}/.installed` installs them")
    running = Driver(CLIENTS / "bin" / "python", tmp_path_factory.mktemp("clients") / "stderr.txt")
    yield running
    running.close()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node as an operator runs it, and nothing in it yet that a test does not write."""
    running = RunningNode(tmp_path_factory.mktemp("served-to-clients"), ENTITY_URI=NODE_ID, FEDERATION_ENABLED="true")
    try:
        yield running.start()
        running.stop()
    finally:
        running.kill()


@pytest.fixture(scope="session")
def key(node: RunningNode) -> str:
    """An agent's ordinary credential: it reads and writes, in its own name and for informal agents."""
    stated = {"entity_uri": AGENT, "permissions": ["read", "write"], "allowed_sources": ["agent:"]}
    return node.post("/v1/auth/keys", stated).expect(201)["raw_key"]


@pytest.fixture(params=["sync", "async"])
def make_sdk(request: pytest.FixtureRequest, driver: Driver, node: RunningNode) -> MakeSdk:
    """Makes either of the two clients of stigmem-py, with a credential or without."""
    return lambda api_key=None: Sdk(driver, request.param, url=node.url, api_key=api_key)


@pytest.fixture
def sdk(make_sdk: MakeSdk, key: str) -> Sdk:
    return make_sdk(key)


@pytest.fixture
def entity() -> str:
    """An entity that nothing was said about yet."""
    return f"{NODE_ID}/project/{uuid4()}"
