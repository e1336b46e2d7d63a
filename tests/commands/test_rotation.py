"""Rotating a node's own key (PROTOCOL §11): its log, manifest and key file, credentials, and what a stolen old key can still do."""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from node.canonical import b64url_encode, canonical_json
from node.events.identity import KeyRotated, ManifestPublished
from node.events.log import Log
from node.events.own_keys import own_keys_of
from node.kept_secrets import MAX_TOLD
from node.key_files import KeyFile
from node.keys import Signer, create_key_file, load_signer
from node.runtime import Node, StartupError
from replay.chain import Damaged
from replay.verify import verify
from tests.events.logs import signed
from tests.organisations import issue
from tests.served import SEED, Served, fact

ROTATE, TOKENS = "/v1/admin/keys/rotate", "/v1/federation/capability-tokens"
DAY_MS = 86_400_000
OLD = Signer.from_seed(SEED)


@pytest.fixture
def node(http: Served) -> Served:
    return http.keep_key()


async def rotate(node: Served, **body: object) -> dict:
    return (await node.post(ROTATE, body)).expect(200)


def files(node: Served) -> list[str]:
    return sorted(path.name for path in node.folder.glob("node.key*"))


def copied(node: Served) -> Path:
    """A copy of the node's folder as it lies there now."""
    folder = node.folder.with_name(f"{node.folder.name}-copy-{len(list(node.folder.parent.iterdir()))}")
    shutil.copytree(node.folder, folder, ignore=shutil.ignore_patterns("lock"))
    return folder


def checked(folder: Path) -> None:
    """`stigmem replay verify`: the log, and the live views against a fold of it."""
    verify(folder, None, lambda line: None)


async def test_after_a_rotation_the_new_key_signs_entries_and_manifest(node):
    before = node.size
    rotation = await rotate(node)
    (await node.post("/v1/facts", fact())).expect(201)

    rotated, published, *later = node.entries(before)
    assert isinstance(rotated.event, KeyRotated) and rotated.public_key == OLD.public_key
    assert isinstance(published.event, ManifestPublished) and later
    assert {entry.public_key for entry in (published, *later)} == {node.node.signer.public_key} != {OLD.public_key}
    said = json.loads(published.event.manifest)
    assert said["key_id"] == rotation["new_key_id"] and said["rotation_events"] == [rotation]
    assert json.loads(rotated.event.rotation) == rotation
    discovered = (await node.get("/.well-known/stigmem")).expect(200)
    assert discovered["federation_pubkey"] == rotation["new_public_key"]


async def test_the_key_file_holds_the_new_key_and_the_old_one_lies_beside_it(node):
    rotation = await rotate(node)

    assert files(node) == ["node.key", f"node.key.{OLD.key_id[:12]}"]
    assert load_signer(node.folder / "node.key", None).key_id == rotation["new_key_id"]
    assert load_signer(node.folder / files(node)[1], None).key_id == OLD.key_id
    assert {(node.folder / name).stat().st_mode & 0o777 for name in files(node)} == {0o600}


def test_an_encrypted_key_file_stays_encrypted(tmp_path):
    path = tmp_path / "org.pem"
    old = create_key_file(path, SEED, "open sesame")
    key_file = KeyFile(path, "open sesame")

    new = key_file.write_successor(bytes(32))
    assert key_file.settle(new.public_key).key_id == new.key_id

    assert sorted(one.name for one in tmp_path.iterdir()) == ["org.pem", f"org.pem.{old.key_id[:12]}"]
    assert all(b"ENCRYPTED" in one.read_bytes() for one in tmp_path.iterdir())
    assert load_signer(path, "open sesame").key_id == new.key_id


async def test_without_a_key_file_nothing_is_rotated(http):
    size = http.size

    (await http.post(ROTATE, {})).refused(503, "key_file_unwritable")

    assert http.size == size and files(http) == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"since": "2026-05-04T11:00:00Z"}, "invalid_field"),
        ({"compromised": True, "since": "2026-05-04T13:00:00Z"}, "invalid_field"),
        ({"compromised": True, "since": "yesterday"}, "invalid_field"),
    ],
)
async def test_a_rotation_that_is_refused_leaves_no_key_behind(node, body, code):
    size = node.size

    (await node.post(ROTATE, body)).refused(422, code)

    assert node.size == size and files(node) == ["node.key"] and node.node.signer.key_id == OLD.key_id


async def test_credentials_outlive_rotations_and_restarts(node):
    made = (await node.post("/v1/auth/keys", {"entity_uri": "agent:x", "permissions": ["read"]})).expect(201)
    once = {"Idempotency-Key": "once"}
    body = {"entity_uri": "agent:y", "permissions": ["read"]}
    told = (await node.send("POST", "/v1/auth/keys", body, headers=once)).expect(201)
    asked = {"issuer": node.node.node_id, "subject": f"{node.node.node_id}/agent/z", "verb": "read", "object": "*"}
    asked |= {"ttl_seconds": 3600}
    token = (await node.send("POST", TOKENS, asked, headers=once)).expect(201)["token_json"]

    for _ in range(3):
        await rotate(node)
        await node.restart()
        for bearer in (made["raw_key"], told["raw_key"], token):
            (await node.send("GET", "/v1/facts", bearer=bearer)).expect(200)
        assert (await node.send("POST", "/v1/auth/keys", body, headers=once)).expect(201) == told
        # Told again it is signed again, by the key that is current now.
        again = (await node.send("POST", TOKENS, asked, headers=once)).expect(201)["token_json"]
        (await node.send("GET", "/v1/facts", bearer=again)).expect(200)


