"""Tombstones over HTTP: gone from every read, refused to every writer, erased from every file (docs/tombstones.md)."""

import shutil
from pathlib import Path

import pytest
from msgspec import structs

from node.canonical import b64url_decode, canonical_json
from node.commands.tombstones import TakePeersTombstones
from node.erasing import NOTE
from node.events.log import COPY_FOLDER, ITEM_KEY, OLD_FOLDER, PARTIAL_COPY_FOLDER, open_store
from node.keys import verify
from replay import chain
from tests.api_keys import bearer_for
from tests.events.samples import tombstone
from tests.organisations import NODE_ID as ORG_B
from tests.organisations import Organisation, issue
from tests.served import NODE_ID, Served, fact

ALICE = "stigmem://org-a.example/user/alice"
BOB = "stigmem://org-a.example/user/bob"
WORDS = "rumpelstiltskin"
NONCE = "018f0000-0000-7000-8000-0000000000f1"
SIGNED = ("created_at", "entity_uri", "id", "key_id", "legal_hold", "scope", "signed_by")


def said(**changed: object) -> dict[str, object]:
    return fact(entity=ALICE, value={"type": "string", "v": WORDS}, **changed)


async def bury(http: Served, **changed: object) -> dict:
    body = {"entity_uri": ALICE, "scope": "*", "reason": "asked to be forgotten", **changed}
    answer = await http.post("/v1/tombstones", body)
    assert answer.status == 201, answer.json
    return answer.json


