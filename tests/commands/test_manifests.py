"""Manifests: the checks one passes before it is published here or believed of a peer, in order (PROTOCOL §4.2, §5.1)."""

import base64
import hashlib
import json
from urllib.parse import quote

import pytest
import rfc8785
from msgspec import structs

from node.keys import Signer
from node.times import format_ms
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url
from tests.served import NODE_ID, SEED, Answer, Served

DAY_MS = 86_400_000
OWN = Signer.from_seed(SEED)
FOREIGN = Signer.from_seed(bytes(32))
MANIFEST = "/v1/federation/manifest"
# Points of small order: the neutral element, one of order 2, one of order 8.
SMALL = [
    bytes([1]) + bytes(31),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
]


def manifest(signer: Signer = OWN, *, signs: bool = True, **changes: object) -> dict[str, object]:
    """An operator's own manifest, signed here over its canonical JSON."""
    members = {
        "manifest_version": 1,
        "entity_uri": NODE_ID,
        "public_key": b64url(signer.public_key),
        "key_id": signer.key_id,
        "entities": [NODE_ID],
        "rotation_events": [],
        "issued_at": format_ms(START_MS),
        "expires_at": format_ms(START_MS + 90 * DAY_MS),
    } | changes
    signature = b64url(signer.sign(rfc8785.dumps(members))) if signs else "__self_sign__"
    return {**members, "signature": signature} | ({"signature": changes["signature"]} if "signature" in changes else {})


async def publish(http: Served, body: object) -> Answer:
    return await http.send("PUT", MANIFEST, body)


@pytest.mark.parametrize("signs", [True, False], ids=["signed outside", "self-signed"])
async def test_a_manifest_is_published_with_a_proof_that_holds(http: Served, signs: bool):
    answer = (await publish(http, manifest(signs=signs))).expect(200)

    assert {"manifest_id", "entity_uri", "key_id", "issued_at", "expires_at", "log_entry_url", "log_entry"} == set(
        answer
    )
    proof = answer["log_entry"]
    entry, item, salt = (base64.b64decode(proof[name]) for name in ("entry", "item", "item_salt"))
    assert hashlib.sha256(salt + item).hexdigest() in json.loads(entry[:-64])["items"]
    assert hashlib.sha256(b"\0" + entry).hexdigest() == proof["leaf_hash"]
    assert json.loads(item) == manifest(signs=True)
    assert item == rfc8785.dumps(json.loads(item))


async def test_the_published_manifest_stands_everywhere_and_after_a_restart(http: Served):
    (await publish(http, manifest())).expect(200)

    for _ in range(2):
        assert (await http.get("/.well-known/stigmem-manifest.json")).json == manifest()
        own = (await http.send("GET", f"{MANIFEST}/{quote(NODE_ID, safe='')}", bearer=None)).expect(200)
        proof = (await http.get("/.well-known/stigmem-manifest-proof.json")).json
        assert own.pop("log_entry") == proof and own == manifest()
        await http.restart()


# What is wrong, worst first: each manifest has all faults from its own on, so the code says which check came first.
FAULTS = [
    (403, "entity_not_owned", {"entity_uri": "stigmem://org-b.example"}),
    (422, "invalid_field", {"manifest_version": 2}),
    (422, "manifest_entity_foreign", {"entities": [NODE_ID, "stigmem://org-b.example/x"]}),
    (422, "key_id_mismatch", {"key_id": "0" * 64}),
    (422, "manifest_validity", {"expires_at": format_ms(START_MS + 1000)}),
    (422, "key_mismatch", {}),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[code for _, code, _ in FAULTS])
async def test_the_checks_come_in_the_protocol_s_order(http: Served, first: int):
    changes: dict[str, object] = {}
    for _, _, change in reversed(FAULTS[first:]):
        changes |= change
    status, code, _ = FAULTS[first]
    size, digests = http.size, await http.digests()

    (await publish(http, manifest(FOREIGN, **changes, signature="AAAA"))).refused(status, code)

    assert {entry.type for entry in http.entries(size)} <= {"request.refused.1"}
    assert status == 403 or await http.digests() == digests


