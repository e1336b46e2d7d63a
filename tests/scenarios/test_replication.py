"""Facts travel from org A to org B by pulls, once each and as their origin made them, whatever dies in between."""

import http.client
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.independent.verifier import read_log
from tests.scenarios.nodes import eventually
from tests.scenarios.organisations import (
    AUTO_QUARANTINE,
    Organisation,
    await_active,
    await_first_pulls,
    federate,
    peer_token,
    start_together,
)

TRAVELS = (
    "id",
    "entity",
    "relation",
    "value",
    "source",
    "timestamp",
    "hlc",
    "cid",
    "confidence",
    "scope",
    "origin",
    "seal",
)


@pytest.fixture
def make_publisher_and_subscriber(make_organisation):
    """Org A and org B, peers of each other. Nothing is pulled by the clock, so a test sees what its own pull did."""

    def make(trust_mode: str) -> tuple[Organisation, Organisation]:
        settings = {"TRUST_MODE": trust_mode, "FEDERATION_PULL_INTERVAL_S": "3600"}
        org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
        start_together(org_a, org_b)
        federate(org_a, org_b)
        if trust_mode == "relaxed":
            await_first_pulls(org_a, org_b)
        return org_a, org_b

    return make


def assert_many(org: Organisation, count: int, *, name: str = "item") -> list[str]:
    """Asserts public facts, all about different entities; returns their ids."""
    workers = 8

    def assert_share(share: int) -> list[str]:
        client = org.node.client()
        facts = [org.fact(f"{name}/{number}", "here") for number in range(share, count, workers)]
        return [client.send("POST", "/v1/facts", fact).expect(201)["id"] for fact in facts]

    with ThreadPoolExecutor(workers) as pool:
        return sorted(fact_id for share in pool.map(assert_share, range(workers)) for fact_id in share)


def ids_of(facts) -> list[str]:
    return sorted(fact["id"] for fact in facts)


def items(org: Organisation) -> list[str]:
    return ids_of(fact for fact in org.node.facts() if "/item/" in fact["entity"])


def as_sent(facts):
    return {fact["id"]: {name: fact[name] for name in TRAVELS} for fact in facts}


