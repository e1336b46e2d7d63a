"""A listing of facts is what a walk over all that was said finds, whatever is asked for, page by page, while writes go on."""

import asyncio
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from node.events.facts import Value
from node.events.peers import BatchReceived, Receipt, Receipts
from node.http.cursors import opened_cursor
from node.http.fact_pages import Cursor, Page
from node.keys import Signer
from node.projections.access import EVERYTHING
from node.projections.apply import apply_all
from node.projections.conflicts import At
from node.projections.fact_queries import FactQuery, Snapshot, page_of
from node.projections.view import View
from node.projections.views import Views
from node.times import format_ms, parse_rfc3339
from tests.clocks import START_MS, fixed_clock
from tests.events.logs import signed
from tests.events.samples import PEER_NODE_ID, fact
from tests.organisations import issue
from tests.served import NODE_ID, SEED, Served, config_for

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
ENTITIES = (f"{NODE_ID}/service/billing", "user:alice")
RELATIONS = ("memory:state", "memory:owner")
SOURCES = (f"{NODE_ID}/agent/scribe", "agent:b")
EVERY_KIND = {"include_contradicted": "true", "include_expired": "true", "include_retracted": "true"}


@dataclass
class Said:
    """A fact as the walk knows it."""

    record: dict[str, Any]
    is_withdrawn: bool = False
    is_settled: bool = False

    @property
    def speech(self) -> tuple[str, ...]:
        return tuple(self.record[name] for name in ("entity", "relation", "scope", "source"))

    @property
    def group(self) -> tuple[str | None, ...]:
        return tuple(self.record[name] for name in ("entity", "relation", "scope", "garden_id"))

    @property
    def rank(self) -> tuple[float, str]:
        return self.record["confidence"], self.record["hlc"]

    def is_expired(self, now_ms: int) -> bool:
        until = self.record["valid_until"]
        return until is not None and parse_rfc3339(until) <= now_ms

    def is_live(self, now_ms: int) -> bool:
        is_out = self.is_withdrawn or self.is_settled or self.is_expired(now_ms)
        return self.record["confidence"] > 0 and not is_out


@dataclass
class Walk:
    """Everything that was said, and each rule of PROTOCOL §2.2, §2.5 and §2.6 as a walk over all of it."""

    said: list[Said] = field(default_factory=list)

    def take(self, record: dict[str, Any], *, replaces: bool = False) -> None:
        new = Said(record)
        is_blanket = record["value"].get("v") == "retracted"
        for old in self.said:
            if old.speech != new.speech:
                continue
            is_retracted = record["confidence"] == 0 and (is_blanket or old.record["value"] == record["value"])
            # What stands in another garden contradicts nothing here, and is left alone.
            is_replaced = replaces and old.record["garden_id"] in (None, record["garden_id"])
            old.is_withdrawn |= is_replaced or is_retracted
        self.said.append(new)

    def settle(self, record: dict[str, Any], now_ms: int) -> None:
        new = Said(record)
        for old in self.said:
            old.is_settled |= old.group == new.group and old.is_live(now_ms)
        self.said.append(new)

    def listing(self, query: dict[str, str], now_ms: int, *, scopes: tuple[str, ...], gardens: bool) -> list[str]:
        readable = [
            one for one in self.said if one.record["scope"] in scopes and (gardens or one.record["garden_id"] is None)
        ]
        found = [one.record["id"] for one in readable if self._is_asked(one, query, now_ms)]
        return found if query.get("order") == "asc" else found[::-1]

    def _is_asked(self, one: Said, query: dict[str, str], now_ms: int) -> bool:
        record, at_ms = one.record, parse_rfc3339(one.record["timestamp"])
        wants = {name for name in EVERY_KIND if query.get(name) in ("true", "1")}
        return (
            all(record[name] == query[name] for name in ("entity", "relation", "source", "scope") if name in query)
            and ("garden_id" not in query or record["garden_id"] is not None)
            and record["confidence"] >= float(query.get("min_confidence", 0))
            and ("after" not in query or at_ms > parse_rfc3339(query["after"]))
            and ("before" not in query or at_ms < parse_rfc3339(query["before"]))
            and ("include_expired" in wants or not one.is_expired(now_ms))
            and ("include_retracted" in wants or not (one.is_withdrawn or record["confidence"] == 0))
            and ("include_contradicted" in wants or self._is_shown(one, now_ms))
        )

    def _is_shown(self, one: Said, now_ms: int) -> bool:
        if one.is_settled or not one.is_live(now_ms):
            return not one.is_settled
        live = [other for other in self.said if other.group == one.group and other.is_live(now_ms)]
        is_contradicted = len({str(other.record["value"]) for other in live}) > 1
        return not is_contradicted or one.rank == max(other.rank for other in live)


