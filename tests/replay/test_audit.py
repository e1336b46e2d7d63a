"""`replay audit`: every event is told, filters combine, each format is what docs/audit.md says, and damage is named."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs
from rdflib import RDF, Graph, Literal, Namespace, URIRef

from node.canonical import fact_hash
from node.events import EVENT_TYPES
from node.events.api_keys import ApiKeyCreated
from node.events.event import type_of
from node.events.facts import FactAsserted
from node.events.identity import AdminKeyCreated, RequestRefused
from node.events.peers import AttestationSigned
from node.events.tokens import CapabilityIssued
from replay.prov import TERMS
from replay.tellings import TELLINGS
from tests.events.logs import write_log
from tests.events.samples import samples
from tests.replay.folders import REPOSITORY, edit, files_of, flip, key, make_folder, replay
from tests.replay.sound import sound_events, sound_fact
from tests.replay.story import ATLAS, BILLING, BOT, ESCAPES, ORG_A, ORG_B, Story, lines, live_through, told, written
from tests.served import Served

PROV = Namespace("http://www.w3.org/ns/prov#")
STIGMEM = Namespace(TERMS)
FORMATS = ("text", "ndjson", "prov")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return live_through(tmp_path_factory.mktemp("story"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with one of each event."""
    data_dir = tmp_path_factory.mktemp("sample") / "data"
    make_folder(data_dir, is_rotated=True)
    return data_dir


def offsets(data_dir: Path, *arguments: str) -> list[int]:
    return [line["offset"] for line in lines(data_dir, *arguments)]


def roles(line: dict) -> list[tuple[str, str]]:
    return [(thing["role"], thing["id"]) for thing in line["things"]]


def test_every_event_type_has_a_telling_and_docs_audit_md_has_its_verb():
    page = (REPOSITORY / "docs" / "audit.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+\.\d+)` \| `([a-z_]+)` \|", page, re.MULTILINE))

    assert {type_of(event): telling.verb for event, telling in TELLINGS.items()} == rows
    assert set(TELLINGS) == set(EVENT_TYPES.values())


def test_every_event_is_one_line_of_canonical_json_in_log_order(sample: Path):
    found = lines(sample)

    assert [line["offset"] for line in found] == list(range(len(sound_events(is_rotated=True))))
    assert {line["type"] for line in found} == set(EVENT_TYPES)
    for line in found:
        assert set(line) == {"offset", "at", "hlc", "type", "actor", "verb", "things", "data", "leaf_hash"}
        assert set(line["actor"]) == {"principal", "via", "credential", "idempotency_key", "trace_id"}


def test_who_did_what_to_what_is_told(story: Story):
    told_lines = lines(story.a)
    held, admitted = told_lines[story.offsets["held"]], told_lines[story.offsets["admitted"]]

    assert (held["verb"], held["actor"]["principal"], held["actor"]["credential"]) == (
        "wrote_to_quarantine",
        BOT,
        story.names["token"],
    )
    (fact,) = held["things"]
    assert (fact["id"], fact["entity"], fact["source"], fact["role"]) == (story.id("held"), ATLAS, BOT, "quarantined")
    assert held["data"]["judgement"]["t"] == 0.15 and "t=0.15" in held["data"]["reason"]
    assert (admitted["verb"], admitted["actor"]["via"], admitted["data"]["reason"]) == (
        "admitted",
        "admin",
        "known to us",
    )
    assert admitted["things"][0]["source"] == BOT


def test_what_an_event_led_to_is_told_with_it(story: Story):
    told_lines = lines(story.a)
    conflict = story.names["conflict"]

    assert ("contradicted", conflict) in roles(told_lines[story.offsets["contradicted"]])
    resolved = roles(told_lines[story.offsets["resolved"]])
    assert set(resolved) == {
        ("resolved", conflict),
        ("settled", conflict),
        ("resolution", story.id("resolution")),
        ("winner", story.id("down")),
        ("put_aside", story.id("up")),
        ("put_aside", story.id("down")),
    }
    assert ("superseded", story.id("old")) in roles(told_lines[story.facts["new"]["log_offset"]])
    assert ("retracted", story.id("new")) in roles(told_lines[story.facts["retraction"]["log_offset"]])


def test_what_a_peer_brought_is_told_fact_by_fact(story: Story):
    batch = lines(story.a)[story.offsets["batch"]]

    assert roles(batch) == [
        ("sender", ORG_B),
        ("held", story.facts["taken"]["id"]),
        ("held", story.id("up")),
        ("refused", story.facts["refused"]["id"]),
    ]
    assert batch["things"][3]["reason"] == "rejected_fact: source_not_owned"


