"""Manifests as another implementation sees them: signed outside the node, and proven from outside to be in its log."""

import base64
import json
from urllib.parse import quote

import pytest
import rfc8785

from tests.independent.notes import check_log_entry
from tests.scenarios.organisations import base64url, from_base64url


@pytest.fixture
def org(make_organisation):
    organisation = make_organisation("org-a")
    organisation.node.start()
    return organisation


def published(org):
    """The manifest as anybody gets it, and nothing beside it."""
    return org.node.get("/.well-known/stigmem-manifest.json", bearer=None).expect(200)


def by_entity(org):
    """The manifest asked for by its entity: with the proof as one more member."""
    return org.node.get(f"/v1/federation/manifest/{quote(org.entity_uri, safe='')}", bearer=None).expect(200)


def test_a_manifest_signed_by_openssl_is_published_as_it_was_signed(org):
    manifest = org.manifest()
    manifest["signature"] = base64url(org.key.sign(rfc8785.dumps(manifest)))

    answer = org.node.send("PUT", "/v1/federation/manifest", manifest).expect(200)

    assert json.loads(base64.b64decode(answer["log_entry"]["item"])) == manifest
    assert published(org) == manifest
    assert check_log_entry(answer["log_entry"], manifest) == []


def test_a_manifest_whose_signature_does_not_hold_is_refused_and_nothing_changes(org):
    before, size = published(org), org.node.log_size()
    manifest = org.manifest()
    manifest["signature"] = base64url(org.key.sign(rfc8785.dumps(manifest | {"entities": [org.entity_uri]})))

    org.node.send("PUT", "/v1/federation/manifest", manifest).refused(400, "manifest_signature_invalid")

    assert published(org) == before
    assert org.node.log_size() == size


def test_a_manifest_that_the_node_signs_itself_verifies_with_openssl(org):
    org.publish()

    manifest = published(org)
    signature = from_base64url(manifest.pop("signature"))
    assert manifest == org.manifest() | {name: manifest[name] for name in ("issued_at", "expires_at")}
    assert org.key.verifies(rfc8785.dumps(manifest), signature)


def test_each_proof_of_a_published_manifest_convinces_an_independent_checker(org):
    answered = org.publish()["log_entry"]
    org.node.post("/v1/facts", org.fact("project/atlas", "the log goes on")).expect(201)

    served = by_entity(org)
    proofs = {
        "answered": answered,
        "by entity": served.pop("log_entry"),
        "well-known": org.node.get("/.well-known/stigmem-manifest-proof.json", bearer=None).expect(200),
    }

    assert served == published(org)
    assert {name: check_log_entry(proof, served) for name, proof in proofs.items()} == {name: [] for name in proofs}
    assert proofs["by entity"] == proofs["well-known"]
    assert proofs["well-known"]["tree_size"] > answered["tree_size"]


def test_the_checkpoint_in_the_proof_is_a_note_that_openssl_verifies_with_the_key_of_the_manifest(org):
    proof = org.publish()["log_entry"]

    text, _, signatures = proof["checkpoint"].partition("\n\n")
    dash, name, signature = signatures.splitlines()[0].split(" ")
    root = base64.b64encode(bytes.fromhex(proof["root_hash"])).decode()
    assert text.split("\n") == ["org-a.example/stigmem-log", str(proof["tree_size"]), root]
    assert (dash, name) == ("\u2014", "org-a.example/stigmem-log")
    assert org.key.verifies(text.encode() + b"\n", base64.b64decode(signature)[4:])
