"""stigmem-py 0.9.0a12, unchanged, against a real node: both clients, and of each every method that the node serves."""

from typing import Any
from uuid import uuid4

import pytest

from tests.clients.conftest import AGENT, NODE_ID, MakeSdk
from tests.clients.sdk import ClientRaised, Sdk
from tests.scenarios.nodes import RunningNode

GREEN, AMBER, RED = ({"type": "string", "v": word} for word in ("green", "amber", "red"))
STATUS = "memory:status"
UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
VALUES = {
    "a string": {"type": "string", "v": " padded, “quoted”\nand \U0001f680 "},
    "a long text": {"type": "text", "v": "It was so. " * 2000},
    "a whole number": {"type": "number", "v": 3},
    "a small number": {"type": "number", "v": 1e-9},
    "a negative number": {"type": "number", "v": -12.5},
    "true": {"type": "boolean", "v": True},
    "false": {"type": "boolean", "v": False},
    "a datetime": {"type": "datetime", "v": "2026-05-04T14:00:00+02:00"},
    "a URI": {"type": "ref", "v": "stigmem://org-b.example/user/Bob"},
    "a bare id": {"type": "ref", "v": UNKNOWN_ID},
    "an informal name": {"type": "ref", "v": "agent:cto"},
    "null": {"type": "null"},
}


def asserted(sdk: Sdk, entity: str, value: dict[str, Any] = GREEN, **options: object) -> dict[str, Any]:
    """Assert that the entity's status is so; what is not given is the client's own default."""
    return sdk("assert_fact", **{"entity": entity, "relation": STATUS, "value": value, "source": AGENT} | options)


def ids(page: dict[str, Any]) -> list[str]:
    return [fact["id"] for fact in page["facts"]]


def refused(sdk: Sdk, method: str, **arguments: object) -> ClientRaised:
    with pytest.raises(ClientRaised) as raised:
        sdk(method, **arguments)
    assert isinstance(raised.value.detail, str) and raised.value.detail
    assert raised.value.message == f"HTTP {raised.value.status_code}: {raised.value.detail}"
    return raised.value


def disputed(sdk: Sdk, entity: str, scope: str = "company") -> tuple[dict[str, Any], dict[str, Any], str]:
    """Two facts that contradict each other, and the contradiction's id."""
    first = asserted(sdk, entity, GREEN, scope=scope)
    second = asserted(sdk, entity, RED, scope=scope, source=f"{AGENT}/night-shift")
    [found] = [each for each in sdk("list_conflicts")["conflicts"] if each["fact_a"]["entity"] == entity]
    return first, second, found["conflict_id"]


# The node.


def test_the_node_says_who_it_is(make_sdk: MakeSdk, node: RunningNode, key: str):
    for sdk in (make_sdk(key), make_sdk()):
        info = sdk("node_info")

        assert (info["version"], info["node_id"], info["node_url"]) == ("1.0", NODE_ID, node.url)
        assert (info["auth"], info["federation"]) == ("required", "enabled")
        assert {"memory:", "intent:"} <= set(info["namespaces"])
        assert info["federation_endpoints"] == {
            "peers": "/v1/federation/peers",
            "facts": "/v1/federation/facts",
            "push": None,
        }


# Writing.


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_comes_back_as_it_was_asserted(sdk: Sdk, entity: str, value: dict[str, Any]):
    written = asserted(sdk, entity, value, confidence=0.85, scope="team")

    read = sdk("get", fact_id=written["id"])
    assert written["value"] == read["value"] == value
    assert (read["entity"], read["relation"], read["source"]) == (entity, STATUS, AGENT)
    assert (read["confidence"], read["scope"], read["contradicted"]) == (0.85, "team", False)
    assert (read["valid_until"], read["received_from"]) == (None, None)
    assert isinstance(read["timestamp"], str) and isinstance(read["hlc"], str)
    assert written["cid"] == sdk("verify_fact_cid", fact=written) == sdk("verify_fact_cid", fact=read)