def test_what_was_countersigned_for_a_peer_is_told_at_the_node_that_signed(story: Story):
    (first, _) = lines(story.b, "--type", "attestation.signed")

    assert first["actor"]["principal"] == ORG_A
    assert [(thing["kind"], thing["role"]) for thing in first["things"]] == [
        ("peer", "asked"),
        ("token", "shown"),
        ("fact", "attested"),
    ]
    assert (first["things"][2]["source"], first["things"][2]["entity"]) == (BOT, ATLAS)


def test_each_filter_leaves_what_it_names(story: Story):
    held, admitted, batch = (story.offsets[name] for name in ("held", "admitted", "batch"))
    moderated = [held, held + 1, admitted, admitted + 1]
    pages = list(range(story.offsets["first_page"], story.offsets["last_page"] + 1))
    claims = [story.facts["up"]["log_offset"], story.offsets["contradicted"], story.offsets["resolved"]]

    assert offsets(story.a, "--actor", BOT) == [held, held + 1]
    assert offsets(story.a, "--source", BOT) == moderated
    assert offsets(story.a, "--entity", ATLAS) == moderated
    assert offsets(story.a, "--entity", BILLING) == claims
    assert offsets(story.a, "--peer", ORG_B) == [2, 3, *pages, batch]
    assert offsets(story.a, "--peer", story.names["peer"]) == [2, 3, *pages, batch]
    assert offsets(story.a, "--garden", story.names["garden"]) == [4, 5, *moderated, batch]
    assert offsets(story.a, "--type", "page.served") == pages
    assert offsets(story.a, "--type", "fact.promoted.1", "--type", "fact.rejected") == moderated[2:]
    assert offsets(story.a, "--from", "3", "--to", "5") == [3, 4]
    assert offsets(story.a, "--to", "1000") == offsets(story.a)


def test_a_garden_may_be_named_by_its_slug_and_its_uri(story: Story):
    by_id = offsets(story.a, "--garden", story.names["garden"])

    assert offsets(story.a, "--garden", "quarantine") == by_id
    assert offsets(story.a, "--garden", f"{ORG_A}/garden/quarantine") == by_id
    assert offsets(story.a, "--garden", f"{ORG_B}/garden/quarantine") == []


def test_names_are_compared_in_normal_form(story: Story):
    assert offsets(story.a, "--entity", "STIGMEM://ORG-A.example/project/Atlas/") == offsets(story.a, "--entity", ATLAS)


def test_what_the_node_does_by_itself_it_does_in_its_own_name(story: Story):
    by_itself = [line["offset"] for line in lines(story.a) if line["actor"]["via"] in ("node", "admin")]

    assert offsets(story.a, "--actor", ORG_A) == by_itself


def test_times_bound_the_audit_the_first_included_and_the_last_not(story: Story):
    found = lines(story.a)
    since, until = found[5]["at"], found[9]["at"]

    assert offsets(story.a, "--since", since, "--until", until) == [5, 6, 7, 8]
    assert offsets(story.a, "--since", since.replace("Z", "+00:00"), "--to", "7") == [5, 6]


def test_filters_combine(story: Story):
    both = offsets(story.a, "--actor", ORG_A, "--entity", ATLAS)

    assert both == [story.offsets["admitted"], story.offsets["admitted"] + 1]
    assert offsets(story.a, "--entity", ATLAS, "--peer", ORG_B) == []


def test_the_report_is_grouped_by_day_aligned_and_ends_with_totals(story: Story):
    report = told(story.a, "audit").stdout.splitlines()

    assert report[0] == f"log of {ORG_A}"
    assert re.fullmatch(r"head 23:[0-9a-f]{64}; chain, signatures, items and tree hold", report[1])
    assert [line for line in report if line.endswith("(UTC)")] == ["2026-05-04 (UTC)"]
    starts = [line.index("  12:00:00.") for line in report if "  12:00:00." in line]
    assert len(starts) == 23 and len(set(starts)) == 1
    assert "totals: 23 of 23 events" in report
    assert "    page.served.1                        3" in report


def test_nothing_that_a_terminal_acts_on_is_in_the_report(tmp_path: Path):
    created, *_ = samples()
    write_log(tmp_path, [created, RequestRefused(code="x", detail=ESCAPES, subject="GET /\x1b]52;c;aaaa\x07")])

    report = told(tmp_path, "audit").stdout

    assert [character for character in report if ord(character) < 32 and character != "\n"] == []
    assert "\x9b" not in report and "\u202e" not in report
    assert "GET /\\x1b]52;c;aaaa\\x07" in report and "root\\\\x1b" in report
    assert len(report.splitlines()) == len(report.split("\n")) - 1


