"""An answer that is given again is the one that would be made anew, whatever happened meanwhile (node/kept_answers.py).

A parameter that no route knows makes a question that nobody has asked before, so its answer is made anew.
"""

import os
import random
from itertools import count

import pytest

from node.errors import StorageFailed
from node.events.log import ITEM_KEY
from tests.api_keys import SCRIBE, bearer_for, make_key
from tests.http.random_life import RELATIONS, SOURCES, Life
from tests.organisations import Organisation, be_strict
from tests.served import ADMIN_KEY, NODE_ID, Served, fact

STEPS, SEEDS = (400, 12) if os.environ.get("STIGMEM_TEST_LONG") else (140, 2)
FILTERS = ["", "&include_contradicted=true", "&include_retracted=true&include_expired=true", "&min_confidence=0.6"]
FILTERS += [f"&relation={RELATIONS[0]}", f"&source={SOURCES[1]}", "&order=asc&limit=2", "&limit=1"]
FILTERS += [f"&relation={RELATIONS[1]}&source={SOURCES[0]}", "&scope=company&include_retracted=true&order=asc"]
FILTERS += ["&as_of=offset:20&include_contradicted=true", "&after=2026-05-04T12:00:05Z", "&include_expired=true"]
ENTITIES = [f"{NODE_ID}/thing/{number}" for number in range(2)]
_fresh = count()


async def ask(http: Served, path: str, bearer: str = ADMIN_KEY) -> tuple[int, bytes]:
    answer = await http.send("GET", path, bearer=bearer)
    return answer.status, answer.body


async def ask_anew(http: Served, path: str, bearer: str = ADMIN_KEY) -> tuple[int, bytes]:
    return await ask(http, f"{path}{'&' if '?' in path else '?'}anew={next(_fresh)}", bearer)


def is_kept(http: Served, path: str) -> bool:
    return http.node.given_again((path, "admin")) is not None


async def keep(http: Served, path: str, bearer: str = ADMIN_KEY) -> tuple[int, bytes]:
    """Ask as often as it takes to have the answer kept, where it can be."""
    await ask(http, path, bearer)
    return await ask(http, path, bearer)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_is_given_again_is_what_would_be_made_anew(seed: int, http: Served, org_b: Organisation):
    http.keep_key()
    await org_b.join(http)
    await be_strict(http)
    rng, kept = random.Random(seed), 0
    life = await Life(http, org_b, random.Random(seed)).begin()
    for number in range(STEPS):
        # Somebody else's facts about an entity stay: only of one that is still new is much kept.
        about = f"{NODE_ID}/thing/{max(0, rng.randrange(number - 10, number + 1)) // 8}"
        paths = [f"/v1/facts?entity={about}{filters}" for filters in ["", *rng.sample(FILTERS[1:], 4)]]
        paths += [f"{paths[0]}&garden_id={garden}" for garden in life.gardens[-1:]]
        paths += [f"/v1/facts/{fact_id}{when}" for fact_id in life.ids[-2:] for when in ("", "?as_of=offset:40")]
        bearers = [ADMIN_KEY, life.readers["scribe"], rng.choice(sorted(life.readers.values()))]
        asked = [(path, bearer) for path in paths for bearer in bearers]
        for path, bearer in asked:
            await keep(http, path, bearer)
        kept += sum(is_kept(http, path) for path in paths)
        taken = await life.step(about)
        for path, bearer in asked:
            assert await ask(http, path, bearer) == await ask_anew(http, path, bearer), (number, taken, path)
        path, bearer = rng.choice(asked)
        head, (status, body) = await http.send("HEAD", path, bearer=bearer), await ask(http, path, bearer)
        assert (head.status, head.headers["Content-Length"], head.body) == (status, str(len(body)), b"")
    assert kept > STEPS, "nothing was kept that could have been wrong"


async def test_a_kept_answer_goes_with_the_next_fact_about_its_entity_and_with_no_other(http: Served):
    red = await http.write(entity=ENTITIES[0])
    by_id, listing = f"/v1/facts/{red['id']}", f"/v1/facts?entity={ENTITIES[0]}"
    for path in (by_id, listing):
        await keep(http, path)
    await http.write(entity=ENTITIES[1])
    assert is_kept(http, by_id) and is_kept(http, listing)
    other = await http.write(entity=ENTITIES[0], value={"type": "string", "v": "other"})
    assert not is_kept(http, by_id) and not is_kept(http, listing)
    assert (await http.send("GET", by_id)).json["contradicted"]
    assert [one["id"] for one in (await http.send("GET", listing)).json["facts"]] == [other["id"]]


async def test_a_fact_that_expires_and_one_that_is_disputed_are_not_kept(http: Served):
    passing = await http.write(entity=ENTITIES[0], valid_until="2026-05-05T00:00:00Z")
    one, _ = [await http.write(entity=ENTITIES[1], value={"type": "string", "v": word}) for word in ("yes", "no")]
    paths = [f"/v1/facts/{passing['id']}", f"/v1/facts?entity={ENTITIES[0]}", f"/v1/facts/{one['id']}"]
    for path in (*paths, f"/v1/facts?entity={ENTITIES[1]}"):
        await keep(http, path)
        assert not is_kept(http, path)


