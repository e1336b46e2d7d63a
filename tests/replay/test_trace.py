"""`replay audit --trace`: one fact's whole life, with the proof of each step; checked by RFC 6962 as somebody else wrote it."""

from pathlib import Path
from typing import Any, get_args

import pytest
from rdflib import Graph, Literal, Namespace, URIRef

from node.events.facts import Fact, FactAsserted, FactsSealed, Seal
from node.events.gardens import FactPromoted
from node.events.peers import PageServed, PushReceived, Receipt, Receipts
from replay.prov import TERMS
from replay.trace_report import WORDS
from replay.trace_steps import Verb
from tests.events.logs import write_log
from tests.events.samples import FORGET_MS, QUARANTINE_ID, samples
from tests.independent.merkle import check_inclusion
from tests.replay.folders import REPOSITORY
from tests.replay.sound import sound_fact
from tests.replay.story import ATLAS, BOT, ORG_A, ORG_B, Story, lines, live_through, told

PROV, STIGMEM = Namespace("http://www.w3.org/ns/prov#"), Namespace(TERMS)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return live_through(tmp_path_factory.mktemp("story"))


def traced(data_dir: Path, name: str) -> list[dict[str, Any]]:
    return lines(data_dir, "--trace", name)


def steps(records: list[dict[str, Any]], origin: str = ORG_A) -> list[tuple[int, str]]:
    """Offset and verb of each step of the fact of one origin."""
    return [
        (record["offset"], record["step"]["verb"])
        for record in records
        if record["record"] == "step" and record["fact"] is not None and record["fact"]["origin"] == origin
    ]


def test_every_step_has_its_words_and_is_on_its_page():
    page = (REPOSITORY / "docs" / "audit.md").read_text().partition("## `stigmem replay audit --trace FACT`")[2]

    assert set(WORDS) == set(get_args(Verb))
    assert {verb for verb in get_args(Verb) if f"`{verb}`" not in page} == set()


def test_a_held_fact_is_followed_from_its_token_to_its_admission_and_beyond(story: Story):
    said, held, admitted, revoked, standing = traced(story.a, story.id("held"))

    assert (said["record"], said["entity"], said["source"], said["value"]["v"]) == ("fact", ATLAS, BOT, "active")
    assert said["attestation_chain_issuers"] == [ORG_B] and said["attestation_verified"] == [True]
    assert (held["offset"], held["step"]["verb"]) == (story.offsets["held"], "written_and_held")
    assert held["actor"]["credential"] == story.names["token"] == held["step"]["token"]["token_id"]
    assert (held["step"]["token"]["subject"], held["step"]["token"]["issued_by"]) == (BOT, ORG_A)
    assert held["step"]["token"]["issued_offset"] < held["offset"]
    assert held["step"]["reason"] == "auto-quarantine: source_trust below threshold (t=0.15)"
    assert held["step"]["judgement"] == {
        "t": 0.15,
        "identity": 1,
        "history": 0.5,
        "scope_authority": 1,
        "attestation": 1,
        "weights": [0.35, 0.3, 0.25, 0.1],
        "rule": "first_contact",
        "mode": "strict",
        "threshold": 0.2,
    }
    assert (admitted["step"]["verb"], admitted["actor"]["via"], admitted["step"]["reason"]) == (
        "admitted",
        "admin",
        "known to us",
    )
    assert (revoked["offset"], revoked["step"]["verb"]) == (story.offsets["revoked"], "token_revoked")
    assert (standing["record"], standing["status"]) == ("standing", "stands")


