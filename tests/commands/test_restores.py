"""A node that goes on from a snapshot: what it writes first, which credentials it takes, what its log is called (PROTOCOL §12)."""

import shutil

import msgspec

from node.events.checkpoint import Checkpoint, open_checkpoint, origin_of
from node.events.log import OFFSET_KEY, RESTORED
from tests.api_keys import KEYS, make_key
from tests.organisations import Organisation, issue
from tests.replay.folders import edit
from tests.served import NODE_ID, Served, fact

CONFIRM = "/v1/admin/restore/confirm"
VERIFY = "/v1/federation/capability-tokens/verify"


async def restore(at: Served) -> int:
    """Start the node on its log as `stigmem snapshot restore` leaves one; how many entries that has."""
    size = at.size
    await at.stop()
    edit(at.folder / "log", "meta", lambda txn: txn.put(RESTORED, OFFSET_KEY.pack(size)))
    shutil.rmtree(at.folder / "views")
    at.clock.advance(1000)
    await at.start()
    return size


async def shown(at: Served, query: str = "") -> Checkpoint:
    answer = await at.send("GET", f"/v1/log/checkpoint{query}", bearer=None)
    note = answer.body.decode()
    return open_checkpoint(note, origin=note.partition("\n")[0], public_key=at.signer.public_key)


async def write(at: Served, token: str):
    return await at.post(
        "/v1/facts", fact(source="stigmem://org-b.example/agent/assistant", scope="company"), bearer=token
    )


async def test_the_first_thing_a_restored_node_writes_is_that_it_was(http: Served):
    root = http.node.log.head().root

    size = await restore(http)

    first = http.entries(size)[0]
    assert (first.type, first.event.size, first.event.root) == ("node.restored.1", size, root.hex())
    assert first.event.origin.startswith(f"{origin_of(NODE_ID)}/")


async def test_it_is_written_once_however_often_the_node_starts(http: Served):
    size = await restore(http)
    await http.restart()
    await http.restart()

    assert [entry.type for entry in http.entries(size)].count("node.restored.1") == 1


async def test_a_restored_log_has_a_name_of_its_own_and_its_past_keeps_the_old_one(http: Served):
    size = await restore(http)
    new = http.entries(size)[0].event.origin

    assert (await shown(http)).origin == new
    assert (await http.get("/.well-known/stigmem")).expect(200)["log"]["origin"] == new
    before = (await http.get("/v1/log/proof/inclusion", offset=0, size=size)).expect(200)["checkpoint"]
    after = (await http.get("/v1/log/proof/consistency", **{"from": size, "to": size + 1})).expect(200)["checkpoint"]
    assert [note.partition("\n")[0] for note in (before, after)] == [origin_of(NODE_ID), new]
    proof = (await http.get("/.well-known/stigmem-manifest-proof.json")).expect(200)
    assert proof["checkpoint"].startswith(f"{new}\n")


async def test_each_restore_gives_the_log_another_name(http: Served):
    names = {(await shown(http)).origin}
    for _ in range(2):
        await restore(http)
        names.add((await shown(http)).origin)

    assert len(names) == 3


async def test_a_peer_proves_a_restored_log_by_its_manifest(http: Served, org_b: Organisation):
    await restore(org_b.home)

    await org_b.join(http)

    assert org_b.peer_at(http).is_manifest_proven


async def test_peer_tokens_issued_before_are_refused_and_later_ones_taken(http: Served, org_b: Organisation):
    await org_b.join(http)
    old = org_b.token(http)
    await restore(http)
    size = http.size

    (await http.send("GET", "/v1/federation/facts", bearer=old)).refused(401, "token_before_restore")
    http.clock.advance(1)
    (await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))).expect(200)

    refused, served = http.entries(size)
    assert (refused.event.event_type, served.type) == ("rejected_token", "page.served.1")


async def test_capability_tokens_sleep_until_an_admin_confirms(http: Served, org_b: Organisation):
    await org_b.join(http)
    old = await issue(http, org_b.assistant)
    await restore(http)

    (await write(http, old)).refused(403, "token_asleep")
    verdict = (await http.post(VERIFY, {"token_json": old}, bearer=None)).expect(200)
    assert verdict == {"valid": False, "reason": "asleep"}
    (await write(http, await issue(http, org_b.assistant))).expect(201)

    (await http.post(CONFIRM, {})).expect(200)
    [confirmed] = http.entries(http.size - 1)
    assert (confirmed.type, confirmed.actor.via) == ("restore.confirmed.1", "admin")
    (await write(http, old)).expect(201)


async def test_a_revoked_token_does_not_wake_up(http: Served, org_b: Organisation):
    await org_b.join(http)
    old = await issue(http, org_b.assistant)
    token_id = msgspec.json.decode(old)["token_id"]
    (await http.post(f"/v1/federation/capability-tokens/{token_id}/revoke", {})).expect(200)
    await restore(http)

    (await http.post(CONFIRM, {})).expect(200)

    (await write(http, old)).refused(403, "token_revoked")


async def test_api_keys_sleep_until_an_admin_confirms_and_later_ones_do_not(http: Served):
    old, gone = await make_key(http, "read", "admin"), await make_key(http)
    (await http.send("DELETE", f"{KEYS}/{gone['key_id']}")).expect(204)
    await restore(http)
    new = await make_key(http)

    for path in ("/v1/facts", "/v1/me"):
        (await http.send("GET", path, bearer=old["raw_key"])).refused(403, "api_key_asleep")
    (await http.post(CONFIRM, {}, bearer=old["raw_key"])).refused(403, "api_key_asleep")
    (await http.send("GET", "/v1/facts", bearer=new["raw_key"])).expect(200)
    listed = (await http.get(KEYS)).expect(200)["keys"]
    assert [key["status"] for key in listed] == ["active", "revoked", "asleep"]

    (await http.post(CONFIRM, {})).expect(200)
    (await http.send("GET", "/v1/facts", bearer=old["raw_key"])).expect(200)
    (await http.send("GET", "/v1/facts", bearer=gone["raw_key"])).refused(401, "api_key_revoked")


async def test_only_an_admin_confirms_and_only_what_waits(http: Served, org_b: Organisation):
    await org_b.join(http)
    (await http.post(CONFIRM, {})).refused(409, "nothing_to_confirm")
    await restore(http)
    (await http.post(CONFIRM, {}, bearer=await issue(http, org_b.assistant))).refused(403, "insufficient_permission")

    (await http.post(CONFIRM, {})).expect(200)
    (await http.post(CONFIRM, {})).refused(409, "nothing_to_confirm")


async def test_a_second_restore_puts_tokens_to_sleep_again(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = await issue(http, org_b.assistant)
    await restore(http)
    (await http.post(CONFIRM, {})).expect(200)
    await restore(http)

    (await write(http, token)).refused(403, "token_asleep")


async def test_a_log_that_says_nonsense_of_its_restore_is_damaged(http: Served):
    await http.stop()
    edit(http.folder / "log", "meta", lambda txn: txn.put(RESTORED, b"7"))

    await http.start()
    assert "tells of a restore" in (await http.get("/readyz")).refused(503, "log_damaged")["detail"]

    await http.stop()
    edit(http.folder / "log", "meta", lambda txn: txn.delete(RESTORED))
    await http.start()
