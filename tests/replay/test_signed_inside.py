"""What is signed inside the items: `replay verify` names the entry whose seal, attestation, manifest or note does not hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from node.canonical import b64url_encode
from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.events.event import Event
from node.events.facts import Fact, FactAsserted, FactsSealed, Seal, body_of
from node.events.identity import ManifestPublished
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    CheckpointCosigned,
    ManifestIntroduced,
    PeerCheckpointSeen,
    PeerLogForked,
    PeerVerified,
    PushReceived,
    Receipt,
    Receipts,
)
from node.keys import Signer
from replay.chain import Damaged
from replay.verify import WHOLE, Extent, verify
from tests.events.logs import write_log
from tests.events.samples import NODE_ID, PEER_NODE_ID, PEER_SIGNER, SIGNER, fact
from tests.replay.sound import seal_of, sealed, sound_events

EVENTS = sound_events()
STRANGER = Signer.from_seed(bytes(range(2, 34)))
STRANGER_ID = "stigmem://org-c.example"


def _found(data_dir: Path, events: list[Event], extent: Extent = WHOLE) -> Damaged:
    write_log(data_dir, events)
    with pytest.raises(Damaged) as found:
        verify(data_dir, None, str, extent=extent)
    return found.value


def _first(kind: type[Event]) -> int:
    return next(offset for offset, event in enumerate(EVENTS) if type(event) is kind)


def _changed(kind: type[Event], **members: object) -> tuple[int, list[Event]]:
    """The sound events with members of the first one of a kind replaced, and its offset."""
    offset = _first(kind)
    return offset, [*EVENTS[:offset], structs.replace(EVENTS[offset], **members), *EVENTS[offset + 1 :]]


def _receipts(kind: type[Event], change: Callable[[Receipt], Receipt]) -> tuple[int, list[Event]]:
    return _changed(kind, receipts=tuple(map(change, EVENTS[_first(kind)].receipts)))


def _resealed(found: Fact, signer: Signer) -> Fact:
    return structs.replace(found, seal=seal_of(found, signer))


def _attested(signer: Signer, issuer: str, *, is_verified: bool) -> FactAsserted:
    stated = sealed(fact(1))
    signature = b64url_encode(signer.sign(body_of(stated)))
    claims = {"attestation_chain": (signature,), "attestation_chain_issuers": (issuer,)}
    return FactAsserted(judgement=None, fact=structs.replace(stated, **claims, attestation_verified=(is_verified,)))


def _batch(*facts: Fact, held: bool = False) -> BatchReceived:
    hold = ("garden", "first_contact") if held else (None, None)
    receipts = tuple(
        Receipt(fact=one, judgement=None, quarantine_garden_id=hold[0], quarantine_reason=hold[1]) for one in facts
    )
    return BatchReceived(node_id=PEER_NODE_ID, cursor="c", known=0, outcome=Receipts(refused=()), receipts=receipts)


def _relayed(**changed: object) -> Fact:
    """A fact of a third organisation that the peer relayed, sealed by that organisation."""
    origin = {"origin": STRANGER_ID, "source": f"{STRANGER_ID}/agent", "scope": "public"}
    return sealed(fact(40, is_foreign=True, **(origin | changed)), STRANGER)


OWN = EVENTS[_first(FactAsserted)].fact
NOTE_OF_ANOTHER = sign_checkpoint(Checkpoint(origin=origin_of(PEER_NODE_ID), size=3, root=b"r" * 32), STRANGER)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        pytest.param(_changed(FactAsserted, fact=_resealed(OWN, STRANGER)), "seal is not", id="own seal of another"),
        pytest.param(_changed(FactAsserted, fact=structs.replace(OWN, seal="?")), "cannot be read", id="no base64url"),
        pytest.param(
            _changed(FactAsserted, fact=structs.replace(OWN, valid_until="2030-01-01T00:00:00Z")),
            "seal is not",
            id="a sealed member changed",
        ),
        pytest.param(
            _changed(FactAsserted, fact=structs.replace(OWN, confidence=0.1)), "hash is not", id="the body changed"
        ),
        pytest.param(
            _changed(FactsSealed, seals=(Seal(fact_id=EVENTS[_first(FactsSealed)].seals[0].fact_id, seal=OWN.seal),)),
            "seal is not",
            id="a later seal of another fact",
        ),
        pytest.param(
            _changed(FactsSealed, seals=(Seal(fact_id="018f0000-0000-7000-8000-00000000ffff", seal=OWN.seal),)),
            "does not hold",
            id="a later seal of no fact",
        ),
        pytest.param(
            _receipts(BatchReceived, lambda r: structs.replace(r, fact=_resealed(r.fact, STRANGER))),
            "seal is not",
            id="a pulled fact",
        ),
        pytest.param(
            _receipts(PushReceived, lambda r: structs.replace(r, fact=_resealed(r.fact, STRANGER))),
            "seal is not",
            id="a pushed fact",
        ),
        pytest.param(
            _changed(ManifestPublished, manifest=EVENTS[_first(PeerVerified)].manifest),
            "not stigmem://org-a.example's",
            id="own manifest of another node",
        ),
        pytest.param(
            _changed(ManifestPublished, manifest=EVENTS[_first(ManifestPublished)].manifest.replace(b"2027", b"2028")),
            "not signed",
            id="own manifest changed",
        ),
        pytest.param(
            _changed(PeerVerified, public_key=STRANGER.public_key_b64),
            "another key",
            id="a pin that is not the manifest's",
        ),
        pytest.param(_changed(PeerVerified, checkpoint=NOTE_OF_ANOTHER), "checkpoint", id="the note of a proof"),
        pytest.param(_changed(PeerCheckpointSeen, checkpoint=NOTE_OF_ANOTHER), "checkpoint", id="a note seen"),
        pytest.param(_changed(PeerLogForked, shown=NOTE_OF_ANOTHER), "checkpoint", id="evidence of a fork"),
        pytest.param(_changed(ManifestIntroduced, manifest=b"[" * 5000), "cannot be read", id="a manifest too deep"),
        pytest.param(_changed(ManifestIntroduced, manifest=b"[]"), "not stigmem", id="a manifest that is a list"),
        pytest.param(_changed(AttestationSigned, fact_hash="ab" * 32), "fact body", id="a hash of another body"),
        pytest.param(_changed(CheckpointCosigned, size=29), "did not cosign", id="a cosignature of another size"),
        pytest.param(_changed(CheckpointCosigned, size=0), "had not reached", id="a cosignature of nothing"),
        pytest.param(_changed(CheckpointCosigned, size=99), "had not reached", id="a cosignature of the future"),
    ],
)
def test_what_does_not_hold_is_named_though_the_entry_is_soundly_signed(tmp_path, spoilt, words):
    offset, events = spoilt
    found = _found(tmp_path, events)
    assert (found.offset, words in found.words) == (offset, True), found.words


def _end(*more: Event) -> list[Event]:
    return [*EVENTS, *more]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([_attested(PEER_SIGNER, PEER_NODE_ID, is_verified=True)], id="an attestation by a pinned key"),
        pytest.param([_attested(SIGNER, f"{NODE_ID}/team", is_verified=True)], id="an attestation of our own"),
        pytest.param(
            [_attested(STRANGER, PEER_NODE_ID, is_verified=False)], id="an attestation recorded as not verified"
        ),
        pytest.param([_batch(_relayed(), held=True)], id="a fact held back"),
        pytest.param([_batch(sealed(fact(41, is_foreign=True, seal=None)))], id="a peer's fact without a seal"),
        pytest.param(
            [_batch(structs.replace(sealed(fact(42, is_foreign=True, hlc="")), hlc="1777896000000.042"))],
            id="a seal without a clock",
        ),
    ],
)
def test_what_was_not_accepted_as_signed_or_is_passes(tmp_path, more):
    write_log(tmp_path, _end(*more))
    verify(tmp_path, None, str)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param(_attested(STRANGER, PEER_NODE_ID, is_verified=True), "recorded as verified", id="by another key"),
        pytest.param(_attested(STRANGER, STRANGER_ID, is_verified=True), "recorded as verified", id="by a stranger"),
        pytest.param(_batch(_relayed()), "seal is not", id="relayed, of nobody known"),
        pytest.param(_batch(_relayed(seal=None)), "without its origin's seal", id="relayed, without a seal"),
    ],
)
def test_what_was_accepted_and_does_not_verify_is_named(tmp_path, more, words):
    found = _found(tmp_path, _end(more))
    assert (found.offset, words in found.words) == (len(EVENTS), True), found.words


def test_a_relayed_seal_holds_under_a_key_introduced_before_and_not_behind_it(tmp_path):
    relayed = sealed(
        fact(40, is_foreign=True, origin=STRANGER_ID, source=f"{STRANGER_ID}/agent", scope="public"), SIGNER
    )
    write_log(tmp_path / "before", _end(_batch(relayed)))
    verify(tmp_path / "before", None, str)

    offset = _first(ManifestIntroduced)
    events = [*EVENTS[:offset], _batch(relayed), *EVENTS[offset:]]
    assert _found(tmp_path / "behind", events).offset == offset


def test_a_stretch_in_the_middle_is_checked_against_keys_named_before_it(tmp_path):
    offset = _first(PushReceived)
    write_log(tmp_path / "sound", EVENTS)
    verify(tmp_path / "sound", None, str, extent=Extent(offset, offset + 1))
    _, events = _receipts(PushReceived, lambda r: structs.replace(r, fact=_resealed(r.fact, STRANGER)))
    assert _found(tmp_path / "spoilt", events, Extent(offset, offset + 1)).offset == offset


def test_of_two_faults_the_first_is_named_whichever_check_finds_it(tmp_path):
    # The later seal is found by the fold, the own seal behind it by a stretch.
    later, events = _changed(FactsSealed, seals=(Seal(fact_id=OWN.id, seal=OWN.seal[::-1]),))
    events.append(FactAsserted(judgement=None, fact=_resealed(sealed(fact(60)), STRANGER)))
    write_log(tmp_path, events)
    for workers in (1, 2, 3):
        with pytest.raises(Damaged) as found:
            verify(tmp_path, None, str, workers=workers)
        assert found.value.offset == later
