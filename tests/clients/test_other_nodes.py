"""stigmem-py against nodes that are set up in another way: without authentication and federation, and with small quotas."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import AGENT, NODE_ID
from tests.clients.sdk import ClientRaised, Driver, Sdk
from tests.scenarios.nodes import RunningNode

FACT = {"entity": f"{NODE_ID}/project/apollo", "relation": "memory:status", "source": "agent:cto"}
GREEN = {"type": "string", "v": "green"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    running: list[RunningNode] = []

    def start(**settings: str) -> RunningNode:
        running.append(RunningNode(tmp_path / f"node-{len(running)}", ENTITY_URI=NODE_ID, **settings))
        return running[-1].start()

    yield start
    for node in running:
        node.kill()


def test_a_node_without_authentication_and_federation_serves_a_client_without_a_key(
    driver: Driver, start: Callable[..., RunningNode]
):
    node = start(AUTH_REQUIRED="false")
    for kind in ("sync", "async"):
        sdk = Sdk(driver, kind, url=node.url)

        info = sdk("node_info")
        written = sdk("assert_fact", **FACT, value=GREEN)

        assert (info["auth"], info["federation"], info["federation_endpoints"]) == ("none", "disabled", None)
        assert sdk("get", fact_id=written["id"])["value"] == GREEN
        assert sdk("query", entity=FACT["entity"], source="agent:cto")["facts"][0]["id"] == written["id"]
        assert sdk("federation_status") == []


def test_a_client_that_writes_too_often_is_told_so_and_reads_on(driver: Driver, start: Callable[..., RunningNode]):
    node = start(QUOTA_WRITES_PER_MINUTE="60")
    stated = {"entity_uri": AGENT, "permissions": ["read", "write"], "allowed_sources": ["agent:"]}
    sdk = Sdk(driver, "sync", url=node.url, api_key=node.post("/v1/auth/keys", stated).expect(201)["raw_key"])

    with pytest.raises(ClientRaised) as raised:
        for _ in range(80):
            sdk("assert_fact", **FACT, value=GREEN)

    assert (raised.value.kind, raised.value.status_code) == ("StigmemHTTPError", 429)
    assert "writes" in raised.value.detail
    assert sdk("query", entity=FACT["entity"])["total"] >= 60
