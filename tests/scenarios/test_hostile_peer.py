"""The seed's §11.2 and §11.4: a peer whose key was stolen, and tokens that are used again."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from node.events.log import Log
from node.projections.views import Views
from tests.scenarios.nodes import Answer, eventually
from tests.scenarios.organisations import (
    Organisation,
    await_first_pulls,
    federate,
    openssl,
    peer_token,
    start_together,
)

PULL = "/v1/federation/facts"
PUSH = "/v1/federation/facts/push"
COPIES = 32
# What a push of which nothing is taken must leave as it was; what is not there yet counts as the same.
UNMOVED = ("facts", "conflicts", "gardens", "tokens", "peers")


@pytest.fixture
def make_pair(make_organisation):
    """Org A, and org B as its peer for public facts; org B's node is gone, and its key is in the attacker's hands."""

    def make(**settings: str) -> tuple[Organisation, Organisation]:
        settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600"} | settings
        org_a = make_organisation("org-a", FEDERATION_PUSH_ENABLED="true", **settings)
        org_b = make_organisation("org-b", **settings)
        start_together(org_a, org_b)
        federate(org_a, org_b)
        await_first_pulls(org_a, org_b)
        org_b.node.stop()
        return org_a, org_b

    return make


def pushed_fact(org_b: Organisation, **changes: Any) -> dict[str, Any]:
    stated = org_b.fact("project/zeus", "blue") | {"id": str(uuid.uuid4()), "timestamp": "2026-05-04T12:00:00.000Z"}
    return stated | changes


def push(org_a: Organisation, org_b: Organisation, *facts: dict[str, Any], token: str | None = None) -> Answer:
    bearer = token or peer_token(org_b, org_a)
    return org_a.node.post(PUSH, {"facts": list(facts), "sender_hlc": "1777896000000.000"}, bearer=bearer)


def audited(org: Organisation, **query: str) -> list[dict[str, Any]]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return org.node.get(f"/v1/federation/audit?{asked}").expect(200)["events"]


def folded(org: Organisation, *sizes: int) -> list[dict[str, str]]:
    """The digests of the tables that must not move, after each of these sizes of the stopped node's log."""
    log, views = Log(org.node.data_dir / "log", is_readonly=True), Views(org.node.folder / "folded-anew")
    digests = []
    for size in sizes:
        views.fold_forward(log, size)
        digests.append({name: digest for name, digest in views.digests().items() if name in UNMOVED})
    views.close()
    log.close()
    return digests


def test_a_malicious_peer_is_refused_audited_and_leaves_everything_as_it_was(make_pair):
    org_a, org_b = make_pair(FEDERATION_NONCE_WINDOW_S="3")
    peer_id = org_a.peer(org_b)["peer_id"]
    captured, known = peer_token(org_b, org_a), pushed_fact(org_b)
    assert push(org_a, org_b, known, token=captured).expect(202)["accepted"] == 1
    size = org_a.node.log_size()

    # 3, within the window.
    push(org_a, org_b, pushed_fact(org_b), token=captured).refused(401, "nonce_already_seen")
    [replay] = audited(org_a, event_type="replay_attempt")
    assert (replay["reason"], replay["peer_id"]) == ("nonce_already_seen", peer_id)

    # 1.
    wide = pushed_fact(org_b, scope="company")
    push(org_a, org_b, wide).refused(403, "scope_violation")
    [violation] = audited(org_a, event_type="scope_violation", peer_id=peer_id)
    assert (violation["fact_id"], violation["peer_id"]) == (wide["id"], peer_id)

    # 2.
    sources = [
        "stigmem://node-c/user/alice",
        "stigmem://org-b.example.evil/x",
        "stigmem://org-bb.example/x",
        "stigmem://org-b.example/../org-a.example/x",
        "stigmem://\u043erg-b.example/x",
        org_a.entity_uri,
        org_a.assistant,
        "system:stigmem",
    ]
    forged = [pushed_fact(org_b, source=source) for source in sources]
    for fact in forged:
        push(org_a, org_b, fact).refused(403, "source_not_owned")
    told = audited(org_a, event_type="rejected_fact", peer_id=peer_id)
    assert [(line["fact_id"], line["reason"]) for line in told] == [
        (fact["id"], "source_not_owned") for fact in reversed(forged)
    ]

    # 3, outside the window; of a fact that is known, so that nothing is to be moved by it either.
    answer = eventually(
        lambda: push(org_a, org_b, known, token=captured),
        lambda answer: answer.status != 401,
        within_s=10,
        what="the nonce is forgotten",
    )
    assert answer.expect(202) == {"accepted": 1, "rejected": 0, "errors": []}

    assert [fact["id"] for fact in org_a.node.facts()] == [known["id"]]
    end = org_a.node.log_size()
    org_a.node.stop()
    before, after = folded(org_a, size, end)
    assert before == after
    assert before.keys() >= {"facts", "gardens", "tokens", "peers"}
    org_a.node.verify_log()


def test_of_a_mixed_push_each_fact_is_judged_alone(make_pair):
    org_a, org_b = make_pair()
    good, late = pushed_fact(org_b), pushed_fact(org_b, relation="memory:owner")
    wide, forged = pushed_fact(org_b, scope="company"), pushed_fact(org_b, source=org_a.assistant)

    answer = push(org_a, org_b, good, wide, forged, late).expect(202)

    assert answer == {
        "accepted": 2,
        "rejected": 2,
        "errors": [
            {"fact_id": wide["id"], "error": "scope_violation"},
            {"fact_id": forged["id"], "error": "source_not_owned"},
        ],
    }
    assert {fact["id"] for fact in org_a.node.facts()} == {good["id"], late["id"]}


