"""The samples of every event type as a node would have logged them: what is signed inside them really is.

Always: the same types in the same order as `samples()`, but for the rotation of the node's own key, which is there where it is
asked for: all else is under one key.
"""

from msgspec import structs

from node.canonical import b64url_encode, fact_hash
from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.events.conflicts import ConflictResolved
from node.events.cosignature import cosign, witness_name
from node.events.event import Event
from node.events.facts import Fact, FactAsserted, FactsSealed, Seal, body_of, cid_of, sealed_bytes
from node.events.gardens import FactQuarantined
from node.events.identity import KeyRotated, ManifestPublished
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    CheckpointCosigned,
    PeerVerified,
    PushReceived,
    Receipt,
)
from node.events.tree import Frontier
from node.keys import Signer
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import NODE_ID, PEER_NODE_ID, PEER_SIGNER, SIGNER, SUCCESSOR, fact, samples


def sealed(fact: Fact, signer: Signer | None = None) -> Fact:
    """The fact with its CID, its hash and, where it has a seal, its origin's over it."""
    named = structs.replace(fact, cid=cid_of(fact), fact_hash=fact_hash(body_of(fact)))
    return named if fact.seal is None else structs.replace(named, seal=seal_of(named, signer))


def sound_fact(number: int, *, is_foreign: bool = False, **changed: object) -> Fact:
    """`fact` with what is signed in it sound; one of the peer's has no seal, for which a log would have to name a key."""
    return sealed(fact(number, is_foreign=is_foreign, **({"seal": None} if is_foreign else {}) | changed))


def seal_of(fact: Fact, signer: Signer | None = None) -> str:
    """The seal of a named fact, by its origin's key or another."""
    own = SIGNER if fact.origin == NODE_ID else PEER_SIGNER
    return b64url_encode((signer or own).sign(sealed_bytes(fact)))


def sound_events(*, is_rotated: bool = False) -> list[Event]:
    """`samples()` with sound signatures."""
    events: list[Event] = []
    for event in samples():
        if _is_of_the_rotation(event) and not is_rotated:
            continue
        events.append(_sound(event, events))
    return events


def _is_of_the_rotation(event: Event) -> bool:
    is_manifest = isinstance(event, ManifestPublished) and SUCCESSOR.key_id.encode() in event.manifest
    return is_manifest or isinstance(event, KeyRotated)


def _sound(event: Event, before: list[Event]) -> Event:
    match event:
        case FactAsserted(fact=fact) | ConflictResolved(fact=fact) | FactQuarantined(fact=fact):
            return structs.replace(event, fact=sealed(fact))
        case BatchReceived(receipts=receipts) | PushReceived(receipts=receipts):
            return structs.replace(event, receipts=tuple(map(_sound_receipt, receipts)))
        case FactsSealed(seals=seals):
            facts = {past.fact.id: past.fact for past in before if isinstance(past, FactAsserted)}
            return structs.replace(
                event, seals=tuple(Seal(fact_id=seal.fact_id, seal=seal_of(facts[seal.fact_id])) for seal in seals)
            )
        case PeerVerified():
            checkpoint = Checkpoint(origin=origin_of(PEER_NODE_ID), size=3, root=b"r" * 32)
            return structs.replace(event, checkpoint=sign_checkpoint(checkpoint, PEER_SIGNER))
        case AttestationSigned(fact_body=body):
            return structs.replace(event, fact_hash=fact_hash(body))
        case CheckpointCosigned(size=size):
            return structs.replace(event, cosignature=_cosigned(before, size))
    return event


def _sound_receipt(receipt: Receipt) -> Receipt:
    return structs.replace(receipt, fact=sealed(receipt.fact))


def _cosigned(events: list[Event], size: int) -> str:
    """The peer's line over the checkpoint of the first events as `write_log` writes them."""
    frontier = Frontier(0, [])
    for entry in signed(events[:size], clock=fixed_clock(step_ms=7)):
        frontier.append(entry.leaf)
    note = sign_checkpoint(Checkpoint(origin=origin_of(NODE_ID), size=size, root=frontier.root()), SIGNER)
    return cosign(note, name=witness_name(PEER_NODE_ID), signer=PEER_SIGNER, time_s=1_777_896_000)
