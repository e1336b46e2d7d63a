"""Peers that rotate their keys (PROTOCOL §11, §5.1, §5.2): their chains are followed, and nothing else moves a pin."""

import json

import pytest
from msgspec import structs

from node.canonical import b64url_encode, canonical_json
from node.commands.introductions import IntroduceManifest, sealing_chain
from node.commands.peers import Finding, RecordPeerCheck
from node.commands.tombstones import TakePeersTombstones
from node.errors import ManifestConflict
from node.events.peers import PeerKeyForked
from node.events.rotations import sign_rotation
from node.events.tombstones import Tombstone, signed_tombstone
from node.keys import Signer
from node.times import format_ms
from tests.organisations import SEED as SEED_B
from tests.organisations import Organisation, b64url, jwt, seal_message
from tests.served import Served

PULL = "/v1/federation/facts"
OLD, THIEF = Signer.from_seed(SEED_B), Signer.from_seed(bytes([9]) * 32)
MINUTE_MS = 60_000


@pytest.fixture
async def peer(http: Served, org_b: Organisation) -> Organisation:
    """Organisation B, registered with A at the place where its node really is, and A with B."""
    org_b.home.keep_key(SEED_B)
    await org_b.join(http, node_url=org_b.home.config.node_url)
    await Organisation(http).join(org_b.home, node_url=http.config.node_url)
    return org_b


async def rotate(organisation: Organisation, **body: object) -> dict:
    return (await organisation.home.post("/v1/admin/keys/rotate", body)).expect(200)


async def pulled_with(http: Served, token: str):
    return await http.send("GET", PULL, bearer=token)


async def looked_at(peer: Organisation, http: Served, **documents: object) -> Finding:
    command = RecordPeerCheck(peer_id=peer.peer_at(http).peer_id, documents=peer.documents(**documents), failure="")
    return (await http.node.execute(command)).reply


def forged(peer: Organisation, signer: Signer, rotations: list[dict]) -> dict[str, object]:
    """Documents of the peer's under another key, with these rotations in the manifest."""
    with peer.home.node.view() as view:
        members = json.loads(view.identity.manifest().manifest)
    members |= {"public_key": signer.public_key_b64, "key_id": signer.key_id, "rotation_events": rotations}
    del members["signature"]
    members["signature"] = b64url_encode(signer.sign(canonical_json(members)))
    return {"public_key": signer.public_key_b64, "manifest": canonical_json(members), "log_entry": None}


def step(old: Signer, new: Signer, at_ms: int) -> dict:
    return json.loads(
        sign_rotation(
            old, new.public_key, entity_uri="stigmem://org-b.example", rotated_ms=at_ms, compromised_since_ms=None
        )
    )


async def test_the_first_token_of_a_new_key_has_its_chain_followed(http, peer):
    rotation = await rotate(peer)
    size = http.size

    (await pulled_with(http, peer.token(http))).expect(200)

    now = peer.peer_at(http)
    assert (now.status, now.public_key) == ("active", rotation["new_public_key"])
    assert [entry.type for entry in http.entries(size)] == ["peer.verified.1", "page.served.1"]


async def test_a_token_of_the_old_key_holds_for_five_minutes(http, peer, clock):
    before = [jwt(OLD, peer.claims(http)) for _ in range(3)]
    clock.advance(1000)
    await rotate(peer)
    (await pulled_with(http, peer.token(http))).expect(200)

    (await pulled_with(http, before[0])).expect(200)
    clock.advance(1)
    (await pulled_with(http, jwt(OLD, peer.claims(http)))).refused(401, "invalid_signature")
    long = [
        jwt(OLD, peer.claims(http, iat=clock.now_ms() - 5000, exp=clock.now_ms() + 20 * MINUTE_MS)) for _ in range(2)
    ]
    clock.advance(4 * MINUTE_MS)
    (await pulled_with(http, long[0])).expect(200)
    clock.advance(MINUTE_MS)
    (await pulled_with(http, long[1])).refused(401, "invalid_signature")


async def test_a_token_of_a_compromised_key_is_refused_once_that_is_known(http, peer, clock):
    before = jwt(OLD, peer.claims(http))
    await rotate(peer, compromised=True)
    (await pulled_with(http, peer.token(http))).expect(200)

    (await pulled_with(http, before)).refused(401, "invalid_signature")


