"""What a page of 500 sealed facts costs where it is made and where it is taken in, without HTTP.

Always: two nodes with logs of their own in one process, the node's own functions, the real writer and its fsync. A page is ingested
between two rounds of bare verifications over the same seals, so a machine that changes its speed meanwhile weighs on both.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec
from nacl.bindings import crypto_sign_open

from bench.yardstick import request_body
from node.canonical import b64url_decode
from node.clock import Clock
from node.commands.decision import Principal
from node.commands.exchange import IngestBatch
from node.commands.facts import AssertFact
from node.commands.ingest import examine
from node.commands.peers import PeerDocuments, RecordPeerCheck, RegisterPeer
from node.commands.seals import sealed_bytes
from node.commands.served_facts import served_fact
from node.config import Config
from node.events.facts import Fact
from node.events.manifest_proof import manifest_log_entry
from node.http.facts import FactRequest
from node.keys import Signer
from node.projections.federation_page import MAX_PAGE_FACTS, ServedPage, page_for
from node.runtime import Node
from node.serve import rest_collector
from node.strict_json import decode
from node.sync import read_page

PAGES = 12
SPEAKER = "stigmem://bench.example"
LISTENER = "stigmem://listener.example"
SCOPES = ("company",)
_SHARED_FIELDS = set(AssertFact.__struct_fields__) & set(FactRequest.__struct_fields__)
Result = TypeVar("Result")


def page_figures(folder: Path, *, pages: int = PAGES) -> dict[str, float]:
    """Facts a second served and ingested, verifications a second, and microseconds a fact of each step."""
    return asyncio.run(_measured(folder, pages))


async def _measured(folder: Path, pages: int) -> dict[str, float]:
    rest_collector()
    speaker, listener = await _opened(folder / "speaker", SPEAKER), await _opened(folder / "listener", LISTENER)
    try:
        await _assert_facts(speaker, pages * MAX_PAGE_FACTS)
        await _introduce(speaker, listener)
        spent: dict[str, list[float]] = {}
        cursor = None
        for _ in range(pages):
            page, raw = _serve(speaker, cursor, spent)
            cursor = page.cursor
            _verify(page.facts, speaker.signer.public_key, spent)
            await _ingest(listener, raw, cursor, spent)
            _verify(page.facts, speaker.signer.public_key, spent)
    finally:
        await listener.close()
        await speaker.close()
    return _figures(spent)


def _figures(spent: dict[str, list[float]]) -> dict[str, float]:
    us = {name: median(values) for name, values in spent.items()}
    serve, ingest = (
        sum(value for name, value in us.items() if name.startswith(f"{step}:")) for step in ("page", "ingest")
    )
    rates = {"served without HTTP": 1e6 / serve, "ingested": 1e6 / ingest, "verified": 1e6 / us.pop("verify")}
    return rates | us


def _serve(node: Node, cursor: str | None, spent: dict[str, list[float]]) -> tuple[ServedPage, bytes]:
    with node.view() as view:
        page = _timed(
            spent,
            "page: read",
            lambda: page_for(view, peer_node_id=LISTENER, scopes=SCOPES, cursor=cursor, limit=MAX_PAGE_FACTS),
        )
    _timed(spent, "page: hold against the log", lambda: node.vouch_for(page.rows))
    shown = _timed(spent, "page: shape", lambda: [served_fact(fact) for fact in page.facts])
    answer = {"facts": shown, "cursor": page.cursor, "has_more": page.has_more}
    return page, _timed(spent, "page: encode", lambda: msgspec.json.encode(answer))


async def _ingest(node: Node, raw: bytes, cursor: str, spent: dict[str, list[float]]) -> None:
    page = _timed(spent, "ingest: parse", lambda: read_page(raw))
    context = node.context()
    with node.view() as view:
        peer = view.peers.of_node(SPEAKER)
        outcomes = _timed(
            spent, "ingest: examine", lambda: tuple(examine(bytes(fact), peer, view, context) for fact in page.facts)
        )
    batch = IngestBatch(
        node_id=SPEAKER, public_key=peer.public_key, terms_from=peer.terms_from, outcomes=outcomes, cursor=cursor
    )
    start = time.perf_counter_ns()
    done = (await node.execute(batch)).reply
    _note(spent, "ingest: decide and store", start)
    if done.ingested != MAX_PAGE_FACTS:
        raise RuntimeError(f"of {MAX_PAGE_FACTS} facts: {done}")


def _verify(facts: list[Fact], public_key: bytes, spent: dict[str, list[float]]) -> None:
    """What PyNaCl alone takes for these seals: no message is built and nothing is decoded meanwhile."""
    signed = [b64url_decode(fact.seal) + sealed_bytes(fact) for fact in facts]
    _timed(spent, "verify", lambda: [crypto_sign_open(message, public_key) for message in signed])


def _timed(spent: dict[str, list[float]], name: str, run: Callable[[], Result]) -> Result:
    start = time.perf_counter_ns()
    result = run()
    _note(spent, name, start)
    return result


def _note(spent: dict[str, list[float]], name: str, start: int) -> None:
    spent.setdefault(name, []).append((time.perf_counter_ns() - start) / 1000 / MAX_PAGE_FACTS)


async def _opened(folder: Path, node_id: str) -> Node:
    config = Config(
        data_dir=str(folder), entity_uri=node_id, admin_key="the admin key of the bench", federation_enabled=True
    )
    return await Node.open(config=config, clock=Clock.system(), signer=Signer.from_seed(os.urandom(32)))


async def _assert_facts(node: Node, count: int) -> None:
    """Each about an entity of its own, as `POST /v1/facts` would take them."""
    principal = Principal(via="admin", entity=node.node_id)
    for first in range(0, count, MAX_PAGE_FACTS):
        numbers = range(first, min(first + MAX_PAGE_FACTS, count))
        requests = [decode(request_body(number), FactRequest) for number in numbers]
        await asyncio.gather(*[node.execute(_command(request, principal, node)) for request in requests])


def _command(request: FactRequest, principal: Principal, node: Node) -> AssertFact:
    return AssertFact(
        principal=principal,
        garden=request.garden_id,
        accepted_ms=node.clock.now_ms(),
        **{name: getattr(request, name) for name in _SHARED_FIELDS},
    )


async def _introduce(speaker: Node, listener: Node) -> None:
    """Make the speaker an active peer of the listener, by the documents that it would serve."""
    with speaker.view() as view:
        own = view.identity.manifest()
    size = speaker.log.head().size
    documents = PeerDocuments(
        node_id=speaker.node_id,
        public_key=speaker.signer.public_key_b64,
        manifest=own.manifest,
        log_entry=manifest_log_entry(
            speaker.log, own.offset, size, own.published_ms, speaker.log_origin(size), speaker.signer
        ),
    )
    registered = RegisterPeer(
        principal=Principal(via="admin", entity=listener.node_id),
        node_id=speaker.node_id,
        node_url="http://localhost:1",
        allowed_scopes=SCOPES,
        declaration=None,
    )
    peer_id = (await listener.execute(registered)).reply
    await listener.execute(RecordPeerCheck(peer_id=peer_id, documents=documents, failure=""))