VALUES = st.sampled_from(["a", "b", "c"])
ABOUT = st.fixed_dictionaries(
    {
        "entity": st.sampled_from(ENTITIES),
        "relation": st.sampled_from((*RELATIONS[:1] * 2, RELATIONS[1])),
        "source": st.sampled_from(SOURCES),
        "scope": st.sampled_from(("local", "public", "public")),
    }
)
STEPS = st.one_of(
    st.tuples(st.just("write"), ABOUT, VALUES, st.sampled_from((0.4, 0.9)), st.sampled_from((None, None, 1, 3))),
    st.tuples(st.just("write"), ABOUT, VALUES, st.sampled_from((0.4, 0.9)), st.just("den")),
    st.tuples(st.just("retract"), ABOUT, st.sampled_from(("a", "b", "retracted"))),
    st.tuples(st.just("replace"), ABOUT, VALUES),
    st.tuples(st.just("settle"), VALUES),
    st.tuples(st.just("wait"), st.integers(1, 3)),
)
TIMES = st.integers(0, 6).map(lambda seconds: format_ms(START_MS + 1000 * seconds))
WORDS = st.sampled_from(("true", "false", "1", "0"))
FILTERS = {
    "entity": st.sampled_from((*ENTITIES * 2, "user:nobody")),
    "relation": st.sampled_from((*RELATIONS * 2, "memory:none")),
    "source": st.sampled_from(SOURCES),
    "scope": st.sampled_from(("local", "public", "public", "team")),
    "garden_id": st.just("den"),
    "min_confidence": st.sampled_from(("0", "0.4", "0.5", "9e-1", "1")),
    "after": TIMES,
    "before": TIMES,
} | dict.fromkeys(EVERY_KIND, WORDS)


@st.composite
def queries(draw: st.DrawFn) -> dict[str, object]:
    """Few filters at a time: with many nothing is left to be found."""
    names = draw(st.lists(st.sampled_from(sorted(FILTERS)), max_size=3, unique=True))
    plain = {"limit": draw(st.integers(1, 4)), "order": draw(st.sampled_from(("asc", "desc")))}
    return plain | {name: draw(FILTERS[name]) for name in names}


