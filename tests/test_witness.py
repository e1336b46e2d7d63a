"""A peer's log is measured at every pull: what goes on is believed, what forked is kept and stopped (PROTOCOL §10.3)."""

from collections.abc import AsyncIterator

import pytest

from node.commands.witness import SEEN_EVERY_MS
from node.events.peers import PeerLogForked
from tests.logs_shown import Leaves, ShownLog, line
from tests.organisations import Organisation, be_strict
from tests.served import Answer, Served

PEERS = "/v1/federation/peers"


@pytest.fixture
async def log(http: Served, org_b: Organisation) -> AsyncIterator[ShownLog]:
    """The log that org B shows; it is a peer of `http`, of which no checkpoint is held yet."""
    shown = await ShownLog(org_b, line("one", 12)).start()
    await org_b.join(http, node_url=shown.url, manifest=None, log_entry=None)
    yield shown
    await shown.stop()


async def peer_of(at: Served) -> dict[str, object]:
    [peer] = (await at.get(PEERS)).expect(200)["peers"]
    return peer


async def pull(at: Served) -> Answer:
    return await at.post(f"{PEERS}/{(await peer_of(at))['peer_id']}/pull", {})


def types_from(at: Served, start: int) -> list[str]:
    return [entry.type for entry in at.entries(start)]


async def test_the_first_checkpoint_is_held_at_once_and_later_ones_with_a_page_s_news(
    http: Served, org_b: Organisation, log: ShownLog
):
    size = http.size
    (await pull(http)).expect(200)
    assert types_from(http, size) == ["peer.checkpoint_seen.1"]

    log.leaves = line("one", 15)
    (await pull(http)).expect(200)
    assert http.size == size + 1
    log.facts = [org_b.served_fact()]
    (await pull(http)).expect(200)

    assert types_from(http, size + 1) == ["peer.checkpoint_seen.1", "batch.received.1"]
    assert (await peer_of(http))["checkpoint"] == log.note()


async def test_without_news_a_newer_checkpoint_is_held_every_ten_minutes(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    size, log.leaves = http.size, line("one", 13)

    http.clock.advance(SEEN_EVERY_MS - 1)
    (await pull(http)).expect(200)
    assert http.size == size
    http.clock.advance(1)
    (await pull(http)).expect(200)
    (await pull(http)).expect(200)

    assert types_from(http, size) == ["peer.checkpoint_seen.1"]


async def test_the_checkpoint_of_a_proven_manifest_is_the_first_one_held(http: Served, org_b: Organisation):
    await org_b.join(http)

    assert org_b.peer_at(http).seen_checkpoint == org_b.peer_at(http).checkpoint is not None


@pytest.mark.parametrize("grown_to", [12, 13, 16, 40])
@pytest.mark.parametrize("forked_at", [0, 7, 11])
@pytest.mark.parametrize("held", [12, 8])
async def test_a_log_that_forked_is_stopped_with_both_notes_kept(
    http: Served, log: ShownLog, held: int, forked_at: int, grown_to: int
):
    """Sizes of 8 and 16 are powers of two, from which a consistency proof names no first root."""
    log.leaves = line("one", held)
    held_note = log.note()
    (await pull(http)).expect(200)
    size, asked = http.size, log.pages_asked
    forked_at = min(forked_at, held - 1)
    log.leaves = line("one", forked_at) + line("two", grown_to)[forked_at:]

    (await pull(http)).refused(409, "log_forked")

    [entry] = http.entries(size)
    assert isinstance(entry.event, PeerLogForked)
    assert (entry.event.held, entry.event.shown) == (held_note, log.note())
    assert log.pages_asked == asked
    peer = await peer_of(http)
    assert (peer["status"], peer["reason"]) == ("revoked", "log_forked")
    assert peer["fork"] == {"held": held_note, "shown": log.note()}
    (await pull(http)).refused(409, "peer_not_active")
    assert "two logs" in (await peer_of(http))["last_error"]


async def forked(at: Served, log: ShownLog, leaves: Leaves) -> str:
    """Have the log fork; returns the peer's id."""
    (await pull(at)).expect(200)
    log.leaves = leaves
    (await pull(at)).refused(409, "log_forked")
    return str((await peer_of(at))["peer_id"])


async def test_a_forked_peer_may_ask_for_nothing(http: Served, org_b: Organisation, log: ShownLog):
    await forked(http, log, line("two", 20))

    answer = await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))

    answer.refused(401, "unknown_or_inactive_peer")