@pytest.mark.parametrize("name", ["user:alice", "handoff:{}", "decision:2026-05-04/{}", "projects/ämter/{}"])
def test_an_informal_name_comes_back_as_it_was_sent(sdk: Sdk, name: str):
    name = name.format(uuid4())
    written = asserted(sdk, name, source="agent:cto")

    assert (written["entity"], written["source"]) == (name, "agent:cto")
    assert written["id"] in ids(sdk("query", entity=name, source="agent:cto", scope="company"))


def test_a_fact_names_what_it_was_made_from(sdk: Sdk, entity: str):
    parents = [asserted(sdk, f"{entity}/{number}") for number in range(2)]

    written = asserted(
        sdk,
        entity,
        write_mode="summarize_with_provenance",
        derived_from=[{"fact_id": parent["id"]} for parent in parents],
        session_id="a session of the tests",
    )

    assert written["derived_from"] == [parent["id"] for parent in parents]


def test_a_fact_is_written_into_a_scope_that_was_read_in_the_same_session(sdk: Sdk, entity: str):
    asserted(sdk, entity, session_id="s-1")
    sdk("query", entity=entity, scope="company", session_id="s-1")

    assert asserted(sdk, entity, AMBER, session_id="s-1")["value"] == AMBER


def test_a_retraction_takes_back_all_that_its_source_said(sdk: Sdk, entity: str):
    for value in (GREEN, AMBER):
        asserted(sdk, entity, value)
    asserted(sdk, entity, RED, source=f"{AGENT}/night-shift")

    retraction = sdk("retract", entity=entity, relation=STATUS, scope="company", source=AGENT)

    assert (retraction["confidence"], retraction["value"]) == (0.0, {"type": "string", "v": "retracted"})
    [left] = sdk("query", entity=entity, include_contradicted=True)["facts"]
    assert (left["value"], left["contradicted"]) == (RED, False)


def test_a_retraction_of_one_value_leaves_the_others(sdk: Sdk, entity: str):
    asserted(sdk, entity, GREEN)
    asserted(sdk, entity, AMBER)

    sdk("retract", entity=entity, relation=STATUS, scope="company", source=AGENT, value=AMBER)

    assert [fact["value"] for fact in sdk("query", entity=entity)["facts"]] == [GREEN]


# Reading.


def test_a_fact_is_found_by_its_id_and_by_its_cid(sdk: Sdk, entity: str):
    written = asserted(sdk, entity, scope="public")

    by_id = sdk("get", fact_id=written["id"], session_id="s-1")
    by_cid = sdk("get", fact_id=written["cid"])

    assert by_id == by_cid
    assert {name: by_id[name] for name in ("id", "cid", "hlc", "timestamp")} == {
        name: written[name] for name in ("id", "cid", "hlc", "timestamp")
    }


@pytest.mark.parametrize("scope", ["local", "team", "company", "public"])
def test_a_scope_is_asked_for(sdk: Sdk, entity: str, scope: str):
    written = {each: asserted(sdk, entity, scope=each)["id"] for each in ("local", "team", "company", "public")}

    page = sdk("query", entity=entity, scope=scope)

    assert ids(page) == [written[scope]]
    assert (page["total"], page["cursor"]) == (1, None)
    assert ids(sdk("query", entity=entity)) == list(reversed(written.values()))


