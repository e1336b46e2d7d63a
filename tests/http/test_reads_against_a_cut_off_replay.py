"""Every read `as_of` an entry is what a node whose log ends there answers, whatever happened before and since (PROTOCOL §2.5)."""

import itertools
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec import structs

from node.commands.exchange import IngestBatch
from node.commands.witness import RecordFork, Witnessed
from node.errors import LogForked
from node.times import format_ms
from tests.cut_off import CutOff
from tests.organisations import Organisation, be_strict, issue
from tests.served import NODE_ID, Served, fact

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
RELATION = "memory:state"
# What a listing of the past does not tell of a peer.
OF_NOW_ALONE = (
    *("cursor", "facts_accepted", "facts_held", "facts_refused", "pages_served"),
    *("last_received_at", "last_served_at", "last_contact_at", "last_error", "next_try_at", "lag"),
)


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


@dataclass
class History:
    """What happens to a node: writes, a peer's pages, moderation, tokens, terms, gardens, settings, and time."""

    http: Served
    org_b: Organisation
    rng: random.Random
    peer_id: str
    quarantine: str
    fact_ids: list[str] = field(default_factory=list)
    cids: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    gardens: list[str] = field(default_factory=list)
    entities: tuple[str, ...] = (f"{NODE_ID}/service/0", f"{NODE_ID}/service/1", "stigmem://org-b.example/service/0")
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def go_on(self) -> None:
        steps: list[tuple[int, Callable]] = [
            (8, self.write),
            (3, self.withdraw),
            (8, self.receive),
            (2, self.write_by_token),
            (8, self.moderate),
            (3, self.wait),
            (2, self.settle),
            (2, self.handle_tokens),
            (3, self.change_peer),
            (2, self.handle_gardens),
            (1, self.switch_mode),
            (1, self.switch_federation),
        ]
        weights, actions = zip(*steps, strict=True)
        await self.rng.choices(actions, weights)[0]()

    def _about(self) -> dict[str, object]:
        scope = self.rng.choice(("local", "public", "public"))
        return {"entity": self.rng.choice(self.entities), "relation": RELATION, "scope": scope}

    async def _written(self, **fields: object) -> None:
        record = await self.http.write(**(self._about() | {"source": f"agent:{self.rng.randrange(2)}"} | fields))
        self.fact_ids.append(record["id"])
        self.cids.append(record["cid"])

    async def write(self) -> None:
        until = None
        if self.rng.random() < 0.3:
            until = format_ms(self.http.clock.now_ms() + self.rng.randrange(1, 20_000))
        confidence = self.rng.choice((0.5, 0.9))
        await self._written(value=text(self.rng.choice("abc")), confidence=confidence, valid_until=until)

    async def withdraw(self) -> None:
        if self.rng.random() < 0.5:
            await self._written(value=text(self.rng.choice(("a", "b", "retracted"))), confidence=0.0)
        else:
            await self._written(value=text(self.rng.choice("abc")), supersedes=True)

    async def receive(self) -> None:
        """A page of the peer's facts, now and then with its resolution of what is said about its own entity."""
        if self.org_b.peer_at(self.http).status != "active":
            if self.http.config.federation_enabled:
                await self.org_b.join(self.http)
            return
        await self.org_b.receive(self.http, *(self._served() for _ in range(self.rng.randrange(1, 4))))

    def _served(self) -> dict[str, Any]:
        number = next(self.numbers)
        fields = self._about() | {"scope": "public", "hlc": f"{1777895940000 + number:013d}.000"}
        if self.rng.random() < 0.3 and self.fact_ids:
            settled = self.rng.sample(self.fact_ids, min(4, len(self.fact_ids)))
            fields |= {"resolves": {"conflict_id": f"stigmem:conflict:{settled[0]}", "superseded": settled}}
            fields |= {"entity": self.entities[2], "confidence": 1.0}
        else:
            fields |= {"confidence": self.rng.choice((0.9, 0.9, 0.5, 0.0))}
        fact = self.org_b.served_fact(number=number, value=text(self.rng.choice("abc")), **fields)
        self.fact_ids.append(fact["id"])
        return fact

    async def write_by_token(self) -> None:
        """Another organisation's agent writes here: in strict mode into quarantine."""
        if self.org_b.peer_at(self.http).status == "active":
            body = fact(**self._about(), value=text(self.rng.choice("abc")), source=self.org_b.assistant)
            answer = await self.http.post("/v1/facts", body, bearer=await issue(self.http, self.org_b.assistant))
            if answer.status in (201, 202):
                self.fact_ids.append(answer.json["id"])

    async def moderate(self) -> None:
        found = (await self.http.get("/v1/quarantine", quarantine_status="pending")).expect(200)["items"]
        if not found:
            return
        held = self.rng.choice(found)
        verb = self.rng.choice(("promote", "promote", "reject"))
        body = {"fact_id": held["fact_id"], "reason": "looked at"}
        (await self.http.post(f"/v1/gardens/{self.quarantine}/{verb}", body)).expect(200)

    async def wait(self) -> None:
        self.http.clock.advance(self.rng.randrange(1, 10_000))

    async def settle(self) -> None:
        found = (await self.http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"]
        if found:
            path = f"/v1/conflicts/{self.rng.choice(found)['conflict_id']}/resolve"
            settled = (await self.http.post(path, {"new_value": text(self.rng.choice("abd"))})).expect(200)
            self.fact_ids.append(settled["resolution_fact_id"])

    async def handle_tokens(self) -> None:
        if self.tokens and self.rng.random() < 0.5:
            token_id = self.tokens[self.rng.randrange(len(self.tokens))]
            await self.http.post(f"/v1/federation/capability-tokens/{token_id}/revoke", {"reason": "gone"})
        else:
            self.tokens.append(json.loads(await issue(self.http, f"{NODE_ID}/agent/helper"))["token_id"])

    async def change_peer(self) -> None:
        peer = self.org_b.peer_at(self.http)
        match self.rng.randrange(4):
            case 0 if self.http.config.federation_enabled:
                await self.org_b.join(self.http)
            case 1:
                scopes = self.rng.choice((["public"], ["public", "company"]))
                await self.http.send("PATCH", f"/v1/federation/peers/{self.peer_id}", {"allowed_scopes": scopes})
            case 2:
                await self.http.send("DELETE", f"/v1/federation/peers/{self.peer_id}")
            case _ if peer.status == "active":
                await self._witness(peer)

    async def _witness(self, peer: Any) -> None:
        note = f"note {next(self.numbers)}"
        if self.rng.random() < 0.2 and peer.seen_checkpoint is not None:
            fork = RecordFork(node_id=peer.node_id, held=peer.seen_checkpoint, shown=note, leaf_hash=None, hashes=())
            with pytest.raises(LogForked):
                await self.http.node.execute(fork)
            body = {"accept_checkpoint": True}
            await self.http.post(f"/v1/federation/peers/{self.peer_id}/approve", body)
            return
        self.http.clock.advance(600_000)
        batch = IngestBatch(
            node_id=peer.node_id,
            public_key=peer.public_key,
            terms_from=peer.terms_from,
            outcomes=(),
            cursor=f"c{next(self.numbers)}",
            witnessed=Witnessed(after=peer.seen_checkpoint, note=note),
        )
        await self.http.node.execute(batch)

    async def handle_gardens(self) -> None:
        if self.gardens and self.rng.random() < 0.6:
            garden = self.rng.choice(self.gardens)
            if self.rng.random() < 0.3:
                await self.http.send("DELETE", f"/v1/gardens/{garden}")
            elif (await self.http.get(f"/v1/gardens/{garden}")).status == 200:
                await self._written(value=text(self.rng.choice("ab")), garden_id=garden, scope="local")
            return
        slug = f"den-{len(self.gardens)}"
        body = {"slug": slug, "name": "Den", "scope": "local"}
        (await self.http.post("/v1/gardens", body)).expect(201)
        self.gardens.append(slug)

    async def switch_mode(self) -> None:
        mode = self.rng.choice(("relaxed", "strict", "strict", "strict", "off"))
        (await self.http.send("PATCH", "/v1/admin/config", {"trust_mode": mode})).expect(200)

    async def switch_federation(self) -> None:
        """Off: what is written carries no seal until it is on again."""
        is_on = self.http.config.federation_enabled
        self.http.config = structs.replace(self.http.config, federation_enabled=not is_on)
        await self.http.restart()


async def begun(http: Served, org_b: Organisation, seed: int) -> History:
    quarantine = await be_strict(http)
    peer_id = await org_b.join(http)
    return History(http=http, org_b=org_b, rng=random.Random(seed), peer_id=peer_id, quarantine=quarantine)


def plain_reads(history: History) -> list[tuple[str, dict[str, object]]]:
    """Every listing that takes `as_of`, with its filters."""
    everything = {"include_contradicted": True, "include_expired": True, "include_retracted": True}
    service = f"{NODE_ID}/service/0"
    facts: list[dict[str, object]] = [
        {},
        everything,
        {"include_retracted": True},
        {"include_expired": True},
        {"entity": service, "include_contradicted": True, "order": "asc"},
        {"relation": RELATION, "scope": "public", "limit": 2},
        {"source": history.org_b.assistant, "min_confidence": 0.6, "limit": 3, "order": "asc"},
        {"source": "system:stigmem", "limit": 4},
        {"relation": "stigmem:conflict:status"},
        {"garden_id": "den-0"} | everything,
    ]
    return [
        *(("/v1/facts", query) for query in facts),
        (f"/v1/entities/{quote(service, safe='')}/history", {}),
        (f"/v1/entities/{quote(service, safe='')}/history", {"limit": 3, "order": "desc", "scope": "public"}),
        ("/v1/conflicts", {}),
        ("/v1/conflicts", {"status": "unresolved", "limit": 2}),
        ("/v1/conflicts", {"status": "resolved", "limit": 3}),
        ("/v1/quarantine", {"limit": 3}),
        *(("/v1/quarantine", {"quarantine_status": status}) for status in ("pending", "promoted", "rejected")),
        ("/v1/quarantine", {"garden_id": "quarantine"}),
        ("/v1/gardens", {"limit": 2}),
        ("/v1/gardens/den-0", {}),
        ("/v1/federation/peers", {}),
        ("/v1/federation/capability-tokens", {}),
    ]


def single_reads(history: History, told: list[str], rng: random.Random) -> list[tuple[str, dict[str, object]]]:
    """Some of everything that has an id, known there or not."""
    ids, cids = (rng.sample(known, min(3, len(known))) for known in (history.fact_ids, history.cids))
    paths = [f"/v1/facts/{name}" for name in (*ids, *cids[:1], *rng.sample(told, min(2, len(told))))]
    paths += [f"/v1/facts/{name}/body" for name in ids[:1]]
    paths += [f"/v1/federation/capability-tokens/{token_id}" for token_id in history.tokens[:2]]
    paths += [f"/v1/facts/{name}/provenance" for name in (*ids[:2], *told[:1])]
    about = [("/v1/facts", {"entity": name}) for name in ids[:2]]
    return [*((path, {}) for path in paths), *about]


async def read_all(http: Served, path: str, query: dict[str, object]) -> list[tuple[int, Any]]:
    """Status and body of every page; a later page is asked for by its cursor alone."""
    pages: list[tuple[int, Any]] = []
    asked = dict(query)
    while True:
        answer = await http.get(path, **asked)
        body = answer.json
        pages.append((answer.status, body))
        cursor = body.get("cursor") if answer.status == 200 and "limit" in query else None
        if cursor is None:
            return pages
        asked = {name: value for name, value in query.items() if name != "as_of"} | {"cursor": cursor}


def as_recorded(body: Any) -> Any:
    """An answer of now as one of the past puts it: trust as it was recorded, no cursor to compare, nothing of now alone."""
    if isinstance(body, list):
        return [as_recorded(item) for item in body]
    if not isinstance(body, dict):
        return body
    shown = {name: as_recorded(value) for name, value in body.items()}
    if "effective_confidence" in shown:
        speaker = shown["source"] if shown["source"].startswith("stigmem://") else shown["origin"]
        is_own = speaker == NODE_ID or speaker.startswith(f"{NODE_ID}/")
        trust = 1.0 if is_own or shown["source_trust"] is None else shown["source_trust"]
        shown["effective_confidence"] = round(shown["confidence"] * trust, 6)
    if "last_contact_at" in shown:
        return shown | dict.fromkeys(OF_NOW_ALONE)
    if "log_proof" in shown:
        # The proof is of the log of now, and so are the keys that what was signed is held against.
        shown["log_proof"] = None
        shown["seal"] = shown["seal"] and shown["seal"]["seal"]
        shown["attestations"] = len(shown["attestations"])
    if "cursor" in shown:
        shown["cursor"] = shown["cursor"] is not None
    return shown


def without_cursor(body: Any) -> Any:
    if isinstance(body, dict) and "log_proof" in body:
        return as_recorded(body)
    if isinstance(body, dict) and "cursor" in body:
        return body | {"cursor": body["cursor"] is not None}
    return body


async def told_ids(http: Served) -> list[str]:
    page = (await http.get("/v1/facts", source="system:stigmem", limit=1000)).expect(200)
    return [record["id"] for record in page["facts"]]


@pytest.fixture
async def cut(http: Served, tmp_path: Path) -> AsyncIterator[CutOff]:
    served = CutOff(tmp_path / "cut-off", http)
    await served.start()
    yield served
    await served.stop()


async def same(http: Served, cut: CutOff, as_of: str, reads: list[tuple[str, dict[str, object]]]) -> None:
    for path, query in reads:
        then = await read_all(http, path, query | {"as_of": as_of})
        expected = await read_all(cut, path, query)
        assert [(status, without_cursor(body)) for status, body in then] == [
            (status, as_recorded(body)) for status, body in expected
        ], (as_of, path, query)


@pytest.mark.parametrize("seed", range(40 if LONG else 3))
async def test_a_read_of_the_past_is_the_answer_of_a_log_cut_off_there(
    http: Served, org_b: Organisation, cut: CutOff, seed: int
):
    history = await begun(http, org_b, seed)
    for _ in range(120 if LONG else 40):
        await history.go_on()
    rng, told = random.Random(seed), await told_ids(http)
    entries = http.entries(0)

    for entry, following in itertools.zip_longest(entries, entries[1:]):
        cut.take(entry)
        reads = [*rng.sample(plain_reads(history), 9), *single_reads(history, told, rng)]
        await same(http, cut, f"offset:{entry.offset}", reads)
        until_ms = http.clock.at_ms() if following is None else following.at_ms - 1
        if until_ms >= entry.at_ms:
            cut.clock.set(rng.randrange(entry.at_ms, until_ms + 1))
            await same(http, cut, format_ms(cut.clock.now_ms()), rng.sample(plain_reads(history), 4))
