"""What the offline commands do with a log of single facts, each with its items: verified, quickly verified, folded anew; and
how long a node takes to start on it.

Always: the log is made by the event code itself. The Ed25519 limit is measured over the same entries, before and after each
stretch that is held against it, and everything else between its neighbours in time.

Leaves out HTTP and commands: which fact is asserted is made up here.
"""

import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median

from msgspec import structs
from nacl.bindings import crypto_sign_open

from bench.startups import startup_figures
from node.canonical import fact_hash
from node.clock import Clock
from node.events.entry import SIGNATURE_BYTES, SIGNED_PREFIX, Entry, salt_bytes_for, sign_entry
from node.events.event import Actor
from node.events.facts import Fact, FactAsserted, Value, body_of, cid_of
from node.events.identity import NodeCreated
from node.events.log import Log
from node.events.log_file import structural_problem
from node.keys import Signer
from replay.log_run import LogRun
from replay.progress import Bar
from replay.rebuild import rebuild_views
from replay.verify import Extent, verify

NODE_ID = "stigmem://bench.example"
ENTRIES = 100_000
_ACTOR = Actor(principal=NODE_ID, via="admin", credential=None, idempotency_key=None, trace_id=None)
_AT_ONCE = 1000
_VERIFICATIONS = 5_000
_TURNS = 10


def replay_figures(folder: Path, entries: int = ENTRIES) -> dict[str, float]:
    """Entries a second of every command over one log, `(n)` with n processes; those with `CPU` a second of processor time,
    all processes together, which is what Ed25519 verifications are counted in too.
    """
    seed = os.urandom(32)
    messages = make_log(folder, entries, seed)
    figures = _beside_the_limit(folder, entries, messages)
    for workers in (1, 2):
        figures |= _rates(f"checked({workers})", entries, partial(_check, folder, entries, workers, is_quick=False))
    for workers in (1, 2):
        figures |= _rates(f"quick({workers})", entries, partial(_check, folder, entries, workers, is_quick=True))
    figures |= _rates("page walk", entries, partial(structural_problem, folder / "log"))
    figures |= _rates("rebuilt", entries, partial(rebuild_views, folder))
    for workers in (1, 2):
        figures |= _rates(f"verify({workers})", entries, partial(verify, folder, None, str, workers=workers))
    whole_quick = partial(verify, folder, None, str, extent=Extent(is_quick=True), workers=2)
    figures |= _rates("verify --quick", entries, whole_quick)
    figures |= startup_figures(folder, NODE_ID, seed)
    return figures


def make_log(folder: Path, entries: int, seed: bytes) -> list[bytes]:
    """A log of one birth and single facts, signed by the key of `seed`; some of its signed messages, each behind its signature."""
    log, signer, clock = Log(folder / "log"), Signer.from_seed(seed), Clock.system()
    messages: list[bytes] = []
    while (head := log.head()).size < entries:
        batch: list[Entry] = []
        for offset in range(head.size, min(head.size + _AT_ONCE, entries)):
            leaf = batch[-1].leaf if batch else head.leaf
            batch.append(_entry(offset, leaf, signer, clock))
        log.append(head.size, batch)
        messages += [_signed_message(entry) for entry in batch[: _VERIFICATIONS - len(messages)]]
    log.close()
    return [signer.public_key, *messages]


def _entry(offset: int, prev: bytes, signer: Signer, clock: Clock) -> Entry:
    event = (
        _asserted(offset, clock)
        if offset
        else NodeCreated(node_id=NODE_ID, public_key=signer.public_key_b64, software="bench")
    )
    salts = clock.random_bytes(salt_bytes_for(event))
    return sign_entry(
        event, _ACTOR, offset=offset, prev=prev, hlc=clock.tick(), at_ms=clock.at_ms(), signer=signer, salts=salts
    )


def _asserted(number: int, clock: Clock) -> FactAsserted:
    fact = Fact(
        id=clock.new_id(),
        entity=f"{NODE_ID}/thing/{number}",
        relation="bench:state",
        value=Value(type="string", v=f"claim {number}", interpret_as="content"),
        source=f"{NODE_ID}/agent/crm",
        timestamp="2026-05-04T12:00:00.000Z",
        hlc=clock.tick(),
        confidence=1.0,
        scope="company",
        valid_until=None,
        garden_id=None,
        received_from=None,
        supersedes=(),
        resolves=None,
        origin=NODE_ID,
        seal=None,
        source_trust=None,
        derived_from=(),
        attestation_chain=(),
        attestation_chain_issuers=(),
        attestation_verified=(),
        cid="",
        fact_hash="",
        warnings=(),
    )
    named = structs.replace(fact, cid=cid_of(fact), fact_hash=fact_hash(body_of(fact)))
    return FactAsserted(judgement=None, fact=named)


def _signed_message(entry: Entry) -> bytes:
    return entry.stored[-SIGNATURE_BYTES:] + SIGNED_PREFIX + entry.stored[:-SIGNATURE_BYTES]


def _ed25519(messages: list[bytes]) -> float:
    """Bare PyNaCl verifications a second of one core's time."""
    public_key, *signed = messages
    start = time.process_time()
    for message in signed:
        crypto_sign_open(message, public_key)
    return len(signed) / (time.process_time() - start)


def _beside_the_limit(folder: Path, entries: int, messages: list[bytes]) -> dict[str, float]:
    """The Ed25519 limit, and how much of it is left of a checked log, stretch by stretch: each between two measurements of the
    limit, because a machine that others use too is in another state ten seconds later. Medians.
    """
    limits, shares = [_ed25519(messages)], []
    stretch = -(-entries // _TURNS)
    for first in range(0, entries, stretch):
        end = min(entries, first + stretch)
        name = f"checked({first})"
        found = _rates(name, end - first, partial(_check, folder, end, 1, first=first, is_quick=False))
        limits.append(_ed25519(messages))
        shares.append(found[f"{name} CPU"] / mean(limits[-2:]))
    return {"Ed25519 CPU": median(limits), "checked/Ed25519": median(shares)}


def _check(folder: Path, end: int, workers: int, *, first: int = 0, is_quick: bool) -> None:
    with Bar() as bar:
        run = LogRun(folder / "log", workers=workers, is_quick=is_quick, bar=bar)
        run.check(first, end, None)
    if run.damage is not None:
        raise RuntimeError(f"the bench's own log does not hold: {run.damage}")


def _rates(name: str, entries: int, run: Callable[[], object]) -> dict[str, float]:
    wall, spent = time.perf_counter(), _processor_seconds()
    run()
    # Rounded up to a tick, so that a log of a few entries divides too.
    ticks = max(_processor_seconds() - spent, 0.001)
    return {name: entries / (time.perf_counter() - wall), f"{name} CPU": entries / ticks}


def _processor_seconds() -> float:
    """What this process and those that it has waited for have had of the processor."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)