async def test_only_an_admin_who_says_so_takes_the_new_line_and_all_is_read_again(
    http: Served, org_b: Organisation, log: ShownLog
):
    log.facts = [org_b.served_fact()]
    peer_id = await forked(http, log, line("two", 20))
    assert org_b.peer_at(http).cursor == "page-1"

    (await http.post(f"{PEERS}/{peer_id}/approve", {})).refused(409, "log_forked")
    shown = (await http.post(f"{PEERS}/{peer_id}/approve", {"accept_checkpoint": True})).expect(200)

    assert (shown["cursor"], shown["checkpoint"], shown["fork"]) == (None, log.note(), None)
    # This peer shows a log and no documents; the real one is checked at once (tests/scenarios/test_witness.py).
    assert (shown["status"], shown["reason"]) == ("pending_verification", "unreachable")
    (await http.post(f"{PEERS}/{peer_id}/approve", {"accept_checkpoint": True})).refused(409, "not_awaiting_approval")


async def test_registering_a_forked_peer_again_is_no_way_around_the_approval(
    http: Served, org_b: Organisation, log: ShownLog
):
    await forked(http, log, line("two", 20))
    size = http.size

    body = {"peer_url": log.url, "peer_entity_uri": org_b.node_id}
    (await http.post(PEERS, body)).refused(409, "log_forked")

    assert http.size == size