def test_a_contradiction_is_told_with_the_other_fact_and_with_who_ended_it(story: Story):
    records = traced(story.a, story.id("up"))
    contradicted, aside, resolved = (
        next(r for r in records if r["record"] == "step" and r["step"]["verb"] == verb)
        for verb in ("contradicted", "put_aside", "contradiction_resolved")
    )

    assert (contradicted["offset"], contradicted["step"]["by"]["id"]) == (
        story.offsets["contradicted"],
        story.id("down"),
    )
    assert contradicted["step"]["by"]["value"]["v"] == "down"
    assert aside["offset"] == resolved["offset"] == story.offsets["resolved"]
    assert aside["step"]["by"]["id"] == resolved["step"]["by"]["id"] == story.id("resolution")
    assert resolved["step"]["conflict_id"] == story.names["conflict"]


def test_what_peers_were_given_is_told_as_far_as_it_follows_from_what_they_asked(story: Story):
    records = traced(story.a, story.id("up"))
    first = story.offsets["first_page"]

    # A page of one fact held the older one; the newer was in the second, and then the cursor lay behind it.
    assert [step for step in steps(records) if step[0] >= first] == [(first, "in_page"), (first + 1, "given")]
    down = [step for step in steps(traced(story.a, story.id("resolution"))) if step[0] >= first]
    assert down == [(first + 1, "in_page"), (first + 2, "given")]
    in_page = next(r for r in records if r["record"] == "step" and r["step"]["verb"] == "in_page")
    assert in_page["step"]["peer"] == ORG_B and in_page["step"]["scopes"] == ["public", "company"]


def test_a_fact_that_may_not_travel_was_given_to_nobody(story: Story):
    assert {verb for _, verb in steps(traced(story.a, story.id("held")))}.isdisjoint(
        {"in_page", "given", "became_servable"}
    )


def test_an_id_that_two_origins_use_has_two_lives(story: Story):
    records = traced(story.a, story.id("up"))

    assert [r["origin"] for r in records if r["record"] == "fact"] == [ORG_A, ORG_B]
    assert steps(records, ORG_B) == [(story.offsets["batch"], "received_and_held")]
    assert [r["status"] for r in records if r["record"] == "standing"] == ["put_aside", "held"]


def test_what_was_received_is_told_with_the_peer_and_the_cursor(story: Story):
    (_, received, _) = traced(story.a, story.facts["taken"]["id"])

    assert (received["step"]["verb"], received["step"]["peer"]) == ("received_and_held", ORG_B)
    assert received["step"]["cursor"] == "c-2" and received["step"]["judgement"]["history"] == 0.3


def test_the_same_fact_is_traced_at_the_node_that_received_it(story: Story):
    records = traced(story.b, story.id("up"))

    assert [verb for _, verb in steps(records)] == [
        "received",
        "put_aside",
        "contradicted",
        "contradiction_resolved",
        "became_servable",
    ]


def test_what_was_refused_is_told_though_it_is_not_here(story: Story):
    (refused,) = traced(story.a, story.facts["refused"]["id"])

    assert (refused["fact"], refused["offset"]) == (None, story.offsets["batch"])
    assert refused["step"]["verb"] == "refused" and "source_not_owned" in refused["step"]["reason"]


def test_what_was_countersigned_is_found_by_its_hash_at_the_node_that_signed(story: Story):
    (countersigned,) = traced(story.b, traced(story.a, story.id("held"))[0]["fact_hash"])

    assert countersigned["step"]["verb"] == "countersigned"
    assert (countersigned["step"]["peer"], countersigned["step"]["token"]["token_id"]) == (ORG_A, story.names["token"])


def test_supersession_retraction_and_descent_are_told_on_both_sides(story: Story):
    old, new = steps(traced(story.a, story.id("old"))), steps(traced(story.a, story.id("new")))
    at = {name: story.facts[name]["log_offset"] for name in ("old", "new", "child", "retraction")}

    assert old == [(at["old"], "written"), (at["new"], "superseded"), (at["child"], "derived_from_it")]
    assert new == [(at["new"], "written"), (at["new"], "withdrew"), (at["retraction"], "retracted")]


