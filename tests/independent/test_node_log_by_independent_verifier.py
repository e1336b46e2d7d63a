"""What node/events writes and proves, judged by the verifier that shares no code with it."""

import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.events.entry import salt_bytes_for, sign_entry
from node.events.event import NODE_ITSELF, Event
from node.events.identity import ManifestPublished, RequestRefused
from node.events.log import Log
from node.events.tree import Frontier, consistency_path, inclusion_path, root_at
from node.keys import Signer
from tests.independent.rfc6962_vectors import PATH
from tests.independent.verifier import (
    check_consistency,
    check_inclusion,
    check_log,
    consistency_proof,
    inclusion_proof,
    parse_checkpoint,
    read_log,
    root_of,
)

SIGNER = Signer.from_seed(bytes(range(32)))
VECTORS = json.loads(PATH.read_text())
SIZE = 37


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log(tmp_path / "data" / "log")
    yield opened
    opened.close()


def _append(log: Log, *batch_sizes: int) -> None:
    for batch_size in batch_sizes:
        head, entries = log.head(), []
        for offset in range(head.size, head.size + batch_size):
            event = _event(offset)
            entries.append(
                sign_entry(
                    event,
                    NODE_ITSELF,
                    offset=offset,
                    prev=entries[-1].leaf if entries else head.leaf,
                    hlc=f"{1_777_896_000_000 + offset:013d}.000",
                    at_ms=1_777_896_000_000 + offset,
                    signer=SIGNER,
                    salts=sha256(b"%d" % offset).digest() * (salt_bytes_for(event) // 32 + 1),
                )
            )
        log.append(head.size, entries)


def _event(number: int) -> Event:
    """By turns one with plain members, in which not all text is ASCII, and one with a part of its own."""
    if number % 2:
        return ManifestPublished(manifest_id=str(number), manifest=b'{"entity_uri":"stigmem://org-a.example"}')
    return RequestRefused(code="example", detail="nämlich \u2028 so", subject=f"GET /{number}")


def test_a_log_written_in_batches_has_no_faults(log, tmp_path):
    _append(log, 1, 2, 5, 16, 1, 12)
    head = log.head()
    log.close()
    assert check_log(tmp_path / "data") == []
    assert root_of([entry.leaf_hash for entry in read_log(tmp_path / "data")]) == head.root


def test_the_proofs_of_every_size_of_a_log_are_those_of_the_definition(log):
    _append(log, SIZE)
    leaves = [entry.leaf for entry in log.read(0, SIZE)]
    with log.tree() as read:
        for first, size in combinations_with_replacement(range(1, SIZE + 1), 2):
            inclusion, consistency = inclusion_path(first - 1, size, read), consistency_path(first, size, read)
            assert inclusion == inclusion_proof(first - 1, leaves[:size])
            assert consistency == consistency_proof(first, leaves[:size])
            root = root_at(size, read)
            assert check_inclusion(leaves[first - 1], first - 1, size, inclusion, root)
            assert check_consistency(first, root_at(first, read), size, root, consistency)


def test_the_node_makes_the_roots_and_proofs_of_the_rfc6962_vectors():
    frontier, nodes = Frontier(0, []), {}
    roots = [frontier.root().hex()]
    for leaf in VECTORS["leaf_hashes"]:
        nodes |= {(level, index): node for level, index, node in frontier.append(bytes.fromhex(leaf))}
        roots.append(frontier.root().hex())

    def read(level: int, index: int) -> bytes:
        return nodes[level, index]

    assert roots == VECTORS["roots"]
    for case in VECTORS["inclusion"]:
        assert [h.hex() for h in inclusion_path(case["index"], case["size"], read)] == case["hashes"]
    for case in VECTORS["consistency"]:
        assert [h.hex() for h in consistency_path(case["size1"], case["size2"], read)] == case["hashes"]


def test_a_checkpoint_of_the_node_opens_as_a_signed_note(log):
    _append(log, SIZE)
    head, origin = log.head(), origin_of("stigmem://org-a.example")
    note = sign_checkpoint(Checkpoint(origin=origin, size=head.size, root=head.root), SIGNER)
    assert origin == "org-a.example/stigmem-log"
    assert parse_checkpoint(note, origin, SIGNER.public_key) == (SIZE, head.root)
