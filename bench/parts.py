"""What single parts of a write cost: the seal (PROTOCOL §2.4), and one sync of this disk.

Always: medians in microseconds over a fixed number of runs.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import lmdb

from node.canonical import b64url_encode, seal_message
from node.keys import Signer

SEAL = {
    "origin": "stigmem://bench.example",
    "id": "0196a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
    "hlc": "1777896000123.004",
    "fact_hash": "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    "valid_until": None,
    "derived_from": [],
    "supersedes": [],
    "resolves": None,
}
SEALS = 2000
SYNCS = 200
PAGE_BYTES = 4096


def seal_us() -> dict[str, float]:
    """What the node does for one seal: the message and the signature over it."""
    signer = Signer.from_seed(os.urandom(32))
    message = seal_message(**SEAL)
    return {
        "seal: message": _median_us(lambda: seal_message(**SEAL), SEALS),
        "seal: sign": _median_us(lambda: b64url_encode(signer.sign(message)), SEALS),
    }


def sync_us(folder: Path) -> dict[str, float]:
    """One page written and synced, by itself and as an LMDB commit."""
    descriptor = os.open(folder / "page", os.O_CREAT | os.O_WRONLY)
    try:
        page_us = _median_us(lambda: _write_page(descriptor), SYNCS)
    finally:
        os.close(descriptor)
    with lmdb.open(str(folder / "environment"), map_size=1 << 30) as environment:
        commit_us = _median_us(lambda: _commit_row(environment), SYNCS)
    return {"sync: page and fdatasync": page_us, "sync: LMDB commit of a row": commit_us}


def _write_page(descriptor: int) -> None:
    os.write(descriptor, bytes(PAGE_BYTES))
    os.fdatasync(descriptor)


def _commit_row(environment: lmdb.Environment) -> None:
    with environment.begin(write=True) as transaction:
        transaction.put(time.monotonic_ns().to_bytes(8), bytes(500))


def _median_us(run: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter_ns()
        run()
        spent.append((time.perf_counter_ns() - start) / 1000)
    return median(spent)