ROTATION = {
    "entity_uri": NODE_ID,
    "old_key_id": "0" * 64,
    "new_key_id": OWN.key_id,
    "new_public_key": OWN.public_key_b64,
    "rotated_at": format_ms(START_MS),
    "rotation_sig": "AAAA",
}
REFUSED = {
    "a signature of another key": (
        400,
        "manifest_signature_invalid",
        manifest(signature=manifest(FOREIGN)["signature"]),
    ),
    "a signature over another manifest": (
        400,
        "manifest_signature_invalid",
        manifest(entities=[NODE_ID, f"{NODE_ID}/x"], signature=manifest()["signature"]),
    ),
    "no signature": (400, "manifest_signature_invalid", manifest(signature="")),
    "self-signing for a foreign key": (422, "self_sign_foreign_key", manifest(FOREIGN, signs=False)),
    "a foreign key": (422, "key_mismatch", manifest(FOREIGN)),
    "entities without its own": (422, "manifest_entity_foreign", manifest(entities=[f"{NODE_ID}/x"])),
    "no entities": (422, "manifest_entity_foreign", manifest(entities=[])),
    "an entity that begins alike": (422, "manifest_entity_foreign", manifest(entities=[NODE_ID, f"{NODE_ID}.evil/x"])),
    "an entity not in normal form": (422, "manifest_entity_foreign", manifest(entities=[NODE_ID, f"{NODE_ID}/A"])),
    "257 entities": (422, "invalid_field", manifest(entities=[NODE_ID] + [f"{NODE_ID}/{n}" for n in range(256)])),
    "1,025 rotations": (422, "invalid_field", manifest(rotation_events=[ROTATION] * 1025)),
    "a rotation": (400, "manifest_rotation_chain_invalid", manifest(rotation_events=[ROTATION])),
    "a day less a millisecond": (422, "manifest_validity", manifest(expires_at=format_ms(START_MS + DAY_MS - 1))),
    "399 days": (422, "manifest_validity", manifest(expires_at=format_ms(START_MS + 398 * DAY_MS + 1))),
    "an end before its begin": (422, "manifest_validity", manifest(expires_at=format_ms(START_MS - DAY_MS))),
    "a date that is none": (422, "invalid_field", manifest(issued_at="today")),
    "a key that is no base64url": (422, "invalid_field", manifest(public_key="+++")),
    "a short key": (422, "invalid_field", manifest(public_key="AAAA")),
    "a time before the standing one's": (
        400,
        "manifest_rolled_back",
        manifest(issued_at=format_ms(START_MS - 2 * DAY_MS)),
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_a_manifest_that_does_not_hold_is_refused_and_the_old_one_stands(http: Served, fault: str):
    status, code, body = REFUSED[fault]
    size, standing = http.size, (await http.get("/.well-known/stigmem-manifest.json")).json

    (await publish(http, body)).refused(status, code)

    assert http.size == size
    assert (await http.get("/.well-known/stigmem-manifest.json")).json == standing


@pytest.mark.parametrize("point", SMALL, ids=["order 1", "order 2", "order 8"])
async def test_a_key_under_which_anybody_can_sign_is_weak(http: Served, point: bytes):
    body = manifest(public_key=b64url(point), key_id=hashlib.sha256(point).hexdigest())

    (await publish(http, body)).refused(422, "weak_key")


@pytest.mark.parametrize("days", [1, 398])
async def test_a_manifest_may_last_from_a_day_to_398(http: Served, days: int):
    (await publish(http, manifest(expires_at=format_ms(START_MS + days * DAY_MS)))).expect(200)


async def test_a_manifest_of_the_same_time_may_follow(http: Served):
    (await publish(http, manifest())).expect(200)

    (await publish(http, manifest(entities=[NODE_ID, f"{NODE_ID}/team"]))).expect(200)


async def test_the_node_renews_its_manifest_when_a_third_of_its_life_is_left(http: Served):
    (await publish(http, manifest())).expect(200)
    size = http.size

    http.clock.advance(60 * DAY_MS)
    await http.node.keep_up()
    assert http.size == size
    http.clock.advance(1)
    await http.node.keep_up()

    [renewed] = http.entries(size)
    assert renewed.type == "manifest.published.1"
    standing = (await http.get("/.well-known/stigmem-manifest.json")).json
    assert standing["entities"] == [NODE_ID] and standing["expires_at"] > manifest()["expires_at"]


async def test_a_manifest_that_nobody_here_holds_is_not_found(http: Served, org_b: Organisation):
    path = f"{MANIFEST}/{quote(org_b.node_id, safe='')}"
    (await http.send("GET", path, bearer=None)).refused(404, "manifest_not_found")

    await org_b.join(http)

    assert (await http.send("GET", path, bearer=None)).expect(200)["entity_uri"] == org_b.node_id


# What a peer says of itself.


def edited(org_b: Organisation, signer: Signer, **changes: object) -> bytes:
    members = json.loads(org_b.documents().manifest) | changes
    del members["signature"]
    return rfc8785.dumps(members | {"signature": b64url(signer.sign(rfc8785.dumps(members)))})


@pytest.mark.parametrize("mode", ["relaxed", "strict"])
async def test_a_peer_whose_documents_hold_is_active_and_pinned(serve, org_b: Organisation, mode: str):
    at = await serve(trust_mode=mode)

    await org_b.join(at)

    peer = org_b.peer_at(at)
    assert (peer.status, peer.reason, peer.warnings) == ("active", "", ())
    assert peer.public_key == org_b.signer.public_key_b64 and peer.is_manifest_proven


def broken_documents(org_b: Organisation) -> dict[str, tuple[dict[str, object], str, str]]:
    """Each with what is changed in the documents, and the status and reason it leads to in any mode."""
    mine, theirs = org_b.signer, FOREIGN
    foreign_key = {"public_key": theirs.public_key_b64, "key_id": theirs.key_id}
    return {
        "another node_id": ({"node_id": "stigmem://org-c.example"}, "rejected", "entity_mismatch"),
        "a manifest of another entity": (
            {
                "manifest": edited(
                    org_b, mine, entity_uri="stigmem://org-c.example", entities=["stigmem://org-c.example"]
                )
            },
            "rejected",
            "entity_mismatch",
        ),
        "a manifest under another key": (
            {"manifest": edited(org_b, theirs, **foreign_key)},
            "rejected",
            "key_mismatch",
        ),
        "a forged signature": ({"manifest": edited(org_b, theirs)}, "rejected", "signature_invalid"),
        "a weak key": ({"public_key": b64url(SMALL[0])}, "rejected", "weak_key"),
        "no key": ({"public_key": "!"}, "rejected", "key_mismatch"),
        "a manifest that has run out": (
            {"manifest": edited(org_b, mine, issued_at=format_ms(0), expires_at=format_ms(30 * DAY_MS))},
            "pending_verification",
            "manifest_expired",
        ),
    }


@pytest.mark.parametrize(
    "fault",
    [
        "another node_id",
        "a manifest of another entity",
        "a manifest under another key",
        "a forged signature",
        "a weak key",
        "no key",
        "a manifest that has run out",
    ],
)
async def test_a_peer_whose_documents_do_not_hold_is_not_active(http: Served, org_b: Organisation, fault: str):
    changes, status, reason = broken_documents(org_b)[fault]

    await org_b.join(http, **changes)

    peer = org_b.peer_at(http)
    assert (peer.status, peer.reason) == (status, reason)
    assert peer.public_key is None


def broken_proofs(org_b: Organisation) -> list[object]:
    proof = org_b.documents().log_entry
    zeros = base64.b64encode(bytes(16)).decode()
    return [
        None,
        structs.replace(proof, item_salt=zeros),
        structs.replace(proof, leaf_hash="0" * 64),
        structs.replace(proof, log_index=proof.log_index + 1),
        structs.replace(proof, hashes=()),
        structs.replace(proof, hashes=("zz",)),
        structs.replace(proof, root_hash="0" * 64),
        structs.replace(proof, checkpoint=proof.checkpoint.replace("org-b", "org-c")),
        structs.replace(proof, checkpoint=""),
        structs.replace(proof, entry="!"),
        structs.replace(proof, entry=""),
        structs.replace(proof, tree_size=proof.tree_size + 1),
        structs.replace(proof, tree_size=-1),
    ]


@pytest.mark.parametrize("fault", range(13))
async def test_a_proof_that_does_not_hold_is_warned_of_or_in_strict_mode_waited_for(
    serve, org_b: Organisation, fault: int
):
    relaxed, strict = await serve(), await serve(trust_mode="strict")
    proof = broken_proofs(org_b)[fault]

    for at in (relaxed, strict):
        await org_b.join(at, log_entry=proof)

    taken, doubted = org_b.peer_at(relaxed), org_b.peer_at(strict)
    assert taken.status == "active" and taken.warnings and not taken.is_manifest_proven
    assert (doubted.status, doubted.reason) == ("pending_verification", "proof_missing")


async def test_a_pinned_key_stays_until_the_peer_is_removed(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    usurper = {
        "public_key": FOREIGN.public_key_b64,
        "manifest": edited(org_b, FOREIGN, public_key=FOREIGN.public_key_b64, key_id=FOREIGN.key_id),
        "log_entry": None,
    }

    await org_b.join(http, **usurper)
    assert (org_b.peer_at(http).status, org_b.peer_at(http).reason) == ("rejected", "key_mismatch")

    await http.send("DELETE", f"/v1/federation/peers/{peer_id}")
    await org_b.join(http, **usurper)
    assert org_b.peer_at(http).public_key == FOREIGN.public_key_b64