async def test_a_revoked_key_is_given_nothing_again_and_another_key_nothing_of_its(http: Served):
    team = await http.write(entity=ENTITIES[0], scope="team")
    key = await make_key(http, "read")
    narrow = await bearer_for(http, "read", allowed_scopes=["company"])
    path = f"/v1/facts/{team['id']}"
    assert (await keep(http, path, key["raw_key"]))[0] == 200
    assert (await keep(http, path, narrow))[0] == 404
    (await http.send("DELETE", f"/v1/auth/keys/{key['key_id']}")).expect(204)
    assert (await ask(http, path, key["raw_key"]))[0] == 401


async def test_a_member_who_was_removed_is_given_nothing_again_of_the_garden(http: Served):
    garden = (await http.post("/v1/gardens", {"slug": "bed", "name": "bed", "scope": "company"})).expect(201)["id"]
    members = f"/v1/gardens/{garden}/members"
    (await http.post(members, {"entity_uri": SCRIBE, "role": "reader"})).expect(201)
    planted = await http.write(entity=ENTITIES[0], scope="company", garden_id=garden)
    bearer = await bearer_for(http, "read")
    by_id, listing = f"/v1/facts/{planted['id']}", f"/v1/facts?entity={ENTITIES[0]}"
    assert [(await keep(http, path, bearer))[0] for path in (by_id, listing)] == [200, 200]
    (await http.send("DELETE", f"{members}/{SCRIBE}")).expect(204)
    assert (await ask(http, by_id, bearer))[0] == 404
    assert (await http.send("GET", listing, bearer=bearer)).expect(200)["facts"] == []


async def test_a_dispute_that_ends_by_itself_ends_in_what_is_given_again(http: Served):
    lasting = await http.write(entity=ENTITIES[0], source=SOURCES[0], confidence=0.7)
    passing = {"value": {"type": "string", "v": "red"}, "valid_until": "2026-05-04T12:00:05Z"}
    await http.write(entity=ENTITIES[0], source=SOURCES[1], **passing)
    disputed = [f"/v1/facts/{lasting['id']}", f"/v1/facts?entity={ENTITIES[0]}&include_contradicted=true"]
    hidden = [f"/v1/facts?entity={ENTITIES[0]}&source={SOURCES[0]}"]
    # Beside one that nobody disputes, so that there is something to keep.
    await http.write(entity=ENTITIES[0], source=SOURCES[0], relation="memory:other")
    for path in disputed + hidden:
        await keep(http, path)
    http.clock.advance(6000)
    for path in disputed + hidden:
        assert await ask(http, path) == await ask_anew(http, path), path
    assert (await http.send("GET", disputed[0])).json["contradicted"] is False
    assert (await http.send("GET", hidden[0])).json["total"] == 2


async def test_what_trust_makes_of_a_stranger_is_judged_at_every_reading(http: Served):
    (await http.send("PATCH", "/v1/admin/config", {"trust_mode": "relaxed"})).expect(200)
    stranger = {"source": "stigmem://org-z.example/agent/stranger", "scope": "public"}
    said = await http.write(entity=ENTITIES[0], **stranger)
    paths = [f"/v1/facts/{said['id']}", f"/v1/facts?entity={ENTITIES[0]}"]
    before = [await keep(http, path) for path in paths]
    for number in range(30):
        await http.write(entity=f"{NODE_ID}/elsewhere/{number}", **stranger)
    after = [await ask(http, path) for path in paths]
    assert after == [await ask_anew(http, path) for path in paths]
    assert before != after


async def test_a_kept_answer_is_not_given_once_the_log_no_longer_has_its_fact(http: Served):
    amber = await http.write(entity=ENTITIES[0], value={"type": "string", "v": "amber"})
    path = f"/v1/facts/{amber['id']}"
    await keep(http, path)
    assert is_kept(http, path)
    key, store = ITEM_KEY.pack(amber["log_offset"], 1), http.node.log.store
    with store.begin(write=True) as txn:
        row = txn.get(key, db=store.table("items"))
        txn.put(key, row[:-1] + bytes([row[-1] ^ 1]), db=store.table("items"))
    (await http.get(path)).refused(503, "log_damaged")
    with store.begin(write=True) as txn:
        txn.put(key, row, db=store.table("items"))


async def test_a_write_that_was_refused_and_reached_the_log_all_the_same_ends_what_is_kept(
    http: Served, monkeypatch: pytest.MonkeyPatch
):
    red = await http.write(entity=ENTITIES[0])
    paths = [f"/v1/facts/{red['id']}", f"/v1/facts?entity={ENTITIES[0]}"]
    for path in paths:
        await keep(http, path)
    append = http.node.log.append

    def fail_after(*given: object) -> None:
        append(*given)
        raise StorageFailed("the disk took it and said that it did not")

    with monkeypatch.context() as patched:
        patched.setattr(http.node.log, "append", fail_after)
        other = fact(entity=ENTITIES[0], value={"type": "string", "v": "other"})
        (await http.post("/v1/facts", other)).refused(503, "storage_failed")
    given = [await ask(http, path) for path in paths]
    assert given == [await ask_anew(http, path) for path in paths]
    assert (await http.send("GET", paths[0])).json["contradicted"]