async def test_facts_of_both_keys_are_taken_and_none_is_lost(http, peer):
    await peer.home.write(entity=f"{peer.node_id}/a", source=peer.assistant, scope="public")
    await http.sync.pull_now(peer.node_id, from_start=False)
    await rotate(peer)
    await peer.home.write(entity=f"{peer.node_id}/b", source=peer.assistant, scope="public")

    done = await http.sync.pull_now(peer.node_id, from_start=False)

    assert (done.ingested, done.refused) == (1, 0)
    again = await http.sync.pull_now(peer.node_id, from_start=True)
    assert (again.known, again.refused) == (2, 0)


async def test_a_newcomer_takes_what_was_sealed_before(http, org_b):
    org_b.home.keep_key(SEED_B)
    await org_b.home.write(entity=f"{org_b.node_id}/a", source=org_b.assistant, scope="public")
    for _ in range(2):
        await rotate(org_b)
    await org_b.join(http, node_url=org_b.home.config.node_url)
    await Organisation(http).join(org_b.home, node_url=http.config.node_url)

    done = await http.sync.pull_now(org_b.node_id, from_start=False)

    assert (done.ingested, done.refused) == (1, 0)


async def test_a_seal_of_the_old_key_proves_nothing_dated_later(http, peer, clock):
    await rotate(peer)
    (await pulled_with(http, peer.token(http))).expect(200)

    async def taken(number: int, wall_ms: int) -> list[str]:
        fact = peer.served_fact(number=number, hlc=f"{wall_ms}.000")
        fact["seal"] = b64url(OLD.sign(seal_message(fact)))
        outcome = await peer.receive(http, fact, cursor=f"c{number}")
        return [refusal.reason for entry in outcome.entries for refusal in entry.event.outcome.refused]

    now_ms = clock.now_ms()
    clock.advance(20 * MINUTE_MS)
    assert await taken(1, now_ms + 10 * MINUTE_MS) == []
    assert await taken(2, now_ms + 10 * MINUTE_MS + 1) == ["seal_invalid"]


@pytest.mark.parametrize("chain", ["none", "of a stranger", "signed by the new key"])
async def test_another_key_that_no_chain_leads_to_moves_no_pin(http, peer, chain):
    rotations = {
        "none": [],
        "of a stranger": [step(Signer.from_seed(bytes([8]) * 32), THIEF, 1_777_896_000_000)],
        "signed by the new key": [step(OLD, THIEF, 1_777_896_000_000) | {"rotation_sig": "AAAA"}],
    }[chain]
    size, held = http.size, peer.peer_at(http)

    found = await looked_at(peer, http, **forged(peer, THIEF, rotations))

    code = "key_mismatch" if chain == "none" else "manifest_rotation_chain_invalid"
    assert (found.status, found.reason) == ("rejected", code)
    assert http.size == size and peer.peer_at(http) == held


async def test_a_former_key_is_not_taken_back(http, peer):
    await rotate(peer)
    (await pulled_with(http, peer.token(http))).expect(200)
    size, held = http.size, peer.peer_at(http)

    assert (await looked_at(peer, http, **forged(peer, OLD, []))).reason == "key_mismatch"
    assert http.size == size and peer.peer_at(http) == held


async def test_two_successors_of_one_key_stop_the_exchange(http, peer, clock):
    rotation = await rotate(peer)
    (await pulled_with(http, peer.token(http))).expect(200)
    shown = step(OLD, THIEF, clock.now_ms())

    found = await looked_at(peer, http, **forged(peer, THIEF, [shown]))

    assert (found.status, found.reason) == ("revoked", "key_forked")
    [entry] = http.entries(http.size - 1)
    assert isinstance(entry.event, PeerKeyForked)
    assert (json.loads(entry.event.held), json.loads(entry.event.shown)) == (rotation, shown)
    now = peer.peer_at(http)
    assert (now.status, now.reason, now.public_key) == ("revoked", "key_forked", rotation["new_public_key"])
    (await pulled_with(http, peer.token(http))).refused(401, "unknown_or_inactive_peer")


@pytest.mark.parametrize("leaves_out", ["its rotations", "its manifest"])
async def test_a_peer_that_tells_its_rotations_no_more_does_not_hide_a_second_successor(http, peer, clock, leaves_out):
    await rotate(peer)
    (await pulled_with(http, peer.token(http))).expect(200)
    size, held = http.size, peer.peer_at(http)
    none = {"public_key": peer.signer.public_key_b64, "manifest": None, "log_entry": None}

    found = await looked_at(peer, http, **(none if leaves_out == "its manifest" else forged(peer, peer.signer, [])))

    assert (found.status, found.reason) == ("rejected", "manifest_rotation_chain_invalid")
    assert http.size == size and peer.peer_at(http) == held
    shown = step(OLD, THIEF, clock.now_ms())
    assert (await looked_at(peer, http, **forged(peer, THIEF, [shown]))).reason == "key_forked"