def test_no_hash_of_a_key_and_no_nonce_of_a_token_is_told(tmp_path: Path):
    (issued,) = (event for event in samples() if isinstance(event, CapabilityIssued))
    hidden = structs.replace(issued.grant, nonce="a-nonce-to-hide")
    (key, *_) = (event for event in samples() if isinstance(event, ApiKeyCreated))
    secret = [AdminKeyCreated(key_hash="5e" * 32), structs.replace(key, key_hash="5e" * 32)]
    write_log(tmp_path, [samples()[0], *secret, CapabilityIssued(grant=hidden)])

    for form in FORMATS:
        done = told(tmp_path, "audit", "--format", form)
        assert done.code == 0 and "5e5e" not in done.stdout and "a-nonce-to-hide" not in done.stdout


def test_auditing_writes_nothing_into_the_folder(story: Story):
    before = files_of(story.a)
    told(story.a, "audit")
    assert files_of(story.a) == before


async def test_a_running_node_is_audited_as_it_stands(http: Served):
    record = await http.write()

    done = replay("audit", http.folder, "--entity", record["entity"])

    assert done.code == 0 and f"asserted fact {record['id']}" in done.stdout
    await http.write()


# W3C PROV


@pytest.fixture(scope="module")
def graph(story: Story) -> Graph:
    """The audit as triples, by a parser that is not ours."""
    done = told(story.a, "audit", "--format", "prov")
    assert (done.code, done.stderr) == (0, "")
    return Graph().parse(data=done.stdout, format="json-ld")


def activity(story: Story, offset: int) -> URIRef:
    return URIRef(f"urn:stigmem:entry:{lines(story.a)[offset]['leaf_hash']}")


def fact_node(fact_id: str, origin: str = ORG_A) -> URIRef:
    return URIRef(f"urn:stigmem:fact:{origin.replace(':', '%3A').replace('/', '%2F')}:{fact_id}")


def test_each_event_is_an_activity_with_its_agents_and_times(story: Story, graph: Graph):
    held = activity(story, story.offsets["held"])

    assert len(set(graph.subjects(RDF.type, PROV.Activity))) == 23
    assert set(graph.objects(held, PROV.wasAssociatedWith)) == {URIRef(BOT), URIRef(ORG_A)}
    assert URIRef(f"urn:stigmem:token:{story.names['token']}") in set(graph.objects(held, PROV.used))
    (ended,) = graph.objects(held, PROV.endedAtTime)
    at = lines(story.a)[story.offsets["held"]]["at"]
    assert ended == Literal(at, datatype=URIRef("http://www.w3.org/2001/XMLSchema#dateTime"))
    assert set(graph.objects(held, STIGMEM.offset)) == {Literal(story.offsets["held"])}


def test_a_fact_written_here_is_generated_attributed_and_derived(story: Story, graph: Graph):
    held, child = fact_node(story.id("held")), fact_node(story.id("child"))

    assert set(graph.objects(held, PROV.wasGeneratedBy)) == {activity(story, story.offsets["held"])}
    assert set(graph.objects(held, PROV.wasAttributedTo)) == {URIRef(BOT)}
    assert set(graph.objects(child, PROV.wasDerivedFrom)) == {URIRef(f"urn:stigmem:fact-id:{story.id('old')}")}
    assert set(graph.objects(held, RDF.type)) == {PROV.Entity}


def test_what_no_longer_stands_was_invalidated_by_what_ended_it(story: Story, graph: Graph):
    ended = {
        "rejected": story.offsets["admitted"] + 1,
        "up": story.offsets["resolved"],
        "old": story.facts["new"]["log_offset"],
        "new": story.facts["retraction"]["log_offset"],
    }

    for name, offset in ended.items():
        assert set(graph.objects(fact_node(story.id(name)), PROV.wasInvalidatedBy)) == {activity(story, offset)}, name
    assert list(graph.objects(fact_node(story.id("held")), PROV.wasInvalidatedBy)) == []


def test_a_received_fact_was_used_here_and_generated_elsewhere(story: Story, graph: Graph):
    taken = fact_node(story.facts["taken"]["id"], ORG_B)

    assert taken in set(graph.objects(activity(story, story.offsets["batch"]), PROV.used))
    assert list(graph.objects(taken, PROV.wasGeneratedBy)) == []


def test_a_refused_fact_is_none_of_the_facts_that_its_bearer_may_have(story: Story, graph: Graph):
    batch = lines(story.a)[story.offsets["batch"]]["leaf_hash"]
    refused = URIRef(f"urn:stigmem:refused:{batch}:{story.facts['refused']['id']}")

    assert set(graph.objects(refused, STIGMEM.claimedSource)) == {Literal(f"{ORG_A}/agent/crm")}
    assert list(graph.objects(refused, PROV.wasAttributedTo)) == []
    assert set(graph.triples((fact_node(story.facts["refused"]["id"], ORG_B), None, None))) == set()


