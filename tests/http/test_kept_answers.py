"""An answer that is given again is the one that would be made anew, whatever happened meanwhile (node/kept_answers.py).

A parameter that no route knows makes a question that nobody has asked before, so its answer is made anew.
"""

import os
import random
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from node.events.log import ITEM_KEY
from tests.api_keys import SCRIBE, bearer_for, make_key
from tests.organisations import Organisation, be_strict
from tests.served import ADMIN_KEY, NODE_ID, Served

STEPS, SEEDS = (400, 12) if os.environ.get("STIGMEM_TEST_LONG") else (60, 2)
ENTITIES = [f"{NODE_ID}/thing/{number}" for number in range(3)]
RELATIONS = ["memory:state", "memory:owner"]
SOURCES = [SCRIBE, f"{NODE_ID}/agent/other"]
FILTERS = ["", "&include_contradicted=true", "&include_retracted=true&include_expired=true", "&min_confidence=0.6"]
FILTERS += [f"&relation={RELATIONS[0]}", f"&source={SOURCES[1]}", "&order=asc&limit=2"]
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


class Life:
    """Random steps in the life of a node, each of which may change what is answered to somebody."""

    def __init__(self, http: Served, org_b: Organisation, rng: random.Random) -> None:
        self._http, self._org_b, self._rng = http, org_b, rng
        self.ids: list[str] = []
        self._gardens: list[str] = []
        self._tombstones: list[str] = []
        self._received = 0

    async def step(self) -> str:
        steps: list[Callable[[], Awaitable[None]]] = [
            *[self._assert] * 6,
            *[self._wait] * 3,
            self._receive,
            self._settle,
            self._found_garden,
            self._change_members,
            self._delete_garden,
            self._promote,
            self._bury,
            self._revoke,
            self._distrust,
        ]
        taken = self._rng.choice(steps)
        await taken()
        return taken.__name__

    async def _assert(self) -> None:
        choose = self._rng.choice
        garden = choose([None, None, *self._gardens[-1:]])
        body = {
            "entity": choose(ENTITIES),
            "relation": choose(RELATIONS),
            "value": {"type": "string", "v": choose(["red", "green"])},
            "source": choose(SOURCES),
            "confidence": choose([1.0, 1.0, 0.7, 0.0]),
            "scope": "company" if garden else choose(["team", "company", "public"]),
            "valid_until": choose([None, None, self._soon()]),
            "garden_id": garden,
            "supersedes": choose([False, False, True, self.ids[-1:]]),
        }
        answer = await self._http.post("/v1/facts", body)
        if answer.status == 201:
            self.ids.append(answer.json["id"])

    def _soon(self) -> str:
        second = (self._http.clock.now_ms() // 1000 + self._rng.randrange(2, 9)) % 86_400
        day = "2026-05-04" if second >= 43_200 else "2026-05-05"
        return f"{day}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"

    async def _wait(self) -> None:
        self._http.clock.advance(self._rng.randrange(500, 4000))

    async def _receive(self) -> None:
        self._received += 1
        told = self._org_b.served_fact(
            number=self._received,
            entity=self._rng.choice(ENTITIES),
            relation=self._rng.choice(RELATIONS),
            value={"type": "string", "v": self._rng.choice(["red", "blue"])},
            valid_until=self._rng.choice([None, self._soon()]),
        )
        await self._org_b.receive(self._http, told)

    async def _settle(self) -> None:
        found = (await self._http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"]
        for conflict in found[:1]:
            winner = self._rng.choice([conflict["fact_a"]["id"], conflict["fact_b"]["id"]])
            path = f"/v1/conflicts/{conflict['conflict_id']}/resolve"
            (await self._http.post(path, {"winning_fact_id": winner})).expect(200)

    async def _found_garden(self) -> None:
        slug = f"bed-{next(_fresh)}"
        made = await self._http.post("/v1/gardens", {"slug": slug, "name": slug, "scope": "company"})
        self._gardens.append(made.expect(201)["id"])

    async def _change_members(self) -> None:
        for garden in self._gardens[-1:]:
            if self._rng.random() < 0.6:
                await self._http.post(f"/v1/gardens/{garden}/members", {"entity_uri": SCRIBE, "role": "reader"})
            else:
                await self._http.send("DELETE", f"/v1/gardens/{garden}/members/{SCRIBE}")

    async def _delete_garden(self) -> None:
        if self._gardens and self._rng.random() < 0.5:
            (await self._http.send("DELETE", f"/v1/gardens/{self._gardens.pop()}")).expect(204)

    async def _promote(self) -> None:
        for waiting in (await self._http.get("/v1/quarantine", quarantine_status="pending")).expect(200)["items"][:1]:
            path = f"/v1/gardens/{waiting['quarantine_garden_id']}/promote"
            (await self._http.post(path, {"fact_id": waiting["fact_id"]})).expect(200)

    async def _bury(self) -> None:
        if self._rng.random() < 0.5:
            body = {"entity_uri": self._rng.choice(ENTITIES), "scope": "team", "reason": "not here"}
            self._tombstones += [
                made["id"] for made in [(await self._http.post("/v1/tombstones", body)).json] if "id" in made
            ]

    async def _revoke(self) -> None:
        if self._tombstones:
            path = f"/v1/tombstones/{self._tombstones.pop()}/revoke"
            (await self._http.post(path, {"reason": "by mistake"})).expect(200)

    async def _distrust(self) -> None:
        mode = self._rng.choice(["off", "relaxed", "strict"])
        (await self._http.send("PATCH", "/v1/admin/config", {"trust_mode": mode})).expect(200)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_is_given_again_is_what_would_be_made_anew(seed: int, http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http)
    life, rng, kept = Life(http, org_b, random.Random(seed)), random.Random(seed), 0
    readers = [ADMIN_KEY, await bearer_for(http, "read", allowed_scopes=["company", "public"]), await bearer_for(http)]
    for number in range(STEPS):
        listings = [f"/v1/facts?entity={rng.choice(ENTITIES)}{filters}" for filters in FILTERS]
        paths = listings + [f"/v1/facts/{fact_id}" for fact_id in life.ids[-3:]]
        asked = [(path, bearer) for path in paths for bearer in readers]
        for path, bearer in asked:
            await keep(http, path, bearer)
        kept += sum(is_kept(http, path) for path in paths)
        taken = await life.step()
        for path, bearer in asked:
            assert await ask(http, path, bearer) == await ask_anew(http, path, bearer), (number, taken, path)
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
    fact = await http.write(entity=ENTITIES[0], value={"type": "string", "v": "amber"})
    path = f"/v1/facts/{fact['id']}"
    await keep(http, path)
    assert is_kept(http, path)
    key, store = ITEM_KEY.pack(fact["log_offset"], 1), http.node.log.store
    with store.begin(write=True) as txn:
        row = txn.get(key, db=store.table("items"))
        txn.put(key, row[:-1] + bytes([row[-1] ^ 1]), db=store.table("items"))
    (await http.get(path)).refused(503, "log_damaged")
    with store.begin(write=True) as txn:
        txn.put(key, row, db=store.table("items"))