def test_every_filter_narrows_what_is_found(sdk: Sdk, entity: str):
    status = asserted(sdk, entity, confidence=0.9)["id"]
    sure = asserted(sdk, entity, relation="memory:owner", source="agent:cto")["id"]
    vague = asserted(sdk, entity, relation="memory:guess", confidence=0.3)["id"]
    asserted(sdk, f"{entity}/other")

    def found(**filters: object) -> set[str]:
        page = sdk("query", **{"entity": entity} | filters)
        assert page["total"] == len(page["facts"])
        return set(ids(page))

    assert found() == {status, sure, vague}
    assert found(relation=STATUS) == {status}
    assert found(source="agent:cto") == {sure}
    assert found(min_confidence=0.9) == {status, sure}
    assert found(min_confidence=0.0, relation="memory:guess") == {vague}
    assert found(scope="local") == found(relation="memory:nothing") == found(entity=f"{entity}/nobody") == set()


def test_only_what_came_later_than_a_time_is_found(sdk: Sdk, entity: str):
    earlier = asserted(sdk, entity, GREEN)
    later = asserted(sdk, entity, AMBER, relation="memory:mood")

    assert set(ids(sdk("query", entity=entity, after="2026-01-01T00:00:00Z"))) >= {earlier["id"], later["id"]}
    assert later["id"] not in ids(sdk("query", entity=entity, after=later["timestamp"]))
    assert ids(sdk("query", entity=entity, after="2999-01-01T00:00:00+01:00")) == []


def test_what_has_expired_is_found_only_where_it_is_asked_for(sdk: Sdk, entity: str):
    gone = asserted(sdk, entity, valid_until="2026-01-01T00:00:00Z")
    still = asserted(sdk, entity, relation="memory:owner", valid_until="2999-12-31T23:59:59+00:00")

    assert ids(sdk("query", entity=entity)) == [still["id"]]
    assert ids(sdk("query", entity=entity, include_expired=True)) == [still["id"], gone["id"]]
    assert still["valid_until"] == "2999-12-31T23:59:59.000Z"


def test_of_contradicting_facts_the_winner_is_found_and_both_where_both_are_asked_for(sdk: Sdk, entity: str):
    first = asserted(sdk, entity, GREEN, confidence=0.6)
    second = asserted(sdk, entity, RED, confidence=0.9, source="agent:cto")

    [shown] = sdk("query", entity=entity)["facts"]
    both = sdk("query", entity=entity, include_contradicted=True)

    assert (shown["id"], shown["contradicted"]) == (second["id"], True)
    assert ids(both) == [second["id"], first["id"]]
    assert (both["total"], [fact["contradicted"] for fact in both["facts"]]) == (2, [True, True])


def test_pages_follow_one_another_and_the_last_has_no_cursor(sdk: Sdk, entity: str):
    written = [asserted(sdk, f"{entity}/{number}", relation=f"memory:{entity[-36:]}")["id"] for number in range(7)]
    found, sizes, cursor = [], [], None

    while cursor is not None or not sizes:
        page = sdk("query", relation=f"memory:{entity[-36:]}", limit=3, cursor=cursor)
        found, sizes, cursor = found + ids(page), [*sizes, len(page["facts"])], page["cursor"]
        assert page["total"] == 7
        # What comes in meanwhile moves nothing.
        asserted(sdk, f"{entity}/{uuid4()}", relation=f"memory:{entity[-36:]}")

    assert (found, sizes) == (written[::-1], [3, 3, 1])


def test_a_scope_is_watched(sdk: Sdk, entity: str, node: RunningNode):
    sdk.begin("subscribe_scope", scope="team", batches=2)
    body = {"entity": entity, "relation": STATUS, "value": GREEN, "source": AGENT, "scope": "team"}
    written = node.post("/v1/facts", body).expect(201)
    first, second = sdk.result()

    assert {fact["scope"] for fact in first + second} == {"team"}
    # It begins again at the newest fact after the last page.
    asserted(sdk, f"{entity}/again", scope="team")
    [newest] = sdk("subscribe_scope", scope="team", batches=1)
    assert [fact["entity"] for fact in newest[:2]] == [f"{entity}/again", entity]
    assert newest[1]["id"] == written["id"]


# Contradictions.


