"""What others, and this node, signed inside the items: seals, attestations, manifests, checkpoints and cosignatures.

Always: what the log records as accepted must verify under a key that the log records up to there; what it records as refused,
held back or not verified need not. Seals of this node's own hold under its own key, wherever they stand.

Does not check seals that were given later (`FactsSealed`): those need the fact, which only the fold finds.
Does not decide whether a peer was to be believed then, nor whether a key was current or a manifest unexpired.
"""

import base64
from collections.abc import Callable, Iterator

import msgspec

from node.canonical import b64url_decode, canonical_json, fact_hash
from node.errors import LogDamaged, Refusal
from node.events.checkpoint import open_checkpoint, origin_in, origin_of
from node.events.conflicts import ConflictResolved
from node.events.cosignature import check_cosignature, witness_name
from node.events.event import ERASED, Event, type_of
from node.events.facts import Fact, FactAsserted, Seal, body_of, sealed_bytes
from node.events.gardens import FactQuarantined
from node.events.identity import KeyRotated, ManifestPublished, NodeRestored
from node.events.own_keys import OwnKeys, require_rotation
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    CheckpointCosigned,
    ManifestIntroduced,
    PeerCheckpointAccepted,
    PeerCheckpointSeen,
    PeerKeyForked,
    PeerLogForked,
    PeerVerified,
    PushReceived,
    Receipt,
)
from node.events.rotations import ChainBroken, chain_of, first_key, is_signed_by_old, read_rotation, rotations_in
from node.events.tombstones import (
    EntityTombstoned,
    PeerTombstoned,
    Revocation,
    Tombstone,
    signed_revocation,
    signed_tombstone,
)
from node.keys import key_id_of, verify
from node.uris import authority_of

EventsOf = Callable[[int, int, frozenset[str]], Iterator[tuple[int, Event]]]
_NAMING = frozenset({type_of(PeerVerified), type_of(ManifestIntroduced), type_of(NodeRestored)})


class KnownKeys:
    """Whose key is whose, by what the log says up to an entry; asked for later and later entries, it reads on from the last.

    Keys are never forgotten: a seal holds for ever under the key that was its signer's then.
    """

    def __init__(self, own: OwnKeys, events: EventsOf) -> None:
        self.own = own
        self._events = events
        self._read_to = 0
        self._pinned: dict[str, list[bytes]] = {}
        self._introduced: dict[str, list[bytes]] = {}
        self._names: list[tuple[int, str]] = []

    def sealing(self, origin: str, offset: int) -> list[bytes]:
        """The keys that seals of `origin` may be under in the entry at `offset`."""
        return self.vouching(origin, offset) + self._introduced.get(origin, [])

    def vouching(self, node_id: str, offset: int) -> list[bytes]:
        """The keys of a node that is known at first hand: this one, and peers whose key is pinned."""
        self._read_on(offset)
        return self.own.up_to(offset) if node_id == self.own.node_id else self._pinned.get(node_id, [])

    def log_name(self, size: int, offset: int) -> str:
        """What this log was called at a size, as the entry at `offset` may know it."""
        self._read_on(offset)
        names = [origin for at, origin in self._names if at < size]
        return names[-1] if names else origin_of(self.own.node_id)

    def _read_on(self, offset: int) -> None:
        if offset < self._read_to:
            self._read_to, self._pinned, self._introduced, self._names = 0, {}, {}, []
        for at, event in self._events(self._read_to, offset, _NAMING):
            match event:
                case PeerVerified(node_id=node_id, public_key=key, manifest=manifest):
                    _add(self._pinned.setdefault(node_id, []), node_id, key, manifest)
                case ManifestIntroduced(entity_uri=entity_uri, public_key=key, manifest=manifest):
                    _add(self._introduced.setdefault(entity_uri, []), entity_uri, key, manifest)
                case NodeRestored(origin=origin):
                    self._names.append((at, origin))
        self._read_to = offset