def test_a_contradiction_is_derived_from_both_facts_and_ends_with_its_resolution(story: Story, graph: Graph):
    (conflict,) = (subject for subject in graph.subjects(STIGMEM.kind, Literal("conflict")))

    assert set(graph.objects(conflict, PROV.wasDerivedFrom)) == {fact_node(story.id("up")), fact_node(story.id("down"))}
    assert set(graph.objects(conflict, PROV.wasGeneratedBy)) == {activity(story, story.offsets["contradicted"])}
    assert set(graph.objects(conflict, PROV.wasInvalidatedBy)) == {activity(story, story.offsets["resolved"])}


def test_every_reference_is_an_absolute_iri(sample: Path):
    graph = Graph().parse(data=told(sample, "audit", "--format", "prov").stdout, format="json-ld")

    named = {str(node) for triple in graph for node in triple if isinstance(node, URIRef)}
    assert [iri for iri in named if not re.fullmatch(r"[a-z][a-z0-9+.-]*:[^\s<>\"{}|\\^`]+", iri)] == []
    assert {str(p) for p in graph.predicates() if not str(p).startswith((str(PROV), TERMS))} == {str(RDF.type)}


# Trouble


@pytest.mark.parametrize("arguments", [[], ["--trace", "x"]])
def test_an_edited_entry_is_named_at_its_offset_and_nothing_of_the_log_is_told(
    sample: Path, tmp_path: Path, arguments: list[str]
):
    data_dir = Path(shutil.copytree(sample, tmp_path / "data"))
    edit(data_dir / "log", "items", flip(key(12, 1), 40))

    done = told(data_dir, "audit", *arguments)

    assert done.code == 6
    assert done.stdout == f"damaged at {done.stderr}" and done.stderr.startswith("offset 12: ")


def test_damage_is_not_told_among_the_lines_of_a_machine_s_format(sample: Path, tmp_path: Path):
    data_dir = Path(shutil.copytree(sample, tmp_path / "data"))
    edit(data_dir / "log", "headers", flip(key(5), 30))

    done = told(data_dir, "audit", "--format", "ndjson")

    assert (done.code, done.stdout) == (6, "") and done.stderr.startswith("offset 5: ")


def test_a_truncated_file_is_damage_and_no_traceback(sample: Path, tmp_path: Path):
    data_dir = Path(shutil.copytree(sample, tmp_path / "data"))
    file = data_dir / "log" / "data.mdb"
    file.write_bytes(file.read_bytes()[:20_000])

    assert replay("audit", data_dir).code == 6


def test_an_entry_that_no_node_would_have_logged_is_named_when_it_cannot_be_folded(tmp_path: Path):
    foreign = sound_fact(1, hlc="no clock", source="stigmem://elsewhere.example/agent")
    write_log(tmp_path, [samples()[0], FactAsserted(judgement=None, fact=foreign)])

    done = told(tmp_path, "audit")

    assert done.code == 6 and done.stderr.startswith("offset 1: the entry cannot be folded")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--type", "no.such"],
        ["--since", "yesterday"],
        ["--from", "-1"],
        ["--trace", "x", "--actor", ORG_A],
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_is_said_in_words(sample: Path, arguments: list[str]):
    done = told(sample, "audit", *arguments)

    assert (done.code, done.stdout) == (2, "") and done.stderr


def test_an_entry_that_no_node_would_have_logged_is_named_when_it_cannot_be_told(tmp_path: Path):
    (signed,) = (event for event in samples() if isinstance(event, AttestationSigned))
    # The hash of these bytes is right: it is the words that are not there.
    write_log(tmp_path, [samples()[0], structs.replace(signed, fact_body=b"{", fact_hash=fact_hash(b"{"))])

    done = told(tmp_path, "audit")

    assert done.code == 6 and done.stderr.startswith("offset 1: the entry cannot be told")


def test_a_folder_without_a_log_is_one_line_and_exit_code_2(tmp_path: Path):
    done = told(tmp_path, "audit")

    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_a_reader_who_closes_the_pipe_hears_nothing(sample: Path):
    command = [sys.executable, "-m", "replay", "audit", "--data-dir", str(sample)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (0, b"")


def test_the_same_log_gives_the_same_bytes_wherever_it_lies_and_whoever_reads_it(story: Story, tmp_path: Path):
    copy = Path(shutil.copytree(story.a, tmp_path / "elsewhere" / "copy"))
    formats = [f"audit --format {form}{trace}" for form in FORMATS for trace in ("", f" --trace {story.id('up')}")]

    here = written(story.a, formats, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="1", PYTHONUTF8="0")
    there = written(copy, formats, TZ="America/Lima", LC_ALL="C.UTF-8", PYTHONHASHSEED="2")

    assert here == there and here.count(b'{"@context"') == 2 and b"elsewhere" not in there