def test_a_contradiction_is_listed_with_both_of_its_facts(sdk: Sdk, entity: str):
    first, second, conflict_id = disputed(sdk, entity)

    [found] = [each for each in sdk("list_conflicts")["conflicts"] if each["conflict_id"] == conflict_id]

    assert conflict_id.startswith("stigmem:conflict:")
    assert (found["status"], found["resolved_by"]) == ("unresolved", None)
    assert isinstance(found["detected_at"], str)
    sides = {side["id"]: side for side in (found["fact_a"], found["fact_b"])}
    assert {side: fact["value"] for side, fact in sides.items()} == {first["id"]: GREEN, second["id"]: RED}
    assert all(side["contradicted"] for side in sides.values())


def test_pages_of_contradictions_follow_one_another(sdk: Sdk, entity: str):
    disputes = [disputed(sdk, f"{entity}/{number}")[2] for number in range(3)]
    found, cursor, has_more = [], None, True

    while has_more:
        page = sdk("list_conflicts", status=None, limit=2, cursor=cursor)
        found += [each["conflict_id"] for each in page["conflicts"]]
        cursor, has_more = page["cursor"], page["has_more"]
        assert (cursor is not None) is has_more

    assert found[:3] == disputes[::-1]
    assert len(found) == len(set(found))


def test_a_contradiction_is_resolved_by_one_of_its_facts_and_only_once(sdk: Sdk, entity: str):
    first, second, conflict_id = disputed(sdk, entity)

    resolution = sdk(
        "resolve_conflict", conflict_id=conflict_id, winning_fact_id=first["id"], resolution_note="asked the owner"
    )

    assert resolution["conflict_status"] == "resolved"
    settled = sdk("get", fact_id=resolution["resolution_fact_id"])
    assert (settled["entity"], settled["relation"], settled["value"]) == (entity, STATUS, GREEN)
    assert (settled["confidence"], settled["contradicted"]) == (1.0, False)
    assert ids(sdk("query", entity=entity)) == [settled["id"]]
    assert set(ids(sdk("query", entity=entity, include_contradicted=True))) >= {first["id"], second["id"]}
    [found] = [
        each for each in sdk("list_conflicts", status="resolved")["conflicts"] if each["conflict_id"] == conflict_id
    ]
    assert (found["status"], found["resolved_by"]) == ("resolved", settled["id"])
    assert conflict_id not in {each["conflict_id"] for each in sdk("list_conflicts")["conflicts"]}
    again = refused(sdk, "resolve_conflict", conflict_id=conflict_id, winning_fact_id=second["id"])
    assert (again.kind, again.status_code) == ("StigmemConflictError", 409)


def test_a_contradiction_is_resolved_by_a_value_of_its_own(sdk: Sdk, entity: str):
    *_, conflict_id = disputed(sdk, entity)

    resolution = sdk("resolve_conflict", conflict_id=conflict_id, new_value=AMBER)

    assert [fact["value"] for fact in sdk("query", entity=entity)["facts"]] == [AMBER]
    assert sdk("get", fact_id=resolution["resolution_fact_id"])["value"] == AMBER


def test_a_resolution_needs_a_winner_of_that_contradiction(sdk: Sdk, entity: str):
    *_, conflict_id = disputed(sdk, entity)
    foreign = asserted(sdk, f"{entity}/other")

    for arguments in ({}, {"winning_fact_id": foreign["id"]}, {"winning_fact_id": UNKNOWN_ID}):
        raised = refused(sdk, "resolve_conflict", conflict_id=conflict_id, **arguments)
        assert (raised.kind, raised.status_code) == ("StigmemHTTPError", 422)


# Federation.


