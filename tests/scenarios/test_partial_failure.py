"""Seed §11.1 and §11.3: the other node dies, or the line to it does, at any moment of a pull. Nothing is lost or doubled."""

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.independent.verifier import read_log
from tests.scenarios.link import Link
from tests.scenarios.nodes import Answer, RunningNode, eventually
from tests.scenarios.organisations import Organisation, await_active, start_together
from tests.scenarios.test_replication import as_sent, assert_many, await_first_pulls, ids_of, items, pull_until_cut_off

PAGE = 500
# Far below the ten seconds that a node waits for a peer, far above what a busy machine needs for a read.
ANSWER_BOUND_S = 5.0


@dataclass(frozen=True)
class Federation:
    """Org A publishes, org B subscribes through `link`; nothing is pulled by the clock."""

    publisher: Organisation
    subscriber: Organisation
    link: Link


@pytest.fixture
def federation(make_organisation, make_link) -> Federation:
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    link = make_link(org_a.node)
    org_a.register(org_b)
    org_b.register(org_a, url=link.url)
    await_active((org_a, org_b), (org_b, org_a))
    await_first_pulls(org_a, org_b)
    return Federation(org_a, org_b, link)


def cursors_asked_for(publisher: Organisation) -> list[str | None]:
    """The cursor of each page the publisher served, in order, from its log; its node is stopped."""
    served = (entry for entry in read_log(publisher.node.data_dir) if entry.header["type"] == "page.served.1")
    parts = (json.loads(item.data) for entry in served for item in entry.items.values())
    return [part["cursor"] for part in parts if "cursor" in part]


def test_a_publisher_killed_in_the_middle_of_a_page_costs_that_page_and_nothing_else(federation):
    org_a, org_b, link = federation.publisher, federation.subscriber, federation.link
    first = assert_many(org_a, PAGE)
    stored = org_b.pull(org_a)["cursor"]
    second = assert_many(org_a, PAGE, name="more/item")
    link.let_pass(answer_bytes=100_000)
    peer_id = org_b.peer(org_a)["peer_id"]
    pulls: list[Answer] = []
    pulling = threading.Thread(target=lambda: pulls.append(org_b.node.post(f"/v1/federation/peers/{peer_id}/pull", {})))
    pulling.start()
    eventually(lambda: link.is_spent, within_s=10, what="half a page has come through")

    org_a.node.kill()
    link.refuse()

    pulling.join(timeout=15)
    pulls[0].refused(503, "peer_unreachable")
    org_b.node.post(f"/v1/federation/peers/{peer_id}/pull", {}).refused(503, "peer_unreachable")
    own = org_b.assert_fact("item/own", "written while the publisher was down")
    assert items(org_b) == sorted([*first, own["id"]])
    assert org_b.peer(org_a)["cursor"] == stored
    org_a.node.start()
    link.let_pass()
    resumed = org_b.pull(org_a)
    assert (resumed["ingested"], resumed["known"], resumed["refused"]) == (PAGE, 0, 0)
    assert items(org_b) == sorted([*first, *second, own["id"]])
    org_a.node.stop()
    # The page that was lost and the one after the crash were asked for from the same place.
    assert cursors_asked_for(org_a)[-2:] == [stored, stored]


def test_a_subscriber_killed_at_any_moment_of_a_pull_ends_with_every_fact_once(federation, long_run):
    org_a, org_b = federation.publisher, federation.subscriber
    rounds, share = (30 if long_run else 5), 200
    moments = random.Random(20261122)
    asserted: list[str] = []
    for number in range(rounds):
        asserted += assert_many(org_a, share, name=f"round-{number}/item")
        pulling = threading.Thread(target=pull_until_cut_off, args=(org_b, org_a), kwargs={"from_start": False})
        # A pull of this size takes some 50 ms: the kill falls before, into or after any of its steps.
        killing = threading.Timer(moments.uniform(0.0, 0.06), org_b.node.kill)
        pulling.start()
        killing.start()
        killing.join(timeout=20)
        pulling.join(timeout=20)
        org_b.node.start()
        await_active((org_b, org_a))
        assert set(items(org_b)) <= set(asserted)

    org_b.pull(org_a)

    assert items(org_b) == sorted(asserted)
    assert org_b.pull(org_a)["ingested"] == 0
    org_b.node.stop()
    assert org_b.node.verify_log().startswith("head ")