def test_a_rejected_fact_ends_with_its_rejection(story: Story):
    records = traced(story.a, story.id("rejected"))

    assert (story.offsets["admitted"] + 1, "rejected") in steps(records)
    assert records[-1]["status"] == "rejected"


def test_a_fact_is_found_by_its_cid_and_by_its_hash_too(story: Story):
    by_id = traced(story.a, story.id("down"))
    said = by_id[0]

    assert traced(story.a, said["cid"]) == traced(story.a, said["fact_hash"]) == by_id
    assert traced(story.a, said["cid"].removeprefix("sha256:")) == traced(story.a, story.id("down").upper()) == by_id


def test_each_step_s_proof_leads_to_the_head(story: Story):
    records = traced(story.a, story.id("up"))
    head = told(story.a, "verify").last_line.removeprefix("head ")

    for proof in (record["proof"] for record in records if record["record"] == "step"):
        hashes = [bytes.fromhex(text) for text in proof["hashes"]]
        leaf, root = bytes.fromhex(proof["leaf_hash"]), bytes.fromhex(proof["root_hash"])
        assert check_inclusion(leaf, proof["log_index"], proof["tree_size"], hashes, root)
        assert f"{proof['tree_size']}:{proof['root_hash']}" == head
    standing = records[-1]
    assert f"{standing['size']}:{standing['root']}" == head


def test_the_report_tells_trust_term_by_term_and_shows_no_escape(story: Story):
    held, taken = (told(story.a, "audit", "--trace", story.facts[name]["id"]).stdout for name in ("held", "taken"))

    assert "trust 0.15, first contact: the history term alone counts; threshold 0.2, mode strict" in held
    assert "history          0.5 x weight 0.3" in held
    assert "admitted by the admin key: known to us" in held and "at the head: stands" in held
    assert "\\x1b]0;title\\x07\\x1b[2J\\x9b31mred\\u202e\\x0d\\x0aroot\\\\x1b" in taken
    assert [character for character in "\x1b\x07\x9b\u202e\r" if character in taken] == []


def test_a_trace_is_a_provenance_graph(story: Story):
    written = told(story.a, "audit", "--trace", story.id("up"), "--format", "prov").stdout
    graph = Graph().parse(data=written, format="json-ld")
    up = URIRef(f"urn:stigmem:fact:{ORG_A.replace(':', '%3A').replace('/', '%2F')}:{story.id('up')}")

    entries = {line["offset"]: URIRef(f"urn:stigmem:entry:{line['leaf_hash']}") for line in lines(story.a)}
    assert set(graph.objects(up, PROV.wasGeneratedBy)) == {entries[story.facts["up"]["log_offset"]]}
    assert set(graph.objects(up, PROV.wasInvalidatedBy)) == {entries[story.offsets["resolved"]]}
    assert set(graph.objects(up, STIGMEM.status)) == {Literal("put_aside")}
    assert up in set(graph.objects(entries[story.offsets["first_page"]], PROV.used))
    assert {str(iri) for iri in graph.subjects(STIGMEM.rootHash, None)} <= {str(iri) for iri in entries.values()}


def test_a_fact_sealed_later_becomes_servable_with_its_seal(tmp_path: Path):
    plain = sound_fact(1, seal=None, scope="public")
    seal = FactsSealed(origin=plain.origin, seals=(Seal(fact_id=plain.id, seal="c2VhbA"),))
    write_log(tmp_path, [samples()[0], FactAsserted(judgement=None, fact=plain), seal])

    assert steps(traced(tmp_path, plain.id)) == [(1, "written"), (2, "sealed"), (2, "became_servable")]


def test_a_cursor_of_another_log_and_a_peer_that_is_none_prove_nothing(tmp_path: Path):
    shown = sound_fact(1, scope="public")
    served = PageServed(node_id=ORG_B, nonce="n", forget_ms=FORGET_MS, scope=None, cursor="AAAA", limit=10)
    write_log(tmp_path, [samples()[0], FactAsserted(judgement=None, fact=shown), served])

    assert steps(traced(tmp_path, shown.id)) == [(1, "written"), (1, "became_servable")]