async def test_a_rotation_from_the_future_is_not_followed(http, peer, clock):
    ahead = [step(OLD, THIEF, clock.now_ms() + 5 * MINUTE_MS + 1)]

    assert (await looked_at(peer, http, **forged(peer, THIEF, ahead))).reason == "manifest_rotation_chain_invalid"


async def test_strangers_have_us_look_once_in_a_while_only(http, peer):
    size, held = http.size, peer.peer_at(http)
    (await pulled_with(http, jwt(THIEF, peer.claims(http)))).refused(401, "invalid_signature")
    await rotate(peer)

    for _ in range(3):
        (await pulled_with(http, jwt(THIEF, peer.claims(http)))).refused(401, "invalid_signature")

    assert http.size == size and peer.peer_at(http) == held


async def test_a_relayed_organisation_may_rotate_too(http, serve, peer):
    """B relays C's facts to A, which knows C by B's word alone."""
    seed = bytes(range(140, 172))
    org_c = Organisation(await serve(seed=seed, entity_uri="stigmem://org-c.example"))
    org_c.home.keep_key(seed)
    await org_c.join(peer.home, node_url=org_c.home.config.node_url)
    await peer.join(org_c.home, node_url=peer.home.config.node_url)
    for place in ("a", "b"):
        await org_c.home.write(entity=f"{org_c.node_id}/{place}", source=org_c.assistant, scope="public")
        await peer.home.sync.pull_now(org_c.node_id, from_start=False)
        done = await http.sync.pull_now(peer.node_id, from_start=False)
        assert (done.ingested, done.refused) == (1, 0)
        rotation = await rotate(org_c)

    with http.node.view() as view:
        [introduced] = view.introductions.of(org_c.node_id)
    assert len(introduced.keys) == 2 and introduced.public_key != rotation["new_public_key"]


async def test_of_two_relays_the_one_that_knows_the_last_rotation_counts_unless_they_fork(http, serve, peer):
    seed, other = bytes(range(140, 172)), bytes(range(141, 173))
    org_c = Organisation(await serve(seed=seed, entity_uri="stigmem://org-c.example"))
    org_d = Organisation(await serve(seed=other, entity_uri="stigmem://org-d.example"))
    org_c.home.keep_key(seed)
    await org_d.join(http)

    async def introduced_by(relay: Organisation, document: bytes) -> None:
        command = IntroduceManifest(introducer=relay.node_id, entity_uri=org_c.node_id, document=document)
        await http.node.execute(command)

    def chain() -> int:
        with http.node.view() as view:
            return len(sealing_chain(org_c.node_id, view, http.node.context()))

    await introduced_by(peer, org_c.documents().manifest)
    await rotate(org_c)
    await introduced_by(org_d, org_c.documents().manifest)
    assert chain() == 2

    fork = json.loads(
        sign_rotation(
            Signer.from_seed(seed),
            THIEF.public_key,
            entity_uri=org_c.node_id,
            rotated_ms=1_777_896_000_000,
            compromised_since_ms=None,
        )
    )
    await introduced_by(peer, forged(org_c, THIEF, [fork])["manifest"])
    with pytest.raises(ManifestConflict):
        chain()


async def test_a_tombstone_of_the_old_key_holds_by_its_date(http, peer, clock):
    before_ms = clock.now_ms()
    await rotate(peer)
    (await pulled_with(http, peer.token(http))).expect(200)

    async def refused(number: int, created_ms: int, signer: Signer) -> int:
        unsigned = Tombstone(
            id=f"tomb_{number:032d}",
            entity_uri=f"{peer.node_id}/user/ghost-{number}",
            scope="*",
            legal_hold=False,
            created_at=format_ms(created_ms),
            signed_by=peer.node_id,
            key_id=signer.key_id,
            signature="",
        )
        signed = structs.replace(unsigned, signature=b64url_encode(signer.sign(signed_tombstone(unsigned))))
        shown = TakePeersTombstones(
            node_id=peer.node_id, public_key=peer.peer_at(http).public_key, shown=((signed, None),)
        )
        return (await http.node.execute(shown)).reply

    assert await refused(1, before_ms, OLD) == 0
    assert await refused(2, before_ms + 10 * MINUTE_MS + 1, OLD) == 1
    assert await refused(3, before_ms + 10 * MINUTE_MS + 1, peer.signer) == 0