class Evidence:
    """Checks what is signed inside an event; `root_at` gives the root over this log's first so many entries."""

    def __init__(self, keys: KnownKeys, root_at: Callable[[int], bytes]) -> None:
        self._keys, self._root_at = keys, root_at

    def check(self, offset: int, event: Event) -> None:
        """Raises LogDamaged, in words, where a signature in it does not hold."""
        if type(event) is FactAsserted and event.fact.seal is None and not event.fact.attestation_chain:
            return  # nothing in it is signed: nearly every event of a node that exchanges nothing
        try:
            self._check(offset, event)
        except Refusal as refusal:
            raise LogDamaged(refusal.detail) from refusal
        except ChainBroken as broken:
            raise LogDamaged(str(broken)) from broken
        except (ValueError, LookupError, ArithmeticError, RecursionError) as error:
            raise LogDamaged(f"what is signed in it cannot be read: {error}") from error

    def _check(self, offset: int, event: Event) -> None:
        match event:
            case FactAsserted(fact=fact) | ConflictResolved(fact=fact) | FactQuarantined(fact=fact):
                self._check_own_fact(offset, fact)
            case BatchReceived(receipts=receipts, node_id=node_id) | PushReceived(receipts=receipts, node_id=node_id):
                for receipt in receipts:
                    if receipt is not ERASED:
                        self._check_receipt(offset, node_id, receipt)
            case ManifestPublished(manifest=manifest):
                _check_manifest(manifest, self._keys.own.node_id, [self._keys.own.at(offset)])
            case PeerVerified() as verified:
                _check_verified(verified)
            case ManifestIntroduced(manifest=manifest, entity_uri=entity_uri, public_key=key):
                _check_manifest(manifest, entity_uri, [b64url_decode(key)])
            case AttestationSigned(fact_body=body, fact_hash=stated) if body is not ERASED:
                _require(fact_hash(body) == stated, "the fact body is not the one whose hash was signed for")
            case EntityTombstoned(tombstone=tombstone):
                _check_tombstone(tombstone, None, [self._keys.own.at(offset)])
            case PeerTombstoned(node_id=node_id, tombstone=tombstone, revocation=revocation):
                _check_tombstone(tombstone, revocation, self._keys.vouching(node_id, offset))
            case _:
                self._check_witnessing(offset, event)

    def _check_witnessing(self, offset: int, event: Event) -> None:
        match event:
            case PeerCheckpointSeen(node_id=node_id, checkpoint=note):
                self._check_notes(offset, node_id, note)
            case PeerCheckpointAccepted(node_id=node_id, checkpoint=note):
                self._check_notes(offset, node_id, note)
            case PeerLogForked(node_id=node_id, held=held, shown=shown):
                self._check_notes(offset, node_id, held, shown)
            case CheckpointCosigned() as cosigned:
                self._check_cosigned(offset, cosigned)
            case PeerKeyForked() as forked:
                self._check_key_fork(offset, forked)
            case KeyRotated() as rotated:
                require_rotation(rotated, self._keys.own.node_id, self._keys.own.at(offset))
            case _:
                pass  # no other event holds anything signed

    def _check_own_fact(self, offset: int, fact: Fact) -> None:
        if fact.seal is not None:
            _check_seal(fact, [self._keys.own.at(offset)])
        self._check_attestations(offset, fact)

    def _check_receipt(self, offset: int, sender: str, receipt: Receipt) -> None:
        fact = receipt.fact
        if receipt.quarantine_garden_id is not None:
            return
        if fact.seal is not None:
            _check_seal(fact, self._keys.sealing(fact.origin, offset))
        elif fact.origin != sender:
            raise LogDamaged(f"fact {fact.id} was taken from a relay without its origin's seal")
        self._check_attestations(offset, fact)

    def _check_attestations(self, offset: int, fact: Fact) -> None:
        if not fact.attestation_chain:
            return
        body = body_of(fact)
        claims = zip(fact.attestation_chain, fact.attestation_chain_issuers, fact.attestation_verified, strict=True)
        for number, (signature, issuer, is_verified) in enumerate(claims):
            keys = self._keys.vouching(authority_of(issuer) or "", offset) if is_verified else []
            _require(
                not is_verified or _is_signed(body, signature, keys),
                f"fact {fact.id}: attestation {number} is recorded as verified, and is not {issuer}'s over it",
            )

    def _check_notes(self, offset: int, node_id: str, *notes: str) -> None:
        for note in notes:
            _check_note(note, node_id, self._keys.vouching(node_id, offset))

    def _check_key_fork(self, offset: int, forked: PeerKeyForked) -> None:
        held, shown = read_rotation(forked.held), read_rotation(forked.shown)
        is_fork = held.old_key_id == shown.old_key_id and held.new_public_key != shown.new_public_key
        keys = [key for key in self._keys.vouching(forked.node_id, offset) if key_id_of(key) == held.old_key_id]
        is_signed = any(is_signed_by_old(held, key) and is_signed_by_old(shown, key) for key in keys)
        _require(is_fork and is_signed, f"the rotations are not two successors of one key of {forked.node_id}")

    def _check_cosigned(self, offset: int, cosigned: CheckpointCosigned) -> None:
        _require(0 < cosigned.size <= offset, "a checkpoint is cosigned that the log had not reached")
        root = base64.b64encode(self._root_at(cosigned.size)).decode()
        note = f"{self._keys.log_name(cosigned.size, offset)}\n{cosigned.size}\n{root}\n\n"
        name = witness_name(cosigned.node_id)
        for key in self._keys.vouching(cosigned.node_id, offset):
            try:
                check_cosignature(cosigned.cosignature, note=note, name=name, public_key=key)
            except ValueError:
                continue
            return
        raise LogDamaged(f"{cosigned.node_id} did not cosign this log at {cosigned.size} entries")