async def test_a_shorter_log_is_waited_for_and_nothing_is_asked_of_it(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    size, asked = http.size, log.pages_asked
    log.leaves = line("one", 5)

    (await pull(http)).refused(503, "peer_behind")

    peer = await peer_of(http)
    assert (peer["status"], peer["reason"], log.pages_asked, http.size) == ("active", "behind", asked, size)
    log.leaves = line("one", 14)
    (await pull(http)).expect(200)
    assert (await peer_of(http))["reason"] is None


OTHER_ROOT = '{"hashes":["' + "ab" * 32 + '"]}'
UNPROVEN = {
    "no such route": ("consistency", 404, '{"error":"not_found"}'),
    "a proof refused": ("consistency", 422, '{"error":"proof_out_of_range"}'),
    "a failure": ("consistency", 500, ""),
    "no JSON": ("consistency", 200, "{"),
    "another form": ("consistency", 200, '{"hashes":"no"}'),
    "a hash that is none": ("consistency", 200, '{"hashes":["' + "g" * 64 + '"]}'),
    "a hash with white space": ("consistency", 200, '{"hashes":["' + "a" * 63 + ' "]}'),
    "too many hashes": ("consistency", 200, '{"hashes":[' + ",".join(['"' + "ab" * 32 + '"'] * 129) + "]}"),
    "more than is taken": ("consistency", 200, '{"hashes":[],"x":"' + "x" * (1 << 16) + '"}'),
    "no checkpoint": ("checkpoint", 404, ""),
    "an empty checkpoint": ("checkpoint", 200, ""),
    "text that is no note": ("checkpoint", 200, "hello\n\nworld\n"),
    "a note that is too long": ("checkpoint", 200, "x" * (1 << 17)),
}


def spoil(log: ShownLog, fault: str) -> None:
    what, status, text = UNPROVEN[fault]
    log.spoilt = {what: (status, text)}


@pytest.mark.parametrize("fault", UNPROVEN)
async def test_a_log_that_is_not_proved_to_go_on_is_said_to_be_unproven_and_its_facts_are_taken(
    http: Served, org_b: Organisation, log: ShownLog, fault: str
):
    (await pull(http)).expect(200)
    held, size = (await peer_of(http))["checkpoint"], http.size
    log.leaves, log.facts = line("one", 20), [org_b.served_fact()]
    spoil(log, fault)

    assert (await pull(http)).expect(200)["ingested"] == 1

    peer = await peer_of(http)
    assert (peer["status"], peer["reason"], peer["checkpoint"]) == ("active", "unproven", held)
    assert peer["last_error"]
    assert types_from(http, size) == ["batch.received.1"]


@pytest.mark.parametrize("fault", ["no such route", "no checkpoint", "no JSON"])
async def test_in_strict_mode_nothing_is_read_of_an_unproven_log(http: Served, log: ShownLog, fault: str):
    await be_strict(http)
    (await pull(http)).expect(200)
    size, asked = http.size, log.pages_asked
    log.leaves = line("one", 20)
    spoil(log, fault)

    (await pull(http)).refused(503, "log_unproven")

    peer = await peer_of(http)
    assert (peer["status"], peer["reason"], log.pages_asked, http.size) == ("active", "unproven", asked, size)


async def test_proofs_that_lead_nowhere_are_no_evidence_of_a_fork(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    log.leaves = line("two", 20)
    log.spoilt = {"consistency": (200, OTHER_ROOT), "inclusion": (200, OTHER_ROOT)}

    (await pull(http)).expect(200)

    assert (await peer_of(http))["reason"] == "unproven"


async def test_a_checkpoint_that_another_key_signed_is_worth_nothing(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    signed = log.note(line("two", 12))
    text, _, signature = signed.rpartition(" ")
    log.spoilt = {"checkpoint": (200, f"{text} {signature[:8]}{'A' * (len(signature.strip()) - 8)}\n")}

    (await pull(http)).expect(200)

    assert (await peer_of(http))["reason"] == "unproven"


async def test_others_signatures_on_a_checkpoint_are_neither_believed_nor_kept(http: Served, log: ShownLog):
    log.spoilt = {"checkpoint": (200, log.note() + "\u2014 witness.example AAAAAAA=\n")}

    (await pull(http)).expect(200)

    assert (await peer_of(http))["checkpoint"] == log.note()


# A log that goes on from a snapshot, under another name (PROTOCOL §12).

RESTORED = "/0123456789abcdef"


async def test_a_restored_log_that_holds_all_that_was_seen_is_taken_as_going_on(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    log.leaves, log.origin = line("one", 14), log.origin + RESTORED
    http.clock.advance(SEEN_EVERY_MS)

    (await pull(http)).expect(200)

    assert (await peer_of(http))["checkpoint"] == log.note()


@pytest.mark.parametrize("leaves", [line("one", 6), line("one", 12), line("one", 6) + line("two", 9)], ids=len)
async def test_a_restored_log_that_lost_what_was_seen_is_no_fork_and_unproven(
    http: Served, log: ShownLog, leaves: Leaves
):
    (await pull(http)).expect(200)
    size, held = http.size, log.note()
    log.leaves, log.origin = leaves, log.origin + RESTORED

    (await pull(http)).expect(200)
    peer = await peer_of(http)
    assert (peer["status"], peer["reason"], peer["fork"], peer["checkpoint"]) == ("active", "unproven", None, held)
    assert "accept_checkpoint" in peer["last_error"]
    assert http.size == size

    await be_strict(http)
    (await pull(http)).refused(503, "log_unproven")


async def test_an_admin_takes_the_line_of_a_restored_log(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    log.leaves, log.origin = line("one", 6) + line("two", 9), log.origin + RESTORED
    size, approve = http.size, f"{PEERS}/{(await peer_of(http))['peer_id']}/approve"

    (await http.post(approve, {"accept_checkpoint": True})).expect(200)

    assert types_from(http, size)[0] == "peer.checkpoint_accepted.1"
    assert (await peer_of(http))["checkpoint"] == log.note()


async def test_the_line_of_a_log_that_kept_its_name_is_not_taken_without_a_fork(http: Served, log: ShownLog):
    (await pull(http)).expect(200)
    size, approve = http.size, f"{PEERS}/{(await peer_of(http))['peer_id']}/approve"

    (await http.post(approve, {"accept_checkpoint": True})).refused(409, "not_awaiting_approval")

    assert http.size == size


@pytest.mark.parametrize("suffix", ["/", "/0123", "/0123456789ABCDEF", "x", "/0123456789abcdef/0123456789abcdef"])
async def test_a_name_that_no_restore_gives_is_that_of_another_log(http: Served, log: ShownLog, suffix: str):
    (await pull(http)).expect(200)
    log.leaves, log.origin = line("one", 14), log.origin + suffix

    (await pull(http)).expect(200)

    assert "another log" in (await peer_of(http))["last_error"]
