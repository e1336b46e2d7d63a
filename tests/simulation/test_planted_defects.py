"""What the simulation is worth: a defect planted in the node is found, by the rule that it breaks, and found again by its seed.

Here alone code of the node is replaced: one function for each defect, as somebody might have written it.
"""

from collections.abc import Callable

import pytest
from msgspec import Struct, structs
from pytest import MonkeyPatch

from node.commands import DECIDE, exchange, pushes
from node.commands.decision import Context, Decision
from node.commands.ingest import examine
from node.commands.peer_tokens import Claims
from node.events.event import NODE_ITSELF
from node.events.peers import BatchReceived, Receipts
from node.projections import conflicts, facts, federation_page
from node.projections.nonces import Nonces
from node.projections.peers import Peers
from node.projections.view import View
from node.sync import Sync
from tests.simulation.schedule import ScheduleFailed, run_schedule

MOST_SCHEDULES = 1000
EVERY_SCOPE = ("local", "team", "company", "public")


class StoreCursor(Struct, frozen=True, kw_only=True):
    """The cursor without its facts: what the planted defect tells the writer."""

    node_id: str
    cursor: str


def known_facts_are_not_looked_up(patch: MonkeyPatch) -> None:
    """Only the page is searched for a fact, not what is stored."""

    def known_hash(fact, batch, view):
        known = batch.get(fact.id.lower())
        return None if known is None else known.fact.fact_hash

    patch.setattr(exchange, "_known_hash", known_hash)


def the_cursor_is_stored_before_the_facts(patch: MonkeyPatch) -> None:
    """Two appends where there should be one: a crash between them passes the page over."""
    ingest = Sync._ingest

    def decide(command: StoreCursor, view: View, context: Context) -> Decision:
        event = BatchReceived(
            node_id=command.node_id, cursor=command.cursor, known=0, outcome=Receipts(refused=()), receipts=()
        )
        return Decision(events=(event,), actor=NODE_ITSELF)

    async def cursor_first(self, peer, outcomes, cursor, witnessed):
        if outcomes:
            await self._node.execute(StoreCursor(node_id=peer.node_id, cursor=cursor))
        return await ingest(self, peer, outcomes, cursor, witnessed)

    patch.setitem(DECIDE, StoreCursor, decide)
    patch.setattr(Sync, "_ingest", cursor_first)


def the_cursor_is_lost(patch: MonkeyPatch) -> None:
    """The event has it, the table of peers does not."""
    count = Peers._count_received

    def without_cursor(self, entry, node_id, receipts, *, refused, **_):
        count(self, entry, node_id, receipts, refused=refused)

    patch.setattr(Peers, "_count_received", without_cursor)


def nonces_are_not_recorded(patch: MonkeyPatch) -> None:
    patch.setattr(Nonces, "_take", lambda self, key, forget_ms: None)


def nonces_are_forgotten_before_their_token_ends(patch: MonkeyPatch) -> None:
    def forget_ms(claims: Claims, context: Context) -> int:
        return context.at_ms + 500

    patch.setattr(exchange, "forget_ms", forget_ms)


def a_pull_is_granted_every_scope(patch: MonkeyPatch) -> None:
    patch.setattr(exchange, "granted_scopes", lambda peer, claims, scope, context: EVERY_SCOPE)


def a_page_is_not_filtered_by_scope(patch: MonkeyPatch) -> None:
    news_for = federation_page.news_for

    def unfiltered(view, **asked):
        return news_for(view, **asked | {"scopes": EVERY_SCOPE})

    patch.setattr(federation_page, "news_for", unfiltered)


def a_push_may_hold_any_scope(patch: MonkeyPatch) -> None:
    """What the receiver grants is not looked at."""

    def unscoped(raw, peer, view, context, *, is_pushed):
        return examine(raw, structs.replace(peer, allowed_scopes=EVERY_SCOPE), view, context, is_pushed=is_pushed)

    patch.setattr(pushes, "examine", unscoped)


def received_facts_are_not_passed_on(patch: MonkeyPatch) -> None:
    patch.setattr(facts, "may_be_relayed", lambda row: False)


def company_facts_are_passed_on(patch: MonkeyPatch) -> None:
    patch.setattr(facts, "may_be_relayed", lambda row: row.fact.received_from is not None)


def strangers_are_not_asked_for(patch: MonkeyPatch) -> None:
    """A relayed fact whose origin is no peer is refused for want of its manifest."""

    async def meet_nobody(self, peer, page):
        return None

    patch.setattr(Sync, "_meet", meet_nobody)


def facts_are_known_by_who_brought_them(patch: MonkeyPatch) -> None:
    """What comes by two ways is taken twice."""
    known_hash = exchange._known_hash

    def known_from(fact, batch, view):
        row = view.facts.of_origin(fact.origin, fact.id)
        is_other_way = row is not None and row.fact.received_from != fact.received_from
        return None if is_other_way else known_hash(fact, batch, view)

    patch.setattr(exchange, "_known_hash", known_from)


def facts_go_back_to_their_origin(patch: MonkeyPatch) -> None:
    patch.setattr(federation_page, "_is_news_to", lambda fact, peer_node_id: fact.received_from != peer_node_id)


def anybody_s_resolution_settles(patch: MonkeyPatch) -> None:
    patch.setattr(conflicts, "_may_settle", lambda fact: True)


DEFECTS: list[tuple[Callable[[MonkeyPatch], None], tuple[str, ...]]] = [
    (known_facts_are_not_looked_up, ("fact:",)),
    (the_cursor_is_stored_before_the_facts, ("end:",)),
    (the_cursor_is_lost, ("cursor:",)),
    (nonces_are_not_recorded, ("nonce:",)),
    (nonces_are_forgotten_before_their_token_ends, ("nonce:",)),
    (a_pull_is_granted_every_scope, ("scope:",)),
    (a_page_is_not_filtered_by_scope, ("scope:",)),
    (a_push_may_hold_any_scope, ("scope:",)),
    (received_facts_are_not_passed_on, ("end:",)),
    (company_facts_are_passed_on, ("scope:",)),
    (strangers_are_not_asked_for, ("end:",)),
    (facts_are_known_by_who_brought_them, ("fact:",)),
    (facts_go_back_to_their_origin, ("relay:",)),
    (anybody_s_resolution_settles, ("conflict:",)),
]


# From which seed on one is looked for that few schedules meet.
FIRST = {the_cursor_is_stored_before_the_facts: 380}


@pytest.mark.parametrize(("plant", "rules"), DEFECTS, ids=[plant.__name__ for plant, _ in DEFECTS])
async def test_a_planted_defect_is_found_and_its_seed_finds_it_again(
    plant: Callable[[MonkeyPatch], None], rules: tuple[str, ...], monkeypatch: MonkeyPatch
):
    plant(monkeypatch)

    seed, found = await first_failure(FIRST.get(plant, 0))

    assert found.cause.startswith(rules), found
    assert f"python -m tests.simulation {seed}" in str(found)
    with pytest.raises(ScheduleFailed) as again:
        await run_schedule(seed)
    assert str(again.value) == str(found)


async def first_failure(first: int) -> tuple[int, ScheduleFailed]:
    for seed in range(first, first + MOST_SCHEDULES):
        try:
            await run_schedule(seed)
        except ScheduleFailed as failure:
            return seed, failure
    raise AssertionError(f"{MOST_SCHEDULES} schedules did not find the defect")