class Visitor:
    """Reads and writes at one node, and holds each answer to the bound."""

    def __init__(self, org: Organisation) -> None:
        self._org, self._client, self._written = org, org.node.client(), 0

    def visit(self) -> None:
        fact = self._org.fact(f"visit/{self._written}", "both sides serve on")
        self._written += 1
        written = self._timed("POST", "/v1/facts", fact).expect(201)
        assert self._timed("GET", f"/v1/facts/{written['id']}").expect(200)["id"] == written["id"]

    def _timed(self, method: str, path: str, body: object = None) -> Answer:
        start = time.monotonic()
        answer = self._client.send(method, path, body)
        assert time.monotonic() - start < ANSWER_BOUND_S, f"{self._org.name} was slow to answer {method} {path}"
        return answer


def about_the_same(org: Organisation) -> dict[str, dict[str, object]]:
    """What a node shows of the entity that both sides wrote about, by id."""
    query = "&entity=stigmem://org-a.example/test/entity&relation=test:value&include_contradicted=true"
    facts = org.node.facts(query)
    assert len({fact["id"] for fact in facts}) == len(facts)
    return as_sent(facts)


@pytest.fixture
def linked_both_ways(make_organisation, make_link) -> Iterator[tuple[Organisation, Organisation, list[Link]]]:
    """Two organisations that pull from each other every second, each through a link."""
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "1"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    to_a, to_b = make_link(org_a.node), make_link(org_b.node)
    org_a.register(org_b, url=to_b.url)
    org_b.register(org_a, url=to_a.url)
    await_active((org_a, org_b), (org_b, org_a))
    yield org_a, org_b, [to_a, to_b]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cut", [Link.black_hole, Link.refuse], ids=["a_line_that_swallows", "a_line_that_refuses"])
def test_both_sides_of_a_cut_serve_on_and_hold_both_facts_once_it_heals(
    linked_both_ways, cut: Callable[[Link], None], long_run
):
    org_a, org_b, links = linked_both_ways
    before = org_a.assert_fact("item/before", "in sync")
    eventually(lambda: items(org_b) == [before["id"]], within_s=15, what="both are in sync")
    for link in links:
        cut(link)
    fact = {"entity": "stigmem://org-a.example/test/entity", "relation": "test:value"}
    from_a, from_b = (
        org.node.post("/v1/facts", org.fact("x", f"from {org.name}") | fact).expect(201) for org in (org_a, org_b)
    )
    visitors = [Visitor(org) for org in (org_a, org_b)]
    healing_at = time.monotonic() + (310 if long_run else 20)
    while time.monotonic() < healing_at:
        for visitor in visitors:
            visitor.visit()
        # What is held up shows at any pace, and five minutes at full speed would make a hundred thousand facts.
        time.sleep(0.05)
    assert (list(about_the_same(org_a)), list(about_the_same(org_b))) == ([from_a["id"]], [from_b["id"]])

    for link in links:
        link.let_pass()

    both = as_sent([from_a, from_b])
    for org in (org_a, org_b):
        eventually(lambda org=org: about_the_same(org) == both, within_s=40, what=f"{org.name} has both facts")
        assert_in_conflict(org, from_a, from_b)
    shared = [fact["id"] for fact in org_a.node.facts() if "/visit/" in fact["entity"]]
    assert len(shared) == len(set(shared))
    eventually(lambda: ids_at(org_a.node) == ids_at(org_b.node), within_s=40, what="both have all facts, once")


def assert_in_conflict(org: Organisation, *sides: dict) -> None:
    """What the seed expects of both nodes (§11.1), the conflict under the name that every node gives it."""
    between = " ".join(sorted(side["id"] for side in sides))
    conflict_id = f"stigmem:conflict:{uuid.uuid5(uuid.NAMESPACE_URL, between)}"
    (conflict,) = org.node.get("/v1/conflicts?status=unresolved").expect(200)["conflicts"]
    assert conflict["conflict_id"] == conflict_id
    assert {conflict["fact_a"]["id"], conflict["fact_b"]["id"]} == {side["id"] for side in sides}
    query = "/v1/facts?entity=stigmem://org-a.example/test/entity&relation=test:value&include_contradicted=true"
    assert [fact["contradicted"] for fact in org.node.get(query).expect(200)["facts"]] == [True, True]
    (said,) = org.node.get("/v1/facts?relation=stigmem:conflict:between").expect(200)["facts"]
    assert (said["entity"], said["value"]) == (conflict_id, {"type": "text", "v": between})


def ids_at(node: RunningNode) -> list[str]:
    return ids_of(node.facts("&include_contradicted=true"))
