"""Checkpoints and manifest proofs: good ones are read, and each way of being wrong is refused or named."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.independent.merkle import root_of
from tests.independent.notes import NoteInvalid, check_log_entry, open_note, parse_checkpoint
from tests.independent.sample_log import (
    KEY,
    ORIGIN,
    PUBLIC_KEY,
    checkpoint_of,
    manifest_log_entry,
    sample_manifest,
    signature_line,
    sound_log,
)

ROOT = root_of(sound_log(3).leaves())
GOOD = checkpoint_of(3, ROOT)
TEXT = GOOD[: GOOD.index("\n\n") + 1]
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def _signed(text: str) -> str:
    return f"{text}\n{signature_line(text, ORIGIN)}"


# Published with Go's note package, whose format C2SP wrote down.
PUBLISHED_KEY = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
PUBLISHED_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PUBLISHED_LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

REFUSED = {
    "no signature": TEXT,
    "no newline at its end": GOOD[:-1],
    "signed by a stranger": f"{TEXT}\n{signature_line(TEXT, ORIGIN, STRANGER)}",
    "signed over another text": GOOD.replace("\n3\n", "\n4\n"),
    "another origin": _signed(TEXT.replace(ORIGIN, "org-b.example/stigmem-log")),
    "a hyphen for the dash": GOOD.replace("\u2014", "-"),
    "carriage returns": _signed(TEXT.replace("\n", "\r\n")),
    "a size with leading zeros": _signed(TEXT.replace("\n3\n", "\n03\n")),
    "a size that is no number": _signed(TEXT.replace("\n3\n", "\n-3\n")),
    "an empty extension line": _signed(TEXT + "one\n\ntwo\n"),
    "a short root": _signed(f"{ORIGIN}\n3\nAAAA\n"),
    "a root with loose bits": _signed(f"{ORIGIN}\n3\n{'A' * 42}B=\n"),
    "one good and one bad signature of ours": GOOD + signature_line(TEXT + "x", ORIGIN),
}


def test_the_published_note_opens_under_its_published_key():
    assert open_note(f"{PUBLISHED_TEXT}\n{PUBLISHED_LINE}", "PeterNeumann", PUBLISHED_KEY) == PUBLISHED_TEXT


def test_a_checkpoint_names_its_size_and_root():
    assert parse_checkpoint(GOOD, ORIGIN, PUBLIC_KEY) == (3, ROOT)


def test_a_cosignature_beside_ours_is_skipped():
    witnessed = GOOD + signature_line(TEXT, "witness.example", STRANGER)
    assert parse_checkpoint(witnessed, ORIGIN, PUBLIC_KEY) == (3, ROOT)


@pytest.mark.parametrize("note", REFUSED.values(), ids=REFUSED)
def test_a_checkpoint_is_refused_that_has(note):
    with pytest.raises(NoteInvalid):
        parse_checkpoint(note, ORIGIN, PUBLIC_KEY)


@pytest.mark.parametrize("others", [0, 1, 3, 6])
def test_a_manifest_in_the_log_is_proved_by_its_log_entry(others):
    manifest = sample_manifest()
    assert check_log_entry(manifest_log_entry(manifest, others=others), manifest) == []


SPOILT = {
    "item is not the manifest": {"item": base64.b64encode(b"{}").decode()},
    "item is not among the commitments": {"item_salt": base64.b64encode(bytes(16)).decode()},
    "item_salt is not 16 bytes": {"item_salt": base64.b64encode(bytes(15)).decode()},
    "leaf_hash is not the hash of entry": {"leaf_hash": "00" * 32},
    "log_index is not the entry's offset": {"log_index": 2},
    "log_id is not the manifest's key_id": {"log_id": "00" * 32},
    "hashes do not lead to root_hash": {"hashes": []},
    "checkpoint names another size or root": {"checkpoint": checkpoint_of(7, bytes(32))},
    "malformed: ": {"checkpoint": checkpoint_of(7, bytes(32), "org-b.example/stigmem-log")},
    "malformed: base64": {"entry": "****"},
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_log_entry_is_reported_as(fault):
    manifest = sample_manifest()
    log_entry = manifest_log_entry(manifest, others=3) | SPOILT[fault]
    assert any(f.startswith(fault) for f in check_log_entry(log_entry, manifest))


def test_a_log_entry_without_a_member_names_it():
    manifest = sample_manifest()
    log_entry = manifest_log_entry(manifest, others=1)
    del log_entry["item_salt"]
    assert check_log_entry(log_entry, manifest) == ["member item_salt is missing"]


def test_a_proof_for_one_manifest_does_not_prove_another():
    manifest = sample_manifest()
    other = {k: v for k, v in manifest.items() if k != "signature"} | {"expires_at": "2027-05-05T12:00:00.000Z"}
    assert "item is not the manifest" in check_log_entry(
        manifest_log_entry(manifest, others=1), other | {"signature": "AA"}
    )


def test_a_manifest_whose_signature_does_not_hold_is_not_proved():
    manifest = sample_manifest() | {"issued_at": "2026-05-04T12:00:01.000Z"}
    faults = check_log_entry(manifest_log_entry(manifest, others=1), manifest)
    assert faults == ["manifest: signature does not verify"]


def test_the_sample_key_signs_what_it_should():
    # Guards the fixtures: were `KEY` and `PUBLIC_KEY` two keys, every refusal above would pass for the wrong reason.
    KEY.public_key().verify(KEY.sign(b"x"), b"x")
    assert KEY.public_key().public_bytes_raw() == PUBLIC_KEY