def test_an_unknown_fact_is_one_line_and_exit_code_1(story: Story):
    done = told(story.a, "audit", "--trace", "018f0000-0000-7000-8000-00000000ffff")

    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_more_facts_than_a_trace_tells_are_refused_by_name(tmp_path: Path):
    same = {"entity": f"{ORG_A}/thing", "value": sound_fact(1).value}
    twins = [FactAsserted(judgement=None, fact=sound_fact(number, **same)) for number in range(1, 103)]
    write_log(tmp_path, [samples()[0], *twins])

    done = told(tmp_path, "audit", "--trace", twins[0].fact.cid)

    assert done.code == 1 and "more than 100" in done.stderr


def test_a_retraction_that_came_first_is_told_when_the_fact_comes(tmp_path: Path):
    claim = {"entity": f"{ORG_B}/thing", "is_foreign": True}
    said = sound_fact(1, **claim, hlc="1777896000000.001")
    ended = sound_fact(2, **claim, hlc="1777896000000.002", value=said.value, confidence=0.0)
    write_log(tmp_path, [samples()[0], *(_received(one) for one in (ended, said))])

    records = traced(tmp_path, said.id)

    assert steps(records, ORG_B) == [(2, "received"), (2, "retracted")]
    assert records[2]["step"]["by"]["id"] == ended.id and records[2]["step"]["by"]["offset"] == 1


def test_what_a_held_fact_ends_it_ends_when_it_is_admitted(tmp_path: Path):
    claim = {"entity": f"{ORG_B}/thing", "is_foreign": True}
    said, ending = sound_fact(1, **claim), sound_fact(2, **claim, supersedes=(sound_fact(1).id,))
    held = _received(ending, quarantine_garden_id=QUARANTINE_ID, quarantine_reason="first_contact")
    admitted = FactPromoted(
        fact_id=ending.id, origin=ORG_B, garden_id=QUARANTINE_ID, target_garden_id=None, reason="known"
    )
    write_log(tmp_path, [samples()[0], _received(said), held, admitted])

    assert steps(traced(tmp_path, said.id), ORG_B) == [(1, "received"), (3, "superseded")]
    assert traced(tmp_path, said.id)[2]["step"]["by"]["offset"] == 2
    assert steps(traced(tmp_path, ending.id), ORG_B) == [(2, "received_and_held"), (3, "admitted"), (3, "withdrew")]


def test_a_contradiction_that_an_admission_brings_about_is_told_at_the_admission(tmp_path: Path):
    claim = {"entity": f"{ORG_B}/thing", "is_foreign": True}
    here, other = sound_fact(1, **claim), sound_fact(2, **claim)
    held = _received(other, quarantine_garden_id=QUARANTINE_ID, quarantine_reason="first_contact")
    admitted = FactPromoted(
        fact_id=other.id, origin=ORG_B, garden_id=QUARANTINE_ID, target_garden_id=None, reason="known"
    )
    write_log(tmp_path, [samples()[0], _received(here), held, admitted])

    assert steps(traced(tmp_path, here.id), ORG_B) == [(1, "received"), (3, "contradicted")]
    assert steps(traced(tmp_path, other.id), ORG_B)[1:] == [(3, "admitted"), (3, "contradicted")]
    assert traced(tmp_path, here.id)[-1]["is_contradicted"] is True


def _received(taken: Fact, **held: str) -> PushReceived:
    """A push that brings this fact alone."""
    receipt = {"judgement": None, "quarantine_garden_id": None, "quarantine_reason": None} | held
    return PushReceived(
        node_id=ORG_B,
        nonce=f"nonce-{taken.id}",
        forget_ms=FORGET_MS,
        known=0,
        outcome=Receipts(refused=()),
        receipts=(Receipt(fact=taken, **receipt),),
    )