def check_later_seal(fact: Fact, seal: Seal, own_key: bytes) -> None:
    """Raises LogDamaged unless the seal that was given to this node's fact later is over that fact."""
    _check_seal(msgspec.structs.replace(fact, seal=seal.seal), [own_key])


def _check_seal(fact: Fact, keys: list[bytes]) -> None:
    _require(fact_hash(body_of(fact)) == fact.fact_hash, f"fact {fact.id}: its hash is not that of its body")
    if _is_signed(sealed_bytes(fact), fact.seal or "", keys):
        return
    # A peer that sends no clock with a fact seals it without one, and it is stored under ours.
    without_clock = msgspec.structs.replace(fact, hlc="")
    is_held = fact.received_from is not None and _is_signed(sealed_bytes(without_clock), fact.seal or "", keys)
    _require(is_held, f"fact {fact.id}: its seal is not {fact.origin}'s over it")


def _check_verified(verified: PeerVerified) -> None:
    keys = [b64url_decode(verified.public_key)]
    if verified.manifest:
        _check_manifest(verified.manifest, verified.node_id, keys)
    if verified.checkpoint is not None:
        _check_note(verified.checkpoint, verified.node_id, keys)


def _check_manifest(manifest: bytes, node_id: str, keys: list[bytes]) -> None:
    members = msgspec.json.decode(manifest)
    if not isinstance(members, dict) or members.get("entity_uri") != node_id:
        raise LogDamaged(f"the manifest is not {node_id}'s")
    _require(b64url_decode(str(members.get("public_key"))) in keys, "the manifest is of another key")
    signature = str(members.pop("signature", ""))
    # Reference nodes do not sign the version (INTEROP §11).
    unversioned = {name: value for name, value in members.items() if name != "manifest_version"}
    is_signed = any(_is_signed(canonical_json(form), signature, keys) for form in (members, unversioned))
    _require(is_signed, f"the manifest is not signed by the key of {node_id}")
    chain_of(node_id, b64url_decode(str(members.get("public_key"))), rotations_in(manifest), ())


def _add(keys: list[bytes], entity_uri: str, public_key: str, manifest: bytes) -> None:
    """The keys that a manifest tells of: the one that it is signed with, and those that its chain leads back to."""
    try:
        chain = chain_of(entity_uri, b64url_decode(public_key), rotations_in(manifest) if manifest else [], ())
    except ValueError:
        # The entry does not hold, and is named by itself; its own key is what it says.
        chain = first_key(b64url_decode(public_key))
    keys += [link.public_key for link in chain if link.public_key not in keys]


def _check_tombstone(tombstone: Tombstone, revocation: Revocation | None, keys: list[bytes]) -> None:
    _require(
        _is_signed(signed_tombstone(tombstone), tombstone.signature, keys),
        f"tombstone {tombstone.id} is not signed by {tombstone.signed_by}",
    )
    _require(
        revocation is None or _is_signed(signed_revocation(tombstone, revocation), revocation.signature, keys),
        f"the revocation of tombstone {tombstone.id} is not signed by {tombstone.signed_by}",
    )


def _check_note(note: str, node_id: str, keys: list[bytes]) -> None:
    for key in keys:
        try:
            open_checkpoint(note, origin=origin_in(note, node_id), public_key=key)
        except ValueError:
            continue
        return
    raise LogDamaged(f"the checkpoint is not signed by {node_id}")


def _is_signed(message: bytes, signature: str, keys: list[bytes]) -> bool:
    raw = b64url_decode(signature)
    return any(verify(key, message, raw) for key in keys)


def _require(is_so: bool, words: str) -> None:
    if not is_so:
        raise LogDamaged(words)