async def do(http: Served, walk: Walk, step: tuple) -> None:
    match step:
        case ("wait", seconds):
            http.clock.advance(1000 * seconds)
        case ("settle", v):
            found = (await http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"]
            if found:
                path = f"/v1/conflicts/{found[-1]['conflict_id']}/resolve"
                settled = (await http.post(path, {"new_value": text(v)})).expect(200)["resolution_fact_id"]
                walk.settle((await http.get(f"/v1/facts/{settled}")).expect(200), http.clock.now_ms())
        case ("replace", about, v):
            walk.take(await http.write(**about, value=text(v), supersedes=True), replaces=True)
        case ("retract", about, v):
            walk.take(await http.write(**about, value=text(v), confidence=0.0))
        case ("write", about, v, confidence, "den"):
            walk.take(
                await http.write(**about | {"scope": "public"}, value=text(v), confidence=confidence, garden_id="den")
            )
        case ("write", about, v, confidence, valid_s):
            until = None if valid_s is None else format_ms(http.clock.now_ms() + 1000 * valid_s)
            walk.take(await http.write(**about, value=text(v), confidence=confidence, valid_until=until))


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


async def listed(http: Served, query: dict[str, object], bearer: str, between: list[tuple], walk: Walk) -> list[str]:
    """All pages one after another, with something happening between each two."""
    ids: list[str] = []
    cursor, totals = "", set()
    while cursor is not None:
        words = {name: str(value) for name, value in query.items()} | ({"cursor": cursor} if cursor else {})
        answer = await http.send("GET", _path(words), bearer=bearer)
        page = answer.expect(200)
        assert type(page["total"]) is int and "total_is_minimum" not in page
        assert len(page["facts"]) == query["limit"] or page["cursor"] is None
        ids += [record["id"] for record in page["facts"]]
        totals.add(page["total"])
        cursor = page["cursor"]
        if between and cursor is not None:
            await do(http, walk, between.pop())
    assert totals == {len(ids)}
    return ids


def _path(words: dict[str, str]) -> str:
    return f"/v1/facts?{urlencode(words)}"


# A node for each example: looking for a smaller one that fails too would take minutes.
@settings(max_examples=150 if LONG else 15, deadline=None, derandomize=not LONG, phases=(Phase.generate,))
@given(
    steps=st.lists(STEPS, min_size=10, max_size=30),
    asked=st.lists(queries(), min_size=4, max_size=8),
    between=st.lists(STEPS, min_size=5, max_size=15),
)
async def test_a_listing_is_what_a_walk_over_all_that_was_said_finds(
    steps: list[tuple], asked: list[dict], between: list[tuple]
):
    with tempfile.TemporaryDirectory() as folder:
        http = await Served(Path(folder), fixed_clock(), Signer.from_seed(SEED), config_for(Path(folder))).start()
        try:
            garden = {"slug": "den", "name": "Den", "scope": "public"}
            (await http.post("/v1/gardens", garden)).expect(201)
            token = await issue(http, f"{NODE_ID}/agent/helper", verb="read", object=f"{NODE_ID}/scope/public")
            walk, left = Walk(), list(between)
            for step in steps:
                await do(http, walk, step)
            for query in asked:
                for bearer, gardens in ((http.config.admin_key, True), (token, False)):
                    if not gardens and "garden_id" in query:
                        continue
                    scopes = ("local", "public") if gardens else ("public",)
                    expected = walk.listing(query, http.clock.now_ms(), scopes=scopes, gardens=gardens)
                    assert await listed(http, query, bearer, left, walk) == expected, query
        finally:
            await http.stop()


# While others write.


async def write_on(http: Served, writer: int, count: int) -> None:
    for number in range(count):
        about = {"entity": f"user:{number % 3}", "relation": "memory:state", "source": f"agent:{writer}"}
        match number % 5:
            case 3:
                await http.write(**about, value=text("retracted"), confidence=0.0)
            case 4:
                await http.write(**about, value=text("new"), supersedes=True)
            case _:
                await http.write(**about, value=text(f"{writer} {number}"))


async def pages_of(http: Served, query: dict[str, str]) -> list[dict[str, Any]]:
    pages = [(await http.send("GET", _path(query))).expect(200)]
    while pages[-1]["cursor"] is not None:
        pages.append((await http.send("GET", _path(query | {"cursor": pages[-1]["cursor"]}))).expect(200))
    return pages


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_are_of_one_state_while_many_write(http: Served, order: str):
    await write_on(http, 0, 20)
    queries = [
        {"limit": "4", "order": order},
        {"limit": "7", "order": order} | EVERY_KIND,
        {"limit": "3", "order": order, "entity": "user:1", "include_retracted": "true"},
    ]
    writers = [asyncio.create_task(write_on(http, writer, 50)) for writer in range(1, 5)]
    readings: list[tuple[dict[str, str], list[dict[str, Any]]]] = []

    async def read_on(query: dict[str, str]) -> None:
        while not all(writer.done() for writer in writers):
            readings.append((query, await pages_of(http, query)))

    await asyncio.gather(*writers, *map(read_on, queries))

    assert len(readings) >= 6
    for query, pages in readings:
        ids = [record["id"] for page in pages for record in page["facts"]]
        assert {page["total"] for page in pages} == {len(ids)} == {len(set(ids))}
        if len(pages) == 1:
            continue
        # What the first page fixed, read once more when all is quiet.
        size = opened_cursor(pages[0]["cursor"], Cursor, "facts").snapshot.size
        quiet = await http.get("/v1/facts", **query | {"limit": 1000, "as_of": f"offset:{size - 1}"})
        assert [record["id"] for record in quiet.expect(200)["facts"]] == ids


async def test_who_polls_oldest_first_from_the_last_cursor_on_meets_each_fact_once(http: Served):
    """As clients follow a scope: a page after another, and when there is none, `after` what came last."""
    met, expected = [], []
    for number in range(3):
        for _ in range(3):
            expected.append(
                (await http.write(value=text(str(number)), scope="team", relation=f"m:{len(expected)}"))["id"]
            )
        http.clock.advance(1000)
        query = {"scope": "team", "order": "asc", "limit": "2"}
        query |= {"after": met[-1]["timestamp"]} if met else {}
        met += [record for page in await pages_of(http, query) for record in page["facts"]]

    assert [record["id"] for record in met] == expected


# Counting.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory):
    """Views of 10,001 facts, the last of them alone in its entry."""
    receipts = [
        Receipt(
            fact=fact(
                number,
                is_foreign=True,
                id=f"018f0000-0000-7000-8000-{number:012d}",
                entity=f"user:{number}",
                value=Value(type="string", v="x", interpret_as="content"),
                hlc=f"1777896000000.{number}",
                cid=f"sha256:{number:064x}",
            ),
            judgement=None,
            quarantine_garden_id=None,
            quarantine_reason=None,
        )
        for number in range(10_001)
    ]
    parts = [receipts[first : first + 500] for first in range(0, 10_001, 500)]
    events = [
        BatchReceived(node_id=PEER_NODE_ID, cursor="c", known=0, outcome=Receipts(refused=()), receipts=tuple(part))
        for part in parts
    ]
    views = Views(tmp_path_factory.mktemp("many"))
    with views.begin(write=True) as txn:
        apply_all(txn, views.handles, signed(events, clock=fixed_clock(step_ms=7)))
    yield views, len(events)
    views.close()


PLAIN = dict.fromkeys(FactQuery.__struct_fields__) | {
    "includes_expired": False,
    "includes_retracted": False,
    "includes_contradicted": False,
    "is_ascending": False,
}


@pytest.mark.parametrize(("left_out", "total", "is_minimum"), [(1, 10_000, False), (0, 10_000, True)])
def test_a_total_is_exact_up_to_ten_thousand_and_then_said_to_be_the_least(many, left_out, total, is_minimum):
    views, size = many
    snapshot = Snapshot(size - left_out, START_MS, None)

    with views.begin() as txn:
        page = page_of(View(txn, views.handles), FactQuery(**PLAIN), EVERYTHING, snapshot, limit=10, after=None)
    said = Page(rows=page.rows, at=At(snapshot.size, START_MS), is_past=False, total=page.total, cursor=None)

    assert (said.counted, said.is_counted_in_part) == (total, True if is_minimum else UNSET)
    assert page.last is not None and len(page.rows) == 10