def test_peers_are_listed_with_words_that_the_client_knows(sdk: Sdk, node: RunningNode):
    node_id = f"stigmem://{uuid4()}.example"
    body = {"peer_url": "http://localhost:1", "peer_entity_uri": node_id, "allowed_scopes": ["public", "company"]}
    registered = node.post("/v1/federation/peers", body).expect(201)

    [peer] = [each for each in sdk("federation_status") if each["node_id"] == node_id]

    assert (peer["peer_id"], peer["node_url"]) == (registered["peer_id"], "http://localhost:1")
    assert (peer["status"], peer["established_at"]) == ("pending_verification", None)
    assert set(peer["allowed_scopes"]) == {"public", "company"}


# What the client raises.


def test_a_credential_that_nobody_knows_and_none_at_all_are_errors_of_authentication(make_sdk: MakeSdk, entity: str):
    for sdk in (make_sdk("sk_" + "x" * 43), make_sdk()):
        for method, arguments in (("query", {}), ("get", {"fact_id": UNKNOWN_ID}), ("federation_status", {})):
            raised = refused(sdk, method, **arguments)
            assert (raised.kind, raised.status_code) == ("StigmemAuthError", 401)


def test_a_source_of_somebody_else_is_an_error_of_authentication(sdk: Sdk, entity: str):
    for source in (f"{NODE_ID}/agent/other", f"{AGENT}2", "user:alice", "system:stigmem"):
        raised = refused(sdk, "assert_fact", entity=entity, relation=STATUS, value=GREEN, source=source)

        assert (raised.kind, raised.status_code) == ("StigmemAuthError", 403)
        assert "source" in raised.detail
    assert sdk("query", entity=entity)["facts"] == []


def test_a_key_that_may_not_do_it_is_an_error_of_authentication(make_sdk: MakeSdk, node: RunningNode, entity: str):
    stated = {"entity_uri": AGENT, "permissions": ["read"], "allowed_scopes": ["public"]}
    reader = make_sdk(node.post("/v1/auth/keys", stated).expect(201)["raw_key"])
    hidden = node.post("/v1/facts", {"entity": entity, "relation": STATUS, "value": GREEN, "source": AGENT}).expect(201)

    raised = refused(reader, "assert_fact", entity=entity, relation=STATUS, value=GREEN, source=AGENT, scope="public")

    assert (raised.kind, raised.status_code) == ("StigmemAuthError", 403)
    assert reader("query", entity=entity) == {"facts": [], "total": 0, "cursor": None}
    assert refused(reader, "get", fact_id=hidden["id"]).kind == "StigmemNotFoundError"


def test_what_is_not_there_is_an_error_of_its_own(sdk: Sdk):
    for method, arguments in (
        ("get", {"fact_id": UNKNOWN_ID}),
        ("get", {"fact_id": "sha256:" + "0" * 64}),
        ("resolve_conflict", {"conflict_id": f"stigmem:conflict:{UNKNOWN_ID}", "winning_fact_id": UNKNOWN_ID}),
    ):
        raised = refused(sdk, method, **arguments)
        assert (raised.kind, raised.status_code) == ("StigmemNotFoundError", 404), method


def test_what_cannot_be_taken_is_an_error_with_words(sdk: Sdk, entity: str):
    fact = {"entity": entity, "relation": STATUS, "value": GREEN, "source": AGENT}
    wrong = {"confidence": 1.5, "valid_until": "tomorrow", "entity": "stigmem://", "write_mode": "guess"}

    for name, value in wrong.items():
        raised = refused(sdk, "assert_fact", **fact | {name: value})
        assert (raised.kind, raised.status_code) == ("StigmemHTTPError", 422)
        assert name in raised.detail
    assert (refused(sdk, "query", limit=0).kind, refused(sdk, "query", cursor="x").status_code) == (
        "StigmemHTTPError",
        400,
    )


def test_what_is_not_served_yet_is_not_found(sdk: Sdk, entity: str):
    for method, arguments in (("recall", {"query": "what now"}), ("get_card", {"entity_uri": entity})):
        raised = refused(sdk, method, **arguments)
        assert (raised.kind, raised.status_code) == ("StigmemNotFoundError", 404)