def files_with(folder: Path, words: str) -> list[str]:
    """The files below a folder that hold these words."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if words.encode() in path.read_bytes()]


async def test_after_a_tombstone_the_words_are_in_no_file_and_the_tables_are_those_of_the_log(http: Served):
    await http.write(entity="stigmem://org-a.example/user/bob", value={"type": "string", "v": "stays"})
    for number in range(3):
        await http.post("/v1/facts", said(source=f"agent:{WORDS}-{number}", relation=f"memory:{WORDS}"))
    assert files_with(http.folder, WORDS)

    made = await bury(http)

    assert files_with(http.folder, WORDS) == []
    assert files_with(http.folder, "stays")
    shown = (await http.get(f"/v1/tombstones/{made['id']}")).json
    assert (made["status"], shown["status"], shown["erased_items"]) == ("erasing", "erased", 3)
    assert await http.digests() == http.folded_anew()


async def test_what_was_said_of_others_stays_and_so_does_what_lies_under_the_name(http: Served):
    kept = [
        await http.write(entity=f"{ALICE}/cards"),
        await http.write(entity="stigmem://org-a.example/team/a", value={"type": "ref", "v": ALICE}),
        await http.write(entity="stigmem://org-a.example/team/b", source=ALICE),
    ]
    gone = await http.write(entity=ALICE)

    await bury(http, entity_uri=ALICE.upper().replace("STIGMEM", "stigmem"))

    for one in kept:
        (await http.get(f"/v1/facts/{one['id']}")).expect(200)
    (await http.get(f"/v1/facts/{gone['id']}")).refused(404, "fact_not_found")


async def test_nothing_is_written_about_what_is_gone_until_the_tombstone_is_revoked(http: Served):
    made = await bury(http)

    (await http.post("/v1/facts", said())).refused(409, "entity_tombstoned")
    batch = {"facts": [said(), fact()], "atomic": False}
    answer = (await http.post("/v1/facts/batch", batch)).expect(201)
    assert [one.get("error") for one in answer["results"]] == ["entity_tombstoned", None]
    (await http.post("/v1/tombstones", {"entity_uri": ALICE})).refused(409, "entity_tombstoned")

    path = f"/v1/tombstones/{made['id']}/revoke"
    assert (await http.post(path, {"reason": "by mistake"})).expect(200)["status"] == "revoked"
    (await http.post(path, {})).refused(409, "tombstone_already_revoked")
    (await http.post("/v1/facts", said())).expect(201)
    assert await http.digests() == http.folded_anew()


async def test_a_hold_hides_and_keeps_until_it_is_lifted_and_a_revocation_brings_back_what_was_kept(http: Served):
    one = await http.write(entity=ALICE, value={"type": "string", "v": WORDS})

    held = await bury(http, legal_hold=True)
    assert (held["status"], held["held"]) == ("hidden", True)
    (await http.get(f"/v1/facts/{one['id']}")).refused(404, "fact_not_found")
    assert files_with(http.folder, WORDS)
    (await http.post(f"/v1/tombstones/{held['id']}/revoke", {})).expect(200)
    (await http.get(f"/v1/facts/{one['id']}")).expect(200)

    held = await bury(http, legal_hold=True)
    lifted = (await http.post(f"/v1/tombstones/{held['id']}/lift-hold", {"reason": "closed"})).expect(200)
    assert (lifted["status"], lifted["held"], lifted["erased_items"]) == ("erased", False, 1)
    assert files_with(http.folder, WORDS) == []
    (await http.post(f"/v1/tombstones/{held['id']}/lift-hold", {})).refused(409, "tombstone_not_held")
    assert await http.digests() == http.folded_anew()


async def test_a_tombstone_of_one_scope_hides_that_scope_alone_and_erases_nothing(http: Served):
    company = await http.write(entity=ALICE, scope="company", value={"type": "string", "v": WORDS})
    public = await http.write(entity=ALICE, scope="public")

    made = await bury(http, scope="company")

    assert made["status"] == "hidden" and files_with(http.folder, WORDS)
    (await http.get(f"/v1/facts/{company['id']}")).refused(404, "fact_not_found")
    (await http.get(f"/v1/facts/{public['id']}")).expect(200)
    (await http.post("/v1/facts", said(scope="company"))).refused(409, "entity_tombstoned")
    (await http.post("/v1/facts", said(scope="public"))).expect(201)


@pytest.mark.parametrize("ended_by", ["lift-hold", "revoke"])
async def test_a_hold_on_one_scope_keeps_the_entity_from_a_tombstone_of_every_scope(http: Served, ended_by: str):
    await http.write(entity=ALICE, scope="company", value={"type": "string", "v": WORDS})
    held = await bury(http, scope="company", legal_hold=True)

    made = await bury(http)

    assert (await http.get(f"/v1/tombstones/{made['id']}")).expect(200)["status"] == "hidden"
    await http.node.keep_up()
    assert files_with(http.folder, WORDS)
    (await http.post(f"/v1/tombstones/{held['id']}/{ended_by}", {})).expect(200)
    assert (await http.get(f"/v1/tombstones/{made['id']}")).expect(200)["status"] == "erased"
    assert files_with(http.folder, WORDS) == []
    assert await http.digests() == http.folded_anew()


async def test_a_request_sent_again_tells_nothing_of_what_is_gone(http: Served):
    headers = {"Idempotency-Key": "once"}
    (await http.send("POST", "/v1/facts", said(), headers=headers)).expect(201)

    made = await bury(http)

    (await http.send("POST", "/v1/facts", said(), headers=headers)).refused(409, "entity_tombstoned")
    (await http.post(f"/v1/tombstones/{made['id']}/revoke", {})).expect(200)
    (await http.send("POST", "/v1/facts", said(), headers=headers)).refused(409, "entity_tombstoned")


async def test_only_an_admin_of_every_scope_buries_and_sees_what_is_buried(http: Served):
    readers = [await bearer_for(http, "read", "write")]
    readers.append(await bearer_for(http, "admin", allowed_scopes=["public"], raw_key="k" * 43))
    made = await bury(http)

    for bearer in readers:
        for method, path, body in (
            ("POST", "/v1/tombstones", {"entity_uri": ALICE}),
            ("GET", "/v1/tombstones", None),
            ("GET", f"/v1/tombstones/{made['id']}", None),
            ("POST", f"/v1/tombstones/{made['id']}/revoke", {}),
            ("POST", f"/v1/tombstones/{made['id']}/lift-hold", {}),
        ):
            assert (await http.send(method, path, body, bearer=bearer)).status == 403
    assert (await http.get("/v1/tombstones")).expect(200)["tombstones"][0]["id"] == made["id"]
    (await http.get("/v1/tombstones/tomb_none")).refused(404, "tombstone_not_found")


async def test_a_log_with_an_erasure_verifies_and_an_item_that_no_entry_erased_is_damage(http: Served, tmp_path: Path):
    await http.write(entity=ALICE)
    left = await http.write()
    await bury(http)
    copied = tmp_path / "copy" / "log"
    shutil.copytree(http.folder / "log", copied)
    log_check = chain.log_check(copied)
    size = log_check.size

    assert log_check.check(0, size).damage is None
    log_check.close()

    store = open_store(copied)
    with store.begin(write=True) as txn:
        txn.delete(ITEM_KEY.pack(left["log_offset"], 1), db=store.table("items"))
    store.close()
    log_check = chain.log_check(copied)
    assert log_check.check(0, size).damage.offset == left["log_offset"]
    log_check.close()


async def test_an_erasure_that_failed_is_hidden_all_the_same_and_finished_by_the_next_start(http: Served):
    one = await http.write(entity=ALICE, value={"type": "string", "v": WORDS})
    in_the_way = http.folder / COPY_FOLDER
    in_the_way.write_bytes(b"no folder")

    made = await bury(http)

    (await http.get(f"/v1/facts/{one['id']}")).refused(404, "fact_not_found")
    assert (http.folder / NOTE).exists() and files_with(http.folder, WORDS)
    assert (await http.get(f"/v1/tombstones/{made['id']}")).expect(200)["status"] == "erasing"
    in_the_way.unlink()
    await http.restart()
    assert not (http.folder / NOTE).exists() and files_with(http.folder, WORDS) == []
    assert (await http.get(f"/v1/tombstones/{made['id']}")).expect(200)["status"] == "erased"


async def test_an_erasure_that_failed_after_another_is_finished_without_a_new_start(http: Served):
    await http.write(entity=BOB)
    await bury(http, entity_uri=BOB)
    await http.write(entity=ALICE, value={"type": "string", "v": WORDS})
    in_the_way = http.folder / COPY_FOLDER
    in_the_way.write_bytes(b"no folder")
    await bury(http)
    assert files_with(http.folder, WORDS)
    in_the_way.unlink()

    await http.node.erase()

    assert not (http.folder / NOTE).exists() and files_with(http.folder, WORDS) == []


def files_of(folder: Path) -> list[tuple[str, int]]:
    """The files that log and views lie in, each with what the file system knows it by: one written anew is another."""
    files = (*folder.glob("log/data.mdb"), *folder.glob("views/*/data.mdb"))
    return [(str(path.relative_to(folder)), path.stat().st_ino) for path in files]


async def test_a_tombstone_on_what_the_log_holds_nothing_of_writes_no_file_anew(http: Served):
    await http.write(entity=BOB)
    before = files_of(http.folder)

    made = await bury(http)

    assert (await http.get(f"/v1/tombstones/{made['id']}")).expect(200)["status"] == "erased"
    assert files_of(http.folder) == before and not (http.folder / NOTE).exists()
    await bury(http, entity_uri=BOB)
    assert files_of(http.folder) != before


async def test_of_what_was_erased_before_the_files_are_written_anew_though_nothing_was_said_of_it_since(http: Served):
    await http.write(entity=ALICE)
    made = await bury(http)
    (await http.post(f"/v1/tombstones/{made['id']}/revoke", {"reason": "another alice"})).expect(200)
    before = files_of(http.folder)

    await bury(http)

    assert files_of(http.folder) != before


async def test_a_tombstone_on_nothing_does_not_end_an_erasure_that_failed_and_finishes_it_where_it_can(http: Served):
    await http.write(entity=ALICE, value={"type": "string", "v": WORDS})
    in_the_way = http.folder / COPY_FOLDER
    in_the_way.write_bytes(b"no folder")
    await bury(http)
    await bury(http, entity_uri=BOB)
    assert (http.folder / NOTE).exists() and files_with(http.folder, WORDS)
    in_the_way.unlink()

    await bury(http, entity_uri=f"{BOB}/cards")

    assert not (http.folder / NOTE).exists() and files_with(http.folder, WORDS) == []


async def test_a_tombstone_is_answered_and_the_node_starts_where_no_note_can_be_made_of_its_erasure(
    http: Served,
):
    await http.write(entity=ALICE, value={"type": "string", "v": WORDS})
    (http.folder / NOTE).mkdir()

    await bury(http)
    await http.restart()

    assert (await http.get("/v1/tombstones")).expect(200)["tombstones"][0]["status"] == "erasing"
    (http.folder / NOTE).rmdir()
    await http.node.erase()
    assert files_with(http.folder, WORDS) == []


@pytest.mark.parametrize(
    "left",
    [(PARTIAL_COPY_FOLDER,), (COPY_FOLDER,), (COPY_FOLDER, OLD_FOLDER), (OLD_FOLDER,)],
    ids=["copying", "copied", "between the two renames", "renamed"],
)
async def test_a_compaction_cut_off_anywhere_leaves_the_log_whole(http: Served, left: tuple[str, ...]):
    await http.write(entity=ALICE, value={"type": "string", "v": WORDS})
    await bury(http)
    head = http.node.log.head()
    await http.stop()
    log = http.folder / "log"
    for name in left:
        shutil.copytree(log, http.folder / name)
    if COPY_FOLDER in left and OLD_FOLDER in left:
        shutil.rmtree(log)
    (http.folder / NOTE).touch()

    await http.start()

    assert http.node.log.head() == head
    assert [path.name for path in http.folder.glob("log*")] == ["log"] and not (http.folder / NOTE).exists()


async def test_what_a_peer_brings_about_it_is_refused_and_the_rest_of_its_page_goes_on(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    zeus = f"{ORG_B}/project/zeus"
    first = org_b.served_fact(number=1, entity=zeus, value={"type": "string", "v": WORDS})
    await org_b.receive(http, first)
    assert files_with(http.folder, WORDS)

    await bury(http, entity_uri=zeus)
    assert files_with(http.folder, WORDS) == []
    await org_b.receive(http, first, org_b.served_fact(number=2, entity=f"{ORG_B}/project/hera"), cursor="d")

    assert [one["entity"] for one in (await http.get("/v1/facts")).json["facts"]] == [f"{ORG_B}/project/hera"]
    audited = (await http.get("/v1/federation/audit", event_type="rejected_fact")).expect(200)["events"]
    assert [one["reason"] for one in audited] == ["entity_tombstoned"]


async def test_peers_are_told_of_what_they_may_have_been_given_and_of_nothing_else(http: Served, org_b: Organisation):
    await org_b.join(http, scopes=("public",))
    secret = f"{ALICE}-secret"
    await http.write(entity=ALICE, scope="public")
    await http.write(entity=secret, scope="company")
    for entity in (ALICE, secret):
        made = await bury(http, entity_uri=entity)

    page = (await http.send("GET", "/v1/federation/tombstones?limit=200", bearer=org_b.token(http))).expect(200)

    (told,) = page["tombstones"]
    body = {name: told[name] for name in SIGNED}
    assert told["entity_uri"] == ALICE and "reason" not in told
    assert verify(http.signer.public_key, canonical_json(body), b64url_decode(told["signature"]))
    behind = f"/v1/federation/tombstones?cursor={page['cursor']}"
    assert (await http.send("GET", behind, bearer=org_b.token(http, nonce=org_b.nonce()))).expect(200)[
        "tombstones"
    ] == []
    (await http.send("GET", behind, bearer=org_b.token(http, nonce=NONCE))).expect(200)
    (await http.send("GET", behind, bearer=org_b.token(http, nonce=NONCE))).refused(401, "nonce_already_seen")
    token = await issue(http, org_b.assistant, verb="tombstone:read")
    read = (await http.send("GET", "/v1/federation/tombstones", bearer=token)).expect(200)["tombstones"]
    assert {one["entity_uri"] for one in read} == {ALICE, secret} and made["id"] in {one["id"] for one in read}
    writer = await issue(http, org_b.assistant)
    (await http.send("GET", "/v1/federation/tombstones", bearer=writer)).refused(403, "insufficient_capability")


async def test_a_peer_s_tombstone_hides_its_own_facts_here_and_shows_the_operator_the_others(
    http: Served, org_b: Organisation
):
    """Org B's node pulls from `http`, which buries Alice and then thinks better of it."""
    home = org_b.home
    await org_b.join(http)
    peer_id = await Organisation(http).join(home, node_url=f"http://127.0.0.1:{http.port}")
    theirs = await http.write(entity=ALICE, scope="public")
    await http.write(entity=ALICE, scope="public", relation="memory:other")
    own = await home.write(entity=ALICE, source=f"{ORG_B}/agent/b", scope="public")
    pull = f"/v1/federation/peers/{peer_id}/pull"
    assert (await home.post(pull, {})).expect(200)["ingested"] == 2

    held = await bury(http, legal_hold=True)
    (await home.post(pull, {})).expect(200)

    (await home.get(f"/v1/facts/{theirs['id']}")).refused(404, "fact_not_found")
    (await home.get(f"/v1/facts/{own['id']}")).expect(200)
    (shown,) = (await home.get("/v1/tombstones", of="peers")).expect(200)["tombstones"]
    assert (shown["peer"], shown["facts_hidden"], shown["facts_left"]) == (NODE_ID, 2, 1)
    (await home.post("/v1/facts", said(source=f"{ORG_B}/agent/b"))).expect(201)
    size = home.size
    (await home.post(pull, {})).expect(200)
    assert {entry.type for entry in home.entries(size)} <= {"page.served.1", "peer.checkpoint_seen.1"}

    (await http.post(f"/v1/tombstones/{held['id']}/revoke", {})).expect(200)
    (await home.post(pull, {})).expect(200)
    (await home.get(f"/v1/facts/{theirs['id']}")).expect(200)
    assert await home.digests() == home.folded_anew()


async def test_a_tombstone_that_a_peer_did_not_sign_hides_nothing(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, org_b.served_fact(number=1, entity=ALICE))
    with http.node.view() as view:
        peer = view.peers.of_node(ORG_B)
    genuine = tombstone(f"tomb_{1:032x}", ALICE, org_b.signer, signed_by=ORG_B)
    for forged in (
        structs.replace(genuine, entity_uri=f"{ORG_B}/project/zeus"),
        structs.replace(genuine, signed_by="stigmem://org-c.example"),
        tombstone(f"tomb_{2:032x}", ALICE, http.signer, signed_by=ORG_B),
        tombstone(f"tomb_{3:032x}", "stigmem://ORG-B.example/project/zeus", org_b.signer, signed_by=ORG_B),
    ):
        command = TakePeersTombstones(node_id=ORG_B, public_key=peer.public_key, shown=((forged, None),))
        assert (await http.node.execute(command)).reply == 1
    assert (await http.get("/v1/tombstones", of="peers")).expect(200)["tombstones"] == []

    command = TakePeersTombstones(node_id=ORG_B, public_key=peer.public_key, shown=((genuine, None),))
    assert (await http.node.execute(command)).reply == 0
    assert (await http.get("/v1/facts")).expect(200)["facts"] == []