def use_together(org_a: Organisation, token: str) -> list[Answer]:
    """The answers to many pulls with one token, sent at the same moment."""
    with ThreadPoolExecutor(COPIES) as pool:
        return list(pool.map(lambda _: org_a.node.get(PULL, bearer=token), range(COPIES)))


def test_a_token_serves_once_whoever_copies_it_and_whatever_dies(make_pair):
    org_a, org_b = make_pair()
    org_a.assert_fact("item/1", "here")
    nonce, now_ms = str(uuid.uuid4()), time.time_ns() // 1_000_000
    token = peer_token(org_b, org_a, nonce=nonce)

    # 1 to 4 of the seed.
    assert len(org_a.node.get(PULL, bearer=token).expect(200)["facts"]) == 1
    org_a.node.get(PULL, bearer=token).refused(401, "nonce_already_seen")
    again = peer_token(org_b, org_a, nonce=nonce, iat=now_ms + 1, exp=now_ms + 600_000)
    org_a.node.get(PULL, bearer=again).refused(401, "nonce_already_seen")
    expired = peer_token(org_b, org_a, iat=now_ms - 600_000, exp=now_ms - 300_000)
    org_a.node.get(PULL, bearer=expired).refused(401, "token_expired")
    assert [line["reason"] for line in audited(org_a, event_type="replay_attempt")] == ["nonce_already_seen"] * 2

    raced = peer_token(org_b, org_a)
    answers = use_together(org_a, raced)
    assert sorted(answer.status for answer in answers) == [200] + [401] * (COPIES - 1)
    assert {answer.json["error"] for answer in answers if answer.status == 401} == {"nonce_already_seen"}

    org_a.node.kill()
    org_a.node.start()
    for used in (token, again, raced):
        org_a.node.get(PULL, bearer=used).refused(401, "nonce_already_seen")
    assert {answer.status for answer in use_together(org_a, raced)} == {401}
    assert sorted(answer.status for answer in use_together(org_a, peer_token(org_b, org_a))) == [200] + [401] * 31


def test_what_is_no_token_of_the_peer_s_is_refused_and_nothing_is_carried_out(make_pair, tmp_path):
    org_a, org_b = make_pair()
    size, fact = org_a.node.log_size(), pushed_fact(org_b)
    openssl("genpkey", "-algorithm", "Ed25519", "-out", tmp_path / "another.key")
    header = {"alg": "EdDSA", "typ": "JWT"}
    good = peer_token(org_b, org_a)
    forged = [
        *(peer_token(org_b, org_a, header | {"alg": alg}) for alg in ("none", "HS256", "ES256", "eddsa", "")),
        peer_token(org_b, org_a, header | {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}}),
        peer_token(org_b, org_a, header | {"jku": "http://localhost:1/keys", "kid": "../../x"}),
        peer_token(org_b, org_a, ["EdDSA"]),
        *(
            peer_token(org_b, org_a, **{claim: wrong})
            for claim in ("iss", "sub", "iat", "exp", "scopes")
            for wrong in (None, [1], {"a": 1}, 1.5, True)
        ),
        good.rpartition(".")[0] + ".",
        good[:-8],
        good + ".AAAA",
        "..",
        "a.b.c",
    ]

    for token in forged:
        answer = push(org_a, org_b, fact, token=token)
        assert (answer.status, answer.json["error"]) in ((401, "malformed_token"), (401, "invalid_signature")), token

    assert org_a.node.log_size() == size
    assert push(org_a, org_b, fact, token=good).expect(202)["accepted"] == 1


def test_a_push_where_none_are_taken_is_refused_before_anything_else(make_organisation):
    org_a = make_organisation("org-a", TRUST_MODE="relaxed")
    org_a.node.start()

    for bearer in (None, "x", org_a.node.client().bearer):
        org_a.node.send("POST", PUSH, b"{", bearer).refused(405, "push_disabled")


def test_new_facts_are_pushed_both_ways_and_pulls_find_them_known(make_organisation):
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600", "FEDERATION_PUSH_ENABLED": "true"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    await_first_pulls(org_a, org_b)
    for one, other in ((org_a, org_b), (org_b, org_a)):
        path = f"/v1/federation/peers/{one.peer(other)['peer_id']}/capabilities"
        eventually(
            lambda one=one, path=path: one.node.get(path).expect(200)["push_url"],
            within_s=20,
            what=f"{one.name} knows where to push to {other.name}",
        )

    written = {org.assert_fact(f"item/{n}", "here")["id"] for org in (org_a, org_b) for n in range(10)}
    for org in (org_a, org_b):
        eventually(
            lambda org=org: sorted(fact["id"] for fact in org.node.facts()),
            lambda ids: ids == sorted(written),
            within_s=10,
            what=f"{org.name} has every fact once",
        )

    for one, other in ((org_a, org_b), (org_b, org_a)):
        cycle = one.pull(other)
        assert (cycle["ingested"], cycle["known"], cycle["refused"]) == (0, 10, 0)
        assert len(one.node.facts()) == 20