async def test_an_api_key_that_nothing_can_tell_again_any_more_still_counts_and_is_said_to_be_there(node):
    once, body = {"Idempotency-Key": "once"}, {"entity_uri": "agent:y", "permissions": ["read"]}
    told = (await node.send("POST", "/v1/auth/keys", body, headers=once)).expect(201)
    for _ in range(MAX_TOLD - 1):
        await rotate(node)
    assert (await node.send("POST", "/v1/auth/keys", body, headers=once)).expect(201) == told

    await rotate(node)
    size = node.size
    (await node.send("POST", "/v1/auth/keys", body, headers=once)).refused(409, "api_key_not_told")

    assert node.size == size
    (await node.send("GET", "/v1/facts", bearer=told["raw_key"])).expect(200)


async def test_a_token_of_the_old_key_holds_for_ninety_days_and_not_longer(node, clock):
    token = await issue(node, f"{node.node.node_id}/agent/z", verb="read", ttl_seconds=90 * 86_400)
    clock.advance(60_000)
    await rotate(node)

    (await node.send("GET", "/v1/facts", bearer=token)).expect(200)
    clock.advance(89 * DAY_MS)
    (await node.send("GET", "/v1/facts", bearer=token)).expect(200)


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_token_of_a_compromised_key_holds_no_more(node, is_late):
    token = await issue(node, f"{node.node.node_id}/agent/z", verb="read")
    # It may be the key that was rotated away before: its file lies beside.
    if is_late:
        await rotate(node)
    await rotate(node, compromised=True)

    (await node.send("GET", "/v1/facts", bearer=token)).refused(401, "token_signature_invalid")
    assert (await node.post("/v1/federation/capability-tokens/verify", {"token_json": token}, bearer=None)).expect(
        200
    ) == {"valid": False, "reason": "signature"}


async def test_a_stolen_old_key_makes_no_token_of_what_it_knows_by_name(node):
    token = json.loads(await issue(node, f"{node.node.node_id}/agent/z", verb="read"))
    await rotate(node)
    forged = {name: value for name, value in token.items() if name != "signature"} | {"nonce": "ab" * 32}

    forged["signature"] = b64url_encode(OLD.sign(canonical_json(forged)))

    (await node.send("GET", "/v1/facts", bearer=json.dumps(forged))).refused(401, "token_signature_invalid")


async def test_a_log_across_rotations_verifies_and_an_entry_of_a_former_key_is_named(node):
    for _ in range(3):
        (await node.post("/v1/facts", fact())).expect(201)
        await rotate(node)
    (await node.post("/v1/facts", fact())).expect(201)
    checked(node.folder)
    size, last = node.size, node.entries(node.size - 1)[0]

    forged = copied(node)
    log = Log(forged / "log")
    assert len(own_keys_of(log).chain) == 4
    node.clock.advance(1)
    log.append(size, signed([last.event], log.head(), clock=node.clock, signer=OLD))
    log.close()

    with pytest.raises(Damaged) as caught:
        checked(forged)
    assert (caught.value.offset, caught.value.words) == (size, "the entry is signed by a key that is not current there")


async def test_a_manifest_of_the_old_key_and_one_without_the_chain_are_refused(node):
    stood = (await node.get("/.well-known/stigmem-manifest.json")).expect(200)
    await rotate(node)
    stands = (await node.get("/.well-known/stigmem-manifest.json")).expect(200)

    (await node.send("PUT", "/v1/federation/manifest", stood)).refused(422, "key_mismatch")
    shorter = stands | {"rotation_events": [], "signature": "__self_sign__"}
    (await node.send("PUT", "/v1/federation/manifest", shorter)).refused(400, "manifest_rotation_chain_invalid")
    (await node.send("PUT", "/v1/federation/manifest", stands | {"signature": "__self_sign__"})).expect(200)


async def test_a_node_is_not_opened_with_a_key_that_was_rotated_away(node):
    await rotate(node)
    folder = copied(node)
    os.replace(folder / f"node.key.{OLD.key_id[:12]}", folder / "node.key")
    # What lies there of another attempt is no way around it.
    create_key_file(folder / "node.key.next", bytes(32))
    key_file, config = KeyFile(folder / "node.key", None), structs.replace(node.config, data_dir=str(folder))

    with pytest.raises(StartupError, match="was rotated from the key"):
        await Node.open(config=config, clock=node.clock, signer=key_file.load(), key_file=key_file)