def test_public_facts_arrive_as_their_origin_made_them(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    asserted = [org_a.assert_fact(f"item/{number}", "here") for number in range(5)]

    org_b.pull(org_a)

    arrived = [org_b.node.get(f"/v1/facts/{fact['id']}").expect(200) for fact in asserted]
    served = [org_a.node.get(f"/v1/facts/{fact['id']}").expect(200) for fact in asserted]
    assert as_sent(arrived) == as_sent(served)
    assert {fact["received_from"] for fact in arrived} == {org_a.entity_uri}
    assert {fact["origin"] for fact in arrived} == {org_a.entity_uri}
    assert {fact["quarantine_status"] for fact in arrived} == {None}
    assert items(org_b) == ids_of(asserted)


def test_facts_of_an_organisation_that_is_new_to_a_strict_node_are_held(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("strict")
    org_b.hold_inbound_facts()
    asserted = [org_a.assert_fact(f"item/{number}", "here") for number in range(5)]

    org_b.pull(org_a)

    held = org_b.held()
    assert ids_of(held) == ids_of(asserted)
    assert {fact["quarantine_reason"] for fact in held} == {AUTO_QUARANTINE}
    assert {fact["received_from"] for fact in held} == {org_a.entity_uri}
    assert items(org_b) == []


def test_each_fact_is_there_once_however_often_it_is_pulled(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    first = [org_a.assert_fact(f"item/{number}", "here") for number in range(3)]
    org_b.pull(org_a)
    second = [org_a.assert_fact(f"item/{number}", "here") for number in range(3, 6)]

    answers = [org_b.pull(org_a) for _ in range(3)]

    assert [answer["ingested"] for answer in answers] == [3, 0, 0]
    assert list(answers[0]) == ["ingested", "known", "refused", "cursor"]
    assert items(org_b) == ids_of(first + second)


def test_reading_again_from_the_start_changes_nothing(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    asserted = [org_a.assert_fact(f"item/{number}", "here") for number in range(5)]
    org_b.pull(org_a)
    before = org_b.node.facts()

    again = org_b.pull(org_a, from_start=True)

    assert (again["ingested"], again["refused"]) == (0, 0)
    assert again["known"] >= len(asserted)
    assert org_b.node.facts() == before


def test_the_facts_of_a_page_and_the_cursor_behind_them_are_one_event(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    asserted = [org_a.assert_fact(f"item/{number}", "here") for number in range(5)]
    cursor = org_b.pull(org_a)["cursor"]
    assert org_b.pull(org_a)["cursor"] == cursor
    assert org_b.pull(org_a, from_start=True)["cursor"] == cursor
    org_b.node.stop()

    batches = [entry for entry in read_log(org_b.node.data_dir) if entry.header["type"] == "batch.received.1"]

    assert len(batches) == 1
    parts = [json.loads(item.data) for _, item in sorted(batches[0].items.items())]
    assert [part["cursor"] for part in parts if "cursor" in part] == [cursor]
    assert ids_of(part["fact"] for part in parts if "fact" in part) == ids_of(asserted)


def test_a_page_is_served_once_for_each_signed_token_and_a_kill_forgets_none_of_them(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    asserted = org_a.assert_fact("item/1", "here")
    token = peer_token(org_b, org_a)

    page = org_a.node.get("/v1/federation/facts", bearer=token).expect(200)

    assert as_sent(page["facts"]) == as_sent([org_a.node.get(f"/v1/facts/{asserted['id']}").expect(200)])
    org_a.node.get("/v1/federation/facts", bearer=token).refused(401, "nonce_already_seen")
    org_a.node.kill()
    org_a.node.start()
    org_a.node.get("/v1/federation/facts", bearer=token).refused(401, "nonce_already_seen")
    assert org_a.node.get("/v1/federation/facts", bearer=peer_token(org_b, org_a)).expect(200) == page


def test_only_public_facts_travel_unless_more_was_granted(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    public = org_a.assert_fact("item/public", "here")
    for scope in ("company", "team", "local"):
        org_a.assert_fact(f"item/{scope}", "here", scope=scope)

    org_b.pull(org_a)

    assert items(org_b) == [public["id"]]
    assert len(items(org_a)) == 4


def test_both_directions_replicate(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    from_a, from_b = org_a.assert_fact("item/1", "here"), org_b.assert_fact("item/1", "there")

    org_a.pull(org_b)
    org_b.pull(org_a)

    assert items(org_a) == items(org_b) == ids_of([from_a, from_b])


def test_the_pull_loop_brings_facts_without_being_asked(make_organisation):
    org_a, org_b = (
        make_organisation(name, TRUST_MODE="relaxed", FEDERATION_PULL_INTERVAL_S="1") for name in ("org-a", "org-b")
    )
    start_together(org_a, org_b)
    federate(org_a, org_b)

    asserted = org_a.assert_fact("item/1", "here")

    eventually(lambda: items(org_b) == [asserted["id"]], within_s=10, what="org B has the fact")


def test_a_subscriber_killed_after_a_pull_goes_on_from_its_cursor(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    first = [org_a.assert_fact(f"item/{number}", "here") for number in range(3)]
    cursor = org_b.pull(org_a)["cursor"]

    org_b.node.kill()
    org_b.node.start()
    await_active((org_b, org_a))
    resumed = org_b.pull(org_a)

    assert (resumed["ingested"], resumed["known"], resumed["cursor"]) == (0, 0, cursor)
    assert items(org_b) == ids_of(first)


def test_a_subscriber_killed_in_the_middle_of_a_pull_ends_with_every_fact_once(make_publisher_and_subscriber, long_run):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    asserted = assert_many(org_a, 3000 if long_run else 700)
    for _ in range(5 if long_run else 2):
        pulling = threading.Thread(target=pull_until_cut_off, args=(org_b, org_a))
        pulling.start()
        eventually(lambda: items(org_b), within_s=20, what="the first page has arrived")
        org_b.node.kill()
        pulling.join(timeout=20)
        org_b.node.start()
        await_active((org_b, org_a))

    org_b.pull(org_a)

    assert items(org_b) == asserted
    assert org_b.pull(org_a)["ingested"] == 0
    org_b.node.stop()
    assert org_b.node.verify_log().startswith("head ")


def pull_until_cut_off(subscriber: Organisation, publisher: Organisation, *, from_start: bool = True) -> None:
    # The connection breaks when the node is killed, at whatever step: that is the point of the test.
    with suppress(OSError, http.client.HTTPException):
        subscriber.pull(publisher, from_start=from_start)


def test_a_publisher_that_is_down_is_said_to_be_and_the_subscriber_serves_on(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    asserted = org_a.assert_fact("item/1", "here")
    peer_id = org_b.peer(org_a)["peer_id"]
    org_a.node.kill()

    org_b.node.post(f"/v1/federation/peers/{peer_id}/pull", {}).refused(503, "peer_unreachable")

    own = org_b.assert_fact("item/2", "here")
    assert items(org_b) == [own["id"]]
    org_a.node.start()
    org_b.pull(org_a)
    assert items(org_b) == ids_of([asserted, own])


def test_a_strict_node_without_a_quarantine_garden_pauses_and_loses_nothing(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("strict")
    asserted = [org_a.assert_fact(f"item/{number}", "here") for number in range(3)]
    peer_id = org_b.peer(org_a)["peer_id"]

    org_b.node.post(f"/v1/federation/peers/{peer_id}/pull", {}).refused(409, "quarantine_garden_required")

    assert org_b.peer(org_a)["reason"] == "quarantine_garden_required"
    assert (items(org_b), org_b.held()) == ([], [])
    org_b.hold_inbound_facts()
    org_b.pull(org_a)
    assert org_b.peer(org_a)["reason"] is None
    assert ids_of(org_b.held()) == ids_of(asserted)


def test_sigterm_ends_a_node_in_time_that_waits_for_a_peer_that_hangs(make_publisher_and_subscriber):
    org_a, org_b = make_publisher_and_subscriber("relaxed")
    org_a.node.process.send_signal(signal.SIGSTOP)
    pulling = threading.Thread(target=pull_until_cut_off, args=(org_b, org_a))
    pulling.start()
    # What the peer had asked for before it hung may come to the log first.
    served = org_b.assert_fact("item/1", "it serves on meanwhile")["log_offset"]

    org_b.node.stop()

    pulling.join(timeout=20)
    assert not pulling.is_alive()
    assert int(org_b.node.verify_log().split(":")[0].removeprefix("head ")) == served + 1