@pytest.mark.parametrize("step", ["the new key is written", "it is in the log", "the old key is kept"])
async def test_a_rotation_that_was_cut_off_is_finished_or_was_not_begun(node, step):
    """Files as they lie where a node went down at this step; tests/scenarios/test_rotation.py kills one for real."""
    before = copied(node)
    rotation = await rotate(node)
    folder = before if step == "the new key is written" else copied(node)
    os.replace(copied(node) / "node.key", folder / "node.key.next")
    if step != "the new key is written":
        os.replace(folder / f"node.key.{OLD.key_id[:12]}", folder / "node.key")
    if step == "the old key is kept":
        os.link(folder / "node.key", folder / f"node.key.{OLD.key_id[:12]}")
    key_file, config = KeyFile(folder / "node.key", None), structs.replace(node.config, data_dir=str(folder))

    again = await Node.open(config=config, clock=node.clock, signer=key_file.load(), key_file=key_file)
    is_begun = step != "the new key is written"
    assert again.signer.key_id == (rotation["new_key_id"] if is_begun else OLD.key_id)
    assert key_file.load().key_id == again.signer.key_id and not key_file.is_unsettled
    assert (folder / f"node.key.{OLD.key_id[:12]}").exists() == is_begun
    await again.close()
    checked(folder)


@contextmanager
def files_that_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system lets nobody put one file in the place of another."""

    def refused(source: object, target: object) -> None:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refused)
        yield


async def test_the_next_rotation_after_one_that_could_not_swap_files_finishes_both(node, monkeypatch):
    with files_that_stay(monkeypatch):
        first = await rotate(node)
    assert node.key_file.is_unsettled and node.node.signer.key_id == first["new_key_id"]

    await node.node.keep_up()

    assert not node.key_file.is_unsettled and node.key_file.load().key_id == first["new_key_id"]


async def test_no_rotation_deletes_the_key_of_the_one_before_where_its_files_did_not_follow(node, monkeypatch):
    with files_that_stay(monkeypatch):
        first = await rotate(node)
        (await node.post(ROTATE, {})).refused(503, "key_file_unwritable")
    assert load_signer(node.folder / "node.key.next", None).key_id == first["new_key_id"]

    second = await rotate(node)

    kept = {f"node.key.{key_id[:12]}" for key_id in (OLD.key_id, first["new_key_id"])}
    assert set(files(node)) == {"node.key", *kept}
    assert node.key_file.load().key_id == second["new_key_id"]
    await node.restart()


async def test_rotations_at_once_and_under_load_are_all_done_and_every_key_is_kept(node):
    """While appends are under way, and upkeep looks at the files."""

    async def written() -> None:
        for _ in range(30):
            (await node.post("/v1/facts", fact())).expect(201)

    async def kept_up() -> None:
        for _ in range(30):
            await node.node.keep_up()

    rotations = [rotate(node) for _ in range(6)]
    *done, _, _, _ = await asyncio.gather(*rotations, written(), written(), kept_up())

    order = {one["old_key_id"]: one["new_key_id"] for one in done}
    chain = [OLD.key_id]
    while chain[-1] in order:
        chain.append(order[chain[-1]])
    assert len(chain) == 7
    assert set(files(node)) == {"node.key", *(f"node.key.{key_id[:12]}" for key_id in chain[:-1])}
    assert node.key_file.load().key_id == node.node.signer.key_id == chain[-1]
    await node.restart()


async def test_a_rotation_whose_caller_went_away_keeps_its_key(node):
    """It may be in the log, or on its way there, whoever waits for it."""
    for step in range(16):
        asked = asyncio.create_task(node.node.rotate_key(node.admin, is_compromised=False, since_ms=None))
        await asyncio.wait([asked], timeout=step / 1000)
        asked.cancel()
        await asyncio.wait([asked])
        (await node.post("/v1/facts", fact())).expect(201)
        await node.node.keep_up()
        assert node.key_file.load().key_id == node.node.signer.key_id


async def test_a_log_of_before_a_rotation_says_which_key_it_needs_and_no_key_is_deleted(node):
    """As a restored snapshot is one, started with the key file as it has become."""
    before = copied(node)
    first = await rotate(node)
    second = await rotate(node)
    os.replace(node.folder / "node.key", before / "node.key")
    os.replace(node.folder / f"node.key.{first['new_key_id'][:12]}", before / "node.key.next")
    key_file, config = KeyFile(before / "node.key", None), structs.replace(node.config, data_dir=str(before))

    words = f"goes on under the key {OLD.key_id[:12]}, not {second['new_key_id'][:12]}: name that key's file"
    with pytest.raises(StartupError, match=words):
        await Node.open(config=config, clock=node.clock, signer=key_file.load(), key_file=key_file)

    assert {one.name for one in before.glob("node.key*")} == {"node.key", "node.key.next"}


def test_what_a_key_file_was_half_written_to_is_deleted(tmp_path):
    path = tmp_path / "org[1].pem"
    signer = create_key_file(path, SEED)
    (tmp_path / ".org[1].pem.next.abcdefgh").write_bytes(path.read_bytes())

    KeyFile(path, None).settle(signer.public_key)

    assert [one.name for one in tmp_path.iterdir()] == [path.name]
